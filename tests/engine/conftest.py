"""The real vLLM as a process, started as in a serving pod, with a real gateway process before it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from kubetune.api.adapterset import Engine
from kubetune.api.table import ENGINE_PORT, TableAdapter, TableBase
from kubetune.artifacts.digest import folder_digest
from kubetune.desired.adapterset_engine import EngineLimits, engine_args, engine_env
from tests.engine.make_models import ANSWER_TOKENS, PROMPT
from tests.fixtures.adapters import entry
from tests.fixtures.gateway import GatewayClient, TableMount, free_port

START_SECONDS = 480
# Exact arithmetic, to compare token by token with the oracle.
WISHES = Engine(args=["--dtype=float32", "--max-model-len=256"])


class RealEngine:
    """vLLM, with the arguments and the environment that its container has."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        limits = EngineLimits(max_loras=2, max_lora_rank=16, claims=())
        args = engine_args(WISHES, limits, base_name="base", base_path=str(base))
        self._args = [f"--port={self.port}" if a == f"--port={ENGINE_PORT}" else a for a in args]
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "engine.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; it answers later."""
        env = os.environ | {e["name"]: e["value"] for e in engine_env(WISHES)} | {"HOME": str(self._folder)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self._args],
                env=env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def until_healthy(self) -> None:
        """Wait for it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.3)
        raise AssertionError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        """As when its container is killed: every process of it, at once."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def models(self) -> list[str]:
        """What it lists."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=5) as answer:
            return [m["id"] for m in json.load(answer)["data"]]

    def running_requests(self) -> float:
        """What it works on."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{")
        )


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make_models.py` writes."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("make_models.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="package")
def oracle(models: Path) -> dict[str, list[int]]:
    """The greedy answers of transformers and peft."""
    return json.loads((models / "answers.json").read_text())


@pytest.fixture(scope="package")
def engine(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    engine = RealEngine(models / "base", tmp_path_factory.mktemp("engine"))
    engine.start()
    engine.until_healthy()
    yield engine
    engine.kill()


@dataclass
class Pod:
    """What stands in a serving pod: the engine, a gateway, a table, a volume."""

    engine: RealEngine
    models: Path
    mount: TableMount
    client: GatewayClient
    flags: list[str]
    process: "subprocess.Popen[bytes] | None" = None

    def adapter(self, name: str, folder: str, **more: str) -> TableAdapter:
        return entry(name, self.models / folder, root=self.models, **more)

    def spawn(self) -> None:
        """Start the gateway's process."""
        self.process = subprocess.Popen([sys.executable, "-m", "kubetune.gateway", *self.flags])

    async def start(self) -> None:
        """Start the gateway and wait until it listens."""
        self.spawn()
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    await self.client.state()
                    return
                await asyncio.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the gateway; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    async def serve(self, *adapters: TableAdapter) -> float:
        """Write the table; returns after how many seconds all of it answers."""
        begun = time.monotonic()
        self.mount.write(*adapters)
        for adapter in adapters:
            await self.client.until_loaded(adapter, seconds=60)
        return time.monotonic() - begun

    async def answer(self, model: str) -> list[int]:
        """Token ids of the greedy answer to the oracle's prompt."""
        status, answer = await self.client.complete(model, PROMPT, **ORACLE_FIELDS)
        assert status == 200, answer
        assert answer["model"] == model
        return answer["choices"][0]["token_ids"]

    async def streamed_answer(self, model: str) -> list[int]:
        """The same, by a stream."""
        events = await self.client.stream(model, PROMPT, **ORACLE_FIELDS)
        assert {e["model"] for e in events} == {model}
        return [t for e in events for c in e["choices"] for t in c.get("token_ids") or []]


ORACLE_FIELDS = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "return_token_ids": True}


@pytest.fixture
async def pod(engine: RealEngine, models: Path, tmp_path: Path) -> AsyncIterator[Pod]:
    base = models / "base"
    mount = TableMount(tmp_path, TableBase(name="base", path=str(base), digest=folder_digest(base)))
    port, admin_port = free_port(), free_port()
    flags = [
        f"--table={mount.path}", f"--cache={tmp_path / 'cache'}", f"--engine-url={engine.url}",
        "--host=127.0.0.1", f"--port={port}", f"--admin-port={admin_port}",
        "--max-lora-rank=16", "--drain-delay-seconds=0.5",
    ]  # fmt: skip
    async with aiohttp.ClientSession() as session:
        pod = Pod(engine, models, mount, GatewayClient(session, port, admin_port), flags)
        await pod.start()
        yield pod
        # Leave the engine as it was found, for the next test.
        if pod.process and pod.process.poll() is None:
            mount.write()
            await pod.client.until(lambda s: not s.adapters)
            async with asyncio.timeout(30):
                while engine.models() != ["base"]:
                    await asyncio.sleep(0.05)
            pod.stop()
