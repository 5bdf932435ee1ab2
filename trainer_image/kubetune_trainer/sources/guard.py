"""Addresses that no source may lead to: a cloud's metadata service, link-local, multicast, unspecified.

Private and loopback addresses are allowed, because data servers inside the cluster have them. The address
that a name resolves to is checked where it is used, so a name server cannot give another one in between.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from kubetune_trainer.errors import DataError

METADATA = {
    ip_address(a)
    for a in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's platform
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS; its IPv4 address is link-local, as most are
        "fd20:ce::254",  # Google Cloud
    )
}
METADATA_NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
_NAT64 = IPv6Network("64:ff9b::/96")


def is_forbidden(address: str) -> bool:
    """Whether an address, written as text, is never asked for data. Text that is no address is forbidden."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return True
    return any(_is_forbidden(a) for a in _meanings(found))


def _is_forbidden(address: IPv4Address | IPv6Address) -> bool:
    return (
        address in METADATA
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (
            isinstance(address, IPv4Address) and (address.packed[0] == 0 or address == IPv4Address(2**32 - 1))
        )
    )


def _meanings(address: IPv4Address | IPv6Address) -> "list[IPv4Address | IPv6Address]":
    """An address and the IPv4 addresses inside it (mapped, NAT64, 6to4, Teredo)."""
    if isinstance(address, IPv4Address):
        return [address]
    hidden = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) >> 32 == 0:
        hidden.append(IPv4Address(int(address) & 0xFFFFFFFF))
    # By the last rule, ::1 would hold 0.0.0.1. A loopback address only means itself.
    found = [address, *(a for a in hidden if a is not None)]
    return [address] if address.is_loopback else found


def check_host(host: str, where: str) -> None:
    """Check a host of a URL before its name is resolved.

    Raises:
        DataError: it is forbidden.
    """
    plain = host.strip("[]").rstrip(".").lower()
    literal = ":" in plain or plain.replace(".", "").isdigit()
    if plain in METADATA_NAMES or (literal and is_forbidden(plain)):
        raise _refusal(where, host)


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those of which any address is forbidden."""

    def __init__(self, where: str) -> None:
        self._where, self._names = where, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses to connect to.

        Raises:
            DataError: one of them is forbidden.
            OSError: the name cannot be resolved.
        """
        found = await self._names.resolve(host, port, family)
        if any(is_forbidden(result["host"]) for result in found):
            raise _refusal(self._where, host)
        return found

    async def close(self) -> None:
        """Close the resolver."""
        await self._names.close()


def _refusal(where: str, host: str) -> DataError:
    return DataError(
        f"{where}: {host} is a link-local address or a cloud's metadata service, which holds no data: "
        "correct the uri"
    )
