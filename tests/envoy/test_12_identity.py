"""Line 12: real Envoys prove who they are; what they hold is rotated while they run, and no request is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aoai_operator.core.envoy.bootstrap import MutualTls, TcpAddress, Token, UnixAddress, bootstrap
from support.envoy import RunningEnvoy
from support.pki import SERVER_NAME, Pki
from support.proofs import GATEWAY, OTHER, SIDECAR, House, running
from support.waiting import eventually


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running(House(tmp_path)) as house:
        yield house


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[House]:
    """A server whose connections end after about a second."""
    async with running(House(tmp_path), lifetime=0.5) as house:
        yield house


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        yield captured


def envoy(access: MutualTls | Token, *, gateway: str = "default", name: str = "pod-1") -> RunningEnvoy:
    unused = UnixAddress("unused")
    return RunningEnvoy(bootstrap(node_id=name, gateway=gateway, control_plane=access, admin=unused))


async def learns_nothing(proxy: RunningEnvoy) -> None:
    """Look that an Envoy that has dialled more than once was sent nothing."""

    async def tried() -> bool:
        return (
            await proxy.stat("cluster.control-plane.upstream_rq_total")
            + await proxy.stat("cluster.control-plane.upstream_cx_connect_fail")
            > 1
        )

    await eventually(tried, what="it dialled twice")
    for what in ("cluster_manager.cds", "listener_manager.lds"):
        assert await proxy.stat(f"{what}.update_success") == 0
        assert await proxy.stat(f"{what}.update_rejected") == 0
    assert '"dynamic_listeners"' not in await proxy.admin("/config_dump")


async def test_each_gateway_gets_its_own(house: House) -> None:
    one = house.mutual("one", house.pki.gateway())
    two = house.mutual("two", house.pki.gateway("other"))
    async with envoy(one), envoy(two, gateway="other"):
        await house.says(GATEWAY, "default/gateway")
        await house.says(OTHER, "other/gateway")
        await house.carries(OTHER, "changed")
        assert await house.get(GATEWAY) == "default/gateway"


async def test_a_sidecar_gets_what_its_namespace_may_have(house: House) -> None:
    async with envoy(house.token("pod", "token-1")):
        await house.says(SIDECAR, "default/sidecar/search")
        await house.carries(SIDECAR, "changed")


async def test_the_server_is_found_by_its_dns_name(house: House) -> None:
    async with envoy(house.mutual("pod", house.pki.gateway(), host="localhost")):
        await house.says(GATEWAY, "default/gateway")


async def test_an_access_log_proves_where_it_comes_from(house: House) -> None:
    async with envoy(house.token("sidecar", "token-1")), envoy(house.mutual("pod", house.pki.gateway())):
        await house.says(SIDECAR, "default/sidecar/search")
        await eventually(lambda: SIDECAR in house.logged, what="the sidecar's log came")
        assert set(house.logged) == {SIDECAR}
        await house.says(GATEWAY, "default/gateway")
        await eventually(lambda: GATEWAY in house.logged, what="the gateway's log came")


async def test_another_gateways_certificate_learns_nothing(house: House, logs: list[Any]) -> None:
    async with envoy(house.mutual("pod", house.pki.gateway("other"))) as proxy:
        await learns_nothing(proxy)
    refused = next(line for line in logs if line["event"] == "refused")
    assert refused == {
        "event": "refused",
        "log_level": "warning",
        "why": "its certificate is for the gateway 'other', not for 'default'",
        "address": refused["address"],
        "peer": "gateway other",
        "proxy": "pod-1",
        "gateway": "default",
    }


@pytest.mark.parametrize("kind", ["expired", "foreign", "operator's"])
async def test_a_certificate_that_is_not_good_learns_nothing(house: House, kind: str) -> None:
    pair = {"expired": house.pki.expired, "foreign": Pki().gateway, "operator's": house.pki.server}[kind]()
    async with envoy(house.mutual("pod", pair)) as proxy:
        await learns_nothing(proxy)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("of another audience", "the token is not valid, or was not made for this audience"),
        ("", "it shows neither a client certificate nor a service-account token"),
        (None, "it shows neither a client certificate nor a service-account token"),
    ],
)
async def test_a_token_that_is_not_good_learns_nothing(
    house: House, logs: list[Any], token: str | None, why: str
) -> None:
    async with envoy(house.token("pod", token)) as proxy:
        await learns_nothing(proxy)
        if token is None:
            assert "the service-account token cannot be read" in proxy.log
    assert {line["why"] for line in logs if line["event"] == "refused"} == {why}


async def test_without_a_certificate_there_is_no_connection(house: House) -> None:
    access = house.token("pod", "token-1")
    at_the_other_port = Token(
        TcpAddress("127.0.0.1", house.ports.certificates), SERVER_NAME, access.trust, access.token, access.sds
    )
    async with envoy(at_the_other_port) as proxy:
        await learns_nothing(proxy)
    assert not house.tokens


async def test_a_server_of_another_name_or_authority_gets_no_token(house: House) -> None:
    house.certificate.renew(Pki().server(), house.pki.trusted)
    async with envoy(house.token("foreign", "token-1")) as proxy:
        await learns_nothing(proxy)
    house.certificate.renew(house.pki.gateway(), house.pki.trusted)
    async with envoy(house.token("name", "token-1")) as proxy:
        await learns_nothing(proxy)
    assert not house.tokens


async def test_a_leaf_is_rotated_live(hasty: House) -> None:
    async with envoy(hasty.mutual("pod", hasty.pki.gateway())):
        await hasty.says(GATEWAY, "default/gateway")
        async with hasty.load(GATEWAY):
            renewed = hasty.pki.gateway()
            hasty.volume("pod", renewed)
            await eventually(lambda: renewed.certificate.pem in hasty.shown, what="it shows the new certificate")
            await hasty.carries(GATEWAY, "after the leaf")


async def test_the_servers_certificate_is_rotated_live(hasty: House) -> None:
    async with envoy(hasty.mutual("pod", hasty.pki.gateway())):
        await hasty.says(GATEWAY, "default/gateway")
        async with hasty.load(GATEWAY):
            hasty.certificate.renew(hasty.pki.server(), hasty.pki.trusted)
            await hasty.carries(GATEWAY, "at once, by the connection that is open")
            before = len(hasty.shown)
            await eventually(lambda: len(hasty.shown) > before + 1, what="it came back")
            await hasty.carries(GATEWAY, "after the server")


async def test_the_authority_is_rotated_live_until_the_old_one_is_forgotten(hasty: House) -> None:
    pki = hasty.pki
    leaf, server = pki.gateway(), pki.server()
    sidecar = hasty.token("sidecar", "token-1")
    async with envoy(hasty.mutual("pod", leaf)), envoy(sidecar):
        await hasty.says(GATEWAY, "default/gateway")
        await hasty.says(SIDECAR, "default/sidecar/search")
        async with hasty.load(GATEWAY), hasty.load(SIDECAR):

            async def all_come_back(stage: str) -> None:
                await hasty.carries(GATEWAY, stage)
                await hasty.carries(SIDECAR, stage)
                hasty.came.clear()
                # The second stream since then is surely one of a new connection.
                await eventually(lambda: hasty.came.count(GATEWAY) > 1, what="the gateway came back")
                await eventually(lambda: hasty.came.count(SIDECAR) > 1, what="the sidecar came back")
                await hasty.carries(GATEWAY, f"{stage}, again")
                await hasty.carries(SIDECAR, f"{stage}, again")

            pki.rotate()
            hasty.certificate.renew(server, pki.trusted)
            hasty.volume("pod", leaf)
            hasty.volume("sidecar", token="token-1")
            await all_come_back("introduced")
            hasty.certificate.renew(pki.server(), pki.trusted)
            leaf = pki.gateway()
            hasty.volume("pod", leaf)
            await all_come_back("promoted")
            pki.trusted = pki.trusted[1:]
            hasty.certificate.renew(pki.server(), pki.trusted)
            hasty.volume("pod", leaf)
            hasty.volume("sidecar", token="token-1")
            await all_come_back("forgotten")
            assert hasty.shown[-1] == leaf.certificate.pem


async def test_a_token_is_read_anew_for_each_stream(hasty: House) -> None:
    async with envoy(hasty.token("pod", "token-1")):
        await hasty.says(SIDECAR, "default/sidecar/search")
        async with hasty.load(SIDECAR):
            hasty.volume("pod", token="token-2")
            await eventually(lambda: "token-2" in hasty.tokens, what="it shows the new token")
            await hasty.carries(SIDECAR, "after the token")


async def test_who_loses_its_proof_keeps_what_it_has_and_learns_nothing_new(hasty: House, logs: list[Any]) -> None:
    def is_refused() -> bool:
        return any(line["event"] == "refused" and line["proxy"] == "pod-1" for line in logs)

    async with envoy(hasty.token("pod", "token-1")) as proxy:
        await hasty.says(SIDECAR, "default/sidecar/search")
        async with hasty.load(SIDECAR):
            hasty.users.clear()
            hasty.volume("pod", token="token-2")
            await eventually(is_refused, what="its stream is refused")
            hasty.publish(SIDECAR, "news")
            tries = await proxy.stat("cluster.control-plane.upstream_rq_total")

            async def tried_again() -> bool:
                return await proxy.stat("cluster.control-plane.upstream_rq_total") > tries

            await eventually(tried_again)
            assert await hasty.get(SIDECAR) == "default/sidecar/search"
