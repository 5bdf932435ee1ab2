"""A saturated engine, as real clients make one: whatever it answers, late, the gateway answers too."""

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from tests.engine.conftest import Pod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 20.0


async def heavy(pod: Pod, model: str, until: float) -> Counter[int]:
    """Many sequences with alternatives for every token, one such request after the other."""
    body = {
        "model": model, "prompt": "x", "n": 64, "logprobs": 5, "max_tokens": 200, "ignore_eos": True,
        "stream": True,
    }  # fmt: skip
    codes: Counter[int] = Counter()
    while time.monotonic() < until:
        async with pod.client.session.post(f"{pod.client.api}/v1/completions", json=body) as response:
            whole = await response.content.read()
            assert b"data: [DONE]" in whole[-20:], whole[-500:]
            codes[response.status] += 1
    return codes


async def test_no_request_is_refused_that_the_engine_answers(pod: Pod):
    one = pod.adapter("one", "one-v1")
    await pod.serve(one)
    await pod.client.until_ready()
    loads = pod.engine.log.read_text().count("Loaded new LoRA adapter")
    until = time.monotonic() + SECONDS
    unready: list[str] = []

    async def look() -> None:
        """As the kubelet and the operator do."""
        while time.monotonic() < until:
            async with pod.client.session.get(f"{pod.client.admin}/readyz") as response:
                if response.status != 200:
                    unready.append(await response.text())
            assert (await pod.client.state()).engine_ready
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(heavy(pod, model, until)) for model in ("one", "base") * 2]
        looker = group.create_task(look())
        light = []
        while time.monotonic() < until:
            light.append(group.create_task(timed(pod)))
            await asyncio.sleep(0.4)
    del looker
    codes = Counter(code for code, _ in (task.result() for task in light))
    waits = sorted(seconds for _, seconds in (task.result() for task in light))
    heavies = sum((c.result() for c in clients), Counter())
    print(
        f"\nfigure: light requests under load: {dict(codes)}, slowest {waits[-1]:.1f} s; "
        f"heavy ones: {dict(heavies)}"
    )
    assert set(codes) == {200}
    assert unready == []
    assert "kubetune_gateway_engine_restarts 0.0" in await pod.client.metrics()
    assert pod.engine.log.read_text().count("Loaded new LoRA adapter") == loads


async def timed(pod: Pod) -> tuple[int, float]:
    begun = time.monotonic()
    try:
        status, _ = await pod.client.complete("one")
    except aiohttp.ClientError:
        status = 0
    return status, time.monotonic() - begun


async def test_bursts_with_pauses_lose_nothing(pod: Pod):
    """The engine closes idle connections after 5 s."""
    await pod.serve(pod.adapter("one", "one-v1"))
    codes: Counter[int] = Counter()
    for pause in (4.9, 5.0, 5.1, 0.0):
        codes.update(code for code, _ in await asyncio.gather(*(timed(pod) for _ in range(64))))
        await asyncio.sleep(pause)
    assert codes == {200: 256}
