"""The certificates between proxies and operator are lost, and made anew, under load: no client notices.

Whoever has a connection keeps it. That a proxy trusts and shows what is new is seen when it has to connect again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509

from support.cluster.client import path
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import change, start_fleet, whole
from support.cluster.house import House
from support.cluster.pods import GatewayPod, OperatorPod
from support.https import serial_of
from support.load import load
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRETS = "v1/secrets"
LOOK = 60.0
"""Seconds within which a leader looks after its Secrets, and followers and mounts have what it made."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(_session_plane: ControlPlane) -> AsyncIterator[House]:
    """Two replicas, two Envoys."""
    async with _session_plane.namespace() as namespace, House(_session_plane, namespace) as house:
        await start_fleet(house)
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(fleet: House) -> AsyncIterator[House]:
    """The same, whole again."""
    yield fleet
    await whole(fleet)


def named(house: House, suffix: str) -> str:
    return f"{house.release.name}-aoai-operator-{suffix}"


async def held(house: House, suffix: str, entry: str = "tls.crt") -> str:
    """Return a certificate of ours as its Secret has it; empty if there is no such Secret."""
    found = await house.plane.get(SECRETS, named(house, suffix), namespace=house.namespace)
    return base64.b64decode(found["data"][entry]).decode() if found else ""


async def lose(house: House, *suffixes: str) -> None:
    """Delete Secrets of ours, and return when the leader has made them anew."""
    before = {suffix: await held(house, suffix) for suffix in suffixes}
    for suffix in suffixes:
        url = path(SECRETS, named(house, suffix), namespace=house.namespace)
        (await house.plane.request("DELETE", url)).raise_for_status()
    for suffix in suffixes:

        async def anew(suffix: str = suffix) -> bool:
            return await held(house, suffix) not in ("", before[suffix])

        await eventually(anew, within=LOOK, what=f"the Secret {suffix} is made anew")


async def shown_by(house: House, pod: OperatorPod) -> int:
    """Return the serial number of the certificate that a replica shows to proxies, if the present bundle trusts it."""
    context = ssl.create_default_context(cadata=await held(house, "server", "ca.crt"))
    context.set_alpn_protocols(["h2"])
    name = f"{named(house, 'xds')}.{house.namespace}.svc"
    try:
        _, writer = await asyncio.open_connection(pod.ip, 18000, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError:
        return 0
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.transport.abort()


async def held_by(gateway: GatewayPod) -> set[int]:
    """Return the serial numbers of all certificates that an Envoy has, and trusts."""
    shown = json.loads(await gateway.admin("/certs"))
    return {
        int(one["serial_number"], 16)
        for pair in shown["certificates"]
        for one in (*pair.get("ca_cert", ()), *pair.get("cert_chain", ()))
    }


async def spread(house: House) -> None:
    """Return when every replica shows the present server's certificate, and every Envoy has the present client's."""
    server, client, authority = [serial_of(await held(house, name)) for name in ("server", "gateway-default", "ca")]
    for operator in house.release.operators.values():

        async def shown(pod: OperatorPod = operator) -> bool:
            return await shown_by(house, pod) == server

        await eventually(shown, within=LOOK, what=f"{operator.name} shows the new certificate")
    for gateway in house.release.gateways.values():

        async def mounted(pod: GatewayPod = gateway) -> bool:
            return {client, authority} <= await held_by(pod)

        await eventually(mounted, within=LOOK, what=f"{gateway.name} has the new certificate, and trusts its authority")


async def connect_again(house: House) -> None:
    """End all connections of proxies and replicas; return when a change is in all Envoys, by new ones."""
    for operator in house.release.operators.values():
        await operator.part.kill()
    await whole(house)


async def untouched(house: House) -> bool:
    return all(gateway.part.running and gateway.part.starts == 1 for gateway in house.release.gateways.values())


async def test_lost_leaves_are_made_anew_and_picked_up(house: House) -> None:
    authority = await held(house, "ca")
    async with load(house.client(max_retries=0)) as under:
        await lose(house, "server", "gateway-default")
        await spread(house)
        await change(house)
        await under.goes_on()
        await connect_again(house)
    assert await held(house, "ca") == authority
    assert await untouched(house)


async def test_proxies_come_back_by_themselves_when_the_authority_was_lost(house: House) -> None:
    leaves = [await held(house, name) for name in ("server", "gateway-default")]
    async with load(house.client(max_retries=0)) as under:
        await lose(house, "ca")
        await spread(house)
        assert not {*leaves} & {await held(house, name) for name in ("server", "gateway-default")}
        await change(house)
        await under.goes_on()
        await connect_again(house)
    assert await untouched(house)
