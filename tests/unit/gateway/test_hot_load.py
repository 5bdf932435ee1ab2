"""Versions come and go without a dropped or mixed request, and a bad one never comes."""

import asyncio
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from yarl import URL

from kubetune.api.table import TableAdapter
from tests.fixtures.adapters import entry, write_adapter
from tests.unit.gateway.conftest import Bench


async def served(bench: Bench, *adapters: TableAdapter) -> None:
    bench.mount.write(*adapters)
    for adapter in adapters:
        await bench.client.until_loaded(adapter)


def cached(bench: Bench) -> set[str]:
    return {p.name for p in (bench.folder / "cache").iterdir()}


async def until(condition, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_adapter_is_loaded_and_reported(bench: Bench):
    one = bench.adapter("one")
    digest = bench.mount.write(one)
    await bench.client.until_loaded(one)
    state = await bench.client.state()
    assert (state.table_digest, state.engine_ready, state.message) == (digest, True, None)
    assert state.adapters[0].wire() == {
        "name": "one", "digest": one.digest, "phase": "Loaded", "serving": one.digest,
    }  # fmt: skip
    assert bench.engine.adapters == {one.loaded_name: str(bench.folder / "cache" / one.loaded_name)}


async def test_a_new_version_takes_over_and_the_old_one_goes(bench: Bench):
    old, new = bench.adapter("a", 1), bench.adapter("a", 2)
    await served(bench, old)
    await served(bench, new)
    await until(lambda: set(bench.engine.adapters) == {new.loaded_name})
    await until(lambda: cached(bench) == {new.loaded_name})
    assert bench.engine.calls == [
        f"load {old.loaded_name}", f"load {new.loaded_name}", f"unload {old.loaded_name}",
    ]  # fmt: skip


async def test_versions_change_under_load_without_a_dropped_or_mixed_answer(bench: Bench):
    versions = [bench.adapter("a", n) for n in range(1, 6)]
    await served(bench, versions[0])
    bench.engine.chunk_seconds = 0.005
    names = {v.loaded_name for v in versions}
    stop, answers = False, []

    async def client() -> None:
        while not stop:
            events = await bench.client.stream("a")
            assert {e["model"] for e in events} == {"a"}
            made_by = {e["choices"][0]["text"].split()[-1].rstrip(";") for e in events}
            assert len(made_by) == 1, made_by
            answers.append(made_by.pop())

    async with asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(client())
        for version in versions[1:]:
            await asyncio.sleep(0.1)
            await served(bench, version)
        await asyncio.sleep(0.1)
        stop = True
    assert set(answers) == names
    assert answers[-1] == versions[-1].loaded_name
    await until(lambda: set(bench.engine.adapters) == {versions[-1].loaded_name})


async def test_the_old_version_stays_until_its_last_request_is_done(bench: Bench):
    old, new = bench.adapter("a", 1), bench.adapter("a", 2)
    await served(bench, old)
    bench.engine.chunk_seconds = 0.3
    long = asyncio.create_task(bench.client.stream("a"))
    await asyncio.sleep(0.1)
    await served(bench, new)
    assert set(bench.engine.adapters) == {old.loaded_name, new.loaded_name}
    assert old.loaded_name in (await long)[-1]["choices"][0]["text"]
    await until(lambda: set(bench.engine.adapters) == {new.loaded_name})


async def test_a_rollback_while_the_old_version_drains_takes_it_up_again(bench: Bench):
    old, new = bench.adapter("a", 1), bench.adapter("a", 2)
    await served(bench, old)
    bench.engine.chunk_seconds = 0.2
    long = asyncio.create_task(bench.client.stream("a"))
    await asyncio.sleep(0.05)
    await served(bench, new)
    await served(bench, old)
    await long
    await until(lambda: set(bench.engine.adapters) == {old.loaded_name})
    assert bench.engine.calls.count(f"load {old.loaded_name}") == 1
    assert (await bench.client.complete("a"))[0] == 200


async def test_a_removed_adapter_is_unknown_at_once_and_leaves_the_engine(bench: Bench):
    one, two = bench.adapter("one"), bench.adapter("two")
    await served(bench, one, two)
    bench.mount.write(two)
    await bench.client.until(lambda s: [a.name for a in s.adapters] == ["two"])
    assert (await bench.client.complete("one"))[0] == 404
    await until(lambda: set(bench.engine.adapters) == {two.loaded_name})
    await served(bench, one, two)
    assert (await bench.client.complete("one"))[0] == 200


async def test_many_adapters_are_loaded_at_the_same_time(bench: Bench):
    bench.engine.load_seconds = 0.3
    adapters = [bench.adapter(f"a{n}") for n in range(10)]
    started = asyncio.get_running_loop().time()
    await served(bench, *adapters)
    assert asyncio.get_running_loop().time() - started < 2.5


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "DigestMismatch"),
        (lambda folder: (folder / "x.bin").write_bytes(b"x"), "DigestMismatch"),
        (lambda folder: (folder / "adapter_config.json").symlink_to("/etc/hostname"), "UnsafeFile"),
        (lambda folder: shutil.rmtree(folder), "NotFound"),
    ],
)
async def test_a_bad_version_never_reaches_the_engine_and_the_older_one_goes_on(bench: Bench, harm, reason):
    old, new = bench.adapter("a", 1), bench.adapter("a", 2)
    await served(bench, old)
    folder = Path(new.path)
    if reason == "UnsafeFile":
        (folder / "adapter_config.json").unlink()
    harm(folder)
    bench.mount.write(new)
    state = await bench.client.until_adapter("a", lambda a: a.phase == "Failed")
    assert (state.reason, state.serving, state.digest) == (reason, old.digest, new.digest)
    assert (await bench.client.complete("a"))[0] == 200
    assert all(new.loaded_name not in call for call in bench.engine.calls)
    assert await bench.client.ready()


