"""The progress receiver, attacked: it believes nobody else, stays cheap, and the operator goes on."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kubetune.progress.listen import LIFETIME_SECONDS, PER_PEER
from kubetune.progress.review import FAULTS
from tests.fixtures.operator import Object, eventually
from tests.fixtures.tokens import cluster_key, new_key, read, signed, unsigned
from tests.fixtures.trainer import Trainer, token
from tests.fixtures.world import ACCOUNT, World

pytestmark = pytest.mark.integration

UPDATE: Object = {"trainerStatus": {"progressPercentage": 40, "metrics": [{"name": "loss", "value": "1.5"}]}}


@pytest.fixture
def trainer(world: World) -> Trainer:
    world.pretrain("tiny")
    return Trainer(world, "tiny")


@pytest.fixture
def peers() -> Iterator[str]:
    """Addresses that nobody has been wrong from."""
    return (f"127.66.{int(time.time()) % 250}.{number}" for number in range(1, 255))


def reviews(world: World) -> int:
    """Tokens that the operator has asked the API server about."""
    found = 0
    for line in world.audit_log.read_text().splitlines():
        entry = json.loads(line)
        target = entry.get("objectRef", {})
        found += entry["user"]["username"] == ACCOUNT and target.get("resource") == "tokenreviews"
    return found


def test_forged_and_expired_tokens_are_refused(trainer: Trainer, peers: Iterator[str]) -> None:
    header, claims = read(trainer.token)
    key, ours = new_key(), cluster_key(trainer.world.audit_log.parents[1])
    head, body, signature = trainer.token.split(".")
    hour_ago = {key: claims[key] - 7200 for key in ("iat", "nbf", "exp")}
    forged = {
        "signed by somebody": signed(header, claims, key),
        "signed by somebody who names a key of his own": signed(header | {"kid": "mine"}, claims, key),
        "alg none": unsigned({"alg": "none", "typ": "JWT"}, claims),
        "alg none, with a signature": unsigned(header | {"alg": "none"}, claims, signature),
        "alg HS256": unsigned(header | {"alg": "HS256"}, claims, signature),
        "another's signature": unsigned(header, claims | {"jti": "x"}, signature),
        "another issuer": signed(header, claims | {"iss": "https://example.org"}, key),
        "cut off": f"{head}.{body}.{signature[:-4]}",
        "expired an hour ago": signed(header, claims | hour_ago, ours),
        "expired a minute ago": signed(header, claims | {"exp": int(time.time()) - 60}, ours),
        "not valid yet": signed(header, claims | {"nbf": int(time.time()) + 3600}, ours),
    }
    for how, credential in forged.items():
        assert trainer.post(UPDATE, token=credential, source=next(peers)) == 401, how
    assert trainer.shown() == {}
    # It is the claims that were refused, and not the way in which this test signs them.
    assert trainer.post(UPDATE, token=signed(header, claims, ours)) == 200


def test_tokens_of_others_are_refused(trainer: Trainer, operator_world: World, peers: Iterator[str]) -> None:
    elsewhere = operator_world.new_namespace()
    elsewhere.pretrain("tiny")
    other = Trainer(elsewhere, "tiny")
    header, claims = read(other.token)
    ours = cluster_key(trainer.world.audit_log.parents[1])
    lying = claims | {"kubernetes.io": claims["kubernetes.io"] | {"namespace": trainer.world.namespace}}
    foreign = {
        "of a namesake in another namespace": other.token,
        "which claims to be of this namespace": signed(header, lying, new_key()),
        "of another audience": token(trainer.world, trainer.pod, audience="https://kubernetes.default.svc"),
        "without a pod": token(trainer.world, None),
    }
    for whose, credential in foreign.items():
        assert trainer.post(UPDATE, token=credential, source=next(peers)) in (401, 403), whose
    # Even with the cluster's key: the pod's namespace is not the account's.
    assert trainer.post(UPDATE, token=signed(header, lying, ours), source=next(peers)) in (401, 403)
    assert trainer.shown() == {}
    assert other.post(UPDATE) == 200
    elsewhere.delete(f"/api/v1/namespaces/{elsewhere.namespace}")


def test_a_token_is_worth_nothing_once_its_pod_is_gone_however_lately_it_was_used(trainer: Trainer) -> None:
    world = trainer.world
    assert trainer.post(UPDATE) == 200
    eventually("the post is shown", trainer.shown)
    path = world.path("pods", trainer.pod["metadata"]["name"])
    world.delete(path)
    eventually("the pod is gone", lambda: world.api.get(path) is None)
    gone = time.monotonic()
    # The API server itself believes the token for some ten seconds more.
    eventually("it is refused", lambda: trainer.post(UPDATE) in (401, 403), seconds=5)
    assert time.monotonic() - gone < 5
    shown = trainer.shown()
    late = {"trainerStatus": {"progressPercentage": 99}}
    assert trainer.post(late) in (401, 403)
    assert trainer.shown() == shown


def test_bodies_of_any_size_are_cheap(trainer: Trainer) -> None:
    packed = gzip.compress(json.dumps(UPDATE).encode() + b" " * 50_000_000)
    assert len(packed) < 60_000
    before, told = trainer.world.operator.memory_mib(), trainer.world.operator.log.stat().st_size
    assert trainer.post(packed, **{"Content-Encoding": "gzip"}) == 400
    assert trainer.post(b"x" * 100_000) == 413
    assert trainer.post(UPDATE, **{"X-Padding": "x" * 20_000}) == 400
    assert trainer.world.operator.memory_mib() - before < 30
    assert trainer.shown() == {}
    assert "Traceback" not in trainer.world.operator.log.read_text()[told:]


def test_a_flood_of_forged_tokens_is_not_passed_on(trainer: Trainer, peers: Iterator[str]) -> None:
    header, claims = read(trainer.token)
    key, before, attacker = new_key(), reviews(trainer.world), next(peers)
    assert trainer.post(UPDATE) == 200

    def attack(number: int) -> int:
        credential = "garbage" if number % 2 else signed(header, claims | {"jti": str(number)}, key)
        try:
            return trainer.post(UPDATE, token=credential, source=attacker)
        except OSError:
            return 0  # hung up on: too many connections at a time

    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(attack, range(200))]
    assert set(answers) <= {0, 401, 429}
    assert answers.count(429) > 50
    # Those that were on their way when the last allowed one was denied, and the trainer's own.
    assert reviews(trainer.world) - before <= FAULTS + 8 + 1
    # Whoever has not been wrong is heard, and looked up anew if need be.
    assert trainer.post(UPDATE) == 200
    assert trainer.post(UPDATE, token=token(trainer.world, trainer.pod), source=next(peers)) == 200


def test_the_operator_goes_on_while_it_is_flooded(trainer: Trainer, peers: Iterator[str]) -> None:
    world = trainer.world
    attackers = [next(peers) for _ in range(20)]
    with flood(world.operator.progress_port, attackers, trainer.token) as count:
        eventually("the flood is on", lambda: count() > 200, seconds=90)
        begun = time.monotonic()
        for number in range(5):
            world.pretrain(f"amid-{number}", "succeed")
        for number in range(5):
            world.until_phase(f"amid-{number}", "Succeeded")
        took = time.monotonic() - begun
        assert world.operator.get("/healthz")[0] == 200
        # One by one the slow ones are cut off, and each leaves its place to whoever waits.
        eventually("a trainer gets through", lambda: heard(trainer), seconds=2 * LIFETIME_SECONDS)
    print(f"5 jobs from applied to Succeeded amid {count()} connections: {took:.1f} s")
    assert took < 20
    assert trainer.post(UPDATE) == 200


def heard(trainer: Trainer) -> bool:
    """Whether a post comes through."""
    try:
        return trainer.post(UPDATE) == 200
    except OSError:
        return False


class flood:  # noqa: N801 - a context
    """Peers that open all connections they can get: silent ones, slow headers, slow bodies."""

    def __init__(self, port: int, peers: list[str], token: str) -> None:
        self._port, self._peers, self._token = port, peers, token
        self._opened = 0

    def __enter__(self) -> Callable[[], int]:
        self._stop = False
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(asyncio.run, self._run())
        return lambda: self._opened

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._done.result()
        self._pool.shutdown()

    async def _run(self) -> None:
        await asyncio.gather(*[self._attack(n) for n in range(len(self._peers) * PER_PEER)])

    async def _attack(self, number: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        way, peer = number % 3, self._peers[number % len(self._peers)]
        head = (
            "POST /v1alpha1/namespaces/n/pretrainjobs/x/progress HTTP/1.1\r\nHost: a\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: 60000\r\n"
        )
        while not self._stop:
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError):
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection(
                        "127.0.0.1", self._port, ssl=None if way == 0 else context, local_addr=(peer, 0)
                    ),
                    5,
                )
                self._opened += 1
                try:
                    sent = head + ("" if way == 1 else "\r\n")
                    while not self._stop and not writer.is_closing():
                        if way:
                            writer.write(sent.encode() if sent else b"x")
                            await writer.drain()
                            sent = ""
                        await asyncio.sleep(0.2)
                        if way == 0 and writer.get_extra_info("socket").fileno() < 0:
                            break
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.05)


def test_who_is_slow_is_cut_off(trainer: Trainer, peers: Iterator[str]) -> None:
    peer, port = next(peers), trainer.world.operator.progress_port
    context = ssl.create_default_context(cadata=trainer.authority)
    connection = socket.create_connection(("127.0.0.1", port), source_address=(peer, 0))
    with context.wrap_socket(connection, server_hostname="127.0.0.1") as client:
        client.sendall(
            f"POST {trainer.path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {trainer.token}\r\n"
            "Content-Length: 10\r\n\r\n".encode()
        )
        client.settimeout(LIFETIME_SECONDS + 5)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert client.recv(1) == b""
        assert LIFETIME_SECONDS - 3 < time.monotonic() - begun < LIFETIME_SECONDS + 3


def test_a_connection_carries_one_post(trainer: Trainer, peers: Iterator[str]) -> None:
    port = trainer.world.operator.progress_port
    context = ssl.create_default_context(cadata=trainer.authority)
    connection = socket.create_connection(("127.0.0.1", port), source_address=(next(peers), 0))
    request = f"POST {trainer.path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
    with context.wrap_socket(connection, server_hostname="127.0.0.1") as client:
        client.sendall(request * 20)
        client.settimeout(10)
        got = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while some := client.recv(65536):
                got += some
    assert got.count(b"HTTP/1.1 401") == 1
