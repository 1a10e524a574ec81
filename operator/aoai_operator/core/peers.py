"""What the replicas of the operator tell each other, as messages that carry changes only. Pure.

A follower tells the leader how far its own proxies are, pool by pool, and what its traffic knows of hosts. The leader
tells each follower what anybody knows of hosts, and what its probes found wrong.

What is known of a host is merged: the later end wins. So the order and the number of tellings do not matter, and an
old one does no harm. Times are milliseconds of the Unix epoch here, and on the way what is left of them: so a replica
whose clock is wrong keeps no host out on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.observed import Fault, Probed, Reason, Wait
from aoai_operator.core.world import Programming

LARGEST = 16 << 20
"""Bytes of a message. A thousand pools, all refused with 4 KiB of Envoy's words, are a quarter of it."""


class PeerError(ValueError):
    """A message of a peer's cannot be read; the text says why in one line."""


_Text = Annotated[str, Field(max_length=8_192)]
_Time = Annotated[int, Field(ge=0, lt=1 << 53)]
_Count = Annotated[int, Field(ge=0, lt=1 << 31)]


_REASONS = frozenset(Reason)
_Reason = Annotated[Reason, BeforeValidator(lambda text: text if text in _REASONS else Reason.STATUS)]
"""A newer replica may know more reasons."""


class _Wire(BaseModel):
    # A newer replica may say more: what is not known is passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _WirePart(_Wire):
    connected: _Count
    programmed: _Count
    refusal: _Text | None = None
    revision: _Text | None = None


class _WireWait(_Wire):
    throttled: _Time = 0
    struck: _Time = 0
    reason: _Reason = Reason.STATUS
    message: _Text = ""


class _WireFault(_Wire):
    reason: _Reason
    message: _Text = ""


class _WireMessage(_Wire):
    whole: bool = False
    proxies: dict[str, list[_WirePart]] = {}
    waits: dict[str, _WireWait] = {}
    faults: dict[str, _WireFault | None] = {}
    suspects: list[str] = []


Proxies = Mapping[PoolKey, tuple[Programming, ...]]


@dataclass(frozen=True, slots=True)
class Message:
    """What changed since the last one, or everything.

    Attributes:
        whole: it is the first of a stream: what it does not name is not so.
        proxies: how far the sender's own proxies are; an empty tuple: it has none for that pool any more.
        waits: what is known of hosts.
        faults: what probes found wrong; None: no more.
        suspects: endpoints that deserve an early probe.
    """

    whole: bool = False
    proxies: Proxies = field(default_factory=dict)
    waits: Mapping[HostKey, Wait] = field(default_factory=dict)
    faults: Mapping[Probed, Fault | None] = field(default_factory=dict)
    suspects: tuple[EndpointKey, ...] = ()

    def encode(self, *, now: int) -> bytes:
        """Write it as JSON, with times as what is left of them."""
        wire = {
            "whole": self.whole,
            "proxies": {str(key): [_fields(part) for part in parts] for key, parts in self.proxies.items()},
            "waits": {str(key): _fields(_moved(wait, -now)) for key, wait in self.waits.items()},
            "faults": {str(key): fault and _fields(fault) for key, fault in self.faults.items()},
            "suspects": [str(key) for key in self.suspects],
        }
        return _WireMessage.model_validate(wire).model_dump_json(exclude_defaults=True).encode()

    @classmethod
    def decode(cls, data: bytes, *, now: int) -> Message:
        """Read it, with times from `now` on.

        Raises:
            PeerError: it is none.
        """
        if len(data) > LARGEST:
            raise PeerError(f"a message of {len(data)} bytes is too long")
        try:
            wire = _WireMessage.model_validate_json(data)
            return cls(
                whole=wire.whole,
                proxies={_pool(k): tuple(Programming(**dict(p)) for p in parts) for k, parts in wire.proxies.items()},
                waits={_host(key): _moved(Wait(**dict(wait)), now) for key, wait in wire.waits.items()},
                faults={_probed(key): Fault(**dict(fault)) if fault else None for key, fault in wire.faults.items()},
                suspects=tuple(_endpoint(key) for key in wire.suspects),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise PeerError(f"{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class Told:
    """All that one side has told the other; each message changes it."""

    proxies: Proxies = field(default_factory=dict)
    waits: Mapping[HostKey, Wait] = field(default_factory=dict)
    faults: Mapping[Probed, Fault] = field(default_factory=dict)

    def after(self, message: Message) -> Told:
        """Return what is told once the message is."""
        before = Told() if message.whole else self
        return Told(
            proxies={key: parts for key, parts in {**before.proxies, **message.proxies}.items() if parts},
            waits=merged(before.waits, message.waits),
            faults={key: fault for key, fault in {**before.faults, **message.faults}.items() if fault is not None},
        )

    def current(self, now: int) -> Told:
        """Return it without the waits that are over."""
        return replace(self, waits={k: w for k, w in self.waits.items() if max(w.throttled, w.struck) > now})

    def changes(self, to: Told) -> Message:
        """Return the message that makes this into the other; of waits, those that end later than was told."""
        return Message(
            proxies={
                **dict.fromkeys(self.proxies.keys() - to.proxies.keys(), ()),
                **{key: parts for key, parts in to.proxies.items() if self.proxies.get(key) != parts},
            },
            waits={key: wait for key, wait in to.waits.items() if _adds(wait, self.waits.get(key, Wait()))},
            faults={
                **dict.fromkeys(self.faults.keys() - to.faults.keys()),
                **{key: fault for key, fault in to.faults.items() if self.faults.get(key) != fault},
            },
        )


def merged(one: Mapping[HostKey, Wait], other: Mapping[HostKey, Wait]) -> dict[HostKey, Wait]:
    """Return what two replicas know together: a host is out while either knows that it must be left alone."""
    return {**one, **{key: one[key].merged(wait) if key in one else wait for key, wait in other.items()}}


def together(parts: Sequence[Proxies]) -> dict[PoolKey, tuple[Programming, ...]]:
    """Return the proxies of several replicas, pool by pool."""
    found: dict[PoolKey, tuple[Programming, ...]] = {}
    for proxies in parts:
        for key, more in proxies.items():
            found[key] = (*found.get(key, ()), *more)
    return found


def _moved(wait: Wait, by: int) -> Wait:
    """Return a wait with its ends moved; 0 stays 0, none at all, and what is over becomes so."""
    throttled = max(0, wait.throttled + by) if wait.throttled else 0
    struck = max(0, wait.struck + by) if wait.struck else 0
    return replace(wait, throttled=throttled, struck=struck)


def _adds(wait: Wait, told: Wait) -> bool:
    return wait.throttled > told.throttled or wait.struck > told.struck


def _fields(value: Programming | Wait | Fault) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


def _split(text: str, parts: int) -> list[str]:
    found = text.split("/")
    if len(found) != parts or not all(found):
        raise PeerError("a name of a pool, an endpoint or a host is none")
    return found


def _pool(text: str) -> PoolKey:
    return PoolKey(*_split(text, 2))


def _endpoint(text: str) -> EndpointKey:
    namespace, pool, endpoint = _split(text, 3)
    return EndpointKey(PoolKey(namespace, pool), endpoint)


def _host(text: str) -> HostKey:
    namespace, pool, endpoint, deployment = _split(text, 4)
    return HostKey(PoolKey(namespace, pool), endpoint, deployment)


def _probed(text: str) -> Probed:
    return _endpoint(text) if text.count("/") == 2 else _host(text)
