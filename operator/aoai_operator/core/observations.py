"""What is observed of every host, folded from probes, failed attempts, name resolution and time. Pure.

One object holds the state; each step takes the time, epoch milliseconds, and tells whether anything changed that the
proxies or the statuses show. Facts about pools, endpoints and hosts that no table names are dropped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from aoai_operator.core import failures, health, throttle
from aoai_operator.core.failures import Failure, Run
from aoai_operator.core.health import Health, Sample
from aoai_operator.core.hosts import ObservedEndpoint, ObservedHost, out, restless, show
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.observed import ByPool, Fault, Grant, HostState, Overrides, Probed, Reason, SigningKeys, Wait
from aoai_operator.core.table import RoutingTable


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch of attempts did: whether a state changed, and which endpoints deserve an early probe."""

    changed: bool
    suspects: frozenset[EndpointKey]


Transition = tuple[HostKey, HostState, HostState]
"""A host, and what it showed before and after."""

_Part = TypeVar(
    "_Part",
    bound=Mapping[HostKey, HostState] | Mapping[EndpointKey, tuple[str, ...]] | Mapping[EndpointKey, Grant],
)


class Observations:
    """The observed state of all hosts of all pools.

    A host is out while its endpoint drains or lacks its credential, while its endpoint or itself is at fault, or
    while a Retry-After or a strike for failures in a row runs; in this order, the first that applies is shown. A host
    that was out, for whatever reason, returns with a ramp and the next incarnation.
    """

    def __init__(self) -> None:
        self._tables: dict[PoolKey, RoutingTable] = {}
        self._endpoints: dict[EndpointKey, ObservedEndpoint] = {}
        self._hosts: dict[HostKey, ObservedHost] = {}
        self._shown: dict[PoolKey, Mapping[HostKey, HostState]] = {}
        self._addresses: dict[PoolKey, Mapping[EndpointKey, tuple[str, ...]]] = {}
        self._grants: dict[PoolKey, Mapping[EndpointKey, Grant]] = {}
        self._overrides = Overrides(ByPool({}), ByPool({}), ByPool({}))
        # The pools of which the view does not show all yet, and what hosts showed at the last look for transitions.
        self._stirred: set[PoolKey] = set()
        self._before: dict[HostKey, HostState] = {}
        # Whom the passing of time alone can change; the others cost a tick nothing.
        self._restless: set[HostKey] = set()
        self._ticked = 0

    def follow(self, tables: Iterable[RoutingTable], *, now: int) -> bool:
        """Take the tables that are in force now.

        New hosts start `Unknown`, and serve; what a table no longer names is forgotten; the rest keeps its state.
        An endpoint whose address changed is a new one.
        """
        before, self._tables = self._tables, {t.key: t for t in tables}
        gone = [key for key in before if key not in self._tables]
        fresh = [key for key, table in self._tables.items() if before.get(key) is not table]
        moved = [self._exchange(key, before.get(key), self._tables.get(key), now) for key in (*gone, *fresh)]
        self._restless.update(host for key in fresh for host in self._tables[key].host_keys())
        return self.tick(now) or any(moved)

    def _exchange(self, pool: PoolKey, old: RoutingTable | None, table: RoutingTable | None, now: int) -> bool:
        """Take a pool's table instead of the last one; tell whether its hosts or their addresses are others now."""
        hosts = {key: self._hosts.pop(key) for key in (old.host_keys() if old else ())}
        keys = [old.endpoint_key(e.name) for e in old.endpoints] if old else []
        endpoints = {key: self._endpoints.pop(key) for key in keys}
        self._restless -= hosts.keys()
        names = table.host_keys() if table else ()
        found = {}
        for spec in table.endpoints if table else ():
            key = EndpointKey(pool, spec.name)
            mine = tuple(h for h in names if h.endpoint == spec.name)
            last = endpoints.get(key)
            kept = last if last is not None and last.is_at(spec) else None
            self._hosts.update({h: (kept and hosts.get(h)) or self._fresh(h, hosts.get(h), now) for h in mine})
            found[key] = kept.as_in(spec, mine) if kept else ObservedEndpoint(spec, mine)
        draining = {(h.endpoint, h.deployment) for m in table.models for h in m.hosts if h.drain} if table else ()
        for name in names:
            self._hosts[name].drain = (name.endpoint, name.deployment) in draining
        self._endpoints.update(found)
        addresses = [{key: (e.addresses, e.grant) for key, e in some.items()} for some in (endpoints, found)]
        moved = addresses[0] != addresses[1] or hosts != {key: self._hosts[key] for key in names}
        if moved:
            self._stirred.add(pool)
        return moved

    def _fresh(self, key: HostKey, last: ObservedHost | None, now: int) -> ObservedHost:
        self._before.setdefault(key, last.shown if last else HostState())
        return ObservedHost(shown=HostState(since=now))

    def attempts(self, batch: Iterable[Failure], *, now: int) -> Folded:
        """Fold failed attempts in; the order within a batch does not matter.

        A 429, or a 5xx, 408 or 424 with a Retry-After, throttles the host. Failures in a row are a strike (see
        `failures`), unless no other host could serve a model then: a request can be at fault itself, and must not take
        all regions away. A 401 or 403 makes the endpoint's next probe decide; where nothing is probed, two in a row
        are a fault of that host.
        """
        by_host: dict[HostKey, list[Failure]] = {}
        for failure in batch:
            if failure.host in self._hosts:
                by_host.setdefault(failure.host, []).append(failure)
        suspects: set[EndpointKey] = set()
        for key in sorted(by_host, key=str):
            host, failed, endpoint = self._hosts[key], by_host[key], EndpointKey(key.pool, key.endpoint)
            if any(f.suspicious for f in failed):
                suspects.add(endpoint)
            self._refused(key, host, failed, now)
            host.run = failures.failed(host.run, failed, now=now)
            if any(f.denied for f in failed):
                self._denied(key, host, self._endpoints[endpoint], now)
        for key in sorted(by_host, key=str):
            host = self._hosts[key]
            if any(f.fault for f in by_host[key]) and host.run.due(now) and self._spare(key, now):
                host.run = failures.struck(host.run, now=now, policy=self._tables[key.pool].throttling)
        return Folded(self._refresh(by_host, now), frozenset(suspects))

    def _refused(self, key: HostKey, host: ObservedHost, batch: Iterable[Failure], now: int) -> None:
        policy = self._tables[key.pool].throttling
        for f in batch:
            host.throttle = throttle.refused(
                host.throttle, status=f.status, retry_after_ms=f.retry_after_ms, now=now, policy=policy
            )

    def _denied(self, key: HostKey, host: ObservedHost, endpoint: ObservedEndpoint, now: int) -> None:
        if self._tables[key.pool].health.probe is not None:
            endpoint.health = health.suspect(endpoint.health)
        elif host.run.refused(now) and not endpoint.spec.alternates:
            # Of two keys the other one may be good: then the next attempt is served.
            host.health = health.denied(host.health, message=host.run.message, now=now)

    def _spare(self, key: HostKey, now: int) -> bool:
        """Tell whether each model that a host serves, as itself or as a fallback, has another host that can serve."""
        table = self._tables[key.pool]
        hosts = {m.name: {HostKey(key.pool, h.endpoint, h.deployment) for h in m.hosts} for m in table.models}
        for model in table.models:
            group = hosts[model.name].union(*(hosts.get(name, set()) for name in model.fallbacks))
            if key in group and not any(self._usable(other, now) for other in group - {key}):
                return False
        return True

    def _usable(self, key: HostKey, now: int) -> bool:
        return out(self._endpoints[EndpointKey(key.pool, key.endpoint)], self._hosts[key], now) is None

    def served(self, key: HostKey, *, now: int) -> bool:
        """Note that a host served a request: its failures are not in a row; it is healthy, if nothing else is known."""
        host = self._hosts.get(key)
        if host is None:
            return False
        host.run = failures.served(host.run, now=now)
        return self._refresh((key,), now)

    def probed(self, key: EndpointKey, sample: Sample, *, now: int) -> bool:
        """Fold in a probe of an endpoint: it concerns every deployment behind it."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return False
        policy = self._tables[key.pool].health
        endpoint.health = health.probed(endpoint.health, sample, now=now, policy=policy)
        return self._refresh(endpoint.hosts, now)

    def probed_host(self, key: HostKey, sample: Sample, *, now: int) -> bool:
        """Fold in a probe of one deployment; a 429 with its wait throttles it, as in the traffic."""
        host = self._hosts.get(key)
        if host is None:
            return False
        table = self._tables[key.pool]
        host.health = health.probed(host.health, sample, now=now, policy=table.health)
        if sample.reason is Reason.RETRY_AFTER:
            host.throttle = throttle.refused(
                host.throttle,
                status=throttle.TOO_MANY_REQUESTS,
                retry_after_ms=sample.retry_after_ms,
                now=now,
                policy=table.throttling,
            )
        return self._refresh((key,), now)

    def renewed(self, key: EndpointKey, *, now: int) -> bool:
        """Note that an endpoint's credential is another one: a fault of the old one is over."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return False
        endpoint.health = health.renewed(endpoint.health)
        for host in (self._hosts[h] for h in endpoint.hosts):
            host.health = health.renewed(host.health)
            if host.run.reason is Reason.AUTH:
                host.run = Run(served_at=host.run.served_at)
        return self._refresh(endpoint.hosts, now)

    def resolved(self, key: EndpointKey, addresses: tuple[str, ...], *, now: int) -> bool:
        """Take the addresses of an endpoint's name. An empty answer is none: see `unresolved`."""
        endpoint = self._endpoints.get(key)
        if endpoint is None or not addresses:
            return False
        moved = endpoint.addresses != addresses
        endpoint.addresses, endpoint.unresolved = addresses, ""
        if moved:
            self._stirred.add(key.pool)
        return self._refresh(endpoint.hosts, now) or moved

    def unresolved(self, key: EndpointKey, message: str, *, now: int) -> bool:
        """Note that a name does not resolve: the last good addresses stay; without any, the endpoint is at fault."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return False
        endpoint.unresolved = message
        return self._refresh(endpoint.hosts, now)

    def granted(self, key: EndpointKey, grant: Grant, *, now: int) -> bool:
        """Take what Entra ID granted for an endpoint: with another token a fault of the old one is over."""
        endpoint = self._endpoints.get(key)
        if endpoint is None or endpoint.grant == grant:
            return False
        endpoint.grant = grant
        self._stirred.add(key.pool)
        self._refresh(endpoint.hosts, now)
        return True

    def tick(self, now: int) -> bool:
        """Let time pass: waits and faults end. Twice at the same time does nothing more."""
        keys = list(self._hosts if now < self._ticked else self._restless)
        # A new set, as one that shrank takes as long to go over as when it was largest.
        self._ticked, self._restless = now, set()
        for key in keys:
            table, host = self._tables[key.pool], self._hosts[key]
            endpoint = self._endpoints[EndpointKey(key.pool, key.endpoint)]
            endpoint.health = health.expired(endpoint.health, now=now, probing=table.health.probe is not None)
            host.health = health.expired(host.health, now=now, probing=table.health.probe == "Deployment")
            host.throttle = throttle.capped(host.throttle, now=now, policy=table.throttling)
            host.run = replace(host.run, strike=throttle.capped(host.run.strike, now=now, policy=table.throttling))
        return self._refresh(keys, now)

    def next_change(self, now: int) -> int | None:
        """Return when `tick` would next change something, always later than `now`; None when only news could."""
        times: list[int | None] = []
        for key in self._restless:
            table, host = self._tables[key.pool], self._hosts[key]
            endpoint = self._endpoints[EndpointKey(key.pool, key.endpoint)]
            times.append(health.fault_end(endpoint.health, probing=table.health.probe is not None))
            times.append(health.fault_end(host.health, probing=table.health.probe == "Deployment"))
            times += (host.throttle.until, host.run.strike.until)
        return min((t for t in times if t is not None and t > now), default=None)

    def waits(self, now: int) -> dict[HostKey, Wait]:
        """Return the hosts that must be left alone, and until when: what the traffic told, here or elsewhere.

        As of the last step or tick; later it may only name fewer.
        """
        found = {}
        for key in self._restless:
            host = self._hosts[key]
            end = health.fault_end(host.health, probing=self._tables[key.pool].health.probe == "Deployment") or 0
            if not (host.throttle.active(now) or host.run.strike.active(now) or end > now):
                continue
            struck = (host.run.strike.until, host.run.reason, host.run.message)
            if end > host.run.strike.until:
                struck = (end, host.health.fault or Reason.AUTH, host.health.message)
            found[key] = Wait(host.throttle.until, *struck)
        return found

    def told(self, waits: Mapping[HostKey, Wait], *, now: int) -> bool:
        """Take what other replicas know of hosts; the later end wins, bounded as if the host had just told it.

        A strike of theirs counts, too, only where another host can serve the models: each replica may have spared
        another one.
        """
        known = sorted(key for key, wait in waits.items() if key in self._hosts)
        for key in known:
            host, until = self._hosts[key], waits[key].throttled
            if until > now:
                host.throttle = replace(host.throttle, until=max(host.throttle.until, until))
                host.throttle = throttle.capped(host.throttle, now=now, policy=self._tables[key.pool].throttling)
        for key in known:
            host, wait = self._hosts[key], waits[key]
            until = min(wait.struck, now + health.UNPROBED_FAULT_MS)
            if until > max(now, host.run.strike.until) and self._spare(key, now):
                host.run = failures.told(host.run, until=until, reason=wait.reason, message=wait.message)
        return self._refresh(known, now)

    def faults(self) -> dict[Probed, Fault]:
        """Return what probes found wrong with hosts, and with endpoints that have any."""
        found: dict[Probed, Fault] = {}
        for key in self._restless:
            behind = EndpointKey(key.pool, key.endpoint)
            verdicts: list[tuple[Probed, Health]] = [(behind, self._endpoints[behind].health)]
            if self._tables[key.pool].health.probe == "Deployment":
                verdicts.append((key, self._hosts[key].health))
            found |= {probed: Fault(h.fault, h.message) for probed, h in verdicts if h.fault is not None}
        return found

    def judged(self, faults: Mapping[Probed, Fault], *, now: int) -> bool:
        """Take the probes' verdicts of the replica that probes, all of them, instead of those found here.

        They stand until other ones are taken, or probes of our own end them.
        """
        hosts = self._restless.union(*map(self._behind, faults))
        for key in {EndpointKey(host.pool, host.endpoint) for host in hosts}:
            if self._tables[key.pool].health.probe is not None:
                endpoint = self._endpoints[key]
                endpoint.health = health.judged(endpoint.health, faults.get(key), now=now)
        for host_key in hosts:
            if self._tables[host_key.pool].health.probe == "Deployment":
                host = self._hosts[host_key]
                host.health = health.judged(host.health, faults.get(host_key), now=now)
        return self._refresh(hosts, now)

    def _behind(self, key: Probed) -> tuple[HostKey, ...]:
        """Return the hosts that a probe judges; none where no table names it."""
        if isinstance(key, HostKey):
            return (key,) if key in self._hosts else ()
        endpoint = self._endpoints.get(key)
        return endpoint.hosts if endpoint else ()

    def asked(self, issuers: Mapping[str, SigningKeys]) -> bool:
        """Take what is known of all issuers of tokens."""
        before = self._overrides
        if before.issuers == issuers:
            return False
        self._overrides = replace(before, issuers=issuers)
        return True

    def overrides(self) -> Overrides:
        """Return all that was observed, as an immutable value: the same object until something changes.

        Of pools in which nothing did, two of them share the parts: it costs little beside one pool of thousands.
        """
        for pool in self._stirred:
            table = self._tables.get(pool)
            hosts = table.host_keys() if table else ()
            keys = [table.endpoint_key(e.name) for e in table.endpoints] if table else []
            _put(self._shown, pool, {key: self._hosts[key].shown for key in hosts})
            _put(self._addresses, pool, {key: a for key in keys if (a := self._endpoints[key].addresses)})
            _put(self._grants, pool, {key: g for key in keys if (g := self._endpoints[key].grant) != Grant()})
        if self._stirred:
            views = ByPool(dict(self._shown)), ByPool(dict(self._addresses)), ByPool(dict(self._grants))
            self._overrides = Overrides(*views, self._overrides.issuers)
            self._stirred.clear()
        return self._overrides

    def transitions(self) -> tuple[Transition, ...]:
        """Return the hosts whose state or reason is another one now than at the last call."""
        before, self._before = self._before, {}
        pairs = ((key, last, host.shown) for key, last in before.items() if (host := self._hosts.get(key)))
        return tuple((k, a, b) for k, a, b in pairs if (a.state, a.reason) != (b.state, b.reason))

    def _refresh(self, keys: Iterable[HostKey], now: int) -> bool:
        changed = False
        for key in keys:
            host = self._hosts[key]
            endpoint = self._endpoints[EndpointKey(key.pool, key.endpoint)]
            if restless(endpoint, host, now):
                self._restless.add(key)
            else:
                self._restless.discard(key)
            shown = show(endpoint, host, now)
            if shown != host.shown:
                self._before.setdefault(key, host.shown)
                self._stirred.add(key.pool)
                host.shown = shown
                changed = True
        return changed


def _put(parts: dict[PoolKey, _Part], pool: PoolKey, part: _Part) -> None:
    if part:
        parts[pool] = part
    else:
        parts.pop(pool, None)


@lru_cache(maxsize=65_536)
def is_address(host: str) -> bool:
    """Tell whether a URL's host is an IP literal, which needs no resolution."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
