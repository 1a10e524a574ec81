"""`aoai-operator local --listen-tls`: certificates from files, and what is wrong with them."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from openai import NotFoundError

from aoai_operator.simulator import Simulator
from support.calls import ask
from support.certificates import Pair, pair, tls_secret
from support.https import sdk, serial, serial_of
from support.local import LocalGateway
from support.manifests import pool_manifest, to_yaml
from support.pairs import unusable
from support.waiting import eventually

A, B = "a.pool.example", "b.pool.example"
KEY_A, KEY_B = "key-of-a-0123456789", "key-of-b-0123456789"


def pool(regions: Simulator, name: str, hostname: str, key: str, secret: str = "") -> str:
    gateway = {"hostnames": [hostname], "tls": {"secretRef": {"name": secret or f"{name}-tls"}}}
    return pool_manifest(regions, name=name, spec={"gateway": gateway}, tenants={f"{name}-team": key})


def stored(name: str, held: Pair) -> str:
    return to_yaml([tls_secret(f"{name}-tls", held)])


def lines_of(*held: Pair) -> list[str]:
    """Return lines of the private keys that nobody may see."""
    return [line for one in held for line in one.key.splitlines() if len(line) > 40]


async def test_the_last_good_certificate_serves_until_the_fault_is_mended(regions: Simulator) -> None:
    good, other, mended = pair(A), pair(B), pair(A)
    mismatched, expired = unusable()["key of another"][0], pair(A, days=(-30, -1))
    manifests = {
        "a.yaml": pool(regions, "a", A, KEY_A),
        "a-tls.yaml": stored("a", good),
        "b.yaml": pool(regions, "b", B, KEY_B),
        "b-tls.yaml": stored("b", other),
    }
    async with LocalGateway(manifests, arguments=["--listen-tls", "127.0.0.1:0"]) as gateway:
        urls = {one["name"]: urlsplit(one["url"]) for one in gateway.ready["pools"]}
        assert [url.scheme for url in urls.values()] == ["https", "https"]
        assert urls["ai/a"].hostname == A
        port = urls["ai/a"].port or 0
        assert urls["ai/b"].port == port
        assert await serial(A, port) == serial_of(good.crt)

        def finding(words: str) -> bool:
            return any(words in f["message"] for f in gateway.events_of("finding"))

        for wrong, words in (
            (stored("a", mismatched), "the entry ai/a-tls[tls.key] belongs to another certificate than tls.crt"),
            (stored("a", expired), "the certificate in ai/a-tls[tls.crt] expired at"),
            ("", "there is no Secret ai/a-tls, or it is empty"),
        ):
            gateway.write(wrong, "a-tls.yaml")
            await eventually(partial(finding, words), what=words)
            assert await serial(A, port) == serial_of(good.crt)
            for name, key in ((A, KEY_A), (B, KEY_B)):
                async with sdk(name, port, key=key) as client:
                    assert await ask(client)
        fields = {(f["object"], f["field"]) for f in gateway.events_of("finding")}
        assert fields == {("AOAIBackendPool ai/a", "spec.gateway.tls.secretRef")}
        gateway.write(stored("a", mended), "a-tls.yaml")

        async def renewed() -> bool:
            return await serial(A, port) == serial_of(mended.crt)

        await eventually(renewed, what="the mended certificate is served")
        ends = x509.load_pem_x509_certificate(mended.crt.encode()).not_valid_after_utc.timestamp()
        told = re.search(r'^aoai_certificate_expires_seconds{pool="ai/a"} (.*)$', await gateway.metrics(), re.MULTILINE)
        assert told
        assert float(told[1]) == ends
        assert not [e for e in gateway.logs if e.get("event") == "an Envoy refused a resource"]
        shown = f"{gateway.events} {gateway.logs} {await gateway.admin('/config_dump')}"
        assert not [line for line in lines_of(good, other, mismatched, expired, mended) if line in shown]


async def test_a_pool_without_a_certificate_waits_and_the_others_serve(regions: Simulator) -> None:
    manifests = {
        "a.yaml": pool(regions, "a", A, KEY_A),
        "b.yaml": pool(regions, "b", B, KEY_B),
        "b-tls.yaml": stored("b", pair(B)),
    }
    async with LocalGateway(manifests, arguments=["--listen-tls", "127.0.0.1:0"]) as gateway:
        port = urlsplit(gateway.ready["pools"][1]["url"]).port or 0
        async with sdk(B, port, key=KEY_B) as client:
            assert await ask(client)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await serial(A, port)
        async with gateway.client(pool="ai/a", key=KEY_A) as client:
            with pytest.raises(NotFoundError):
                await ask(client)
        held = pair(A)
        gateway.write(stored("a", held), "a-tls.yaml")

        async def served() -> bool:
            try:
                return await serial(A, port) == serial_of(held.crt)
            except OSError:
                return False

        await eventually(served, what="the certificate is served")


def test_files_are_checked_and_rendered_without_the_key(tmp_path: Path) -> None:
    held = pair("other.example")
    spec = {
        "models": [{"name": "gpt-4o"}],
        "endpoints": [
            {
                "name": "one",
                "url": "https://one.openai.azure.com",
                "deployments": [{"model": "gpt-4o", "name": "gpt-4o"}],
                "auth": {"apiKey": {"secretRef": {"name": "keys"}}},
            }
        ],
        "gateway": {"hostnames": [A], "tls": {"secretRef": {"name": "a-tls"}}},
    }
    chat = {"apiVersion": "aoai.dev/v1alpha1", "kind": "AOAIBackendPool", "spec": spec}
    keys = {"apiVersion": "v1", "kind": "Secret", "stringData": {"api-key": "azure-key-0123456789"}}
    manifests = [
        {**chat, "metadata": {"name": "a", "namespace": "ai"}},
        {**keys, "metadata": {"name": "keys", "namespace": "ai"}},
        tls_secret("a-tls", held),
    ]
    (tmp_path / "all.yaml").write_text(to_yaml(manifests))
    checked = run("check", str(tmp_path))
    assert checked.returncode == 1
    told = (
        f"spec.gateway.tls.secretRef: the certificate in ai/a-tls[tls.crt] does not cover {A}; its DNS names: "
        "other.example"
    )
    assert told in checked.stdout
    rendered = run("render", str(tmp_path), "--envoy", "--listen-tls", "127.0.0.1:8443")
    assert rendered.returncode == 0
    assert "default-https" in rendered.stdout
    assert "ai/a:tls" in rendered.stdout
    assert "-----BEGIN CERTIFICATE-----" in rendered.stdout
    assert "azure-key" not in rendered.stdout
    assert "PRIVATE KEY" not in rendered.stdout
    assert not [line for line in lines_of(held) if line in rendered.stdout]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("aoai-operator")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
