"""The streams between replicas of the operator: each follower dials the leader. JSON in gRPC messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
import structlog

from aoai_operator.core.peers import LARGEST, PeerError
from aoai_operator.core.pki import Certificate, KeyPair, bundle
from aoai_operator.ports import UnavailableError

_SERVICE = "aoai.dev.Peers"
_METHOD = "Follow"
_COALESCE = 0.1
_LONGEST_COALESCE = 1.0
_SHARE = 10
"""A message is made in at most a tenth of the time: with thousands of hosts out at once, making one takes long."""
_FIRST_DELAY = 0.02
"""Servers end every connection from time to time: a follower is back before anybody counts its proxies as gone."""
_LONGEST_DELAY = 2.0
_ANSWERED_WITHIN = 0.09
"""Seconds: a proxy that asks for a request waits for a tenth."""

_OPTIONS = (
    # A leader that vanished without a FIN is given up after 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The longest time that one attempt to connect may take; gRPC's default is 20 s.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_send_message_length", -1),
    # A new leader at the same address is not to be reached over the old one's connection.
    ("grpc.use_local_subchannel_pool", 1),
)

_log = structlog.get_logger("peers")


class Conversation(Protocol):
    """What is said over one stream."""

    wake: asyncio.Event
    """Set when there may be something to say."""

    def next(self) -> bytes | None:
        """Return the next message; None when there is nothing new."""
        ...

    def take(self, data: bytes) -> None:
        """Take a message.

        Raises:
            PeerError: it is none.
        """
        ...

    def close(self) -> None:
        """End it."""
        ...


Answerer = Callable[[str, bytes], Awaitable[bytes]]
"""Answers a call by its name. Raises ValueError where it cannot be read, UnavailableError where nobody can answer."""


class PeerServer:
    """The leader's side."""

    def __init__(
        self,
        *,
        accept: Callable[[], Conversation],
        admit: Callable[[Any], Awaitable[object]],
        answer: Answerer | None = None,
        calls: Collection[str] = (),
    ) -> None:
        """Take the parts.

        Args:
            accept: begins a conversation with a follower.
            admit: ends a call, by its gRPC context, that does not come from another replica of the operator.
            answer: answers single calls.
            calls: their names.
        """
        self._accept = accept
        self._admit = admit
        self._answer = answer
        self._calls = calls
        self._leading: asyncio.Event | None = None

    def lead(self, leading: bool) -> None:
        """Take followers from now on; or take none, and send away those that are here."""
        if not leading and self._leading is not None:
            self._leading.set()
        self._leading = (self._leading or asyncio.Event()) if leading else None

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service, to be put on a server."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=bytes, response_serializer=bytes
        )
        single = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self._call, name), request_deserializer=bytes, response_serializer=bytes
            )
            for name in self._calls
        }
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method, **single})

    async def _call(self, name: str, request: bytes, context: Any) -> bytes:
        await self._admit(context)
        try:
            if self._answer is not None:
                return await self._answer(name, request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except UnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        raise AssertionError

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._admit(context)
        over = self._leading
        if over is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this replica does not lead")
            return
        conversation = self._accept()
        _log.info("a replica follows", address=context.peer())
        try:
            await _talk(conversation, requests, context.write, over)
        except PeerError as error:
            _log.warning("a replica says what cannot be read", address=context.peer(), why=str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            conversation.close()
            _log.info("a replica follows no more", address=context.peer())


@dataclass(frozen=True, slots=True)
class PeerTls:
    """How a follower proves who it is, and knows the leader."""

    pair: KeyPair
    trusted: tuple[Certificate, ...]
    server_name: str
    """The DNS name that the leader's certificate must have."""


class PeerClient:
    """The followers' side: keeps a stream to the leader, whoever that is."""

    def __init__(
        self, *, dial: Callable[[], Conversation], tls: Callable[[], PeerTls | None] | None, own: str | None = None
    ) -> None:
        """Take the parts.

        Args:
            dial: begins a conversation with the leader.
            tls: is asked before each connection, and nobody is dialled while it says None: there is no certificate yet.
                None itself: without TLS, for loopback.
            own: this replica's own address, which is never dialled.
        """
        self._dial = dial
        self._tls = tls
        self._own = own
        self._leader: str | None = None
        self._moved = asyncio.Event()
        self._linked: grpc.aio.Channel | None = None

    async def call(self, name: str, data: bytes) -> bytes:
        """Call the leader.

        Raises:
            UnavailableError: there is none, or it does not answer in time, or refuses.
        """
        if self._linked is None:
            raise UnavailableError("no leader can be reached")
        single: Any = self._linked.unary_unary(
            f"/{_SERVICE}/{name}", request_serializer=bytes, response_deserializer=bytes
        )
        try:
            answer: bytes = await single(data, timeout=_ANSWERED_WITHIN)
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise UnavailableError(f"the leader did not answer: {why}") from None
        except asyncio.CancelledError:
            # A channel that is closed cancels the calls on it; only if nobody cancelled this task is it that.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnavailableError("the leader was lost before it answered") from None
        return answer

    def follow(self, leader: str | None) -> None:
        """Follow the replica at this address, "host:port"; None: there is no leader, or we are it."""
        leader = None if leader == self._own else leader
        if leader != self._leader:
            self._leader = leader
            self._moved.set()

    async def run(self) -> None:
        """Run until cancelled."""
        delay = _FIRST_DELAY
        while True:
            self._moved.clear()
            heard = self._leader is not None and await self._converse(self._leader)
            delay = _FIRST_DELAY if heard else min(delay * 2, _LONGEST_DELAY)
            try:
                async with asyncio.timeout(None if self._leader is None else delay):
                    await self._moved.wait()
                delay = _FIRST_DELAY
            except TimeoutError:
                continue

    async def _converse(self, leader: str) -> bool:
        """Hold one conversation; return whether the leader said anything."""
        tls = self._tls() if self._tls is not None else None
        if self._tls is not None and tls is None:
            return False
        conversation = self._dial()
        listener = _Listener(conversation)
        try:
            async with _channel(leader, tls) as channel:
                follow: Any = channel.stream_stream(
                    f"/{_SERVICE}/{_METHOD}", request_serializer=bytes, response_deserializer=bytes
                )
                call = follow()
                self._linked = channel
                try:
                    await _talk(listener, call, call.write, self._moved)
                finally:
                    self._linked = None
                    call.cancel()
        except (grpc.RpcError, asyncio.InvalidStateError, PeerError) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.info("the leader cannot be followed", leader=leader, why=why)
        finally:
            conversation.close()
        return listener.heard


def _channel(leader: str, tls: PeerTls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(leader, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(bundle(tls.trusted), tls.pair.key, tls.pair.certificate.pem)
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(leader, credentials, options=options)


class _Listener:
    """A conversation that notes whether anything was heard."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.wake = conversation.wake
        self.next = conversation.next
        self.close = conversation.close
        self.heard = False

    def take(self, data: bytes) -> None:
        self._conversation.take(data)
        self.heard = True


async def _talk(
    conversation: Conversation,
    messages: AsyncIterator[bytes],
    write: Callable[[bytes], Awaitable[None]],
    over: asyncio.Event,
) -> None:
    """Listen and speak until the other side ends the stream, or it is `over`."""

    async def listen() -> None:
        async for message in messages:
            conversation.take(message)

    async def speak() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            conversation.wake.clear()
            began = clock()
            message = conversation.next()
            took = clock() - began
            if message is not None:
                await write(message)
            # What comes during this pause goes out together.
            await asyncio.sleep(min(max(_COALESCE, _SHARE * took), _LONGEST_COALESCE))
            await conversation.wake.wait()

    tasks = [asyncio.create_task(job) for job in (listen(), speak(), over.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
