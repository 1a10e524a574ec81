"""The operator's Prometheus metrics: their names and labels, in one place.

Labels are bounded: a pool, model, tenant or endpoint that no routing table knows is "other".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.discovery import Expansion
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.names import EndpointKey, PoolKey
from aoai_operator.core.observed import Overrides, Reason, State
from aoai_operator.core.proxies import Proxy
from aoai_operator.core.table import RoutingTable
from aoai_operator.quota_metrics import QuotaMetrics

OTHER = "other"
MOST_TENANTS = 1_000
"""Tenants that get series of their own; those that come later are "other" until a restart."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROUTE = ("pool", "model", "endpoint", "region")
_MOST_REMEMBERED = 20_000
"""Label sets of answers whose series are kept at hand; looking series up by labels costs more than counting."""


class Metrics:
    """All metrics, in a registry. Implements the meters of the access log, of probes and of xDS (ports.XdsObserver)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self._labels = _Labels()
        self.quotas = QuotaMetrics(registry, self._labels.whose)
        self._remembered: dict[tuple[object, ...], _Series] = {}
        self._requests = Counter(
            "aoai_requests",
            "Requests of clients, by what they were answered.",
            ("tenant", *_ROUTE, "operation", "code"),
            registry=registry,
        )
        self._attempts = Counter(
            "aoai_failed_attempts",
            "Attempts that failed on one endpoint, retried or not. Code 0: no answer; reason: Envoy's response flags.",
            (*_ROUTE, "code", "reason"),
            registry=registry,
        )
        self._throttles = Counter(
            "aoai_throttles", "Attempts that Azure answered with 429.", (*_ROUTE, "deployment"), registry=registry
        )
        self._tokens = Counter(
            "aoai_tokens",
            "Tokens as Azure counted them; cached is part of prompt, reasoning part of completion.",
            ("tenant", *_ROUTE, "kind"),
            registry=registry,
        )
        self._duration = Histogram(
            "aoai_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            ("pool", "model", "stream"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "aoai_time_to_first_byte_seconds",
            "From a request's first byte to its answer's first.",
            ("pool", "model", "stream"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._probes = Counter(
            "aoai_probes",
            "Probes of endpoints and of their deployments, by outcome.",
            ("pool", "endpoint", "reason"),
            registry=registry,
        )
        self._token_requests = Counter(
            "aoai_token_requests",
            "Requests for tokens or keys of endpoints. Result: granted or refused; no answer is refused.",
            ("result",),
            registry=registry,
        )
        self._retires = Gauge(
            "aoai_model_retires_seconds",
            "When Azure ends a version of a model that was found, in seconds of the Unix epoch.",
            ("pool", "model", "version"),
            registry=registry,
        )
        self._readings = Counter(
            "aoai_discovery_readings",
            "Readings of Azure Resource Manager. Result: complete, or partial where something could not be read.",
            ("result",),
            registry=registry,
        )
        self._states = _States()
        registry.register(self._states)
        self._answers = Counter(
            "aoai_xds_answers",
            "What the Envoys said to configuration that they were sent.",
            ("gateway", "proxy", "type", "answer"),
            registry=registry,
        )
        self._connected = Gauge("aoai_connected_proxies", "Envoys connected by xDS.", ("gateway",), registry=registry)
        self._expiries = Gauge(
            "aoai_certificate_expires_seconds",
            "When the serving certificate in a pool's Secret ends, in seconds of the Unix epoch.",
            ("pool",),
            registry=registry,
        )
        self._own_expiry = Gauge(
            "aoai_own_certificate_expires_seconds",
            "When the certificate ends that this replica shows to Envoys, in seconds of the Unix epoch; 0: none yet.",
            registry=registry,
        )
        self._expiring: frozenset[PoolKey] = frozenset()
        self._restarts = Counter("aoai_envoy_restarts", "Deaths of the Envoy child.", registry=registry)
        self._leader = Gauge(
            "aoai_leader", "1 on the replica that compiles, probes and writes, 0 on the others.", registry=registry
        )
        self._passes = Histogram(
            "aoai_reconcile_duration_seconds",
            "From the begin of reading pools and tenants to the outcome of their compilation; on the leader only.",
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self._unwritten = Gauge(
            "aoai_unwritten_objects", "ConfigMaps and statuses that are to be written or failed.", registry=registry
        )
        self._refused_tables = Gauge(
            "aoai_refused_tables",
            "Routing tables that this replica refuses; what was good before serves.",
            registry=registry,
        )
        self._calls = Histogram(
            "aoai_kube_call_duration_seconds",
            "Calls to the API server. Result: the HTTP status; Unreachable, Timeout or Cancelled if there was none.",
            ("verb", "resource", "result"),
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        build = Gauge("aoai_build_info", "Always 1; the version is in the label.", ("version",), registry=registry)
        build.labels(version("aoai-operator")).set(1)

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        """Take the tables whose names may be labels."""
        self._remembered.clear()
        self._labels.follow(tables)

    def certificates(self, expiries: Mapping[PoolKey, int]) -> None:
        """Show when the pools' serving certificates end; times are milliseconds of the Unix epoch."""
        # One that stays is never gone in between: the metrics are read in another thread.
        for key in self._expiring - expiries.keys():
            self._expiries.remove(str(key))
        self._expiring = frozenset(expiries)
        for key, moment in expiries.items():
            self._expiries.labels(str(key)).set(moment / 1000)

    def certified(self, until: datetime) -> None:
        """Show when the certificate ends that Envoys are shown."""
        self._own_expiry.set(until.timestamp())

    def answer(self, answer: Answer) -> None:
        """Count an answer and its tokens."""
        key = (
            answer.pool,
            answer.tenant,
            answer.model,
            answer.endpoint,
            answer.operation,
            answer.status,
            answer.stream,
        )
        if answer.quota:
            self.quotas.answer(answer)
        series = self._remembered.get(key) or self._remember(key, answer)
        series.requests.inc()
        series.duration.observe(answer.duration_ms / 1000)
        if answer.first_byte_ms is not None:
            series.first_byte.observe(answer.first_byte_ms / 1000)
        if (usage := answer.usage) is not None:
            self._count(series, "prompt", usage.prompt)
            self._count(series, "completion", usage.completion)
            self._count(series, "cached", usage.cached)
            self._count(series, "reasoning", usage.reasoning)

    def _count(self, series: _Series, kind: str, tokens: int) -> None:
        if not tokens:
            return
        counter = series.tokens.get(kind)
        if counter is None:
            counter = series.tokens[kind] = self._tokens.labels(*series.labels, kind)
        counter.inc(tokens)

    def _remember(self, key: tuple[object, ...], answer: Answer) -> _Series:
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        route = self._labels.route(answer)
        labels = (self._labels.tenant(answer.pool, answer.tenant), *route)
        group = (*route[:2], "1" if answer.stream else "")
        series = self._remembered[key] = _Series(
            labels=labels,
            requests=self._requests.labels(*labels, answer.operation, _code(answer.status)),
            duration=self._duration.labels(*group),
            first_byte=self._first_byte.labels(*group),
        )
        return series

    def attempt(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        route = self._labels.route(attempt)
        self._attempts.labels(*route, _code(attempt.status), attempt.flags).inc()
        if attempt.status == 429:
            deployment = attempt.deployment if OTHER not in route else OTHER
            self._throttles.labels(*route, deployment).inc()

    def probed(self, key: EndpointKey, reason: Reason) -> None:
        """Count a probe of an endpoint, or of one deployment behind it."""
        self._probes.labels(str(key.pool), key.endpoint, reason).inc()

    def found(self, expansions: Mapping[PoolKey, Expansion]) -> None:
        """Take what was found in Azure: when what is deployed there retires."""
        self._retires.clear()
        # The first of several regions is set last.
        members = [(str(key), m.model, m.retires) for key, e in expansions.items() for m in e.members if m.retires]
        for pool, model, retires in sorted(members, key=lambda one: -one[2].at):
            self._retires.labels(pool, model, retires.version).set(retires.at / 1000)

    def azure_read(self, *, complete: bool) -> None:
        """Count a reading of Azure Resource Manager."""
        self._readings.labels("complete" if complete else "partial").inc()

    def token_asked(self, *, granted: bool) -> None:
        """Count a request to Entra ID."""
        self._token_requests.labels("granted" if granted else "refused").inc()

    def observed(self, overrides: Overrides) -> None:
        """Show the present states of all hosts, and of no others."""
        self._states.overrides = overrides

    def called(self, *, verb: str, resource: str, result: str, seconds: float) -> None:
        """Count a call to the API server (ports.KubeObserver)."""
        self._calls.labels(verb, resource, result).observe(seconds)

    def leads(self, leading: bool) -> None:
        """Show whether this replica leads."""
        self._leader.set(leading)

    def reconciled(self, seconds: float) -> None:
        """Count a pass: resources read, compiled, and the outcome handed on."""
        self._passes.observe(seconds)

    def unwritten(self, objects: int) -> None:
        """Show how many objects are to be written."""
        self._unwritten.set(objects)

    def tables_refused(self, tables: int) -> None:
        """Show how many routing tables are refused."""
        self._refused_tables.set(tables)

    def envoy_restarted(self) -> None:
        """Count a death of the Envoy child."""
        self._restarts.inc()

    def connected(self, proxy: Proxy) -> None:
        """Count an Envoy in."""
        self._connected.labels(proxy.gateway).inc()

    def disconnected(self, proxy: Proxy) -> None:
        """Count an Envoy out; its own series end, as pods come and go and never return."""
        self._connected.labels(proxy.gateway).dec()
        self._answers.remove_by_labels({"gateway": proxy.gateway, "proxy": proxy.id})

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:  # noqa: ARG002 - the port's
        """Count an ACK."""
        self._answers.labels(proxy.gateway, proxy.id, type_url.name.lower(), "ack").inc()

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:  # noqa: ARG002 - the port's
        """Count a NACK."""
        self._answers.labels(proxy.gateway, proxy.id, type_url.name.lower(), "nack").inc()

    def settled(self, proxy: Proxy, version: str) -> None:
        """Count nothing: each part of it was counted."""


class _States(Collector):
    """The hosts' states and the ends of tokens, made when asked for: they are many, and change by the second."""

    def __init__(self) -> None:
        self.overrides = Overrides()

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "aoai_endpoint_state",
            "1 for the state that a deployment behind an endpoint is in, 0 for the others.",
            labels=("pool", "endpoint", "deployment", "state"),
        )
        for key, host in self.overrides.hosts.items():
            for state in State:
                found.add_metric((str(key.pool), key.endpoint, key.deployment, state), host.state is state)
        yield found
        over = GaugeMetricFamily(
            "aoai_token_expires_seconds",
            "When the token with which an endpoint is called is over, in seconds of the Unix epoch; 0: there was none.",
            labels=("pool", "endpoint"),
        )
        for endpoint, grant in self.overrides.grants.items():
            # An account's keys have no end.
            if grant.until or grant.token is None:
                over.add_metric((str(endpoint.pool), endpoint.endpoint), grant.until / 1000)
        yield over


