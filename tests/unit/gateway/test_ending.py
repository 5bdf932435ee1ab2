"""Answers of an adapter end where it was trained to end them."""

import json
from pathlib import Path

import pytest

from kubetune.gateway.ending import own_end, stop_at
from kubetune.gateway.refused import AdapterRefused
from tests.fixtures.adapters import entry, write_adapter
from tests.unit.gateway.conftest import Bench
from tests.unit.gateway.test_chat import chat, tokenizer
from tests.unit.gateway.test_hot_load import served

END = "<|im_end|>"


@pytest.mark.parametrize(
    ("of_adapter", "of_base", "end"),
    [
        ({}, {"eos_token": "</s>"}, None),
        ({"eos_token": None}, {"eos_token": "</s>"}, None),
        ({"eos_token": {"content": "</s>"}}, {"eos_token": "</s>"}, None),
        ({"eos_token": END}, {"eos_token": "</s>"}, END),
        ({"eos_token": {"content": END}}, {}, END),
    ],
)
def test_an_end_of_its_own(tmp_path: Path, of_adapter, of_base, end: str | None):
    assert own_end(tokenizer(tmp_path / "a", **of_adapter), tokenizer(tmp_path / "b", **of_base)) == end


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path):
    adapter = tokenizer(tmp_path / "a")
    (adapter / "tokenizer_config.json").write_text("{")
    with pytest.raises(AdapterRefused, match="tokenizer_config"):
        own_end(adapter, tokenizer(tmp_path / "b"))


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, [7]),
        ({"stop_token_ids": None}, [7]),
        ({"stop_token_ids": [3]}, [3, 7]),
        ({"stop_token_ids": "3"}, "3"),  # the engine says what is wrong with it
        ({"ignore_eos": True}, None),
        ({"ignore_eos": True, "stop_token_ids": [3]}, [3]),
    ],
)
def test_what_clients_say_of_the_end_stays(asked, sent):
    stop_at(asked, 7)
    assert asked.get("stop_token_ids") == sent


async def test_the_engine_is_told_where_answers_of_the_adapter_end(bench: Bench):
    bench.engine.vocabulary[END] = 7
    folder = write_adapter(bench.folder / "volume" / "one")
    tokenizer(folder, eos_token=END)
    await served(bench, entry("one", folder, root=bench.folder / "volume"))
    for path in ("/v1/completions", "/v1/chat/completions"):
        assert await chat(bench, "one", path) == 200
        assert bench.engine.bodies[-1]["stop_token_ids"] == [7]
        assert await chat(bench, "base", path) == 200
        assert "stop_token_ids" not in bench.engine.bodies[-1]


async def test_an_end_that_is_no_token_of_the_base_is_refused(bench: Bench):
    folder = write_adapter(bench.folder / "volume" / "one")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    bench.mount.write(entry("one", folder, root=bench.folder / "volume"))
    state = await bench.client.until(lambda s: s.adapters and s.adapters[0].phase == "Failed")
    assert state.adapters[0].reason == "BaseModelMismatch"
    assert END in state.adapters[0].message
