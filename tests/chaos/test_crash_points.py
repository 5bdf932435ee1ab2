"""The operator is killed before and after each of its writes: the end is the same as if it had not been."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import pytest

from tests.fixtures.chaos import ChaosPlane
from tests.fixtures.crash import Crashed, Kill, Side, Told, Undisturbed, crashed
from tests.fixtures.stories import STORIES

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

AT_ONCE = 8
SHORT = 4
KNOWN: list[tuple[str, str, Side]] = [
    # An event was lost.
    ("retried", "POST Retrying of retried #1", "before"),
    ("served", "POST AdapterLive of served #1", "before"),
    ("retried", "POST Retrying of retried #1", "after"),
    # The reason of a condition was another one.
    ("succeeds", "POST jobs of succeeds #1", "after"),
    ("retried-chain", "POST jobs of retried-chain #2", "after"),
]
"""What has once gone wrong: never left out."""
TRIES = 3
SOMETIMES = ("adaptersets/status", "tokenreviews", "status suspended", "status ran-too-long")
"""How often these are written depends on how fast pods start and end, and on how often a trainer reports."""
SIDES: tuple[Side, ...] = ("before", "after")


@dataclass(frozen=True)
class Sweep:
    """What was found."""

    stories: dict[str, Undisturbed]
    results: list[Crashed]
    made_twice: dict[str, list[str]]


@pytest.fixture(scope="module")
def sweep(chaos_plane: ChaosPlane, told: Told, thorough: bool, request: pytest.FixtureRequest) -> Sweep:
    """All crash points of all stories that are tested, or a sample of them."""
    begun = time.monotonic()
    mine = [item for item in request.session.items if item.path == request.path]
    tested = {item.callspec.params["name"] for item in mine if hasattr(item, "callspec")}
    chosen = [name for name in STORIES if name in tested]
    wanted = chosen if thorough else [*dict.fromkeys(name for name, *_ in KNOWN)]
    stories = told.all(wanted, AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        points = [(name, point, side) for name in stories for point in stories[name].writes for side in SIDES]
        print(f"\n{len(points)} crash points in {len(stories)} stories", flush=True)
        if not thorough:
            points = KNOWN + random.Random(4).sample(points, SHORT)
        futures = [pool.submit(kill, chaos_plane, name, stories[name], *where) for name, *where in points]
        results: list[Crashed] = []
        for future in as_completed(futures):
            results.append(future.result())
            if results[-1].problem:
                print(f"\n{results[-1]}", flush=True)
            if len(results) % 20 == 0 or len(results) == len(points):
                print(f"{len(results)} of {len(points)} after {time.monotonic() - begun:.0f} s", flush=True)
    return Sweep(stories, results, chaos_plane.made_twice())


def kill(plane: ChaosPlane, name: str, expected: Undisturbed, point: str, side: Side) -> Crashed:
    """A kill at a write that is not made each time is tried again."""
    for _ in range(TRIES):
        found = crashed(plane, name, expected, Kill(point, side))
        if found.kill.done or found.problem:
            break
    return found


@pytest.mark.parametrize("name", STORIES)
def test_a_crash_changes_nothing(sweep: Sweep, name: str) -> None:
    if name not in sweep.stories:
        pytest.skip("only with --chaos=long")
    mine = [result for result in sweep.results if result.story == name]
    assert [str(result) for result in mine if result.problem] == []
    assert [twice for r in mine if (twice := sweep.made_twice.get(r.namespace))] == []
    missed = [result.kill for result in mine if not result.kill.done]
    assert [kill for kill in missed if not any(some in kill.point for some in SOMETIMES)] == []


def test_the_sweep_was_one(sweep: Sweep) -> None:
    outcome = Counter("swept" if result.kill.done else "not reached" for result in sweep.results)
    swept, missed = outcome["swept"], outcome["not reached"]
    writes = sum(len(story.writes) for story in sweep.stories.values())
    print(f"\nfigure: {swept} crash points swept, {missed} not reached; {writes} writes")
    assert outcome["not reached"] < len(sweep.results) / 50