@dataclass(frozen=True, slots=True)
class _Series:
    """What is counted for answers of one label set; the tokens of a kind from the first on."""

    labels: tuple[str, ...]
    requests: Counter
    duration: Histogram
    first_byte: Histogram
    tokens: dict[str, Counter] = field(default_factory=dict)


class _Known:
    """What the table of one pool knows of label values; worked out when somebody asks."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table

    @cached_property
    def models(self) -> frozenset[str]:
        return frozenset(m.name for m in self.table.models)

    @cached_property
    def regions(self) -> Mapping[str, str]:
        return {e.name: e.region for e in self.table.endpoints}

    @cached_property
    def tenants(self) -> frozenset[str]:
        return frozenset(tenant.key for tenant in self.table.tenants)


class _Labels:
    """Keeps label values within what the routing tables know."""

    def __init__(self) -> None:
        self._pools: dict[str, _Known] = {}
        self._tenants: set[str] = set()

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        before, self._pools = self._pools, {}
        for table in tables:
            known = before.get(name := str(table.key))
            self._pools[name] = known if known is not None and known.table is table else _Known(table)

    def route(self, entry: Answer | Attempt) -> tuple[str, str, str, str]:
        """Return pool, model, endpoint and region; empty stays empty."""
        known = self._pools.get(entry.pool)
        if known is None:
            endpoint = OTHER if entry.endpoint else ""
            return OTHER, OTHER if entry.model else "", endpoint, endpoint
        model = entry.model if not entry.model or entry.model in known.models else OTHER
        if not entry.endpoint:
            return entry.pool, model, "", ""
        region = known.regions.get(entry.endpoint)
        return (entry.pool, model, OTHER, OTHER) if region is None else (entry.pool, model, entry.endpoint, region)

    def whose(self, tenant: str, pool: str, model: str) -> tuple[str, str, str]:
        """Return tenant, pool and model."""
        known = self._pools.get(pool)
        if known is None:
            return OTHER, OTHER, OTHER
        return self.tenant(pool, tenant), pool, model if model in known.models else OTHER

    def tenant(self, pool: str, tenant: str) -> str:
        if not tenant or tenant in self._tenants:
            return tenant
        known = self._pools.get(pool)
        if known is None or tenant not in known.tenants or len(self._tenants) >= MOST_TENANTS:
            return OTHER
        self._tenants.add(tenant)
        return tenant


def _code(status: int) -> str:
    """A status that the gateway or Azure may send has its own series; nonsense has not."""
    return str(status) if status == 0 or 100 <= status < 600 else OTHER
