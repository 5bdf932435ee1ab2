"""Random walks: whatever has happened, the end is what applying the last specs afresh gives."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import pytest

from tests.fixtures.chaos import ChaosPlane
from tests.fixtures.crash import settled
from tests.fixtures.end_state import State, differences
from tests.fixtures.operator import eventually
from tests.fixtures.proxy import NoFaults
from tests.fixtures.walk import Walk, lasting

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

LONG, SHORT = (12, 25), (2, 8)
"""Walks, and steps of each."""
END_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What came of a walk."""

    seed: int
    steps: list[str]
    problem: str


def test_the_way_does_not_matter(
    chaos_plane: ChaosPlane, thorough: bool, pytestconfig: pytest.Config
) -> None:
    walks, steps = LONG if thorough else SHORT
    seeds = pytestconfig.getoption("--chaos-seeds") or range(walks)
    begun, outcomes = time.monotonic(), []
    with ThreadPoolExecutor(6) as pool:
        for future in as_completed([pool.submit(walked, chaos_plane, seed, steps) for seed in seeds]):
            outcomes.append(future.result())
            seconds = time.monotonic() - begun
            print(
                f"\nwalk {outcomes[-1].seed} is over after {seconds:.0f} s", outcomes[-1].problem, flush=True
            )
    print(f"figure: {sum(len(o.steps) for o in outcomes)} transitions in {len(outcomes)} walks")
    assert [(o.seed, o.steps, o.problem) for o in outcomes if o.problem] == []


def walked(plane: ChaosPlane, seed: int, steps: int) -> Outcome:
    """A walk, and the same end by another way."""
    with plane.run(NoFaults()) as run:
        walk = Walk(run, seed)
        try:
            walk.go(steps)
            expected = afresh(plane, walk)
            deadline = time.monotonic() + END_SECONDS
            while problem := differences(expected, lasting(run.found())):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            eventually("orphans are collected", lambda: not run.found().orphans(), seconds=60)
        except AssertionError as error:
            problem = str(error)
        walk.stop()
        problem = "\n".join([problem, *dict.fromkeys(walk.wrong)]).strip()
        told = f"{problem}\nsee {run.operator.log}, {run.namespace}" if problem else ""
        return Outcome(seed, walk.steps, told)


def afresh(plane: ChaosPlane, walk: Walk) -> State:
    """What applying the last specs gives where nothing has been before."""
    specs = {
        thing.name: (thing, walk.run.get(walk.run.ours(thing.kind, thing.name))["spec"])
        for thing in walk.things.values()
    }
    with plane.run(NoFaults()) as run:
        for name, (thing, spec) in specs.items():
            run.play(name, thing.outcome)
            run.apply(thing.kind, name, spec)
        for name, (thing, _) in specs.items():
            if thing.kind != "AdapterSet":
                phase = "Succeeded" if thing.outcome == "succeed" else "Failed"
                run.until_phase(name, phase, thing.kind)
            else:
                run.until("nothing moves", thing.kind, name, at_rest)
        settled(run)
        return lasting(run.found())


def at_rest(status: dict[str, object]) -> bool:
    conditions = status["conditions"]
    assert isinstance(conditions, list)
    return ("Progressing", "False", "Settled") in {(c["type"], c["status"], c["reason"]) for c in conditions}