async def test_a_version_that_is_mended_recovers_by_itself(bench: Bench):
    await served(bench, bench.adapter("other"))
    new = bench.adapter("a", 2)
    config = Path(new.path) / "adapter_config.json"
    good = config.read_text()
    config.write_text("{}")
    bench.mount.write(new)
    await bench.client.until_adapter("a", lambda a: a.reason == "DigestMismatch")
    async with bench.client.session.post(
        f"{bench.client.api}/v1/completions", json={"model": "a", "prompt": "x"}
    ) as response:
        answer = await response.json()
        # Clients wait and try again after a 503.
        assert (response.status, response.headers.get("Retry-After")) == (404, None)
    assert (answer["error"]["code"], answer["error"]["param"]) == ("adapter_refused", "model")
    assert "DigestMismatch" in answer["error"]["message"]
    config.write_text(good)
    await bench.client.until_loaded(new)


async def test_files_that_did_not_change_are_not_read_again(bench: Bench):
    await served(bench, bench.adapter("other"))
    bad = bench.adapter("a", base_digest="sha256:" + "1" * 64)
    bench.mount.write(bad)
    await bench.client.until_adapter("a", lambda a: a.reason == "BaseModelMismatch")
    await asyncio.sleep(2.5)
    assert 'adapter_refused_total{reason="BaseModelMismatch"} 1.0' in await bench.client.metrics()


async def test_an_error_of_the_engine_is_retried(bench: Bench):
    one = bench.adapter("one")
    bench.engine.fail_loads = 1
    bench.mount.write(one)
    state = await bench.client.until_adapter("one", lambda a: a.phase == "Failed")
    assert state.reason == "EngineError"
    assert "out of memory" in (state.message or "")
    await bench.client.until_loaded(one)


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_a_refusal_of_the_engine_is_its_last_word(bench: Bench, status: int):
    await served(bench, bench.adapter("other"))
    one = bench.adapter("one")
    bench.engine.fail_loads = 1
    told = "x.weight is unsupported LoRA weight"
    noise = "please check the stack trace above for the root cause"
    bench.engine.fail_with = (status, f"Call to add_lora method failed: {told}, {noise}")
    bench.mount.write(one)
    state = await bench.client.until_adapter("one", lambda a: a.phase == "Failed")
    assert (state.reason, state.message) == ("EngineRefused", f"the engine refuses it: {told}")
    await asyncio.sleep(2.5)
    assert bench.engine.calls.count(f"load {one.loaded_name}") == 1
    await bench.engine.kill()
    await bench.client.until(lambda s: not s.engine_ready)
    await bench.engine.start()
    await bench.client.until_loaded(one)  # another process is asked anew


