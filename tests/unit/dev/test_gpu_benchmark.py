"""What of benchmarks/gpu needs no training."""

import ast
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

from benchmarks.gpu import table, wheels
from benchmarks.gpu.machine import IMPORTED
from benchmarks.gpu.phases import LEAST, Phases
from benchmarks.gpu.workloads import LORA_8B, WORKLOADS, find, peak


def test_shapes_and_costs_are_those_of_the_models() -> None:
    """Parameters as the model cards give them, the 8B's less its embeddings; FLOPs by hand."""
    clm, lora, qlora = WORKLOADS
    assert (clm.weights / 1e9, lora.weights / 1e9) == pytest.approx((1.236, 7.505), abs=1e-3)
    assert lora.adapter == qlora.adapter == 41_943_040
    assert clm.flops == 6 * clm.weights + 12 * 16 * 2048 * 2048
    assert lora.flops == 4 * lora.weights + 6 * lora.adapter + 12 * 32 * 4096 * 2048


@pytest.mark.parametrize(
    ("gpu", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362.0), ("NVIDIA L40", 181.0), ("NVIDIA L4", 121.0), ("NVIDIA A10", None), ("", None),
    ],
)  # fmt: skip
def test_peak_rates_go_by_the_gpus_name(gpu: str, rate: float | None) -> None:
    assert peak(gpu) == rate


def result(side: str, speeds: list[float], number: int = 1) -> table.Result:
    return {
        "side": side, "workload": LORA_8B, "tokens_per_second": speeds, "round": number,
        "peak_gib": 40.0 + number, "loss": 11.7, "seconds": 30.0,
    }  # fmt: skip


def test_rows_have_medians_spreads_and_ratios_of_each_round() -> None:
    found = [
        result("ours", [100, 110, 120]), result("hf", [50, 55, 60]),
        result("hf", [100, 100, 100], 2), result("ours", [100, 100, 150], 2),
    ]  # fmt: skip
    [*_, row] = table.rows(found, {"gpu": "NVIDIA H200"}, small=False)
    utilised = [f"{speed * find(LORA_8B, small=False).flops / 989.4e12:.1%}" for speed in (105, 77.5)]
    assert row.split(" | ")[1:] == [
        "105 (100 to 150)", "80 (50 to 100)", "1.50 (1.00 to 2.00)", ", ".join(utilised), "42.0, 42.0 |",
    ]  # fmt: skip


def test_what_failed_leaves_a_gap_and_an_unknown_gpu_no_utilisation() -> None:
    [*_, row] = table.rows([result("ours", [100.0])], {"gpu": "another"}, small=False)
    assert row.split(" | ")[1:] == ["100", "-", "-", "-, -", "41.0, - |"]
    assert table.rows([], {}, small=False) == []


def phases(folder: Path, seconds: float) -> Phases:
    for name, code in {
        "good": "print('a'); print('all is well')",
        "bad": "raise SystemExit('it broke')",
        "slow": "import subprocess; subprocess.run(['sleep', '60'])",
    }.items():
        (folder / f"{name}.py").write_text(code)
    return Phases(folder, folder / "log.txt", seconds, dict(os.environ) | {"PYTHONPATH": str(folder)})


def test_a_phase_that_fails_or_lasts_too_long_takes_nothing_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = phases(tmp_path, 60)
    assert [found.run(name, [name], 0.5 if name == "slow" else 30) for name in ("bad", "slow", "good")] == [
        False, False, True,
    ]  # fmt: skip
    assert found.troubles == 2
    bad, slow, good = (text for _, text in found.told)
    assert bad.startswith("exit code 1")
    assert slow.startswith("stopped after")
    assert good.endswith("; all is well")
    assert "    it broke" in capsys.readouterr().out
    assert "it broke" in (tmp_path / "log.txt").read_text()


def test_what_no_time_is_left_for_is_left_out(tmp_path: Path) -> None:
    found = phases(tmp_path, LEAST - 1)
    assert not found.run("good", ["good"], 30)
    assert found.told == [("good", "left out: 14 s of 14 are left")]


def test_all_that_the_trainer_imports_is_looked_for() -> None:
    """But what only runs with lm-eval import, and parts of what is looked for."""
    folders = ("trainer_image/kubetune_trainer", "operator/kubetune/api", "operator/kubetune/artifacts")
    nodes = [
        node
        for folder in folders
        for path in (wheels.ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    others = {"kubetune", "kubetune_trainer", "lm_eval", "datasets", "markupsafe", "pydantic_core"}
    assert {n.partition(".")[0] for n in names} - sys.stdlib_module_names - others == {*IMPORTED}


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, f"NAME = {name!r}")
    return path


def test_wheels_lose_what_is_for_other_machines_and_are_unpacked(tmp_path: Path) -> None:
    libraries = [
        f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in ("cpu", "cuda130", "cuda128", "rocm72")
    ]
    whole = wheel(tmp_path / "bitsandbytes-1-none-any.whl", "bitsandbytes/__init__.py", *libraries)
    (tmp_path / "kept").mkdir()
    wheels.repack(whole, tmp_path / "kept" / whole.name, {"cpu", "cuda130"})
    assert wheels.unpack(tmp_path / "kept", tmp_path / "site") == [whole.name]
    there = sorted(p.name for p in (tmp_path / "site/bitsandbytes").iterdir())
    assert there == ["__init__.py", "libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"]
    with pytest.raises(SystemExit, match="no library for cuda99"):
        wheels.repack(whole, tmp_path / "kept" / whole.name, {"cpu", "cuda99"})


def test_the_checkout_has_a_version_without_being_installed(tmp_path: Path) -> None:
    wheels.name_checkout(tmp_path)
    [found] = distributions(name="kubetune", path=[str(tmp_path)])
    assert found.version == version("kubetune")


def test_it_starts_with_a_bare_python() -> None:
    """What is missing on the machine is unpacked by it first."""
    code = "import sys; sys.path.insert(0, '.'); import benchmarks.gpu.__main__; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=wheels.ROOT)
    assert "benchmarks.gpu.phases" in done.stdout.split()
