"""Tests and measurements on a machine with a GPU, by one command that needs no network:

    python3 -m benchmarks.gpu [--minutes 8] [--only tests clm-1b] [--rounds 2] [--tiny]

Results go to $OUT, or else to out/gpu, as they come. With --tiny all models are tiny, so that a CPU will do.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu import table
from benchmarks.gpu.phases import Phases
from benchmarks.gpu.wheels import FOLDER, ROOT, name_checkout, unpack
from benchmarks.gpu.workloads import CLM_1B, LORA_8B, QLORA_8B, WORKLOADS

TESTS = "tests"
BASES = {CLM_1B: CLM_1B, LORA_8B: LORA_8B, QLORA_8B: LORA_8B}
"""Whose base a workload trains."""
ROOM = {CLM_1B: 4 << 30, LORA_8B: 18 << 30}
"""Bytes that a base takes."""
LIMITS = {"machine": 90, TESTS: 150, "base": 60, "turn": 100}
"""Seconds that a phase may take."""
PYTEST = (
    "pytest", "-c", "benchmarks/gpu/pytest.ini", "--rootdir=.", "--noconftest",
    "-p", "tests.trainer.conftest", "-p", "tests.fixtures.golden", "tests/trainer/test_gpu.py",
)  # fmt: skip
"""Without tests/conftest.py, which imports what the control plane's tests need."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side, as far as time allows")
    parser.add_argument("--only", nargs="+", choices=[TESTS, *BASES], default=[TESTS, *BASES])
    parser.add_argument("--tiny", action="store_true", help="tiny models: to try this program")
    options = parser.parse_args()
    out = Path(os.environ.get("OUT") or ROOT / "out" / "gpu")
    out.mkdir(parents=True, exist_ok=True)
    for stale in ("results.jsonl", "rows.md", "log.txt"):
        (out / stale).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=roomy(0 if options.tiny else sum(ROOM.values()))) as work:
        return Benchmark(options, out, Path(work)).run()


def roomy(size: int) -> str | None:
    """The folder in memory, if it holds so many bytes, else the usual one for temporary files."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 1.2 * size else None


class Benchmark:
    """The phases in order. One that fails, or for which no time is left, takes nothing from the others."""

    def __init__(self, options: argparse.Namespace, out: Path, work: Path) -> None:
        self._options, self._out, self._work = options, out, work
        self._tiny = ["--tiny"] * options.tiny
        self._results: list[table.Result] = []
        self._machine: dict[str, Any] = {}
        site = work / "site"
        wheels = unpack(FOLDER, site)
        name_checkout(site)
        print(f"{len(wheels)} wheels from {FOLDER.relative_to(ROOT)}", flush=True)
        paths = [ROOT, ROOT / "operator", ROOT / "trainer_image", site]
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(work), "OMP_WAIT_POLICY": "PASSIVE",
        }  # fmt: skip
        self._phases = Phases(ROOT, out / "log.txt", 60 * options.minutes, os.environ | environment)

    def run(self) -> int:
        """All phases. The exit code is 1 where one failed or was left out."""
        self._look()
        if TESTS in self._options.only:
            self._phases.run("tests", [*PYTEST], LIMITS[TESTS])
        for number in range(1, self._options.rounds + 1):
            for workload in WORKLOADS:
                if workload.name in self._options.only:
                    for side in ("ours", "hf") if number % 2 else ("hf", "ours"):
                        self._turn(side, workload.name, number)
        self._tell()
        return 1 if self._phases.troubles else 0

    def _look(self) -> None:
        result = self._work / "machine.json"
        self._phases.run("machine", ["benchmarks.gpu.machine", f"--result={result}"], LIMITS["machine"])
        if not result.exists():
            return
        self._machine = json.loads(result.read_text())
        self._keep({"machine": self._machine})
        for name, problem in self._machine["missing"].items():
            remedy = (
                f"python3 -m benchmarks.gpu.wheels --python {'.'.join(platform.python_version_tuple()[:2])}"
            )
            self._phases.trouble(
                "machine", f"{name} cannot be imported ({problem}): bring wheels, by {remedy}"
            )

    def _turn(self, side: str, workload: str, number: int) -> None:
        name = f"{workload}, round {number}, {side}"
        base = self._base(BASES[workload])
        if base is None:
            self._phases.trouble(name, "left out, since its base could not be made")
            return
        result = self._work / "turn.json"
        command = ["benchmarks.gpu.turn", f"--side={side}", f"--workload={workload}", f"--base={base}"]
        if self._phases.run(name, [*command, f"--result={result}", *self._tiny], LIMITS["turn"]):
            self._results.append(json.loads(result.read_text()) | {"round": number})
            self._keep(self._results[-1])
            result.unlink()

    def _base(self, workload: str) -> Path | None:
        folder = self._work / workload
        if folder.exists():
            return folder if (folder / "model.safetensors.index.json").exists() else None
        command = ["benchmarks.gpu.base", f"--workload={workload}", f"--folder={folder}", *self._tiny]
        made = self._phases.run(f"base of {workload}", command, LIMITS["base"])
        return folder if made else None

    def _keep(self, result: dict[str, Any]) -> None:
        with (self._out / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")

    def _tell(self) -> None:
        machine = self._machine
        gpu = machine.get("gpu") or "no GPU"
        facts = [f"PyTorch {machine.get('versions', {}).get('torch')}, CUDA {machine.get('cuda')}"]
        if "product_tflops" in machine:
            facts.append(f"a bf16 product of 8192 x 8192 attains {machine['product_tflops']:.0f} TFLOP/s")
        facts += [
            f"{name} {text}" for name, text in machine.get("versions", {}).items()
            if name in ("transformers", "peft", "bitsandbytes")
        ]  # fmt: skip
        lines = [f"## {datetime.date.today()}", "", f"### On a GPU ({gpu}; {'; '.join(facts)})", ""]
        lines += table.rows(self._results, machine, small=self._options.tiny)
        lines += ["", *table.losses(self._results)]
        lines += [f"{name}: {text}" for name, text in self._phases.told]
        text = "\n".join(lines) + "\n"
        (self._out / "rows.md").write_text(text)
        print(f"\n{text}\nlog, results and rows are in {self._out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
