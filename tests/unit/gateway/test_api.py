"""What clients see: names, errors in OpenAI's form, streams."""

import asyncio
import json

import pytest

from tests.unit.gateway.conftest import Bench


@pytest.fixture
async def serving(bench: Bench) -> Bench:
    """The base and one adapter."""
    adapter = bench.adapter("medical")
    bench.mount.write(adapter)
    await bench.client.until_loaded(adapter)
    return bench


async def post(bench: Bench, path: str, data: bytes) -> tuple[int, dict]:
    async with bench.client.session.post(bench.client.api + path, data=data) as response:
        return response.status, await response.json()


async def test_models_are_the_base_and_what_answers(serving: Bench):
    assert await serving.client.models() == ["base", "medical"]
    async with serving.client.session.get(f"{serving.client.api}/v1/models/medical") as response:
        one = await response.json()
    assert (one["id"], one["object"], one["parent"]) == ("medical", "model", "base")


async def test_an_alias_is_translated_there_and_back(serving: Bench):
    status, answer = await serving.client.complete("medical")
    assert (status, answer["model"]) == (200, "medical")
    assert answer["choices"][0]["text"].startswith("made by medical-")
    status, answer = await serving.client.complete("base")
    assert (answer["model"], answer["choices"][0]["text"]) == ("base", "made by base")


async def test_chat_goes_the_same_way(serving: Bench):
    body = json.dumps({"model": "medical", "messages": []}).encode()
    status, answer = await post(serving, "/v1/chat/completions", body)
    assert (status, answer["model"]) == (200, "medical")


async def test_every_chunk_of_a_stream_names_the_alias_and_comes_at_once(serving: Bench):
    serving.engine.chunk_seconds = 0.3
    body = {"model": "medical", "prompt": "x", "stream": True}
    async with serving.client.session.post(f"{serving.client.api}/v1/completions", json=body) as response:
        assert response.headers["X-Kubetune-Adapter-Digest"].startswith("sha256:")
        assert response.headers["Content-Type"].startswith("text/event-stream")
        loop = asyncio.get_running_loop()
        times = []
        async for line in response.content:
            if line.startswith(b"data: {"):
                assert json.loads(line[6:])["model"] == "medical"
                times.append(loop.time())
    assert len(times) == 3
    assert times[1] - times[0] > 0.2


async def test_an_unknown_model_is_a_404_that_lists_what_exists(serving: Bench):
    status, answer = await serving.client.complete("legal")
    assert status == 404
    assert answer["error"] == {
        "message": "The model `legal` does not exist. Available: base, medical.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_the_engines_own_names_are_unknown(serving: Bench):
    (name,) = serving.engine.adapters
    assert (await serving.client.complete(name))[0] == 404


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "model parameter"),
        (b'{"model": 3}', "model parameter"),
        (b'{"model": ""}', "model parameter"),
    ],
)
async def test_a_request_that_makes_no_sense_is_a_400(serving: Bench, data: bytes, what: str):
    status, answer = await post(serving, "/v1/completions", data)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert what in answer["error"]["message"]


async def test_a_huge_body_is_a_413(serving: Bench):
    status, answer = await post(serving, "/v1/completions", b" " * 20_000)
    assert status == 413
    assert answer["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/health", "/metrics", "/adapters", "/v1/models",
        "/", "/state",
    ],
)  # fmt: skip
async def test_nothing_else_of_the_engine_can_be_reached(serving: Bench, path: str):
    status, answer = await post(serving, path, b'{"lora_name": "x", "lora_path": "/"}')
    assert status == 404
    assert answer["error"]["code"] == "unknown_url"


async def test_the_engines_errors_pass_through_under_the_alias(serving: Bench):
    status, answer = await serving.client.complete("medical", max_tokens=99999)
    assert (status, answer["error"]["message"]) == (400, "max_tokens is too large for medical")


async def test_a_client_that_goes_away_stops_the_engine(serving: Bench):
    serving.engine.chunks, serving.engine.chunk_seconds = 1000, 0.02
    body = {"model": "medical", "prompt": "x", "stream": True}
    async with serving.client.session.post(f"{serving.client.api}/v1/completions", json=body) as response:
        await response.content.readline()
    async with asyncio.timeout(2):
        while not serving.engine.aborted:
            await asyncio.sleep(0.01)
    assert 'code="499"' in await serving.client.metrics()


async def test_metrics_count_by_alias_and_code(serving: Bench):
    await serving.client.complete("medical")
    await serving.client.stream("medical")
    await serving.client.complete("legal")
    text = await serving.client.metrics()
    at = 'endpoint="/v1/completions"'
    assert f'kubetune_gateway_requests_total{{code="200",{at},model="medical"}} 2.0' in text
    assert f'kubetune_gateway_requests_total{{code="404",{at},model="unknown"}} 1.0' in text
    assert f'kubetune_gateway_time_to_first_chunk_seconds_count{{{at},model="medical"}} 1.0' in text
    assert "kubetune_gateway_adapter_load_seconds_count 1.0" in text
    assert 'kubetune_gateway_adapters{phase="Loaded"} 1.0' in text
    assert "kubetune_gateway_adapter_versions_active 0.0" in text
