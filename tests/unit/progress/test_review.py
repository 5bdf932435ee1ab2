"""What reviews cost the API server. Whether they are right is tried on a real one (tests/integration)."""

import asyncio
from typing import Any

import pytest

from kubetune.controller.errors import Unavailable
from kubetune.controller.keys import Key
from kubetune.desired.job import TOKEN_AUDIENCE, job_name
from kubetune.progress import review
from kubetune.progress.review import AT_A_TIME, FAULTS, WAITING, Denied, Reviewer, TooMany
from tests.unit.progress.test_token_content import CLAIMS, packed

pytestmark = pytest.mark.unit

KEY = Key("PretrainJob", "team", "tiny")
GOOD = f"good.{packed(CLAIMS | {'exp': 2**40})}.s"


ATTEMPT = job_name({"metadata": {"name": "tiny", "uid": "uid-tiny"}}, 1)


def forged(number: int) -> str:
    return f"forged{number}.{packed(CLAIMS | {'exp': 2**40})}.s"


class Server:
    """An API server that believes the good token only, and counts."""

    def __init__(self) -> None:
        self.reviews = self.at_once = self.most = 0
        self.open = asyncio.Event()
        self.open.set()
        self.pods: set[str] = {"u"}
        self.has_job = True
        self.attempts = 1
        self.error: Exception | None = None

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.reviews += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.open.wait()
        self.at_once -= 1
        if self.error:
            raise self.error
        extra = {review.POD_NAME: ["p"], review.POD_UID: ["u"]}
        user = {"username": "system:serviceaccount:team:default", "extra": extra}
        valid = body["spec"]["token"] == GOOD
        return {"status": {"authenticated": valid, "audiences": [TOKEN_AUDIENCE], "user": user}}

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        owners = {"Pod": ("Job", ATTEMPT), "Job": ("PretrainJob", "tiny")}
        uids = {"Pod": "u", "Job": f"uid-{ATTEMPT}", "PretrainJob": "uid-tiny"}
        if (kind == "Pod" and "u" not in self.pods) or (kind == "Job" and not self.has_job):
            return None
        references = []
        if owner := owners.get(kind):
            references = [{"controller": True, "kind": owner[0], "name": owner[1], "uid": f"uid-{owner[1]}"}]
        metadata = {"name": name, "uid": uids[kind], "ownerReferences": references}
        return {"metadata": metadata, "status": {"attempts": self.attempts}}


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
def reviewer(server: Server) -> Reviewer:
    return Reviewer(server)  # type: ignore[arg-type]


async def test_a_job_of_a_namespace_that_is_not_watched_is_refused_unasked(server: Server):
    reviewer = Reviewer(server, ("another",))  # type: ignore[arg-type]
    with pytest.raises(Denied, match="does not watch namespace team"):
        await reviewer.owner_uid(GOOD, KEY, "1")
    assert server.reviews == 0


async def test_a_token_is_reviewed_once(server: Server, reviewer: Reviewer):
    server.open.clear()
    asked = [asyncio.create_task(reviewer.owner_uid(GOOD, KEY, "1")) for _ in range(50)]
    await asyncio.sleep(0.01)
    server.open.set()
    assert {await each for each in asked} == {"uid-tiny"}
    assert await reviewer.owner_uid(GOOD, KEY, "1") == "uid-tiny"
    assert server.reviews == 1


async def test_one_who_hangs_up_takes_the_answer_from_nobody(server: Server, reviewer: Reviewer):
    server.open.clear()
    first, second = (asyncio.create_task(reviewer.owner_uid(GOOD, KEY, "1")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    server.open.set()
    assert await second == "uid-tiny"


async def test_the_token_of_a_pod_that_is_gone_is_worth_nothing_at_once(server: Server, reviewer: Reviewer):
    assert await reviewer.owner_uid(GOOD, KEY, "1") == "uid-tiny"
    server.pods.clear()
    reviewer.forget("another")
    assert await reviewer.owner_uid(GOOD, KEY, "1") == "uid-tiny"
    reviewer.forget("u")
    with pytest.raises(Denied, match="gone"):
        await reviewer.owner_uid(GOOD, KEY, "1")


async def test_a_pod_that_outlives_its_job_has_its_last_word(server: Server, reviewer: Reviewer):
    """A replica may hear of a pod for the first time when its run has just been suspended."""
    server.has_job = False
    assert await reviewer.owner_uid(GOOD, KEY, "1") == "uid-tiny"


async def test_a_pod_of_an_earlier_attempt_has_not(server: Server, reviewer: Reviewer):
    server.has_job, server.attempts = False, 2
    with pytest.raises(Denied, match="does not belong to"):
        await reviewer.owner_uid(GOOD, KEY, "1")


async def test_a_denied_token_is_denied_again_without_a_review(server: Server, reviewer: Reviewer):
    for _ in range(3):
        with pytest.raises(Denied) as denied:
            await reviewer.owner_uid(forged(0), KEY, "1")
        assert denied.value.status == 401
    assert server.reviews == 1


async def test_what_does_not_claim_to_be_ours_costs_nothing(server: Server, reviewer: Reviewer):
    for token in ("x", "a.b.c", f"e30.{packed(CLAIMS | {'aud': 'other'})}.s", "\udc80"):
        with pytest.raises(Denied):
            await reviewer.owner_uid(token, KEY, "1")
    assert server.reviews == 0


async def test_a_peer_with_many_forged_tokens_is_sent_away_and_others_are_not(
    server: Server, reviewer: Reviewer, monkeypatch: pytest.MonkeyPatch
):
    for number in range(3 * FAULTS):
        with pytest.raises(Denied if number < FAULTS else TooMany):
            await reviewer.owner_uid(forged(number), KEY, "bad")
    assert server.reviews == FAULTS
    assert await reviewer.owner_uid(GOOD, KEY, "good") == "uid-tiny"
    # What is known already is not asked about, whoever shares the address.
    assert await reviewer.owner_uid(GOOD, KEY, "bad") == "uid-tiny"
    monkeypatch.setattr(review, "FORGIVEN_SECONDS", -1.0)
    with pytest.raises(Denied):
        await reviewer.owner_uid(forged(99), KEY, "bad")


async def test_few_are_reviewed_at_a_time_and_few_wait(server: Server, reviewer: Reviewer):
    server.open.clear()
    flood = [asyncio.create_task(reviewer.owner_uid(forged(n), KEY, f"peer{n}")) for n in range(3 * WAITING)]
    await asyncio.sleep(0.05)
    server.open.set()
    answers = await asyncio.gather(*flood, return_exceptions=True)
    assert server.most == AT_A_TIME
    assert server.reviews == sum(isinstance(a, Denied) for a in answers) == WAITING + AT_A_TIME
    assert sum(isinstance(a, TooMany) for a in answers) == 3 * WAITING - WAITING - AT_A_TIME


async def test_an_api_server_that_does_not_answer_is_nobodys_fault(server: Server, reviewer: Reviewer):
    server.error = Unavailable("away")
    for _ in range(2 * FAULTS):
        with pytest.raises(Unavailable):
            await reviewer.owner_uid(GOOD, KEY, "1")
    server.error = None
    assert await reviewer.owner_uid(GOOD, KEY, "1") == "uid-tiny"
