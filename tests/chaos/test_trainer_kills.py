"""A trainer is killed and stopped at random moments, its newest checkpoint damaged: the weights are the same,
of every objective by every method.

The moments are spread over the whole run: reading, baseline, steps, the saving of checkpoints, evaluation.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubetune.api.runspec import RunSpec
from tests.trainer.conftest import Process, base, corpus  # noqa: F401 - fixtures
from tests.trainer.test_resume import RUNS, Undisturbed, newest, undisturbed, weights  # noqa: F401 - a fixture

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SHORT, LONG = (1, 3), (3, 8)
"""Seeds of each kind of run, and how often each is ended at most."""
QUICK = ("lora",)
"""Kinds of runs that each run of all tests includes."""
DAMAGE = 0.3


@dataclass
class Ordeal:
    """What befell a run."""

    kills: int = 0
    stops: int = 0
    damages: int = 0
    torn: int = 0
    """Kills that left a checkpoint half written."""


def survive(spec: RunSpec, folder: Path, chosen: random.Random, deaths: int, longest: float) -> Ordeal:
    """Start a run again and again, each time for so many seconds at most, and let it end at last. One that
    was too quick for its first death begins anew, and dies sooner."""
    ordeal = Ordeal()
    for _ in range(deaths):
        process = Process(spec, folder)
        time.sleep(chosen.uniform(0.1, 0.9) * longest)
        number = chosen.choice((signal.SIGKILL, signal.SIGTERM))
        if process.process.is_alive():
            process.signal(number)
        code = process.end()
        if code == 0 and ordeal == Ordeal():
            shutil.rmtree(folder)
            return survive(spec, folder, chosen, deaths, longest / 2)
        if code == 0:
            return ordeal
        assert code in (143, -signal.SIGKILL), process.out
        ordeal.kills += code < 0
        ordeal.stops += code > 0
        checkpoints = folder / "out/checkpoints"
        ordeal.torn += code < 0 and any(checkpoints.glob(".*"))
        if any(checkpoints.glob("step-*")) and chosen.random() < DAMAGE:
            victim = chosen.choice(sorted(path for path in newest(spec).iterdir() if path.is_file()))
            victim.write_bytes(victim.read_bytes()[: chosen.randrange(200)])
            ordeal.damages += 1
    process = Process(spec, folder)
    assert process.end() == 0, process.out
    return ordeal


@pytest.mark.parametrize("kind", RUNS)
def test_random_deaths_do_not_show_in_the_weights(
    undisturbed: Callable[[str], Undisturbed],  # noqa: F811
    corpus: Path,  # noqa: F811
    base: Path,  # noqa: F811
    tmp_path: Path,
    thorough: bool,
    kind: str,
) -> None:
    if not thorough and kind not in QUICK:
        pytest.skip("only with --chaos=long")
    total, whole = Ordeal(), undisturbed(kind)
    seeds, deaths = LONG if thorough else SHORT
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        spec = RUNS[kind][0](folder / "out", corpus, base)
        ordeal = survive(spec, folder, random.Random(f"{kind} {seed}"), deaths, whole.seconds)
        assert weights(spec, kind) == whole.weights, f"seed {seed}: {ordeal}"
        for name, count in vars(ordeal).items():
            setattr(total, name, getattr(total, name) + count)
    print(f"\nfigure: {kind}: {vars(total)}")
    assert total.kills + total.stops > 0
