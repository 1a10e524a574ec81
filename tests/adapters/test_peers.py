"""Replicas in one process, over real streams: what one learns, all show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.grpc_server import serving, serving_tls
from aoai_operator.adapters.identity import Identities
from aoai_operator.adapters.peers import PeerClient, PeerServer, PeerTls
from aoai_operator.core.failures import Failure
from aoai_operator.core.health import Sample
from aoai_operator.core.identity import PeerKind
from aoai_operator.core.names import EndpointKey, PoolKey
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.core.peers import LARGEST, Message
from aoai_operator.core.world import Programming
from aoai_operator.ports import UnavailableError
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.peering import Peering
from support.pki import SERVER_NAME, Pki
from support.tables import CHAT, endpoint, endpoint_key, host_key, routing_table
from support.waiting import eventually

NOW = 1_700_000_000_000
EAST = host_key("east")
TABLE = routing_table(endpoint("east"), endpoint("west"))
FOLLOW = "/aoai.dev.Peers/Follow"


class Replica:
    """An operator as far as its peers see it."""

    def __init__(self) -> None:
        self.now = NOW
        self.proxies: Mapping[PoolKey, Sequence[Programming]] = {CHAT: (Programming(1, 1),)}
        self.suspects: list[EndpointKey] = []
        self.observer = Observer(changed=self._changed, now=lambda: self.now)
        self.peering = Peering(
            observer=self.observer,
            programming=lambda: self.proxies,
            probe_soon=self.suspects.append,
            changed=lambda: None,
            now=lambda: self.now,
        )
        self.server = PeerServer(accept=self.peering.accept, admit=_anybody, answer=self._answer, calls=("Ask",))
        self.client = PeerClient(dial=self.peering.dial, tls=None)
        self.asked = asyncio.Event()
        self.observer.follow([TABLE])
        self.address = ""

    async def _answer(self, name: str, data: bytes) -> bytes:
        self.asked.set()
        if data == b"wait":
            await asyncio.Event().wait()
        if data == b"what":
            raise ValueError("it cannot be read")
        return b"%s: %s" % (name.encode(), data)

    def _changed(self) -> None:
        self.peering.hosts_changed()

    def refused(self, wait: int = 30_000) -> None:
        """Learn from the traffic that the host is throttled."""
        self.observer.attempts([Failure(EAST, status=429, retry_after_ms=wait)])

    def shown(self) -> HostState:
        return self.observer.overrides(self.now).host(EAST)

    def total(self) -> Programming:
        """Return how far the pool's proxies are, together."""
        parts = self.peering.programming().get(CHAT, ())
        return Programming(sum(p.connected for p in parts), sum(p.programmed for p in parts))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with serving(self.address or "127.0.0.1:0", [self.server.handler()]) as port:
            self.address = f"127.0.0.1:{port}"
            task = asyncio.create_task(self.client.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def ours() -> list[str]:
    """Return the running tasks that the adapter made."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("PeerClient", "PeerServer", "_talk", "Event.wait"))]


async def _anybody(_context: Any) -> None:
    return


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[Replica, Replica, Replica]]:
    """A leader, and two that follow it. Nothing of theirs runs on when they have ended."""
    three = Replica(), Replica(), Replica()
    async with AsyncExitStack() as stack:
        for replica in three:
            await stack.enter_async_context(replica.running())
        three[0].server.lead(True)
        for replica in three:
            replica.client.follow(three[0].address if replica is not three[0] else None)
        await eventually(lambda: three[1].peering.linked and three[2].peering.linked)
        yield three
    await eventually(lambda: not ours(), what="no task is left")


Three = tuple[Replica, Replica, Replica]


def following(channel: grpc.aio.Channel) -> Any:
    """Begin to follow, as a stranger that speaks by hand."""
    call: Any = channel.stream_stream(FOLLOW, request_serializer=bytes, response_deserializer=bytes)
    return call()


async def test_what_one_learns_of_a_host_all_show(replicas: Three) -> None:
    replicas[1].refused()
    await eventually(lambda: all(r.shown().state is State.THROTTLED for r in replicas))
    assert {r.shown().until for r in replicas} == {NOW + 30_000}
    for replica in replicas:
        replica.now = NOW + 30_000
        assert (replica.shown().usable, replica.shown().incarnation) == (True, 1)


async def test_what_the_leader_learns_and_what_its_probes_find_all_show(replicas: Three) -> None:
    leader, follower, _ = replicas
    leader.refused()
    await eventually(lambda: follower.shown().state is State.THROTTLED)
    for _ in range(3):
        leader.observer.probed(endpoint_key("east"), Sample(Reason.TLS, "the certificate is for another name"))
    await eventually(lambda: follower.shown().reason is Reason.TLS)
    assert follower.shown().message == "the certificate is for another name"
    for _ in range(2):
        leader.observer.probed(endpoint_key("east"), Sample(Reason.OK))
    await eventually(lambda: follower.shown().state is State.THROTTLED)


async def test_the_leader_counts_everybodys_proxies(replicas: Three) -> None:
    leader, follower, other = replicas
    await eventually(lambda: leader.total() == Programming(3, 3))
    follower.proxies = {CHAT: (Programming(2, 1, "No."), Programming(1, 1))}
    follower.peering.proxies_changed()
    await eventually(lambda: leader.total() == Programming(5, 4))
    assert "No." in {part.refusal for part in leader.peering.programming()[CHAT]}
    other.proxies = {}
    other.peering.proxies_changed()
    await eventually(lambda: leader.total() == Programming(4, 3))
    follower.client.follow(None)
    await eventually(lambda: leader.total() == Programming(1, 1))


async def test_a_follower_has_the_leader_probe_early(replicas: Three) -> None:
    leader, follower, _ = replicas
    follower.peering.soon(endpoint_key("east"))
    await eventually(lambda: leader.suspects == [endpoint_key("east")])


async def test_a_follower_that_leaves_takes_no_throttle_with_it(replicas: Three) -> None:
    leader, follower, other = replicas
    follower.refused()
    await eventually(lambda: other.shown().state is State.THROTTLED)
    follower.client.follow(None)
    await eventually(lambda: leader.total() == Programming(2, 2))
    assert leader.shown().state is State.THROTTLED


async def test_without_a_leader_what_is_known_stays_and_a_new_one_tells_anew(replicas: Three) -> None:
    old, new, follower = replicas
    for _ in range(3):
        old.observer.probed(endpoint_key("east"), Sample(Reason.CONNECT, "refused"))
    await eventually(lambda: follower.shown().reason is Reason.CONNECT and new.shown().reason is Reason.CONNECT)
    old.server.lead(False)
    await eventually(lambda: not follower.peering.linked and not new.peering.linked)
    assert follower.shown().reason is Reason.CONNECT
    new.server.lead(True)
    new.client.follow(None)
    for _ in range(2):
        new.observer.probed(endpoint_key("east"), Sample(Reason.OK))
    follower.client.follow(new.address)
    old.client.follow(new.address)
    await eventually(lambda: follower.shown().usable and old.shown().usable)
    await eventually(lambda: new.total() == Programming(3, 3))


async def test_a_follower_calls_its_leader(replicas: Three) -> None:
    leader, follower, _ = replicas
    assert await follower.client.call("Ask", b"this") == b"Ask: this"
    with pytest.raises(UnavailableError, match="it cannot be read"):
        await follower.client.call("Ask", b"what")
    with pytest.raises(UnavailableError, match="no leader"):
        await leader.client.call("Ask", b"this")


@pytest.mark.parametrize("gone", ["lost", "late"])
async def test_a_call_that_is_not_answered_ends_with_words_and_nothing_else(replicas: Three, gone: str) -> None:
    """The channel that it was on is closed, or time is up."""
    leader, follower, _ = replicas
    call = asyncio.create_task(follower.client.call("Ask", b"wait"))
    await leader.asked.wait()
    if gone == "lost":
        follower.client.follow(None)
    with pytest.raises(UnavailableError, match="before it answered" if gone == "lost" else "Deadline"):
        await call


async def test_a_call_that_is_cancelled_is_cancelled(replicas: Three) -> None:
    leader, follower, _ = replicas
    call = asyncio.create_task(follower.client.call("Ask", b"wait"))
    await leader.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_leader_that_returns_is_followed_again() -> None:
    leader, follower = Replica(), Replica()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(follower.running())
        for _ in range(2):
            leader.server.lead(True)
            async with leader.running():
                follower.client.follow(leader.address)
                await eventually(lambda: follower.peering.linked and leader.total() == Programming(2, 2))
            await eventually(lambda: not follower.peering.linked and leader.total() == Programming(1, 1))


async def test_what_was_told_of_a_pool_counts_when_its_table_comes_later(replicas: Three) -> None:
    leader, follower, _ = replicas
    follower.observer.follow([])
    leader.refused()
    for _ in range(3):
        leader.observer.probed(endpoint_key("west"), Sample(Reason.AUTH, "401"))
    await eventually(lambda: leader.shown().state is State.THROTTLED)

    def told() -> bool:
        follower.observer.follow([TABLE])
        follower.peering.tables_changed()
        west = follower.observer.overrides(NOW).host(host_key("west"))
        return follower.shown().state is State.THROTTLED and west.reason is Reason.AUTH

    await eventually(told)


@pytest.mark.parametrize("garbage", [b"garbage", b'{"waits": {"x": 1}}', b" " * (LARGEST + 1), b" " * (65 << 20)])
async def test_garbage_ends_its_own_stream_only(replicas: Three, garbage: bytes) -> None:
    leader = replicas[0]
    async with grpc.aio.insecure_channel(leader.address) as channel:
        stranger = following(channel)
        await stranger.write(Message(whole=True, proxies={CHAT: (Programming(7, 7),)}).encode(now=0))
        await eventually(lambda: leader.total().connected == 10)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stranger.write(garbage)
            async for _ in stranger:
                continue
        assert await stranger.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    await eventually(lambda: leader.total() == Programming(3, 3))


@pytest.mark.parametrize("known", [True, False])
async def test_only_another_replica_of_the_operator_may_follow(known: bool) -> None:
    pki, leader, follower = Pki(), Replica(), Replica()
    admit = partial(Identities().admit, kinds={PeerKind.OPERATOR})
    server = PeerServer(accept=leader.peering.accept, admit=admit)
    server.lead(True)
    tls = PeerTls(pki.server() if known else pki.gateway(), pki.trusted, SERVER_NAME)
    async with serving_tls(
        [server.handler()], certificate=pki.served(), certificates="127.0.0.1:0", tokens=None
    ) as ports:
        follower.client = PeerClient(dial=follower.peering.dial, tls=lambda: tls)
        with capture_logs() as logs:
            async with follower.running():
                follower.client.follow(f"127.0.0.1:{ports.certificates}")
                if known:
                    await eventually(lambda: leader.total() == Programming(2, 2))
                else:
                    await eventually(lambda: any(line["event"] == "the leader cannot be followed" for line in logs))
                    assert not follower.peering.linked
                    assert leader.total() == Programming(1, 1)


async def test_nobody_is_dialled_before_there_is_a_certificate() -> None:
    pki, leader, follower = Pki(), Replica(), Replica()
    server = PeerServer(accept=leader.peering.accept, admit=_anybody)
    server.lead(True)
    asked: list[PeerTls | None] = []
    known: PeerTls | None = None

    def tls() -> PeerTls | None:
        asked.append(known)
        return known

    follower.client = PeerClient(dial=follower.peering.dial, tls=tls)
    dialled: list[asyncio.StreamWriter] = []

    def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer)
        writer.close()

    async with serving_tls(
        [server.handler()], certificate=pki.served(), certificates="127.0.0.1:0", tokens=None
    ) as ports:
        plain = await asyncio.start_server(meet, "127.0.0.1", 0)
        async with plain, follower.running():
            follower.client.follow(f"127.0.0.1:{plain.sockets[0].getsockname()[1]}")
            await eventually(lambda: len(asked) > 1)
            assert not dialled
            known = PeerTls(pki.server(), pki.trusted, SERVER_NAME)
            follower.client.follow(f"127.0.0.1:{ports.certificates}")
            await eventually(lambda: leader.total() == Programming(2, 2))


async def test_a_replica_that_does_not_lead_takes_no_follower(replicas: Three) -> None:
    async with grpc.aio.insecure_channel(replicas[1].address) as channel:
        assert await following(channel).code() is grpc.StatusCode.FAILED_PRECONDITION
