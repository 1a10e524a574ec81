"""Shares what this replica knows with the others: a follower with the leader, the leader with all followers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aoai_operator.core.names import EndpointKey, PoolKey
from aoai_operator.core.peers import Message, Proxies, Told, merged, together
from aoai_operator.core.world import Programming
from aoai_operator.runners.observing import Observer


class Peering:
    """One replica among several; used from one event loop.

    The connections (adapters/peers.py) hold conversations: `accept` begins one of the leader's with a follower, `dial`
    the follower's with the leader.
    """

    def __init__(
        self,
        *,
        observer: Observer,
        programming: Callable[[], Mapping[PoolKey, Sequence[Programming]]],
        probe_soon: Callable[[EndpointKey], None],
        changed: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        """Take the parts.

        Args:
            observer: holds what is known of hosts.
            programming: tells how far this replica's own proxies are, in words cleared of secrets.
            probe_soon: probes an endpoint early, if this replica probes.
            changed: hears that what `programming` says may have changed, or that `linked` has.
            now: a clock in milliseconds of the Unix epoch.
        """
        self._observer = observer
        self._programming = programming
        self._probe_soon = probe_soon
        self._changed = changed
        self._now = now
        self._followers: set[Conversation] = set()
        self._leader: Conversation | None = None
        self._own: Proxies | None = None

    @property
    def linked(self) -> bool:
        """Tell whether a leader has told us what it knows, and still can: then we need not probe ourselves."""
        return self._leader is not None and self._leader.heard is not None

    def programming(self) -> Mapping[PoolKey, Sequence[Programming]]:
        """Return how far the proxies of this replica, and of all that follow it, are."""
        heard = (follower.heard for follower in self._followers)
        return together([self._own_proxies(), *(told.proxies for told in heard if told is not None)])

    def hosts_changed(self) -> None:
        """Tell the others soon what is known of hosts, if that is new to them."""
        for conversation in self._conversations():
            conversation.wake.set()

    def proxies_changed(self) -> None:
        """Tell the leader soon how far our own proxies are, if that changed."""
        self._own = None
        self.hosts_changed()

    def tables_changed(self) -> None:
        """Tell the observer again what was heard, after it took tables that may name more hosts."""
        self._own = None
        for conversation in self._conversations():
            if conversation.heard is not None:
                self._take_again(conversation.heard, leading=conversation is not self._leader)

    def soon(self, key: EndpointKey) -> None:
        """Have an endpoint probed early, here or by the leader."""
        self._probe_soon(key)
        if self._leader is not None:
            self._leader.suspects.add(key)
            self._leader.wake.set()

    def accept(self) -> Conversation:
        """Begin a conversation with a follower."""
        follower = Conversation(self, leading=True)
        self._followers.add(follower)
        return follower

    def dial(self) -> Conversation:
        """Begin the conversation with the leader."""
        self._leader = Conversation(self, leading=False)
        return self._leader

    def close(self, conversation: Conversation) -> None:
        """End one. What a follower's proxies hold is forgotten; what is known of hosts stays until it is over."""
        self._followers.discard(conversation)
        if self._leader is conversation:
            self._leader = None
        self._changed()

    def tellable(self, *, leading: bool) -> Told:
        """Return what there is to tell."""
        waits = self._observer.waits()
        if leading:
            return Told(waits=waits, faults=self._observer.faults())
        return Told(waits=waits, proxies=self._own_proxies())

    def take(self, message: Message, told: Told, *, leading: bool) -> None:
        """Take a message of the other side's, and all that it has told so far."""
        self._observer.told(message.waits)
        if leading:
            for key in message.suspects:
                self._probe_soon(key)
        elif message.whole or message.faults:
            self._observer.judged(told.faults)
        if message.whole or message.proxies:
            self._changed()

    def _take_again(self, told: Told, *, leading: bool) -> None:
        self._observer.told(told.waits)
        if not leading:
            self._observer.judged(told.faults)

    def clock(self) -> int:
        """Return the time."""
        return self._now()

    def _own_proxies(self) -> Proxies:
        if self._own is None:
            self._own = {key: tuple(parts) for key, parts in self._programming().items()}
        return self._own

    def _conversations(self) -> list[Conversation]:
        return [*self._followers, *([self._leader] if self._leader else [])]


class Conversation:
    """With one other replica, over one stream."""

    def __init__(self, peering: Peering, *, leading: bool) -> None:
        """Take whose it is, and whether that one leads."""
        self._peering = peering
        self._leading = leading
        self._told: Told | None = None
        self.heard: Told | None = None
        """All that the other side has told; None before its first message."""
        self.suspects: set[EndpointKey] = set()
        self.wake = asyncio.Event()
        """Set when there may be something to say."""

    def next(self) -> bytes | None:
        """Return the next message; None when there is nothing new. The first one is never None."""
        told = self._peering.tellable(leading=self._leading)
        known = self._told or Told()
        if self.heard is not None:
            # What the other side told us needs no echo.
            known = replace(known, waits=merged(known.waits, self.heard.waits))
        message = replace(known.changes(told), suspects=tuple(sorted(self.suspects)), whole=self._told is None)
        self.suspects.clear()
        self._told = told
        return None if message == Message() else message.encode(now=self._peering.clock())

    def take(self, data: bytes) -> None:
        """Take a message.

        Raises:
            PeerError: it is none.
        """
        message = Message.decode(data, now=self._peering.clock())
        self.heard = (self.heard or Told()).after(message).current(self._peering.clock())
        self._peering.take(message, self.heard, leading=self._leading)

    def close(self) -> None:
        """End it."""
        self._peering.close(self)
