"""The proxy before the API server, and what is not sent: passwords that stand in somebody's ~/.netrc."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aoai_operator.adapters.kube.access import configuration
from aoai_operator.adapters.kube.bridge import Bridge, Watched
from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import KubeError, Resource
from support.kube import running
from support.waiting import eventually

SERVER = "https://api.example.test:6443"


class Listener:
    """Answers every request alike, and remembers it."""

    def __init__(self) -> None:
        self.address = ""
        self.answer = b""
        self.heads: list[str] = []

    async def heard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    server = await asyncio.start_server(made.heard, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    made.address = f"{host}:{port}"
    yield made
    server.close()
    await server.wait_closed()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def kubeconfig(directory: Path, server: str, **cluster: str) -> Path:
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": "the-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file = directory / "kubeconfig"
    file.write_text(json.dumps(content))
    return file


async def test_calls_go_through_the_environments_proxy(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass-word@{listener.address}")
    async with Kube.connected(kubeconfig(tmp_path, SERVER)) as kube:
        with pytest.raises(KubeError) as caught:
            await kube.get(CONFIG_MAPS, PoolKey("ns", "one"))
    assert "407" in caught.value.message
    assert "pass-word" not in str(caught.value)
    (head,) = listener.heads
    assert head.startswith("CONNECT api.example.test:6443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {b64encode(b'me:pass-word').decode()}\r\n" in head
    assert "the-token" not in head


async def test_a_watch_quotes_no_password_of_the_proxy(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass-word@{listener.address}")

    async def serves(_resource: Resource) -> bool:
        return True

    bridge = Bridge(
        wake=lambda _wake: None, serves=serves, watched=(Watched(POOLS),), kubeconfig=kubeconfig(tmp_path, SERVER)
    )
    printed: list[str] = []

    def told() -> bool:
        printed.extend(capsys.readouterr())
        return "407" in "".join(printed)

    async with running(bridge.run()):
        await eventually(told)
    assert "pass-word" not in "".join(printed)
    assert listener.heads


@pytest.mark.parametrize("unless", ["api.example.test", ".example.test", "other.test, example.test", "*"])
async def test_no_proxy_is_asked_for_hosts_that_are_excepted(
    tmp_path: Path, unless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kubeconfig(tmp_path, SERVER)
    assert (await configuration(file)).proxy is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert (await configuration(file)).proxy == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", unless)
    assert (await configuration(file)).proxy is None


async def test_the_proxy_of_the_kubeconfig_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "api.example.test")
    file = kubeconfig(tmp_path, SERVER, **{"proxy-url": "http://own:3128"})
    assert (await configuration(file)).proxy == "http://own:3128"


async def test_a_netrc_is_not_read(tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password pass-word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    listener.answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"metadata":{}}'
    async with Kube.connected(kubeconfig(tmp_path, f"http://{listener.address}")) as kube:
        await kube.get(CONFIG_MAPS, PoolKey("ns", "one"))
    (head,) = listener.heads
    assert "\r\nAuthorization: Bearer the-token\r\n" in head
