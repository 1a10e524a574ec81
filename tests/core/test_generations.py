"""Who follows the changes alone knows as much as who looks at everything."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.core.envoy.delta import REMOVED, Request, Response
from aoai_operator.core.envoy.generations import Generation, changed_between
from aoai_operator.core.envoy.packed import WILDCARD, PackedResource, PackedSnapshot, Reference
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.envoy.stream import DeltaStream
from aoai_operator.core.proxies import Proxy, ProxyStates

NAMES = [chr(ord("a") + i) for i in range(12)]
REFERENCES = {
    TypeUrl.CLUSTER: TypeUrl.ENDPOINT,
    TypeUrl.LISTENER: TypeUrl.SECRET,
    TypeUrl.SCOPE: TypeUrl.ROUTE,
}
_OTHER = 4
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.sampled_from(NAMES)
urls = st.sampled_from([TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.SCOPE, TypeUrl.ROUTE])
changes = st.tuples(st.dictionaries(names, st.integers(1, _OTHER), max_size=2), st.sets(names, max_size=2))
wishes = st.sets(st.one_of(names, st.just(WILDCARD)), max_size=3)
errors = st.sampled_from([None, None, None, "no", "a: bad", "b: bad, c: bad"])
steps = st.one_of(
    st.tuples(st.just("publish"), urls, changes),
    st.tuples(st.just("ask"), urls, st.tuples(wishes, wishes)),
    st.tuples(st.just("answer"), urls, errors),
    st.tuples(st.just("answer"), urls, errors),
    st.tuples(st.just("stop waiting"), urls, st.none()),
)


def packed(url: TypeUrl, name: str, version: int) -> PackedResource:
    """Build a resource; in its fourth version it refers to another one than before."""
    needs = {Reference(REFERENCES[url], name if version < _OTHER else "a")} if url in REFERENCES else ()
    return PackedResource(name, str(version), b"", frozenset(needs))


class Twins:
    """Two streams that are told the same. One is given generations, the other mappings that it never saw."""

    def __init__(self) -> None:
        self.following, self.looking = DeltaStream(), DeltaStream()
        self.now = {url: Generation({n: packed(url, n, 1) for n in NAMES}) for url in TypeUrl}
        self.pending: dict[TypeUrl, Response] = {}
        for url in TypeUrl:
            self.ask(url, subscribe=tuple(NAMES) if url in REFERENCES.values() else ())
        self.talk()
        while self.pending:
            self.step("answer", next(iter(self.pending)), None)

    def step(self, kind: str, url: TypeUrl, what: Any) -> None:
        if kind == "publish":
            put, gone = what
            self.now[url] = self.now[url].after({n: packed(url, n, v) for n, v in put.items()}, gone - put.keys())
        elif kind == "ask":
            self.ask(url, subscribe=tuple(what[0]), unsubscribe=tuple(what[1]))
        elif kind == "stop waiting":
            self.following.stop_waiting()
            self.looking.stop_waiting()
        elif url in self.pending:
            self.ask(url, nonce=self.pending.pop(url).nonce, error=what)
        self.talk()

    def ask(self, url: TypeUrl, **fields: Any) -> None:
        request = Request(type_url=url, **fields)
        assert self.following.receive(request) == self.looking.receive(request)

    def talk(self) -> None:
        """Take all responses; they are the same, and so is what the streams say of themselves."""
        while (response := self.following.next_response(PackedSnapshot("", self.now))) is not None:
            assert self.looking.next_response(self.copied()) == response
            self.pending[response.type_url] = response
        assert self.looking.next_response(self.copied()) is None
        assert self.following.settled(PackedSnapshot("", self.now)) == self.looking.settled(self.copied())
        assert self.following.holding_back == self.looking.holding_back
        for url, subscription in self.looking._subscriptions.items():
            current = self.copied().resources[url]
            assert subscription.has_update(current) == (subscription.next_update(current) is not None)

    def copied(self) -> PackedSnapshot:
        return PackedSnapshot("", {url: dict(named) for url, named in self.now.items()})


@MANY
@given(st.lists(steps, min_size=10, max_size=40))
def test_a_stream_that_follows_changes_says_what_one_says_that_looks_at_everything(
    history: list[tuple[str, TypeUrl, Any]],
) -> None:
    twins = Twins()
    assert twins.following.settled(twins.copied())
    for step in history:
        twins.step(*step)


@MANY
@given(st.lists(st.tuples(changes, st.integers(0, 3)), max_size=30))
def test_a_generation_knows_what_differs_from_earlier_ones(history: list[tuple[Any, int]]) -> None:
    made = [Generation(dict.fromkeys(NAMES, 0))]
    for (put, gone), back in history:
        before = made[-1 - back % len(made)]
        after = before.after(put, gone)
        assert after == {n: v for n, v in before.items() if n not in gone} | put
        made.append(after)
    for one in made:
        for other in made:
            changed = changed_between(one, other)
            if changed is not None:
                assert {n for n in NAMES if one.get(n) != other.get(n)} <= changed


def test_a_small_change_is_known_and_a_long_way_or_another_mapping_is_not() -> None:
    first: Generation[int] = Generation(dict.fromkeys(NAMES, 0))
    second = first.after({"a": 1})
    assert second.after({}, {"b"}).changed_since(first) == frozenset("ab")
    assert first.changed_since(first) == frozenset()
    assert first.changed_since(second) is None
    assert second.changed_since(dict(first)) is None
    assert first.after(dict.fromkeys(NAMES, 1)).changed_since(first) is None
    last = first
    for value in range(100):
        last = last.after({"a": value})
    assert last.changed_since(first) is None
    assert last.after({}) is last


owned = st.tuples(st.sampled_from(["pool", "other", None]), st.integers(1, 3))
parts = st.dictionaries(st.sampled_from([TypeUrl.CLUSTER, TypeUrl.ROUTE]), st.dictionaries(names, owned, max_size=6))


def resources(part: dict[TypeUrl, dict[str, tuple[str | None, int]]]) -> dict[TypeUrl, dict[str, Resource]]:
    return {url: {n: Resource(n, {"v": v}, owner) for n, (owner, v) in part[url].items()} for url in part}


@MANY
@given(st.lists(parts, min_size=1, max_size=6), st.data())
def test_a_snapshot_with_a_part_replaced_is_that_of_its_parts(history: list[Any], data: st.DataObject) -> None:
    """Its version is the content's, and what a proxy that takes only some of it lacks is counted alike."""
    proxy, states = Proxy("1", "g"), ProxyStates()
    states.connected(proxy)
    held: dict[TypeUrl, dict[str, str]] = {url: {} for url in TypeUrl}
    snapshot, before = Snapshot.of(()), resources({})
    for part in map(resources, history):
        snapshot, before = snapshot.replacing([(before, part)]), part
        fresh = Snapshot.of((url, r) for url, named in part.items() for r in named.values())
        assert snapshot == fresh
        assert snapshot.version == fresh.version
        for url, named in fresh.resources.items():
            known = sorted(named.keys() | held[url].keys())
            told = data.draw(st.sets(st.sampled_from(known))) if known else set()
            versions = {name: named[name].version if name in named else REMOVED for name in told}
            states.acked(proxy, url, versions)
            held[url].update(versions)
        for owner in ("pool", "other"):
            concerned = [(u, r) for u, n in fresh.resources.items() for r in n.values() if r.owner in (owner, None)]
            has_all = all(held[u].get(r.name) == r.version for u, r in concerned)
            assert states.programming("g", snapshot, owner).programmed == has_all