async def test_what_may_pass_is_worth_waiting_for(bench: Bench):
    one = bench.adapter("one")
    bench.engine.fail_loads = 1000
    bench.mount.write(one)
    await bench.client.until_ready()  # after three tries
    assert (await bench.client.complete("one"))[0] == 503


async def test_the_series_of_a_model_go_with_it(bench: Bench):
    one, two = bench.adapter("one"), bench.adapter("two")
    await served(bench, one, two)
    for name in ("one", "two"):
        await bench.client.complete(name)
        await bench.client.stream(name)
    assert 'model="one"' in await bench.client.metrics()
    bench.mount.write(two)
    await until(lambda: set(bench.engine.adapters) == {two.loaded_name})
    async with asyncio.timeout(5):
        while 'model="one"' in await bench.client.metrics():
            await asyncio.sleep(0.01)
    assert 'model="two"' in await bench.client.metrics()
    await bench.client.complete("one")
    assert 'code="404",endpoint="/v1/completions",model="unknown"' in await bench.client.metrics()
    assert 'model="one"' not in await bench.client.metrics()


@pytest.mark.parametrize("name", ["org/llama:v1.2", "a/b/c", "x:y", "a%2Fb"])
async def test_names_as_hubs_write_them(bench: Bench, name: str):
    folder = write_adapter(bench.folder / "volume" / "plain")
    one = entry(name, folder, root=bench.folder / "volume")
    await served(bench, one)
    assert await bench.client.models() == ["base", name]
    status, answer = await bench.client.complete(name)
    assert (status, answer["model"]) == (200, name)
    assert {e["model"] for e in await bench.client.stream(name)} == {name}
    for written in (name.replace("%", "%25"), quote(name, safe="")):
        async with bench.client.session.get(
            URL(f"{bench.client.api}/v1/models/{written}", encoded=True)
        ) as r:
            assert (await r.json())["id"] == name
    [path] = [Path(p) for p in bench.engine.adapters.values()]
    assert path.parent == bench.folder / "cache"
    bench.mount.write()
    await until(lambda: cached(bench) == set())


async def test_one_bad_adapter_does_not_hold_up_the_others(bench: Bench):
    good, bad = bench.adapter("good"), bench.adapter("bad", features=64)
    bench.mount.write(bad, good)
    await bench.client.until_loaded(good)
    await bench.client.until_ready()
    assert await bench.client.models() == ["base", "good"]


async def test_two_versions_whose_names_collide(bench: Bench):
    old, new = bench.adapter("a", 1), bench.adapter("a", 2)
    await served(bench, old)
    forged = new.model_copy(update={"digest": old.digest[:15] + "0" * 56})
    bench.mount.write(forged)
    state = await bench.client.until_adapter("a", lambda a: a.phase == "Failed")
    assert (state.reason, state.serving) == ("NameCollision", old.digest)


async def test_the_limit_of_this_pods_engine_counts_while_a_set_rolls(bench: Bench):
    """The table is ahead: the new pods' engines make room for rank 32."""
    bench.options = bench.options.__class__(**{**bench.options.__dict__, "max_lora_rank": 16})
    bench.mount.max_lora_rank = 32
    await bench.restart()
    bench.mount.write(bench.adapter("a", rank=32))
    state = await bench.client.until_adapter("a", lambda a: a.phase == "Failed")
    assert state.reason == "RankTooHigh"


async def test_an_empty_folder_name_of_the_volume_is_no_adapter(bench: Bench):
    folder = write_adapter(bench.folder / "volume" / "whole")
    elsewhere = entry("a", folder, root=bench.folder / "not-mounted")
    bench.mount.write(elsewhere)
    state = await bench.client.until_adapter("a", lambda a: a.phase == "Failed")
    assert state.reason == "UnsafeFile"
