"""Faults that can be injected into a region while it runs.

Each is a frozen model with a ``kind``, so that Python, the admin API and the command line speak of the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _RegionFault(_Model):
    """A fault of the listening socket: it strikes a whole region."""


class _RequestFault(_Model):
    """A fault of single requests.

    ``deployment`` confines it to one; ``share`` (0..1] strikes that share of the requests, evenly spread, repeatably.
    """

    deployment: str | None = None
    share: float = Field(default=1.0, gt=0.0, le=1.0)


class Down(_RegionFault):
    """Connections are refused and open ones dropped; healing listens on the same port again."""

    kind: Literal["down"] = "down"


class Flapping(_RegionFault):
    """Down for ``down_seconds``, then up for ``up_seconds``, and again."""

    kind: Literal["flapping"] = "flapping"
    down_seconds: float = Field(default=1.0, gt=0.0)
    up_seconds: float = Field(default=1.0, gt=0.0)


class Reset(_RequestFault):
    """The connection is reset (RST): as soon as it is accepted, or when its request arrives.

    The latter when it is confined to a deployment or a share, and on connections that are open already.
    """

    kind: Literal["reset"] = "reset"

    @property
    def at_accept(self) -> bool:
        """Whether every new connection dies before it can carry a request."""
        return self.deployment is None and self.share >= 1.0


class Blackhole(_RequestFault):
    """Connections are accepted and requests read, but nothing is ever answered."""

    kind: Literal["blackhole"] = "blackhole"


class Slow(_RequestFault):
    """``seconds`` are added before the first byte, ``between_events`` before each event of a stream."""

    kind: Literal["slow"] = "slow"
    seconds: float = Field(default=1.0, ge=0.0)
    between_events: float = Field(default=0.0, ge=0.0)


class Throttle(_RequestFault):
    """Every request gets 429, with ``retry_after_ms`` and ``retry_after`` (seconds); None is not sent.

    Given neither, both say one second; given only ``retry_after_ms``, the other follows from it; given only
    ``retry_after``, it goes alone, as in the reports of 86400 seconds (TinyLLM #17).

    ``reason``: the quota of the deployment (token or call) or the capacity of the region.
    """

    kind: Literal["throttle"] = "throttle"
    retry_after_ms: int | None = None
    retry_after: int | None = None
    reason: Literal["token", "call", "capacity"] = "token"

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, raw: Any) -> Any:
        """Fill in the header that was not spoken of."""
        if not isinstance(raw, dict):
            return raw
        if "retry_after_ms" not in raw and "retry_after" not in raw:
            return {**raw, "retry_after_ms": 1000, "retry_after": 1}
        given = raw.get("retry_after_ms")
        if "retry_after" not in raw and isinstance(given, int):
            return {**raw, "retry_after": math.ceil(given / 1000)}
        return raw


class Status(_RequestFault):
    """Requests are answered with ``status`` and the body that Azure sends with it."""

    kind: Literal["status"] = "status"
    status: int = Field(default=500, ge=400, le=599)


class BadHeaders(_RequestFault):
    """Rate-limit headers are unusable: remaining -1 or 0, missing, or garbage.

    A 429 also loses its retry headers, as openai-dotnet #838 reports for -1; ``garbage`` spoils them, ``zero`` keeps
    them.
    """

    kind: Literal["bad_headers"] = "bad_headers"
    form: Literal["minus_one", "zero", "missing", "garbage"] = "minus_one"


class CutStream(_RequestFault):
    """A stream ends after ``after`` events.

    ``how``: the connection is closed (fin), reset (rst), or the body ends in order but without ``[DONE]`` (clean).
    """

    kind: Literal["cut_stream"] = "cut_stream"
    after: int = Field(default=3, ge=0)
    how: Literal["fin", "rst", "clean"] = "fin"


class Stall(_RequestFault):
    """A stream sends ``after`` events, then nothing more, and stays open."""

    kind: Literal["stall"] = "stall"
    after: int = Field(default=3, ge=0)


class Garbage(_RequestFault):
    """Answers of status 200 whose JSON is broken."""

    kind: Literal["garbage"] = "garbage"


RequestFault = Reset | Blackhole | Slow | Throttle | Status | BadHeaders | CutStream | Stall | Garbage
Fault = Down | Flapping | RequestFault

FAULTS: tuple[type[Fault], ...] = (
    Down, Flapping, Reset, Blackhole, Slow, Throttle, Status, BadHeaders, CutStream, Stall, Garbage,
)  # fmt: skip

_ADAPTER: TypeAdapter[Fault] = TypeAdapter(Annotated[Fault, Field(discriminator="kind")])


def parse_fault(raw: Mapping[str, Any]) -> Fault:
    """Read a fault from its JSON form, ``{"kind": "throttle", "retry_after_ms": 2000}``.

    Raises ``pydantic.ValidationError`` (a ``ValueError``) which names the wrong field.
    """
    return _ADAPTER.validate_python(dict(raw))


class ActiveFault:
    """A fault at work. It spreads a share evenly instead of throwing dice, so that a test is repeatable."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._due = 0.0

    def strikes(self, deployment: str) -> bool:
        """Whether it hits this request; counts the request if it could."""
        fault = self.fault
        if isinstance(fault, _RegionFault) or fault.deployment not in {None, deployment}:
            return False
        self._due += fault.share
        if self._due < 1.0 - 1e-9:
            return False
        self._due -= 1.0
        return True
