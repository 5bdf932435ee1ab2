"""Faults between operator and API server, chosen by seeds: they end, and all is as if there had been none."""

import random
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import pytest

from tests.fixtures.chaos import ChaosPlane, Run
from tests.fixtures.crash import Told, problem_of
from tests.fixtures.end_state import State
from tests.fixtures.faults import Seeded
from tests.fixtures.stories import STORIES

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

AT_ONCE = 8
LONG, SHORT = 200, 4
SHORT_STORIES = ("succeeds", "retried", "retried-chain", "served")
STORIES_AT_ONCE = 3
RESYNC_SECONDS = 5
LIMIT_SECONDS = RESYNC_SECONDS + 60
"""From the end of the faults until all is well."""


@dataclass(frozen=True)
class Outcome:
    """What came of a seed."""

    seed: int
    stories: tuple[str, ...]
    namespace: str
    faults: int
    ends: int
    """How often the operator ended, killed or by itself."""
    seconds: float
    """From the end of the faults until all was well."""
    problem: str


def test_it_converges_when_the_faults_end(
    chaos_plane: ChaosPlane, told: Told, thorough: bool, pytestconfig: pytest.Config
) -> None:
    seeds = pytestconfig.getoption("--chaos-seeds") or range(LONG if thorough else SHORT)
    names = list(STORIES) if thorough else list(SHORT_STORIES)
    chosen = {seed: tuple(random.Random(seed).sample(names, STORIES_AT_ONCE)) for seed in seeds}
    wanted = list(dict.fromkeys(name for stories in chosen.values() for name in stories))
    expected = {name: undisturbed.state for name, undisturbed in told.all(wanted, AT_ONCE).items()}
    begun, outcomes = time.monotonic(), []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(scenario, chaos_plane, *of, expected) for of in chosen.items()]
        for future in as_completed(futures):
            outcomes.append(future.result())
            if outcomes[-1].problem:
                print(
                    f"\n{outcomes[-1].stories} {outcomes[-1].problem}\n{replay(outcomes[-1], thorough)}",
                    flush=True,
                )
            if len(outcomes) % 10 == 0 or len(outcomes) == len(futures):
                print(f"{len(outcomes)} of {len(futures)} after {time.monotonic() - begun:.0f} s", flush=True)
    twice = chaos_plane.made_twice()
    diverged = [o for o in outcomes if o.problem]
    faults, ends = sum(o.faults for o in outcomes), sum(o.ends for o in outcomes)
    longest = max(o.seconds for o in outcomes)
    print(f"figure: {len(outcomes)} scenarios, {faults} faults, {ends} crashes, {len(diverged)} diverged")
    print(f"figure: all well at most {longest:.0f} s after the faults, with a resync of {RESYNC_SECONDS} s")
    assert [replay(o, thorough) for o in diverged] == []
    assert [(replay(o, thorough), twice[o.namespace]) for o in outcomes if o.namespace in twice] == []


def replay(outcome: Outcome, thorough: bool) -> str:
    length = "long" if thorough else "short"
    return f"pytest -s tests/chaos/test_api_chaos.py --chaos={length} --chaos-seeds={outcome.seed}"


def scenario(plane: ChaosPlane, seed: int, stories: tuple[str, ...], expected: dict[str, State]) -> Outcome:
    """Several stories at once amid faults, which end after some seconds."""
    faults = Seeded(seed)
    with plane.run(faults, resync_seconds=RESYNC_SECONDS) as run:
        run.hides_deletions = faults.hides_deletions
        storm = random.Random(seed).uniform(4, 10)
        run.patience = storm + LIMIT_SECONDS
        begun = time.monotonic()
        with ThreadPoolExecutor(len(stories)) as pool:
            futures = [pool.submit(tell, run, name) for name in stories]
            time.sleep(storm)
            faults.active = False
            problems = [future.result() for future in futures]
        left = begun + storm + LIMIT_SECONDS - time.monotonic()
        end = {key: value for name in stories for key, value in expected[name].items() if not is_event(key)}
        problems.append(problem_of(run, dict(sorted(end.items())), events=False, seconds=left))
        seconds = time.monotonic() - begun - storm
        problem = "\n".join(filter(None, problems))
        if problem:
            problem += "\n" + "\n".join(run.proxy.struck) + f"\nsee {run.operator.log}"
        return Outcome(seed, stories, run.namespace, faults.struck, len(run.operator.ends), seconds, problem)


def tell(run: Run, name: str) -> str:
    """Tell a story; returns where it got stuck, if it did."""
    try:
        STORIES[name](run, name)
    except AssertionError as error:
        return f"{name}: {error}"
    return ""


def is_event(key: str) -> bool:
    """An event is a courtesy: one that the API server does not take is not tried again."""
    return key.startswith("events of ")
