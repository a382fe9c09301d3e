"""Which addresses a fetch may connect to, and connections that go to the very address that was checked.

A page can name any host, and a name can be made to point anywhere: at this machine, at the database, at the
metadata service of a cloud. So a name is resolved once, every address it has is checked, and the connection
is made to a checked address, never to the name again (a second lookup could answer differently).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore2

Resolve = Callable[[str, int], Awaitable[list[str]]]

MAX_ADDRESSES = 16
_TRIED = 3
# Public by number, but the inside of a cloud: Azure's host service.
_CLOUD_INSIDE = frozenset({IPv4Address("168.63.129.16")})
_NAT64 = ip_network("64:ff9b::/96")
_V4_COMPATIBLE = ip_network("::/96")


class ForbiddenAddress(Exception):
    """A name points at an address that isn't for us; the sentence says which, and why."""


class UnknownHost(Exception):
    """A name that nothing answers to."""


def refusal(address: str, *, allow_private: bool = False) -> str | None:
    """Why this address may not be connected to; None where it may.

    `allow_private` opens this machine and private networks, never link-local addresses (where clouds keep
    their metadata service), multicast, or the unspecified address.
    """
    try:
        numeric: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return "it is no IP address"
    inner = _carried(numeric) if isinstance(numeric, IPv6Address) else None
    if inner is not None:
        return refusal(str(inner), allow_private=allow_private)
    if numeric.is_unspecified:
        return "it is the unspecified address"
    if numeric.is_link_local:
        return "it is a link-local address"
    if numeric.is_multicast:
        return "it is a multicast address"
    if numeric in _CLOUD_INSIDE:
        return "it is a cloud's own service"
    if allow_private:
        return None
    if numeric.is_loopback:
        return "it is this machine"
    if not numeric.is_global or numeric.is_reserved or numeric in _V4_COMPATIBLE:
        return "it is not a public address"
    return None


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one stands for: mapped, 6to4, or behind NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order, each once. Raises `UnknownHost`."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnknownHost(f"no address is known for {host}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]


async def checked_addresses(
    host: str, port: int, *, allow_private: bool = False, resolve: Resolve = resolve_name
) -> list[str]:
    """The addresses of a host, all of them allowed.

    One that isn't makes the whole host forbidden: a mixed answer is how a guard is led around. Raises
    `ForbiddenAddress` or `UnknownHost`.
    """
    addresses = await resolve(host, port)
    if not addresses:
        raise UnknownHost(f"no address is known for {host}")
    for address in addresses:
        reason = refusal(address, allow_private=allow_private)
        if reason is not None:
            raise ForbiddenAddress(f"{host} is at {address}: {reason}")
    return addresses


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only. TLS still verifies the name, which the pool keeps."""

    def __init__(self, *, allow_private: bool = False, resolve: Resolve = resolve_name) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the pool's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host.strip("[]"), port, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error

    async def _connect(
        self, host: str, port: int, local_address: str | None, options: Iterable[Any] | None
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await checked_addresses(
            host, port, allow_private=self._allow_private, resolve=self._resolve
        )
        last: httpcore2.ConnectError | None = None
        for address in addresses[:_TRIED]:
            try:
                return await self._inner.connect_tcp(
                    address, port, local_address=local_address, socket_options=options
                )
            except httpcore2.ConnectError as error:
                last = error
        assert last is not None
        raise last

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise ForbiddenAddress("a socket of this machine isn't fetched from")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
