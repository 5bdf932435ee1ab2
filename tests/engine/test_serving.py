"""Adapters on the real engine answer as peft does, change under load, and never when they are wrong."""

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from tests.engine.conftest import ORACLE_FIELDS, Pod
from tests.engine.make_models import PROMPT, SPECIAL
from tests.fixtures.adapters import entry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_base_and_adapters_answer_as_transformers_and_peft_do(pod: Pod, oracle: dict[str, list[int]]):
    seconds = await pod.serve(pod.adapter("one", "one-v1"), pod.adapter("two", "two"))
    print(f"\nfigure: two adapters from table to served: {seconds:.2f} s")
    for model, known_as in (("base", "base"), ("one", "one-v1"), ("two", "two")):
        assert await pod.answer(model) == oracle[known_as]
        assert await pod.streamed_answer(model) == oracle[known_as]
    assert await pod.client.models() == ["base", "one", "two"]


async def test_a_new_version_goes_live_under_load_without_a_dropped_or_mixed_answer(
    pod: Pod, oracle: dict[str, list[int]]
):
    old, new = pod.adapter("one", "one-v1"), pod.adapter("one", "one-v2")
    await pod.serve(old)
    stop = False
    answers: list[list[int]] = []

    async def client() -> None:
        while not stop:
            answers.append(await pod.streamed_answer("one"))

    flips = []
    async with asyncio.TaskGroup() as clients:
        for _ in range(6):
            clients.create_task(client())
        for version in (new, old, new):
            await asyncio.sleep(1)
            flips.append(await pod.serve(version))
        await asyncio.sleep(1)
        stop = True
    print(f"\nfigure: table to new version live, under load: {', '.join(f'{s:.2f}' for s in flips)} s")
    print(f"figure: {len(answers)} streamed answers meanwhile")
    assert {tuple(a) for a in answers} == {tuple(oracle["one-v1"]), tuple(oracle["one-v2"])}
    assert answers[-1] == oracle["one-v2"]
    async with asyncio.timeout(30):
        while pod.engine.models() != ["base", new.loaded_name]:
            await asyncio.sleep(0.05)


async def test_what_is_wrong_never_reaches_the_engine(pod: Pod, tmp_path: Path):
    unsafe = tmp_path / "volume" / "unsafe"
    shutil.copytree(pod.models / "two", unsafe)
    (unsafe / "tokenizer_config.json").symlink_to("/etc/hostname")
    good = pod.adapter("good", "two")
    wrong = {
        "digest": pod.adapter("digest", "one-v1", digest="sha256:" + "0" * 64),
        "base": pod.adapter("base-of-others", "foreign"),
        "rank": pod.adapter("rank", "wide"),
        "full": pod.adapter("full", "other-base"),
        "unsafe": good.model_copy(update={"name": "unsafe", "path": str(unsafe), "root": str(tmp_path)}),
    }
    pod.mount.write(good, *wrong.values())
    await pod.client.until_loaded(good)
    state = await pod.client.until(lambda s: [a.phase for a in s.adapters].count("Failed") == len(wrong))
    reasons = {a.name: a.reason for a in state.adapters if a.phase == "Failed"}
    assert reasons == {
        "digest": "DigestMismatch", "base-of-others": "BaseModelMismatch", "rank": "RankTooHigh",
        "full": "NotFound", "unsafe": "UnsafeFile",
    }  # fmt: skip
    assert pod.engine.models() == ["base", good.loaded_name]
    log = pod.engine.log.read_text()
    assert not [a.loaded_name for a in wrong.values() if a.loaded_name in log]
    assert (await pod.client.complete("digest"))[0] == 404
    await pod.client.until_ready()


