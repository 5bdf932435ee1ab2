"""A trainer is killed and stopped at random moments, its newest checkpoint damaged: the weights are the same,
of every objective by every method.

The moments are spread over the whole run: reading, baseline, steps, the saving of checkpoints, evaluation.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubetune.api.runspec import RunSpec
from kubetune_trainer import writer
from tests.fixtures.sampled import sampled
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


@pytest.mark.parametrize("kind", sampled(RUNS, QUICK))
def test_random_deaths_do_not_show_in_the_weights(
    undisturbed: Callable[[str], Undisturbed],  # noqa: F811
    corpus: Path,  # noqa: F811
    base: Path,  # noqa: F811
    tmp_path: Path,
    thorough: bool,
    kind: str,
) -> None:
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


def freeze(spec: RunSpec, folder: Path, chosen: random.Random, longest: float) -> int:
    """Trainers come one after another, while those before them are only frozen, and wake at any moment.

    Returns:
        How many were frozen.
    """
    trainers: list[Process] = []
    frozen: list[Process] = []
    times = 0
    for number in range(3):
        trainers.append(Process(spec, folder / str(number), **{writer.BEAT_VARIABLE: "0.5"}))
        time.sleep(chosen.uniform(0.2, 0.9) * longest)
        with suppress(ProcessLookupError):  # It has ended.
            trainers[-1].signal(signal.SIGSTOP)
            frozen.append(trainers[-1])
            times += 1
        if frozen and chosen.random() < 0.5:
            frozen.pop(chosen.randrange(len(frozen))).signal(signal.SIGCONT)
    trainers.append(Process(spec, folder / "last", **{writer.BEAT_VARIABLE: "0.5"}))
    time.sleep(chosen.uniform(0.2, 0.9) * longest)
    for process in frozen:
        process.signal(signal.SIGCONT)
    ends = [process.end() for process in trainers]
    assert set(ends) <= {0, 17}, [process.out for process in trainers]
    assert 0 in ends
    return times


def test_trainers_that_wake_beside_others_do_not_show_in_the_weights(
    undisturbed: Callable[[str], Undisturbed],  # noqa: F811
    corpus: Path,  # noqa: F811
    base: Path,  # noqa: F811
    tmp_path: Path,
    thorough: bool,
) -> None:
    whole, frozen = undisturbed("lora"), 0
    for seed in range(8 if thorough else 1):
        folder = tmp_path / str(seed)
        spec = RUNS["lora"][0](folder / "out", corpus, base)
        frozen += freeze(spec, folder, random.Random(f"frozen {seed}"), whole.seconds)
        assert weights(spec, "lora") == whole.weights, f"seed {seed}"
        assert [path.name for path in (folder / "out").iterdir()] == ["artifact"]
    print(f"\nfigure: frozen and woken: {frozen}")
    assert frozen
