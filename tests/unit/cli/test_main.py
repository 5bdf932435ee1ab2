"""What every entry point says of itself."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

COMMANDS = [
    ["kubetune.cli"],
    ["kubetune.cli", "operator"],
    ["kubetune.cli", "gateway"],
    ["kubetune.cli", "reclaim"],
    ["kubetune.cli", "digest"],
    ["kubetune.gateway"],
    ["kubetune.gateway.check_base"],
    ["kubetune_trainer"],
]


def said(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_tells_its_version_and_describes_every_flag(words: list[str]):
    assert said(*words, "--version") == f"kubetune {version('kubetune')}\n"
    lines = said(*words, "--help").splitlines()
    flags = [n for n, line in enumerate(lines) if line.startswith("  --")]
    assert flags
    for n in flags:
        about = lines[n].strip().partition("  ")[2] or lines[n + 1]
        assert re.match(r"\s*[\w,-]+ \w+", about), lines[n]


@pytest.mark.parametrize("words", [[], ["nonsense"]], ids=str)
def test_without_a_command_it_says_which_there_are(words: list[str]):
    done = subprocess.run([sys.executable, "-m", "kubetune.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "operator" in done.stderr
