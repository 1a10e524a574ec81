"""Secrets by name, tokens, and Events on the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, SECRETS
from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.tokens import TokenReviews
from aoai_operator.core.credentials import Unreadable, read_key
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.ports import JsonObject, ReviewError
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.kube import Line, config_map, running
from support.waiting import eventually

POOL = PoolKey("ns", "pool")


@pytest.fixture
async def line(plane: ControlPlane) -> AsyncIterator[Line]:
    async with Kube.connected(plane.kubeconfig) as kube:
        yield Line(kube)


def secret(name: str, namespace: str, entries: Mapping[str, str]) -> JsonObject:
    return {"metadata": {"name": name, "namespace": namespace}, "stringData": dict(entries)}


async def test_secrets_are_followed_by_name(plane: ControlPlane, line: Line, namespace: str) -> None:
    one, two = SecretRef(namespace, "key", "one"), SecretRef(namespace, "key", "two")
    gone = SecretRef(namespace, "none", "x")
    await line.create(SECRETS, secret("key", namespace, {"one": "first\n", "two": "second", "other": "third"}))
    line.calls.clear()
    changed: list[None] = []
    reader = SecretReader(line, interval=0.2, changed=lambda: changed.append(None))
    async with running(reader.run()):
        reader.want("tables", {POOL: [one, two, gone]})
        await asyncio.wait_for(reader.settled(), 10)
        assert sorted(line.calls[:2]) == [("get", "key"), ("get", "none")]
        assert reader.values[one] == SecretValue("first")
        assert reader.values[two] == SecretValue("second")
        other = SecretRef(namespace, "key", "other")
        assert reader.values[other] == SecretValue(""), "of what is not wanted, the name alone is kept"
        assert "first" not in repr(reader.values)
        missing = read_key(reader.values, SecretRef(namespace, "key", "three"))
        assert isinstance(missing, Unreadable)
        assert "it has one, other, two" in missing.mend
        assert len(changed) == 2, "the first answer about each, that there is none as well"
        reader.want("world", {POOL: [other]})
        assert other not in reader.values
        await asyncio.wait_for(reader.settled(), 10)
        assert reader.values[other] == SecretValue("third")
        # Another value is found without being told.
        await plane.apply({"apiVersion": "v1", "kind": "Secret", **secret("key", namespace, {"one": "new"})})
        await eventually(lambda: reader.values[one] == SecretValue("new"))
        # What cannot be read stays.
        line.refused = True
        asked = len(line.calls)
        await eventually(lambda: len(line.calls) > asked + 2)
        assert reader.values[one] == SecretValue("new")
        line.refused = False
        await line.delete(SECRETS, PoolKey(namespace, "key"))
        await eventually(lambda: one not in reader.values)
        await line.create(SECRETS, secret("key", namespace, {"one": "back"}))
        await eventually(lambda: reader.values.get(one) == SecretValue("back"))
        reader.want("tables", {})
        assert one in reader.values
        assert not reader.values[one].reveal()
        reader.want("world", {})
        assert reader.values == {}
        assert {verb for verb, _ in line.calls} == {"get", "delete", "create"}


async def test_a_secret_is_read_at_once_when_asked_for(line: Line, namespace: str) -> None:
    ref = SecretRef(namespace, "key", "one")
    await line.create(SECRETS, secret("key", namespace, {"one": "first"}))
    reader = SecretReader(line, interval=3600, changed=lambda: None)
    async with running(reader.run()):
        reader.want("tables", {POOL: [ref]})
        await asyncio.wait_for(reader.settled(), 10)
        await line.delete(SECRETS, PoolKey(namespace, "key"))
        await line.create(SECRETS, secret("key", namespace, {"one": "second"}))
        reader.refresh([PoolKey(namespace, "other")])
        reader.refresh([PoolKey(namespace, "key")])
        await eventually(lambda: reader.values[ref] == SecretValue("second"))


async def test_what_is_no_text_is_refused_as_a_key(line: Line, namespace: str) -> None:
    ref = SecretRef(namespace, "key", "one")
    await line.create(SECRETS, {"metadata": {"name": "key", "namespace": namespace}, "data": {"one": "/////w=="}})
    reader = SecretReader(line, changed=lambda: None)
    async with running(reader.run()):
        reader.want("tables", {POOL: [ref]})
        await asyncio.wait_for(reader.settled(), 10)
        found = read_key(reader.values, ref)
        assert isinstance(found, Unreadable)
        assert "no HTTP header may carry" in found.message


async def test_a_token_tells_whose_it_is(plane: ControlPlane, line: Line, namespace: str) -> None:
    async def token(*audiences: str) -> str:
        answer = await plane.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token",
            json={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": list(audiences), "expirationSeconds": 600},
            },
        )
        made: Json = answer.raise_for_status().json()
        return str(made["status"]["token"])

    now = 0.0
    reviews = TokenReviews(line, audience="aoai.dev", clock=lambda: now)
    good, other = await token("aoai.dev"), await token("elsewhere")
    assert await reviews(good, "ipv4:192.0.2.1") == f"system:serviceaccount:{namespace}:default"
    assert await reviews(good, "ipv4:192.0.2.1") == f"system:serviceaccount:{namespace}:default"
    assert len(line.calls) == 1
    assert await reviews(other, "ipv4:192.0.2.1") is None
    assert await reviews(await token(), "ipv4:192.0.2.1") is None
    assert await reviews("nonsense", "ipv4:192.0.2.1") is None
    assert await reviews(plane._token, "ipv4:192.0.2.1") is None, "an administrator is no service account"
    line.calls.clear()
    line.refused = True
    assert await reviews(good, "ipv4:192.0.2.1") == f"system:serviceaccount:{namespace}:default"
    now = 60.0
    with pytest.raises(ReviewError, match="the line is cut"):
        await reviews(good, "ipv4:192.0.2.1")
    line.refused = False
    await plane.kubectl("delete", "serviceaccount", "default", "-n", namespace)

    async def refused() -> bool:
        nonlocal now
        now += 60
        return await reviews(good, "ipv4:192.0.2.1") is None

    await eventually(refused, within=40, what="the API server has forgotten its own verdict")
    assert good not in repr(vars(reviews))


async def test_an_event_is_seen_with_its_object(plane: ControlPlane, line: Line, namespace: str) -> None:
    item = await line.apply(CONFIG_MAPS, config_map("chat", namespace))
    poster = EventPoster(line, instance="operator-1")
    async with running(poster.run()):
        poster.post(item, "Warning", reason="TableRefused", message="it is broken", action="Compile")
        poster.post(item, "Normal", reason="Programmed", message="ü" * 2000, action="Compile")

        async def described() -> str | None:
            text = await plane.kubectl("describe", "configmap", "chat", "-n", namespace)
            return text if "TableRefused" in text and "Programmed" in text else None

        text = await eventually(described)
        assert text is not None
        assert "aoai.dev/operator" in text
        assert "it is broken" in text
        # One that cannot be posted is no more than a line in the log.
        lost = {**item, "metadata": {**item["metadata"], "namespace": "none"}}
        poster.post(lost, "Normal", reason="Lost", message="", action="Compile")
        poster.post(item, "Normal", reason="After", message="still there", action="Compile")

        async def posted() -> bool:
            found = await plane.get("events.k8s.io/v1/events", namespace=namespace)
            return found is not None and "After" in {event["reason"] for event in found["items"]}

        await eventually(posted)


async def test_too_many_events_are_dropped(line: Line, namespace: str) -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chat", "namespace": namespace}}
    poster = EventPoster(line, instance="operator-1")
    for _ in range(2000):
        poster.post(item, "Normal", reason="Many", message="m", action="Compile")
    assert poster._queue.qsize() == 1000
