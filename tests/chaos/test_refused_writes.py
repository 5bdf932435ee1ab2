"""The API server refuses a write again and again: the resource says so, and heals when it does no more."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import pytest

from tests.fixtures.chaos import ChaosPlane, Run
from tests.fixtures.crash import Told, Undisturbed, problem_of
from tests.fixtures.end_state import differences
from tests.fixtures.operator import eventually
from tests.fixtures.proxy import REASONS, Call, Fault
from tests.fixtures.stories import STORIES

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

AT_ONCE = 4
SHORT = [
    # One of each kind of write, of each reconciler: (story, write, answer).
    ("succeeds", "POST configmaps of succeeds #1", 403),
    ("succeeds", "POST jobs of succeeds #1", 500),
    ("succeeds", "PATCH pretrainjobs/status succeeds #1", 500),
    ("succeeds", "PATCH pretrainjobs/status succeeds by kubetune-progress #1", 422),
    ("retried", "POST jobs of retried #2", 409),
    ("suspended", "DELETE jobs #1", 500),
    ("expired", "DELETE pretrainjobs expired #1", 403),
    ("reclaimed", "PATCH pretrainjobs reclaimed #1", 500),
    ("reclaimed", "POST jobs of reclaimed #2", 500),
    ("reclaimed", "PATCH pretrainjobs reclaimed #2", 403),
    ("retried-chain", "POST jobs of retried-chain #1", 429),
    ("served", "PATCH configmaps of served #1", 413),
    ("served", "PATCH services of served #1", 500),
    ("served", "PATCH deployments of served #1", 409),
    ("served", "PATCH adaptersets/status served #1", 500),
    ("served", "PATCH pods #1", 500),
]
CODES = (403, 409, 413, 422, 429, 500, 503)
TOLD_SECONDS = 30.0
"""A passing fault is told after 10 s, at the next look."""


@dataclass
class Refusing:
    """Answers a write, and all later ones like it, by an error."""

    point: str
    code: int
    active: bool = True
    struck: int = 0
    _from: int = field(init=False)

    def __post_init__(self) -> None:
        self._what, _, number = self.point.rpartition(" #")
        self._from = int(number)

    def judge(self, call: Call) -> Fault | None:
        if not self.active or call.what != self._what or call.number < self._from:
            return None
        self.struck += 1
        return Fault("refuse", code=self.code)

    @property
    def words(self) -> str:
        """What the operator is told."""
        return f"by the test: {REASONS[self.code]}"


def is_reconcilers(point: str) -> bool:
    """Whether a write is not a courtesy (an event), nor the progress receiver's."""
    what = point.rpartition(" #")[0].split()
    return (
        "/" in what[1]
        or what[1] in ("jobs", "pods", "configmaps", "services", "deployments")
        or (what[1].endswith(("jobs", "sets")))
    )


def refused(plane: ChaosPlane, name: str, expected: Undisturbed, faults: Refusing) -> str:
    """Tell a story amid refusals; returns what went wrong."""
    with plane.run(faults) as run, ThreadPoolExecutor(1) as pool:
        story = pool.submit(STORIES[name], run, name)
        try:
            eventually("the write is made", lambda: faults.struck or story.done(), seconds=run.patience)
            if not faults.struck:
                return f"{name}: {faults.point} is never made"
            begun = time.monotonic()
            until_told(run, faults)
            print(
                f"{name}: {faults.point} {faults.code}: told after {time.monotonic() - begun:.1f} s",
                flush=True,
            )
            faults.active = False
            story.result()
            problem = problem_of(run, without_events(expected), events=False)
        except AssertionError as error:
            problem = f"{error}\n{differences(without_events(expected), run.found().state(events=False))}"
        finally:
            faults.active = False
        return f"{name}: {faults.point} {faults.code}: {problem} ({run.operator.log})" if problem else ""


def until_told(run: Run, faults: Refusing) -> None:
    """Wait for it; the follower of a leader that got no processor counts anew, and is given as long again."""
    while True:
        starved = run.operator.starved
        try:
            eventually("it is told", lambda: is_told(run, faults), seconds=TOLD_SECONDS)
        except AssertionError:
            if run.operator.starved == starved:
                raise
        else:
            return


def is_told(run: Run, faults: Refusing) -> bool:
    """By an event, and unless the status itself is refused by a condition."""
    found = run.found()
    by_event = any(faults.words in event["message"] for event in found.events)
    conditions = [
        condition
        for items in found.ours.values()
        for item in items
        for condition in item.get("status", {}).get("conditions", [])
    ]
    by_status = any(faults.words in condition.get("message", "") for condition in conditions)
    return by_event and (by_status or "/status" in faults.point)


def without_events(expected: Undisturbed) -> dict[str, list[object]]:
    return {key: value for key, value in expected.state.items() if not key.startswith("events of ")}


def test_a_refused_write_is_told_and_heals(chaos_plane: ChaosPlane, told: Told, thorough: bool) -> None:
    names = list(STORIES) if thorough else list(dict.fromkeys(name for name, *_ in SHORT))
    expected = told.all(names, AT_ONCE)
    cases: Sequence[tuple[str, str, int]] = SHORT
    if thorough:
        points = [(n, p) for n in names for p in dict.fromkeys(expected[n].writes) if is_reconcilers(p)]
        cases = [(n, p, CODES[at % len(CODES)]) for at, (n, p) in enumerate(points)]
    begun, problems = time.monotonic(), []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(refused, chaos_plane, name, expected[name], Refusing(point, code))
            for name, point, code in cases
        ]
        for number, future in enumerate(as_completed(futures), 1):
            problems += [future.result()] if future.result() else []
            if number % 10 == 0:
                print(f"{number} of {len(cases)} after {time.monotonic() - begun:.0f} s", flush=True)
    print(
        f"figure: {len(cases)} refused writes in {len(names)} stories: {len(problems)} not told or not healed"
    )
    assert problems == []