async def test_an_answer_ends_at_the_end_token_that_its_adapter_brings(
    pod: Pod, oracle: dict[str, list[int]], tmp_path: Path
):
    characters = dict(enumerate(sorted(ByteLevel.alphabet()), len(SPECIAL)))
    answer = oracle["two"]
    # What is a letter of ASCII in the vocabulary is one in a text, too; the others stand for single bytes.
    letters = {token: letter for token, letter in characters.items() if letter.isascii()}
    at, end = next((i, letters[token]) for i, token in enumerate(answer) if token in letters)
    folder = shutil.copytree(pod.models / "two", tmp_path / "two")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    await pod.serve(entry("two", folder, root=tmp_path))
    fields = {"max_tokens": len(answer), "return_token_ids": True}
    _, said = await pod.client.complete("two", PROMPT, **fields)
    [choice] = said["choices"]
    assert (choice["token_ids"], choice["finish_reason"]) == (answer[: at + 1], "stop")
    assert await pod.answer("two") == answer  # with ignore_eos


async def test_errors_have_openais_form(pod: Pod):
    await pod.serve(pod.adapter("one", "one-v1"))
    status, answer = await pod.client.complete("nobody")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "base, one" in answer["error"]["message"]
    status, answer = await pod.client.complete("one", max_tokens=100_000)
    assert status == 400
    assert "max_model_len" in answer["error"]["message"]


async def test_chat_with_a_stream(pod: Pod):
    await pod.serve(pod.adapter("one", "one-v1"))
    body = {
        "model": "one", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True,
    }  # fmt: skip
    async with pod.client.session.post(f"{pod.client.api}/v1/chat/completions", json=body) as response:
        lines = [line[6:].strip() async for line in response.content if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    assert {json.loads(line)["model"] for line in lines[:-1]} == {"one"}


async def test_chats_are_written_in_the_template_that_an_adapter_brings(pod: Pod, tmp_path: Path):
    folder = tmp_path / "volume" / "speaks"
    shutil.copytree(pod.models / "one-v1", folder)
    template = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}|{{ m['content'] }}>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<pad>"}))
    await pod.serve(entry("speaks", folder, root=tmp_path), pod.adapter("one", "one-v1"))
    messages = [{"role": "user", "content": "What is a list?"}]
    bases = "user: What is a list?\n"  # in the base's template
    for model, prompt in (
        ("speaks", "<pad><user|What is a list?>"), ("one", bases), ("base", bases),
    ):  # fmt: skip
        body = {"model": model, "messages": messages, "temperature": 0, "logprobs": True, **ORACLE_FIELDS}
        async with pod.client.session.post(f"{pod.client.api}/v1/chat/completions", json=body) as response:
            chat = await response.json()
        status, plain = await pod.client.complete(model, prompt, add_special_tokens=False, **ORACLE_FIELDS)
        assert (response.status, status) == (200, 200), (chat, plain)
        assert chat["prompt_token_ids"] == plain["choices"][0]["prompt_token_ids"]
        assert chat["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]
    body["chat_template"] = template
    async with pod.client.session.post(f"{pod.client.api}/v1/chat/completions", json=body) as response:
        assert response.status == 400
        assert "chat_template is not accepted" in (await response.json())["error"]["message"]


async def goes_away(pod: Pod) -> bool:
    """Leave while the engine answers; False if it was quicker."""
    body = {
        "model": "one", "prompt": "x", "max_tokens": 250, "ignore_eos": True, "stream": True, "n": 32,
    }  # fmt: skip
    async with pod.client.session.post(f"{pod.client.api}/v1/completions", json=body) as response:
        while await response.content.readline():
            if pod.engine.running_requests():
                return True
    return False


async def test_a_client_that_goes_away_frees_the_engine(pod: Pod):
    await pod.serve(pod.adapter("one", "one-v1"))
    # The gauge is a step behind; so many answers take longer than that, but for a test that has to wait.
    assert any([await goes_away(pod) for _ in range(3)])
    begun = time.monotonic()
    async with asyncio.timeout(10):
        while pod.engine.running_requests():
            await asyncio.sleep(0.02)
    print(f"\nfigure: client gone to engine idle: {time.monotonic() - begun:.2f} s")
