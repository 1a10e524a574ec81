"""Names to addresses."""

from __future__ import annotations

import pytest

from aoai_operator.adapters.resolver import SystemResolver, in_order
from aoai_operator.ports import ResolveError


@pytest.mark.parametrize(
    ("host", "address"), [("10.1.2.3", "10.1.2.3"), ("[::1]", "::1"), ("2001:DB8::0:1", "2001:db8::1")]
)
async def test_an_ip_literal_is_its_own_address(host: str, address: str) -> None:
    assert await SystemResolver().resolve(host) == (address,)


async def test_localhost_resolves_ipv4_first() -> None:
    assert (await SystemResolver().resolve("localhost"))[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
async def test_what_does_not_resolve_is_said_by_name(host: str) -> None:
    with pytest.raises(ResolveError, match=host[:12]):
        await SystemResolver().resolve(host)


def test_the_order_is_stable_ipv4_first_each_once() -> None:
    rotated = ["10.0.0.10", "::2", "10.0.0.9", "::1", "10.0.0.10"]
    assert in_order(rotated) == in_order(reversed(rotated)) == ("10.0.0.9", "10.0.0.10", "::1", "::2")
