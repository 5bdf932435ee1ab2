"""Chats of an adapter are written in the template that it was trained with."""

import json
from pathlib import Path

import pytest

from kubetune.gateway.chat import ChatTemplate, chat_template
from kubetune.gateway.refused import AdapterRefused
from tests.fixtures.adapters import entry, write_adapter
from tests.unit.gateway.conftest import Bench
from tests.unit.gateway.test_hot_load import served

OURS = "{{ bos_token }}{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def tokenizer(folder: Path, **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_the_two_places_of_a_template(tmp_path: Path):
    base = tokenizer(tmp_path / "base")
    adapter = tokenizer(tmp_path / "adapter", chat_template="in config")
    assert chat_template(adapter, base) == ChatTemplate({"default": "in config"})
    (adapter / "chat_template.jinja").write_text("a file")
    assert chat_template(adapter, base) == ChatTemplate({"default": "a file"})


def test_templates_by_name(tmp_path: Path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    adapter = tokenizer(tmp_path / "adapter", chat_template=named)
    found = chat_template(adapter, tokenizer(tmp_path / "base"))
    assert found is not None
    for body, expected in (({}, "plain"), ({"tools": [{}]}, "tools"), ({"tools": []}, "plain")):
        found.put_into(body)
        assert body["chat_template"] == expected


@pytest.mark.parametrize("config", [{}, {"chat_template": None}, {"chat_template": [3, {"name": "x"}]}])
def test_without_one_the_bases_is_used(tmp_path: Path, config):
    base = tokenizer(tmp_path / "base", chat_template="base")
    assert chat_template(tokenizer(tmp_path / "adapter", **config), base) is None
    (tmp_path / "adapter" / "tokenizer_config.json").unlink()
    assert chat_template(tmp_path / "adapter", base) is None


def test_the_bases_own_is_not_sent_along(tmp_path: Path):
    base = tokenizer(tmp_path / "base", chat_template="same {{ eos_token }}", eos_token="</s>")
    same = tokenizer(tmp_path / "same", chat_template="same {{ eos_token }}", eos_token={"content": "</s>"})
    assert chat_template(same, base) is None


def test_special_tokens_that_the_template_writes(tmp_path: Path):
    base = tokenizer(tmp_path / "base", chat_template=OURS, bos_token="<s>", eos_token="</s>")
    adapter = tokenizer(tmp_path / "adapter", chat_template=OURS, bos_token="<begin>", eos_token="<end>")
    found = chat_template(adapter, base)
    assert found is not None
    assert found.tokens == {"bos_token": "<begin>"}
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    found.put_into(body)
    assert body["chat_template_kwargs"] == {"bos_token": "<begin>", "enable_thinking": False}


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer_config.json", b"{"), ("chat_template.jinja", b"\xff")]
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes):
    adapter = tokenizer(tmp_path / "adapter")
    (adapter / name).write_bytes(content)
    with pytest.raises(AdapterRefused, match=name):
        chat_template(adapter, tokenizer(tmp_path / "base"))


async def chat(bench: Bench, model: str, path: str = "/v1/chat/completions", **fields) -> int:
    body = {"model": model, "messages": [], "prompt": "x", **fields}
    async with bench.client.session.post(bench.client.api + path, json=body) as response:
        await response.read()
        return response.status


async def test_it_is_sent_along_with_chats_of_the_adapter_alone(bench: Bench):
    folder = write_adapter(bench.folder / "volume" / "one")
    (folder / "chat_template.jinja").write_text(OURS)
    await served(bench, entry("one", folder, root=bench.folder / "volume"))
    assert await chat(bench, "one") == 200
    assert bench.engine.bodies[-1]["chat_template"] == OURS
    assert await chat(bench, "one", "/v1/completions") == 200
    assert "chat_template" not in bench.engine.bodies[-1]
    assert await chat(bench, "base") == 200
    assert "chat_template" not in bench.engine.bodies[-1]


@pytest.mark.parametrize(
    "fields", [{"chat_template": "x"}, {"chat_template": 3}, {"chat_template_kwargs": {"chat_template": "x"}}]
)
async def test_clients_bring_none(bench: Bench, fields):
    await served(bench, bench.adapter("one"))
    sent = len(bench.engine.bodies)
    for model in ("base", "one"):
        assert await chat(bench, model, **fields) == 400
    assert await chat(bench, "one", chat_template=None, chat_template_kwargs=None) == 200
    assert len(bench.engine.bodies) == sent + 1
