"""Addresses that no source may lead to, by whatever name and in whatever writing."""

import socket
from pathlib import Path

import pytest

from kubetune_trainer.errors import DataError
from kubetune_trainer.sources import guard
from kubetune_trainer.sources.guard import GuardedResolver, check_host, is_forbidden
from tests.fixtures.web import File


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "ff02::1",
        "::",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::ffff:100.100.100.200",
        "::ffff:0.0.0.0",
        "169.254.169.254.",
        "2852039166",
        "not an address",
    ],
)
def test_forbidden(address: str):
    assert is_forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "93.184.215.14",
        "::1",
        "fd12:3456::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "2606:2800:21f::1",
        "64:ff9b::5db8:d70e",
        "fec0::1",
    ],
)
def test_allowed(address: str):
    assert not is_forbidden(address)


@pytest.mark.parametrize(
    "host",
    [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
        "instance-data",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "2852039166",
        "169.254.43518",
    ],
)
def test_hosts_that_are_refused_before_they_are_resolved(host: str):
    with pytest.raises(DataError, match=r"source web: .*correct the uri"):
        check_host(host, "source web")


async def test_a_name_that_resolves_to_a_forbidden_address_among_others(monkeypatch: pytest.MonkeyPatch):
    found = [
        {"host": a, "hostname": "x", "port": 1, "family": 2, "proto": 0, "flags": 0}
        for a in ("10.0.0.1", "::ffff:169.254.169.254")
    ]

    async def resolve(self: object, host: str, port: int, family: socket.AddressFamily) -> list:
        return found

    monkeypatch.setattr(guard.ThreadedResolver, "resolve", resolve)
    with pytest.raises(DataError, match=r"rebound\.example"):
        await GuardedResolver("source web").resolve("rebound.example", 443)
    found.pop()
    assert await GuardedResolver("source web").resolve("rebound.example", 443) == found


def test_the_connection_is_made_to_the_address_that_was_judged(
    pod, web, secret, monkeypatch: pytest.MonkeyPatch
):
    """A name server that answers otherwise the second time moves no connection that was judged."""
    web.files["/a.txt"] = File(bytes(500_000), faults=["fine", "cut 1000"])
    answers = iter(["127.0.0.1", "169.254.169.254"])
    real = socket.getaddrinfo

    def resolve(host, *arguments, **options):
        return real(next(answers) if host == "localhost" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(DataError, match="localhost is a link-local address"):
        pod.texts(f"{web.url}/a.txt", secret)
    # One question for each connection: none is asked between judging and connecting.
    assert len(web.asked) in (1, 2), "the first may have served two requests"
    assert next(answers, None) is None


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "[::ffff:169.254.169.254]"])
def test_redirects_are_judged_too(pod, web, secret: Path, host: str):
    web.redirects["/a.txt"] = f"https://{host}/latest/meta-data"
    with pytest.raises(DataError, match="a cloud's metadata service"):
        pod.texts(f"{web.url}/a.txt", secret)
