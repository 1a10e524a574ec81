"""Calls to the real API server."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aoai_operator.adapters.kube.access import AccessError
from aoai_operator.adapters.kube.client import MANAGER, STATUS_MANAGER, Kube
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, LEASES, POOLS, SECRETS, TOKEN_REVIEWS
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeError, Resource
from support.cluster.control_plane import ControlPlane
from support.kube import CRDS, config_map, forget, pool
from support.waiting import eventually

SECRET = "c3VwZXItc2VjcmV0-very"


class Counted:
    """Hears calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def called(self, *, verb: str, resource: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((verb, resource, result))


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
async def kube(plane: ControlPlane, counted: Counted) -> AsyncIterator[Kube]:
    async with Kube.connected(plane.kubeconfig, observer=counted) as api:
        yield api


def managers(item: JsonObject | None) -> set[str]:
    assert item is not None
    return {entry["manager"] for entry in item["metadata"]["managedFields"]}


async def test_objects_are_applied_read_and_deleted(
    plane: ControlPlane, kube: Kube, namespace: str, counted: Counted
) -> None:
    key = PoolKey(namespace, "one")
    assert await kube.get(CONFIG_MAPS, key) is None
    made = await kube.apply(CONFIG_MAPS, config_map("one", namespace, a="1", b="2"))
    assert made["data"] == {"a": "1", "b": "2"}
    assert "managedFields" not in made["metadata"]
    changed = await kube.apply(CONFIG_MAPS, config_map("one", namespace, a="1"))
    assert changed["data"] == {"a": "1"}
    read = await kube.get(CONFIG_MAPS, key)
    assert read == changed
    assert (read["apiVersion"], read["kind"]) == ("v1", "ConfigMap")
    assert managers(await plane.get("v1/configmaps", "one", namespace=namespace)) == {MANAGER}
    await kube.delete(CONFIG_MAPS, key)
    await kube.delete(CONFIG_MAPS, key)
    assert await kube.get(CONFIG_MAPS, key) is None
    assert counted.calls == [
        ("get", "configmaps", "404"),
        ("patch", "configmaps", "201"),
        ("patch", "configmaps", "200"),
        ("get", "configmaps", "200"),
        ("delete", "configmaps", "200"),
        ("delete", "configmaps", "404"),
        ("get", "configmaps", "404"),
    ]


async def test_what_somebody_else_made_of_our_field_is_undone(plane: ControlPlane, kube: Kube, namespace: str) -> None:
    await kube.apply(CONFIG_MAPS, config_map("one", namespace, a="1"))
    await plane.kubectl("patch", "configmap", "one", "-n", namespace, "-p", '{"data": {"a": "2", "theirs": "x"}}')
    assert (await kube.apply(CONFIG_MAPS, config_map("one", namespace, a="1")))["data"] == {"a": "1", "theirs": "x"}


async def test_a_status_has_a_manager_of_its_own(plane: ControlPlane, kube: Kube, namespace: str) -> None:
    await plane.apply(CRDS)
    await plane.kubectl("wait", "crd/aoaibackendpools.aoai.dev", "--for=condition=Established", "--timeout=30s")
    await plane.apply(pool("chat", namespace))
    status = {"metadata": {"name": "chat", "namespace": namespace}, "status": {"observedGeneration": 1}}
    assert (await kube.apply(POOLS, status, status=True))["status"]["observedGeneration"] == 1
    item = await plane.get("aoai.dev/v1alpha1/aoaibackendpools", "chat", namespace=namespace)
    assert STATUS_MANAGER in managers(item)
    assert MANAGER not in managers(item)
    assert await kube.serves(POOLS)
    assert not await kube.serves(Resource("aoai.dev", "v1alpha1", "others", "Other"))
    assert not await kube.serves(Resource("other.dev", "v1", "others", "Other"))
    assert [(item["kind"], item["apiVersion"]) for item in await kube.list(POOLS, namespace)] == [
        ("AOAIBackendPool", "aoai.dev/v1alpha1")
    ]


async def test_a_long_list_comes_in_pages(
    plane: ControlPlane, kube: Kube, namespace: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_operator.adapters.kube.client._PAGE", 2)
    names = [f"m{number}" for number in range(5)]
    for name in names:
        await kube.create(CONFIG_MAPS, config_map(name, namespace, labels={"mine": "yes"}))
    found = await kube.list(CONFIG_MAPS, namespace, "mine=yes")
    assert [item["metadata"]["name"] for item in found] == names
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}
    assert counted.calls.count(("list", "configmaps", "200")) == 3
    assert len(await kube.list(CONFIG_MAPS, None, "mine=yes")) >= 5


async def test_a_list_whose_pages_are_forgotten_begins_anew(
    plane: ControlPlane, kube: Kube, namespace: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_operator.adapters.kube.client._PAGE", 1)
    for name in ("a", "b"):
        await kube.create(CONFIG_MAPS, config_map(name, namespace, labels={"mine": "yes"}))
    send, forgotten = kube._send, list[str]()

    async def slow(method: str, url: str, body: JsonObject | None, **more: Any) -> tuple[int, bytes]:
        if "continue=" in url and not forgotten:
            await kube.create(CONFIG_MAPS, config_map("c", namespace, labels={"mine": "yes"}))
            await forget(plane)
            forgotten.append(url)
        return await send(method, url, body, **more)

    monkeypatch.setattr(kube, "_send", slow)
    found = await kube.list(CONFIG_MAPS, namespace, "mine=yes")
    assert [item["metadata"]["name"] for item in found] == ["a", "b", "c"]
    assert ("list", "configmaps", "410") in counted.calls


async def test_only_one_replaces_a_version(kube: Kube, namespace: str) -> None:
    made = await kube.create(CONFIG_MAPS, config_map("one", namespace, a="1"))
    await kube.replace(CONFIG_MAPS, {**made, "data": {"a": "2"}})
    with pytest.raises(KubeError) as caught:
        await kube.replace(CONFIG_MAPS, {**made, "data": {"a": "3"}})
    assert (caught.value.status, caught.value.reason, caught.value.retryable) == (409, "Conflict", False)
    with pytest.raises(KubeError) as caught:
        await kube.create(CONFIG_MAPS, config_map("one", namespace))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"data": {"key": SECRET + "!"}},
        {"data": {"key": {"nested": SECRET}}},
        {"data": [SECRET]},
        {"stringData": {"key": [SECRET]}},
        {"stringData": {"bad name!": SECRET}},
        {"type": "kubernetes.io/tls", "stringData": {"tls.crt": SECRET}},
        {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": SECRET}},
        {"stringDate": {"key": SECRET}},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("verb", ["apply", "create", "replace"])
async def test_no_error_quotes_a_secret(
    kube: Kube, namespace: str, caplog: pytest.LogCaptureFixture, verb: str, spoilt: JsonObject
) -> None:
    caplog.set_level(logging.DEBUG)
    name = "key"
    good = {"metadata": {"name": name, "namespace": namespace}, "stringData": {"key": "good"}}
    if verb == "replace":
        good = await kube.create(SECRETS, good)
    try:
        await getattr(kube, verb)(SECRETS, {**good, **spoilt})
    except KubeError as error:
        told = f"{error!r} {error} {error.__cause__!r} {error.__context__!r} {error.message}"
        assert SECRET[:6] not in told
        assert base64.b64encode(SECRET.encode()).decode()[:6] not in told
        assert "may quote" in told
    assert SECRET[:6] not in caplog.text


async def test_a_token_that_is_refused_is_not_quoted(kube: Kube) -> None:
    with pytest.raises(KubeError) as caught:
        await kube.create(TOKEN_REVIEWS, {"spec": {"token": [SECRET]}})
    assert SECRET[:6] not in f"{caught.value!r} {caught.value.__context__!r}"


async def test_who_may_not_is_told_so(plane: ControlPlane, namespace: str) -> None:
    account = await plane.service_account(namespace, "default")
    async with Kube.connected(account.kubeconfig) as api:
        with pytest.raises(KubeError, match='cannot get resource "secrets"') as caught:
            await api.get(SECRETS, PoolKey(namespace, "key"))
        assert (caught.value.status, caught.value.retryable) == (403, False)


async def test_a_token_in_a_file_is_read_again(
    plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await plane.service_account(namespace, "default")
    good = account.token
    (account.directory / "token").write_text("bad")
    async with Kube.connected(account.kubeconfig) as api:
        with pytest.raises(KubeError) as caught:
            await api.serves(LEASES)
        assert caught.value.status == 401
        (account.directory / "token").write_text(good)
        monkeypatch.setattr("aoai_operator.adapters.kube.access._AGAIN", 0.0)
        assert await api.serves(LEASES)


async def test_the_pods_service_account_is_used(
    plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await plane.service_account(namespace, "default")
    host, port = plane.server.removeprefix("https://").rsplit(":", 1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    loader = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(account.directory / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(account.directory / "ca.crt"))
    mark = plane.audit.mark()
    async with Kube.connected() as api:
        assert await api.serves(LEASES)
    assert await eventually(lambda: plane.audit.since(mark, user=account.user))


async def test_an_api_server_that_is_away_is_an_error_in_time(
    plane: ControlPlane, kube: Kube, namespace: str, counted: Counted
) -> None:
    await plane.apiserver.kill()
    with pytest.raises(KubeError, match="cannot be reached") as caught:
        await kube.get(CONFIG_MAPS, PoolKey(namespace, "one"))
    assert (caught.value.status, caught.value.retryable) == (0, True)
    assert "Bearer" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert counted.calls[-1] == ("get", "configmaps", "Unreachable")
    await plane.apiserver.start()
    assert await kube.get(CONFIG_MAPS, PoolKey(namespace, "one")) is None


async def test_a_server_that_never_answers_is_an_error_in_time(
    plane: ControlPlane, tmp_path: Path, counted: Counted
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = tmp_path / "kubeconfig"
        file.write_text(plane.kubeconfig.read_text().replace(plane.server, f"https://127.0.0.1:{port}"))
        async with Kube.connected(file, observer=counted, within=0.2) as api:
            with pytest.raises(KubeError, match=r"did not answer within 0\.2 s"):
                await api.get(CONFIG_MAPS, PoolKey("default", "one"))
    assert counted.calls == [("get", "configmaps", "Timeout")]


async def test_no_kubeconfig_is_said(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"none\.yaml gives no access"):
        async with Kube.connected(tmp_path / "none.yaml"):
            pass
