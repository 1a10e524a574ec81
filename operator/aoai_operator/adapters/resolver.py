"""Names to addresses by the system's resolver, which honours /etc/hosts, search domains and the cluster's DNS."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from aoai_operator.ports import ResolveError


class SystemResolver:
    """Implements `Resolver` by getaddrinfo(3), at most `timeout` seconds a name."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._timeout = timeout

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a name, IPv4 first, then in numeric order; an IP literal is its own address."""
        try:
            return (str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))),)
        except ValueError:
            pass
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise ResolveError(f"{host} was not resolved within {self._timeout:g} s") from None
        except socket.gaierror as error:
            raise ResolveError(f"{host} does not resolve: {error.strerror}") from error
        except (UnicodeError, OSError) as error:
            raise ResolveError(f"{host} does not resolve: {error}") from error
        return in_order(str(address[0]) for *_, address in found)


def in_order(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return each address once, IPv4 first, in numeric order: the servers' rotation must not look like a change."""
    parsed = {ipaddress.ip_address(a) for a in addresses}
    return tuple(str(a) for a in sorted(parsed, key=lambda a: (a.version, a.packed)))
