"""The watch on the real API server: what wakes, what does not, and what it goes through."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aoai_operator.adapters.kube.bridge import Bridge, BridgeError, Wake, Watched
from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.marks import Marks
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS, QUOTAS
from aoai_operator.adapters.kube.watching import Watcher
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject
from support.cluster.control_plane import ControlPlane
from support.kube import CRDS, Forwarder, config_map, forget, pool
from support.waiting import eventually

WATCHED = (
    Watched(POOLS, status=True),
    Watched(QUOTAS, status=True),
    Watched(CONFIG_MAPS, labels="aoai.dev/pool"),
)
LABELS = {"aoai.dev/pool": "chat"}


class Woken:
    """Collects wakes."""

    def __init__(self) -> None:
        self.wakes: list[Wake] = []
        self.threads: set[int] = set()

    def __call__(self, wake: Wake) -> None:
        self.wakes.append(wake)
        self.threads.add(threading.get_ident())

    def of(self, key: PoolKey) -> int:
        return sum(wake.key == key for wake in self.wakes)

    @property
    def lists(self) -> list[str]:
        return [str(wake.resource) for wake in self.wakes if wake.key is None]


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[Kube]:
    await plane.apply(CRDS)
    await plane.kubectl(
        "wait", "crd/aoaibackendpools.aoai.dev", "crd/tenantquotas.aoai.dev", "--for=condition=Established"
    )
    async with Kube.connected(plane.kubeconfig) as kube:
        yield kube


@asynccontextmanager
async def watching(
    api: Kube, woken: Woken, kubeconfig: Path, *namespaces: str, ready: bool = True
) -> AsyncIterator[Bridge]:
    bridge = Bridge(wake=woken, serves=api.serves, watched=WATCHED, namespaces=namespaces, kubeconfig=kubeconfig)
    task = asyncio.create_task(bridge.run())
    try:
        if ready:
            await eventually(lambda: bridge.watching)
        yield bridge
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await eventually(lambda: all(thread.name != "kopf" for thread in threading.enumerate()))


async def test_a_change_wakes_and_a_status_does_not(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str
) -> None:
    key, other = PoolKey(namespace, "chat"), PoolKey(namespace, "other")
    await api.apply(POOLS, pool("chat", namespace))
    async with watching(api, woken, plane.kubeconfig):
        assert sorted(set(woken.lists)) == sorted(map(str, (POOLS, QUOTAS, CONFIG_MAPS)))
        assert woken.of(key) == 0, "what is there at the start is listed"
        mark = plane.audit.mark()
        for name in ("chat", "other"):
            await api.apply(POOLS, pool(name, namespace))
            status = {"metadata": {"name": name, "namespace": namespace}, "status": {"observedGeneration": 1}}
            await api.apply(POOLS, status, status=True)
        await eventually(lambda: woken.of(other) == 1)
        changed = pool("chat", namespace)
        changed["spec"]["suspend"] = True
        await api.apply(POOLS, changed)
        await eventually(lambda: woken.of(key) == 1)
        asked = pool("chat", namespace, annotations={"reconcile.aoai.dev/requestedAt": "now"})
        asked["spec"]["suspend"] = True
        await api.apply(POOLS, asked)
        await eventually(lambda: woken.of(key) == 2)
        await plane.kubectl("label", "abp", "chat", "-n", namespace, "team=a")
        await eventually(lambda: woken.of(key) == 3)
        await api.delete(POOLS, key)
        await eventually(lambda: woken.of(key) == 4)
        assert woken.of(other) == 1
        assert woken.threads == {threading.get_ident()}
        written = [c for c in plane.audit.since(mark, user="admin") if "kopf" in c.agent or "Python" in c.agent]
        assert {c.verb for c in written} <= {"get", "list", "watch"}
    item = await plane.get("aoai.dev/v1alpha1/aoaibackendpools", "other", namespace=namespace)
    assert item is not None
    assert "finalizers" not in item["metadata"]
    assert not item["metadata"].get("annotations")
    assert {entry["manager"] for entry in item["metadata"]["managedFields"]} == {
        "aoai-operator",
        "aoai-operator-status",
    }


async def test_of_objects_only_their_metadata_are_listed_and_watched(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, JsonObject]] = []

    def tell(way: str, item: JsonObject) -> None:
        if item["metadata"]["namespace"] == namespace:
            seen.append((way, item))

    listed, news = Marks.listed, Marks.news

    def spy_listed(self: Marks, item: JsonObject) -> None:
        tell("listed", item)
        listed(self, item)

    def spy_news(self: Marks, item: JsonObject, *, deleted: bool) -> bool:
        tell("deleted" if deleted else "changed", item)
        return news(self, item, deleted=deleted)

    monkeypatch.setattr(Marks, "listed", spy_listed)
    monkeypatch.setattr(Marks, "news", spy_news)
    await api.apply(POOLS, pool("chat", namespace))
    await api.apply(CONFIG_MAPS, config_map("chat-routing", namespace, labels=LABELS, a="1"))
    chat, routing = PoolKey(namespace, "chat"), PoolKey(namespace, "chat-routing")
    async with watching(api, woken, plane.kubeconfig, namespace):
        await eventually(lambda: len(seen) == 2)
        await api.apply(POOLS, pool("chat", namespace, labels={"team": "a"}))
        await api.apply(CONFIG_MAPS, config_map("chat-routing", namespace, labels=LABELS, a="2"))
        await eventually(lambda: woken.of(chat) == woken.of(routing) == 1)
        await api.delete(POOLS, chat)
        await api.delete(CONFIG_MAPS, routing)
        await eventually(lambda: woken.of(chat) == woken.of(routing) == 2)
    assert sorted((way, item["metadata"]["name"]) for way, item in seen) == [
        (way, name) for way in ("changed", "deleted", "listed") for name in ("chat", "chat-routing")
    ]
    assert all(item.keys() <= {"apiVersion", "kind", "metadata"} for _, item in seen)


async def test_a_namespace_of_many_objects_is_watched_from_the_last_page_on(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_operator.adapters.kube.watching._PAGE", 2)
    names = [f"chat-{number}" for number in range(5)]
    for name in names:
        await api.apply(POOLS, pool(name, namespace))
    async with watching(api, woken, plane.kubeconfig, namespace):
        for name in names:
            status = {"metadata": {"name": name, "namespace": namespace}, "status": {"observedGeneration": 1}}
            await api.apply(POOLS, status, status=True)
        for name in names:
            await api.apply(POOLS, pool(name, namespace, labels={"team": "a"}))
        await eventually(lambda: all(woken.of(PoolKey(namespace, name)) for name in names))
        assert all(woken.of(PoolKey(namespace, name)) == 1 for name in names), "all pages were noted"


async def test_every_change_of_our_config_maps_wakes_and_no_other_is_watched(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str
) -> None:
    key, foreign = PoolKey(namespace, "chat-routing"), PoolKey(namespace, "foreign")
    async with plane.namespace() as elsewhere, watching(api, woken, plane.kubeconfig, namespace):
        await api.apply(CONFIG_MAPS, config_map("chat-routing", elsewhere, labels=LABELS, a="1"))
        await api.apply(CONFIG_MAPS, config_map("foreign", namespace, a="1"))
        for number in range(3):
            await api.apply(CONFIG_MAPS, config_map("chat-routing", namespace, labels=LABELS, a=str(number)))
            await eventually(lambda: woken.of(key) > number)  # noqa: B023 - awaited here
        await api.delete(CONFIG_MAPS, key)
        await eventually(lambda: woken.of(key) == 4)
        assert woken.of(foreign) == 0
        assert {wake.key.namespace for wake in woken.wakes if wake.key} == {namespace}


async def test_what_was_deleted_while_the_watch_was_broken_is_listed_again(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, tmp_path: Path
) -> None:
    await api.apply(POOLS, pool("chat", namespace))
    async with Forwarder(int(plane.server.rsplit(":", 1)[1])) as line:
        file = tmp_path / "kubeconfig"
        file.write_text(plane.kubeconfig.read_text().replace(plane.server, f"https://127.0.0.1:{line.port}"))
        async with watching(api, woken, file, namespace) as bridge:
            await line.cut()
            # The last one of its kind: a list of nothing gives kopf no event at all.
            await api.delete(POOLS, PoolKey(namespace, "chat"))
            await forget(plane)
            before = len(woken.lists)
            await line.mend()
            await eventually(lambda: str(POOLS) in woken.lists[before:], within=60)
            await eventually(lambda: bridge.watching)
            await api.apply(POOLS, pool("new", namespace))
            await eventually(lambda: woken.of(PoolKey(namespace, "new")) == 1 or len(woken.lists) > before + 3)


async def test_it_goes_through_an_absence_of_the_api_server_quietly(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with watching(api, woken, plane.kubeconfig, namespace) as bridge:
        capsys.readouterr()
        said: list[str] = []
        await plane.apiserver.kill()
        # Several tries have failed by then.
        await eventually(lambda: "Request attempt" in capsys_text(capsys, said), within=60)
        assert bridge.alive()
        await plane.apiserver.start()
        key = PoolKey(namespace, "after")
        await api.apply(POOLS, pool("after", namespace))
        await eventually(lambda: woken.of(key) or (bridge.watching and woken.lists[3:]), within=60)
        lines = [line for line in capsys_text(capsys, said).splitlines() if line]
        assert len(lines) <= 12, lines


async def test_a_namespace_that_may_not_be_watched_leaves_the_others_alone(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoai_operator.adapters.kube.watching._REFUSED", 0.1)
    account = await plane.service_account(namespace, "default")
    who = f"system:serviceaccount:{namespace}:default"
    kinds = "aoaibackendpools.aoai.dev,tenantquotas.aoai.dev,configmaps"

    async def allow(where: str) -> None:
        await plane.kubectl("create", "role", "all", "--verb=get,list,watch", f"--resource={kinds}", "-n", where)
        await plane.kubectl(
            "create", "rolebinding", "all", "--role=all", f"--serviceaccount={namespace}:default", "-n", where
        )

    async with plane.namespace("refused") as other:
        await allow(namespace)
        mark = plane.audit.mark()
        async with watching(api, woken, account.kubeconfig, namespace, other, ready=False) as bridge:
            # After five tries kopf gives up.
            await eventually(
                lambda: sum(call.code == 403 for call in plane.audit.since(mark, user=who)) > 3 * 6, within=60
            )
            assert sorted(woken.lists) == sorted(map(str, (POOLS, QUOTAS, CONFIG_MAPS))), "each is listed once"
            key = PoolKey(namespace, "chat")
            await api.apply(POOLS, pool(key.name, key.namespace))
            await eventually(lambda: woken.of(key) == 1)
            assert not bridge.watching
            await allow(other)
            await eventually(lambda: bridge.watching, within=40)
            key = PoolKey(other, "chat")
            await api.apply(POOLS, pool(key.name, key.namespace))
            await eventually(lambda: woken.of(key) == 1)
            assert len(woken.lists) == 6


def capsys_text(capsys: pytest.CaptureFixture[str], said: list[str]) -> str:
    """Return all that was printed so far."""
    said.extend(capsys.readouterr())
    return "".join(said)


async def test_kinds_that_are_missing_are_waited_for_and_said(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await plane.kubectl("delete", "-f", str(CRDS), "--wait")
    try:
        async with watching(api, woken, plane.kubeconfig, namespace, ready=False) as bridge:
            await eventually(lambda: bridge.missing == (POOLS, QUOTAS))
            assert not bridge.watching
            assert bridge.alive()
            assert "aoaibackendpools.aoai.dev, tenantquotas.aoai.dev" in capsys.readouterr().out
            await plane.apply(CRDS)
            await eventually(lambda: bridge.watching, within=40)
            assert bridge.missing == ()
            await api.apply(POOLS, pool("chat", namespace))
            await eventually(lambda: woken.of(PoolKey(namespace, "chat")) == 1)
            # Gone under our feet, and back.
            await plane.kubectl("delete", "-f", str(CRDS), "--wait")
            await eventually(lambda: bridge.missing, within=20)
            await plane.apply(CRDS)
            await eventually(lambda: bridge.watching, within=40)
    finally:
        await plane.apply(CRDS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_ends_the_bridge(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(self: Watcher) -> None:
        raise SystemExit

    monkeypatch.setattr(Watcher, "run", die)
    bridge = Bridge(
        wake=woken, serves=api.serves, watched=WATCHED, namespaces=(namespace,), kubeconfig=plane.kubeconfig
    )
    with pytest.raises(BridgeError):
        await asyncio.wait_for(bridge.run(), 20)


async def test_a_stuck_thread_ends_the_bridge(
    plane: ControlPlane, api: Kube, woken: Woken, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    async def stick(self: Watcher) -> None:
        free.wait(20)

    monkeypatch.setattr(Watcher, "run", stick)
    monkeypatch.setattr("aoai_operator.adapters.kube.bridge._STUCK", 0.3)
    monkeypatch.setattr("aoai_operator.adapters.kube.bridge._END", 0.1)
    bridge = Bridge(
        wake=woken, serves=api.serves, watched=WATCHED, namespaces=(namespace,), kubeconfig=plane.kubeconfig
    )
    try:
        with pytest.raises(BridgeError):
            await asyncio.wait_for(bridge.run(), 20)
    finally:
        free.set()
