"""Whatever is sent, the answer is in OpenAI's form, and never a fault of ours."""

import asyncio
import gzip
import json
import re
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.gateway.conftest import Bench

ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
GOOD = json.dumps({"model": "base", "prompt": "x", "messages": []}).encode()
GZIPPED = gzip.compress(GOOD)
RAW_DEFLATE = zlib.compress(GOOD)[2:-4]


async def raw(bench: Bench, request: bytes, *, end: bool = False) -> tuple[int, dict]:
    """Bytes on a connection, and the answer; end: nothing more will come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.options.port)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if "Content-Type: text/event-stream" in head:
                return int(head.split()[1]), {}
            length = int(re.search(r"Content-Length: (\d+)", head)[1])
            answer = json.loads(await reader.readexactly(length))
        assert "Content-Type: application/json" in head
        return int(head.split()[1]), answer
    finally:
        writer.close()


async def send(bench: Bench, body: bytes, path: str = ENDPOINTS[0], **headers: str) -> tuple[int, dict]:
    lines = {"Host": "x", "Content-Length": str(len(body))} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await raw(bench, f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


def refused(status: int, answer: dict, expected: int) -> bool:
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status == expected


@pytest.fixture
async def serving(bench: Bench) -> Bench:
    bench.mount.write()
    await bench.client.until_ready()
    return bench


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIPPED),
        ("GZip", GZIPPED),
        ("deflate", zlib.compress(GOOD)),
        ("deflate", RAW_DEFLATE),
        ("identity", GOOD),
        ("deflate, gzip", gzip.compress(zlib.compress(GOOD))),
    ],
    ids=["gzip", "GZip", "zlib", "raw-deflate", "identity", "deflate-in-gzip"],
)
async def test_encoded_bodies(serving: Bench, encoding: str, body: bytes):
    assert (await send(serving, body, Content_Encoding=encoding))[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "body",
    [b"", GOOD, GZIPPED[:-1], GZIPPED[:12], b"\x1f\x8b\x08", GZIPPED + b"x"],
    ids=["nothing", "plain", "cut", "cut-early", "head", "more-behind"],
)
async def test_what_is_not_the_encoding_that_it_claims(serving: Bench, encoding: str, body: bytes):
    assert refused(*await send(serving, body, Content_Encoding=encoding), 400)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "nonsense", "gzip, br"])
async def test_an_unknown_encoding(serving: Bench, encoding: str):
    assert refused(*await send(serving, GOOD, Content_Encoding=encoding), 415)


@pytest.mark.parametrize("body", [gzip.compress(b" " * 10**8), b" " * 20_000], ids=["unpacked", "as-it-is"])
async def test_too_large(serving: Bench, body: bytes):
    encoding = {"Content_Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    assert refused(*await send(serving, body[:200_000], **encoding), 413)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: nonsense\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/%zz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/../../etc HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"BREW /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=range(13),
)
async def test_what_is_hardly_http(serving: Bench, request_bytes: bytes):
    status, answer = await raw(serving, request_bytes)
    assert refused(status, answer, status)
    assert 400 <= status < 500


@pytest.mark.parametrize("head", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_ends_too_early_is_no_fault_of_ours(serving: Bench, head: bytes, caplog):
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.options.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n5\r\n{")
    writer.write_eof()
    async with asyncio.timeout(5):
        told = await reader.read()
    writer.close()
    assert told == b"" or b'{"error"' in told
    assert "Traceback" not in caplog.text
    assert (await send(serving, GOOD))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "base", "model": "legal"}',
        b'{"model": "base\xff"}',
        '{"model": "base"}'.encode("utf-16"),
        b'{"model": "\\ud800"}',
        b'{"model": ["base"]}',
        b'{"model": {"base": 1}}',
        b'{"model": "base", "n": 1e999}',
        b'{"model": "base", "n": NaN}',
        b'{"model": "base", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "base", "x": ' + b"[" * 3000,
        b'"base"',
        b"null",
        b"true",
        b"\xef\xbb\xbf{}",
        b"",
    ],
)
async def test_bodies_that_are_odd(serving: Bench, body: bytes):
    status, answer = await send(serving, body)
    assert status == 200 or refused(status, answer, status)
    assert status in (200, 400, 404)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
OBJECTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["base", "nobody", "", 3, None])},
    optional=dict.fromkeys(
        ("prompt", "messages", "n", "chat_template", "chat_template_kwargs", "tools", "error"), JSON
    ),
)
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda v: json.dumps(v).encode())
    | OBJECTS.map(lambda v: json.dumps(v).encode())
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content_Encoding": st.sampled_from(["gzip", "deflate", "br", "identity", "", "x, gzip"]),
        "Content_Type": st.sampled_from(
            ["application/json; charset=latin-1", "text/plain", "", "a/b; charset=x"]
        ),
        "Accept": st.sampled_from(["text/html", "*/*"]),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, headers=HEADERS, path=st.sampled_from(ENDPOINTS), packed=st.booleans())
def test_any_body_has_an_answer_in_openais_form(fuzzed, body: bytes, headers: dict, path: str, packed: bool):
    bench, loop = fuzzed
    if packed and headers.get("Content_Encoding") == "gzip":
        body = gzip.compress(body)
    status, answer = loop.run_until_complete(send(bench, body, path, **headers))
    if status != 200:
        assert refused(status, answer, status)
        assert status in (400, 404, 413, 415), answer


@pytest.fixture
def fuzzed(tmp_path):
    """A gateway in a loop that runs as long as an example does."""
    from tests.unit.gateway.conftest import running_bench

    with asyncio.Runner() as runner:
        context = running_bench(tmp_path)
        bench = runner.run(context.__aenter__())
        bench.mount.write()
        runner.run(bench.client.until_ready())
        yield bench, runner.get_loop()
        runner.run(context.__aexit__(None, None, None))
