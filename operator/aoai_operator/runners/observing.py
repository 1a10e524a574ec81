"""Holds what is observed of the hosts, and tells those who care when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from aoai_operator.core.failures import Failure
from aoai_operator.core.health import Sample
from aoai_operator.core.names import EndpointKey, HostKey
from aoai_operator.core.observations import Observations
from aoai_operator.core.observed import Fault, Grant, Overrides, Probed, SigningKeys, Wait
from aoai_operator.core.table import RoutingTable

_log = structlog.get_logger("hosts")


class Observer:
    """The one place of the observations in a process; used from one event loop, so without locks.

    Whatever changes is told at once by `changed`, which must only wake somebody.
    """

    def __init__(self, *, changed: Callable[[], None], now: Callable[[], int]) -> None:
        """Take whom to tell, and a clock in milliseconds of the Unix epoch."""
        self._observations = Observations()
        self._changed = changed
        self._now = now

    def overrides(self, now: int) -> Overrides:
        """Return what was observed, as of `now`."""
        self._note(self._observations.tick(now))
        return self._observations.overrides()

    def next_change(self, now: int) -> int | None:
        """Return when it will change by itself, by the passing of time."""
        return self._observations.next_change(now)

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        """Take the tables that are in force now."""
        self._note(self._observations.follow(tables, now=self._now()))

    def attempts(self, failures: Iterable[Failure]) -> frozenset[EndpointKey]:
        """Fold failed attempts in; return the endpoints that deserve an early probe."""
        folded = self._observations.attempts(failures, now=self._now())
        self._note(folded.changed)
        return folded.suspects

    def served(self, key: HostKey) -> None:
        """Note that a host served a request."""
        self._note(self._observations.served(key, now=self._now()))

    def probed(self, key: EndpointKey, sample: Sample) -> None:
        """Fold in a probe of an endpoint."""
        self._note(self._observations.probed(key, sample, now=self._now()))

    def probed_host(self, key: HostKey, sample: Sample) -> None:
        """Fold in a probe of one deployment."""
        self._note(self._observations.probed_host(key, sample, now=self._now()))

    def renewed(self, key: EndpointKey) -> None:
        """Note that an endpoint's credential is another one."""
        self._note(self._observations.renewed(key, now=self._now()))

    def granted(self, key: EndpointKey, grant: Grant) -> None:
        """Take what Entra ID granted for an endpoint."""
        self._note(self._observations.granted(key, grant, now=self._now()))

    def resolved(self, key: EndpointKey, addresses: tuple[str, ...]) -> None:
        """Take the addresses of an endpoint's name."""
        self._note(self._observations.resolved(key, addresses, now=self._now()))

    def unresolved(self, key: EndpointKey, message: str) -> None:
        """Note that an endpoint's name does not resolve."""
        self._note(self._observations.unresolved(key, message, now=self._now()))

    def asked(self, issuers: Mapping[str, SigningKeys]) -> None:
        """Take what is known of all issuers of tokens."""
        self._note(self._observations.asked(issuers))

    def waits(self) -> Mapping[HostKey, Wait]:
        """Return the hosts that must be left alone, and until when."""
        return self._observations.waits(self._now())

    def told(self, waits: Mapping[HostKey, Wait]) -> None:
        """Take what other replicas know of hosts."""
        self._note(self._observations.told(waits, now=self._now()))

    def faults(self) -> Mapping[Probed, Fault]:
        """Return what probes found wrong."""
        return self._observations.faults()

    def judged(self, faults: Mapping[Probed, Fault]) -> None:
        """Take all verdicts of the replica that probes, instead of our own."""
        self._note(self._observations.judged(faults, now=self._now()))

    def _note(self, changed: bool) -> None:
        if not changed:
            return
        for key, _, state in self._observations.transitions():
            _log.info(
                "a host changed its state",
                pool=str(key.pool),
                endpoint=key.endpoint,
                deployment=key.deployment,
                state=state.state.value,
                reason=state.reason.value,
                until_ms=state.until,
                why=state.message,
            )
        self._changed()
