"""A worker that dies takes one test with it, and the run ends."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_worker_that_dies_holds_nobody_up(tmp_path: Path):
    """Some files are ended by then, and others are not begun."""
    folder = tmp_path / "tests" / "unit"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers = unit: these\nasyncio_default_fixture_loop_scope = function\n"
    )
    for name in "abcdef":
        tests = [f"def test_{i}(): {'os._exit(1)' if (name, i) == ('c', 1) else 'pass'}" for i in range(4)]
        (folder / f"test_{name}.py").write_text("\n".join(["import os", *tests]))
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.fixtures.order", "-p", "no:cacheprovider",
        "--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert "=== 1 failed, 23 passed" in done.stdout, done.stdout + done.stderr
    assert re.search("worker 'gw.' crashed while running 'tests/unit/test_c.py::test_1'", done.stdout)
