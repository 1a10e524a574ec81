"""What the store remembers, forgets and tries again; time and failures are forced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.kube.resources import CONFIG_MAPS
from aoai_operator.adapters.kube.store import Changes, ObjectStore, Unavailable, whole
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeError, Resource

A, B, OTHER = PoolKey("ns", "a"), PoolKey("ns", "b"), PoolKey("other", "a")


class Server:
    """Some objects, and what goes wrong."""

    def __init__(self) -> None:
        self.objects: dict[PoolKey, JsonObject] = {}
        self.version = 0
        self.broken: set[PoolKey | str | None] = set()
        self.forbidden: set[str | None] = set()
        self.calls: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def put(self, key: PoolKey, **labels: str) -> None:
        self.version += 1
        self.objects[key] = {
            "metadata": {
                "namespace": key.namespace,
                "name": key.name,
                "uid": str(key),
                "resourceVersion": str(self.version),
                "labels": labels,
            }
        }

    async def list(self, resource: Resource, namespace: str | None = None, labels: str = "") -> tuple[JsonObject, ...]:
        assert resource is CONFIG_MAPS
        self.calls.append(f"list {namespace}")
        if namespace in self.broken:
            raise KubeError(0, "Unreachable", "it is away")
        if namespace in self.forbidden:
            raise KubeError(403, "Forbidden", "it may not be read")
        wanted = [label for label in labels.split(",") if label]
        found = tuple(
            item
            for key, item in self.objects.items()
            if namespace in (None, key.namespace) and all(w in item["metadata"]["labels"] for w in wanted)
        )
        self.meanwhile()
        return found

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        assert resource is CONFIG_MAPS
        self.calls.append(f"get {key}")
        if key in self.broken:
            raise KubeError(0, "Unreachable", "it is away")
        found = self.objects.get(key)
        self.meanwhile()
        return found

    async def apply(self, resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        raise NotImplementedError

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        raise NotImplementedError

    async def replace(self, resource: Resource, body: JsonObject) -> JsonObject:
        raise NotImplementedError

    async def delete(self, resource: Resource, key: PoolKey) -> None:
        raise NotImplementedError

    async def serves(self, resource: Resource) -> bool:
        raise NotImplementedError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def changes(*changed: PoolKey, removed: tuple[PoolKey, ...] = ()) -> Changes:
    return Changes(frozenset(changed), frozenset(removed))


async def test_everything_is_listed_first_and_then_only_what_is_woken(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    assert store.due_in() == 0
    server.put(A)
    server.put(B)
    assert await store.refresh() == changes(A, B)
    assert store.complete
    assert store.due_in() == 300
    server.put(A)
    store.wake(A)
    store.wake(B)
    assert store.due_in() == 0
    assert await store.refresh() == changes(A)
    del server.objects[B]
    store.wake(B)
    assert await store.refresh() == changes(removed=(B,))
    assert set(store.objects) == {A}
    assert not await store.refresh()
    assert sorted(server.calls) == sorted(["list None", f"get {A}", f"get {B}", f"get {B}"])


async def test_a_list_finds_what_is_gone(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    server.put(A)
    await store.refresh()
    del server.objects[A]
    server.put(B)
    assert not await store.refresh()
    store.wake(None)
    assert await store.refresh() == changes(B, removed=(A,))


@pytest.mark.parametrize("key", [None, A], ids=["list", "get"])
async def test_what_was_written_meanwhile_is_newer_than_what_was_asked_for_before(
    server: Server, clock: Clock, key: PoolKey | None
) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    server.put(A)
    await store.refresh()

    def write() -> None:
        server.put(A)
        server.put(B)
        store.put(server.objects[A])
        store.put(server.objects[B])

    server.meanwhile = write
    store.wake(key)
    assert await store.refresh() == changes(A, B)
    assert store.objects == server.objects
    server.meanwhile = lambda: None
    del server.objects[A]
    store.wake(None)
    assert await store.refresh() == changes(removed=(A,)), "and the next one is newer again"


@pytest.mark.parametrize("key", [A, None])
async def test_a_later_write_of_somebody_else_is_not_lost_with_what_was_asked_for_before_ours(
    server: Server, clock: Clock, key: PoolKey | None
) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    server.put(A)
    await store.refresh()
    ours = server.objects[A]
    server.put(A)
    store.wake(key)
    # The answer to our write is late, and what is newer was told of already.
    server.meanwhile = lambda: (store.put(ours), None)[1]
    await store.refresh()
    server.meanwhile = lambda: None
    assert store.due_in() == 0
    assert await store.refresh() == changes(A)
    assert store.objects == server.objects
    assert store.due_in() > 0


@pytest.mark.parametrize("key", [A, None])
async def test_what_was_being_read_when_a_term_ended_is_read_in_the_next(
    server: Server, clock: Clock, key: PoolKey | None
) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    if key is not None:
        await store.refresh()
    server.put(A)
    store.wake(key)

    def ended() -> None:
        raise asyncio.CancelledError

    server.meanwhile = ended
    with pytest.raises(asyncio.CancelledError):
        await store.refresh()
    server.meanwhile = lambda: None
    assert store.due_in() == 0
    assert await store.refresh() == changes(A)
    assert store.complete


async def test_an_object_that_cannot_be_kept_leaves_nothing_unread(server: Server, clock: Clock) -> None:
    def keep(item: JsonObject, _before: object) -> JsonObject:
        if odd:
            raise ValueError("what is this?")
        return item

    odd = True
    store = ObjectStore(server, CONFIG_MAPS, keep=keep, clock=clock)
    server.put(A)
    with pytest.raises(ValueError, match="what is this"):
        await store.refresh()
    odd = False
    assert await store.refresh() == changes(A)
    assert store.complete


async def test_only_what_is_kept_is_held(server: Server, clock: Clock) -> None:
    before: list[str | None] = []

    def keep(item: JsonObject, last: str | None) -> str:
        before.append(last)
        return f"{item['metadata']['name']} {item['metadata']['resourceVersion']}"

    store = ObjectStore(server, CONFIG_MAPS, keep=keep, clock=clock)
    server.put(A)
    await store.refresh()
    server.put(B)
    store.wake(None)
    await store.refresh()
    assert store.objects == {A: "a 1", B: "b 2"}
    server.put(A)
    assert store.put(server.objects[A]) == "a 3"
    assert before == [None, None, "a 1"], "an object of the same version is not looked at again"


async def test_a_resync_lists_again(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, resync=60, clock=clock)
    await store.refresh()
    server.put(A)
    clock.now += 59
    assert not await store.refresh()
    assert store.due_in() == pytest.approx(1)
    clock.now += 1
    assert await store.refresh() == changes(A)
    assert server.calls == ["list None"] * 2


async def test_many_wakes_are_one_list(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    await store.refresh()
    for number in range(51):
        store.wake(PoolKey("ns", f"p{number}"))
    await store.refresh()
    assert server.calls == ["list None"] * 2


async def test_other_namespaces_are_none_of_its_business(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, namespaces=("ns", "more"), clock=clock)
    server.put(A)
    server.put(OTHER)
    assert await store.refresh() == changes(A)
    store.wake(OTHER)
    assert not await store.refresh()
    assert sorted(server.calls) == ["list more", "list ns"]


async def test_an_object_that_lost_its_label_is_gone(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, labels="pool", clock=clock)
    server.put(A, pool="x")
    server.put(B)
    assert await store.refresh() == changes(A)
    server.put(A)
    store.wake(A)
    store.wake(B)
    assert await store.refresh() == changes(removed=(A,))


async def test_what_cannot_be_read_stays_and_is_tried_again_later(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, clock=clock)
    server.put(A)
    server.put(B)
    await store.refresh()
    server.broken = {A}
    server.put(A)
    server.put(B)
    store.wake(A)
    store.wake(B)
    assert await store.refresh() == changes(B)
    assert set(store.objects) == {A, B}
    for wait in (1, 2, 4, 8, 16, 30, 30):
        assert store.due_in() == pytest.approx(wait)
        asked = len(server.calls)
        with pytest.raises(Unavailable, match="it is away"):
            await store.refresh()
        assert len(server.calls) == asked, "not tried before its time"
        clock.now += wait
        with pytest.raises(Unavailable, match="it is away"):
            await store.refresh()
        assert len(server.calls) == asked + 1
    server.broken = set()
    clock.now += 30
    assert await store.refresh() == changes(A)
    assert store.due_in() > 30


async def test_nothing_is_told_before_everything_was_listed_once(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, namespaces=("ns", "other"), clock=clock)
    server.put(A)
    server.put(OTHER)
    server.broken = {"other"}
    with pytest.raises(Unavailable):
        await store.refresh()
    server.broken = set()
    clock.now += store.due_in()
    assert await store.refresh() == changes(A, OTHER)
    assert sorted(server.calls) == ["list ns", "list other", "list other"]
    assert store.complete


async def test_a_namespace_that_may_not_be_read_stops_no_other(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, namespaces=("ns", "other"), clock=clock)
    server.put(A)
    server.put(OTHER)
    server.forbidden = {"other"}
    with capture_logs() as logs:
        assert await store.refresh() == changes(A)
        assert store.complete
        assert store.due_in() == 300
        clock.now += 300
        assert not await store.refresh()
    assert [log["namespace"] for log in logs] == ["other"], "said once"
    server.forbidden = set()
    clock.now += 300
    assert await store.refresh() == changes(OTHER)
    server.forbidden = {"other"}
    store.wake(None)
    assert not await store.refresh()
    assert set(store.objects) == {A, OTHER}, "what is known stays"


@pytest.mark.parametrize("namespaces", [(), ("ns",), ("ns", "other")])
async def test_when_nothing_may_be_read_nothing_is_known(
    server: Server, clock: Clock, namespaces: tuple[str, ...]
) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, namespaces=namespaces, clock=clock)
    server.forbidden = {"ns", "other", None}
    for _ in range(3):
        with pytest.raises(Unavailable, match="it may not be read"):
            await store.refresh()
        assert not store.complete
        clock.now += store.due_in()


async def test_a_refused_namespace_does_not_hide_one_that_is_away(server: Server, clock: Clock) -> None:
    store = ObjectStore(server, CONFIG_MAPS, keep=whole, namespaces=("ns", "other"), clock=clock)
    server.forbidden, server.broken = {"other"}, {"ns"}
    with pytest.raises(Unavailable):
        await store.refresh()
    server.broken = set()
    clock.now += store.due_in()
    await store.refresh()
    assert store.complete
