"""What the gateway costs: the real vLLM on a CPU, asked directly and through the gateway, in turn.

    python benchmarks/serving_overhead.py [--tiny] [--dtype float32]

The model has the shape of SmolLM2-135M. With `--tiny` it has two layers of 64 units, so that the engine costs
little and the gateway's share shows. Load generator, gateway and engine share the machine's cores. Each round
asks both ways, and the next round in the opposite order. It prints the ratio of throughputs (through the
gateway to direct) and what is added to the time to the first token at p50: the median of the rounds, and the
least and the most.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kubetune.api.adapterset import Engine
from kubetune.api.table import ENGINE_PORT, Table, TableAdapter, TableBase
from kubetune.artifacts.digest import folder_digest
from kubetune.desired.adapterset_engine import EngineLimits, engine_args, engine_env

START_SECONDS = 900
PROMPT = "What is a list? "
SMALL = Path(__file__).with_name("serving_model.py")
TINY = Path(__file__).parents[1] / "tests/engine/make_models.py"


@dataclass(frozen=True)
class Pass:
    """One way, once."""

    tokens_per_second: float
    first_token_ms: float
    """At p50."""


@dataclass(frozen=True)
class Way:
    """Where requests go, and the name of the model there."""

    url: str
    model: str
    tokens: int
    """Of each answer."""

    async def run(self, session: aiohttp.ClientSession, streams: int, requests: int) -> Pass:
        """So many requests by each of so many streams."""
        first: list[float] = []

        async def stream() -> None:
            for _ in range(requests):
                first.append(await self._one(session))

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(stream())
        seconds = time.perf_counter() - begun
        return Pass(streams * requests * self.tokens / seconds, 1000 * statistics.median(first))

    async def _one(self, session: aiohttp.ClientSession) -> float:
        body = {
            "model": self.model, "prompt": PROMPT, "max_tokens": self.tokens, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip
        begun, first, last = time.perf_counter(), 0.0, b""
        async with session.post(f"{self.url}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                first, last = first or time.perf_counter() - begun, piece
        if not last.endswith(b"data: [DONE]\n\n"):
            raise RuntimeError(f"a stream ended with {last[-200:]!r}")
        return first


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, log: Path, env: dict[str, str]) -> Iterator[None]:
    """A process with all that it starts."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=out, env=os.environ | env, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


async def until(url: str, log: Path) -> None:
    """Wait for a 200."""
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.3)
    raise RuntimeError(f"{url} does not answer, see {log}")


async def measure(direct: Way, gateway: Way, streams: int, rounds: int, requests: int) -> str:
    """A row of the table."""
    ratios, added = [], []
    # Connections are made anew for each number of streams, and not limited.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        for way in (direct, gateway):
            await way.run(session, streams, 1)
        rates = []
        for number in range(rounds):
            order = (direct, gateway) if number % 2 == 0 else (gateway, direct)
            found = {way: await way.run(session, streams, requests) for way in order}
            ratios.append(found[gateway].tokens_per_second / found[direct].tokens_per_second)
            added.append(found[gateway].first_token_ms - found[direct].first_token_ms)
            rates.append(found[direct].tokens_per_second)
            print(
                f"{streams} streams, round {number + 1} of {rounds}: {rates[-1]:,.1f} tokens/s, "
                f"ratio {ratios[-1]:.3f}, first token {added[-1]:+.1f} ms",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return (
        f"| {streams} | {statistics.median(rates):,.0f} "
        f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
        f"| {statistics.median(added):+.1f} ms ({min(added):+.1f} to {max(added):+.1f}) |"
    )


def main() -> None:
    """Start everything, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each way")
    parser.add_argument("--requests", type=int, default=4, help="of each stream in a round")
    parser.add_argument("--base", action="store_true", help="ask the base instead of an adapter")
    parser.add_argument("--tiny", action="store_true", help="the model of tests/engine")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--dtype", default="auto", help="float32 where the processor has no bf16")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models, script = folder / "models", TINY if options.tiny else SMALL
        subprocess.run([sys.executable, script, models], check=True, stderr=subprocess.DEVNULL)
        adapter = TableAdapter(
            name="one", digest=folder_digest(models / "one-v1"), path=str(models / "one-v1"), root=str(models)
        )
        base = TableBase(name="base", path=str(models / "base"), digest=folder_digest(models / "base"))
        (folder / "table.json").write_text(
            Table(base_model=base, max_lora_rank=16, adapters=[adapter]).canonical()
        )
        wishes = Engine(args=["--max-model-len=256", f"--dtype={options.dtype}"])
        args = engine_args(wishes, EngineLimits(2, 16, ()), base_name="base", base_path=base.path)
        ports = [free_port() for _ in range(3)]
        engine, gateway, admin = (f"http://127.0.0.1:{port}" for port in ports)
        logs = folder / "engine.log", folder / "gateway.log"
        stack.enter_context(
            process(
                "-m",
                "vllm.entrypoints.openai.api_server",
                *(f"--port={ports[0]}" if a == f"--port={ENGINE_PORT}" else a for a in args),
                log=logs[0],
                env={e["name"]: e["value"] for e in engine_env(wishes)} | {"HOME": str(folder)},
            )
        )
        asyncio.run(until(f"{engine}/health", logs[0]))
        stack.enter_context(
            process(
                "-m",
                "kubetune.gateway",
                f"--table={folder / 'table.json'}",
                f"--cache={folder / 'cache'}",
                f"--engine-url={engine}",
                "--host=127.0.0.1",
                f"--port={ports[1]}",
                f"--admin-port={ports[2]}",
                log=logs[1],
                env={},
            )
        )
        asyncio.run(until(f"{admin}/readyz", logs[1]))
        names = ("base", "base") if options.base else (adapter.loaded_name, adapter.name)
        ways = Way(engine, names[0], options.tokens), Way(gateway, names[1], options.tokens)
        print(
            json.dumps(
                {
                    "shape": "tiny" if options.tiny else "SmolLM2-135M",
                    "model": "base" if options.base else "adapter",
                    "dtype": options.dtype,
                    "tokens": options.tokens,
                    "cores": os.cpu_count(),
                }
            )
        )
        print("| streams | direct, tokens/s | throughput, ratio | first token, p50 |\n|---|---|---|---|")
        for streams in options.streams:
            requests = options.requests * (8 if streams == 1 else 1)
            print(asyncio.run(measure(*ways, streams, options.rounds, requests)), flush=True)


if __name__ == "__main__":
    main()
