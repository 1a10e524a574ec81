"""The composition root of `aoai-operator run`: see the package for how the parts stand to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from ssl import SSLError

import structlog
from prometheus_client import disable_created_metrics

from aoai_operator.adapters.clock import SteadyClock, elapsed
from aoai_operator.adapters.http import Checks
from aoai_operator.adapters.identity import Identities
from aoai_operator.adapters.kube.access import AccessError
from aoai_operator.adapters.kube.bridge import Bridge, Wake, Watched
from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.adapters.kube.fence import Fenced
from aoai_operator.adapters.kube.issuer import ClusterIssuers
from aoai_operator.adapters.kube.lease import Election, LeaseTiming
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS, QUOTAS, SECRETS
from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import ObjectStore, whole
from aoai_operator.adapters.kube.tokens import TokenReviews
from aoai_operator.adapters.ledger_grpc import LedgerServer
from aoai_operator.adapters.otlp_log import LogServer
from aoai_operator.adapters.peers import PeerClient, PeerServer
from aoai_operator.adapters.stopping import Stop, stop_signals, until
from aoai_operator.cluster.audiences import gateway_settings, trusting
from aoai_operator.cluster.counting import quotas_of
from aoai_operator.cluster.credentials import CredentialWriter
from aoai_operator.cluster.gateways import Gateways
from aoai_operator.cluster.known import read_pool, read_quota
from aoai_operator.cluster.leading import Leading
from aoai_operator.cluster.listening import Listening
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.cluster.starting import StartError, health, pods_log
from aoai_operator.cluster.usage import UsageWriter
from aoai_operator.cluster.writer import Writer
from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.certificates import expiries
from aoai_operator.core.configmaps import POOL_LABEL
from aoai_operator.core.envoy.snapshot import Owners
from aoai_operator.core.generated import Address
from aoai_operator.core.identity import PeerKind
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.pki import Certificate, KeyPair
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.interpreter import collected_seldom, threads_give_way
from aoai_operator.metrics import Metrics
from aoai_operator.runners.accounting import Accounting
from aoai_operator.runners.certificates import Certificates
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.peering import Peering
from aoai_operator.runners.quotas import ASK, SETTLE
from aoai_operator.runners.signing import TableKey
from aoai_operator.settings import ClusterSettings
from aoai_operator.upstream import Upstream

_log = structlog.get_logger("run")

TOKEN_AUDIENCE = "aoai.dev"  # noqa: S105
"""For whom a sidecar's service-account token must have been made."""


async def run_cluster(settings: ClusterSettings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; then give the Lease back, and return.

    Raises:
        StartError: see there.
    """
    # A `_created` series beside each counter would nearly double what is scraped, and nothing asks for them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    threads_give_way()
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        try:
            api = await stack.enter_async_context(Kube.connected(settings.kubeconfig, observer=metrics))
            operator = _Operator(settings, api, metrics)
        except AccessError as error:
            raise StartError(str(error)) from error
        except SSLError as error:
            raise StartError(f"{settings.trusted_ca} holds no certificate in PEM") from error
        await operator.serve(stop)


class _Operator:
    """All parts of one replica, put together."""

    def __init__(self, settings: ClusterSettings, api: Kube, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._listening = Listening(settings)
        own = PoolKey(settings.namespace, settings.name)
        self._election = Election(
            api,
            own,
            identity=settings.identity,
            address=settings.address,
            timing=LeaseTiming.lasting(settings.lease_duration),
            clock=elapsed,
        )
        self._fenced = Fenced(api, self._election)
        self._drive_envoys(api)
        self._read_tables(api)
        self._talk_to_peers()
        self._lead_when_asked(api)
        self._certificates = Certificates(
            api=self._fenced,
            secrets=SECRETS,
            configmaps=CONFIG_MAPS,
            namespace=settings.namespace,
            name=settings.name,
            gateways=settings.gateways,
            leading=self._election.valid,
            trusting=lambda: trusting(settings, self._serving.tables.values()),
            served=self._certified,
            now=lambda: datetime.now(UTC),
        )
        self._bridge = Bridge(
            wake=self._woken,
            serves=api.serves,
            watched=(Watched(POOLS, status=True), Watched(QUOTAS, status=True), Watched(CONFIG_MAPS, POOL_LABEL)),
            namespaces=settings.watch_namespaces,
            kubeconfig=settings.kubeconfig,
        )
        self._told_trust: set[str] = set()

    def _drive_envoys(self, api: Kube) -> None:
        settings = self._settings
        self._observer = Observer(changed=self._observed, now=_now)
        self._upstream = Upstream(
            ca_file=settings.trusted_ca,
            observer=self._observer,
            metrics=self._metrics,
            now=_now,
            issuers=lambda others: ClusterIssuers(api, others=others),
        )
        self._probing = self._upstream.probing
        self._probing.lead(False)
        self._identities = Identities(review=TokenReviews(api, audience=TOKEN_AUDIENCE))
        self._plane = ControlPlane(
            changed=self._proxies_changed,
            meters=self._metrics,
            identify=self._identities.audience,
            opened=lambda audience: self._gateways.open(audience),  # noqa: PLW0108 - they need each other
        )
        self._gateways = Gateways(
            plane=self._plane,
            observing=self._observer,
            settings=partial(gateway_settings, settings),
            moved=self._proxies_changed,
            now=_now,
            interval=settings.publish_interval,
        )
        for gateway in settings.gateways:
            self._gateways.open(Audience(gateway, Placement.POD if settings.pod_directory else Placement.GATEWAY))

    def _read_tables(self, api: Kube) -> None:
        settings = self._settings
        self._secrets = SecretReader(api, interval=settings.secrets_interval, changed=self._secrets_changed)
        tables = ObjectStore(
            api,
            CONFIG_MAPS,
            keep=whole,
            namespaces=settings.watch_namespaces,
            labels=POOL_LABEL,
            resync=settings.resync,
        )
        self._table_key = TableKey(
            api=api,
            secrets=SECRETS,
            namespace=settings.namespace,
            name=settings.name,
            leading=self._election.valid,
            changed=lambda: self._serving.key_changed(),  # noqa: PLW0108 - they need each other
        )
        self._serving = Serving(
            store=tables,
            key=self._table_key,
            pool=partial(api.get, POOLS),
            secrets=self._secrets,
            deliver=self._deliver,
            refused=self._metrics.tables_refused,
        )

    def _talk_to_peers(self) -> None:
        settings = self._settings
        self._peering = Peering(
            observer=self._observer,
            programming=self._gateways.programming,
            probe_soon=self._probing.soon,
            changed=self._progress,
            now=_now,
        )
        replicas = partial(self._identities.admit, kinds={PeerKind.OPERATOR})
        self._quotas = quotas_of(
            settings.redis,
            call=lambda name, data: self._peer_client.call(name, data),  # noqa: PLW0108
            now=_now,
            meters=self._metrics.quotas,
        )
        self._peer_server = PeerServer(
            accept=self._peering.accept, admit=replicas, answer=self._quotas.called, calls=(ASK, SETTLE)
        )
        self._peer_client = PeerClient(
            dial=self._peering.dial, tls=lambda: self._listening.tls, own=self._settings.address or None
        )
        self._accounting = Accounting(
            observer=self._observer,
            probe_soon=self._peering.soon,
            meters=self._metrics,
            settle=self._quotas.settle,
            denied=self._upstream.denied,
        )
        self._ledger = LedgerServer(self._quotas.ask, identify=self._identities.audience, sees=self._gateways.sees)
        self._logs = LogServer(self._accounting, identify=self._identities.audience, sees=self._gateways.sees)

    def _lead_when_asked(self, api: Kube) -> None:
        settings = self._settings
        where, resync = settings.watch_namespaces, settings.resync
        resources = Resources(
            ObjectStore(api, POOLS, keep=read_pool, namespaces=where, resync=resync),
            ObjectStore(api, QUOTAS, keep=read_quota, namespaces=where, resync=resync),
            namespaces=where,
            token_hosts=settings.token_hosts,
        )
        self._events = EventPoster(self._fenced, instance=settings.identity)
        self._leading = Leading(
            resources=resources,
            secrets=self._secrets,
            serving=self._serving,
            writer=lambda taken_changed: Writer(
                api=self._fenced,
                resources=resources,
                serving=self._serving,
                events=self._events,
                waiting=self._metrics.unwritten,
                taken_changed=taken_changed,
                arrived=self._listening.arrived.is_set,
            ),
            credentials=lambda changed: CredentialWriter(
                api=self._fenced,
                resources=resources,
                secrets=self._secrets,
                address=Address(settings.gateway_url, settings.gateway_tls_port),
                changed=changed,
                now=_now,
            ),
            usage=lambda changed: UsageWriter(
                api=self._fenced, quotas=self._quotas, resources=resources, events=self._events, changed=changed
            ),
            discovering=self._upstream.discovering,
            found=self._metrics.found,
            observe=self._observer.overrides,
            programming=self._peering.programming,
            reconciled=self._metrics.reconciled,
            now=_now,
            hold_off=settings.hold_off,
            hold_off_max=settings.hold_off_max,
        )
        self._serving.changed = self._leading.tables_changed

    async def serve(self, stop: Stop) -> None:
        """Start the parts, serve until `stop`, and end them."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._upstream)
            await stack.enter_async_context(pods_log(self._settings.pod_directory, self._accounting))
            served = health(self._settings.http_listen, self._metrics.registry, self._checks())
            await stack.enter_async_context(served)
            loops = (
                self._bridge.run(),
                self._secrets.run(),
                self._table_key.run(),
                self._serving.run(),
                self._gateways.run(),
                *self._upstream.loops(),
                self._events.run(),
                self._certificates.run(),
                self._peer_client.run(),
                self._quotas.run(),
                self._serve_proxies(),
                self._lead(),
                self._follow(),
                self._collect_seldom(),
            )
            tasks = [asyncio.create_task(loop) for loop in loops]
            election = asyncio.create_task(self._election.run())
            try:
                await until(stop.asked, [*tasks, election])
            finally:
                for task in (*tasks, election):
                    task.cancel()
                await asyncio.gather(*tasks, election, return_exceptions=True)
                await self._election.release()

    def _checks(self) -> Checks:
        return Checks(
            healthy={"the watch is alive": self._bridge.alive},
            ready={
                "the CRDs are applied": lambda: not self._bridge.missing,
                "the key of the routing tables is read": lambda: self._table_key.key is not None,
                "the routing tables are read": self._serving.ready.is_set,
                "proxies are served": self._listening.open.is_set,
            },
        )

    async def _serve_proxies(self) -> None:
        """Serve proxies and peers, once an Envoy that comes back from another replica would lose nothing by it."""
        await self._serving.ready.wait()
        await self._upstream.tried()
        await self._gateways.flushed()
        await self._listening.serve(
            in_pod=[service.handler() for service in (self._plane.server, self._ledger)],
            by_tls=[service.handler() for service in (self._plane.server, self._logs, self._ledger, self._peer_server)],
        )

    async def _collect_seldom(self) -> None:
        """Collect no garbage while it starts; once everything is there, keep that out of all collections."""
        with collected_seldom(), suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_START):
                await self._listening.open.wait()
                if self._election.valid():
                    await self._leading.settled.wait()
        await asyncio.Event().wait()

    async def _lead(self) -> None:
        """Lead whenever the Lease is ours, and stop at once when it is not."""
        while True:
            await self._election.leading.wait()
            self._certificates.wake()
            self._table_key.wake()
            self._metrics.leads(True)
            self._peer_server.lead(True)
            self._quotas.lead(True)
            self._share_probing()
            term = asyncio.create_task(self._leading.run())
            try:
                await until(self._election.following, [term])
            finally:
                self._metrics.leads(False)
                self._peer_server.lead(False)
                self._quotas.lead(False)
                self._share_probing()
                term.cancel()
                await asyncio.gather(term, return_exceptions=True)

    async def _follow(self) -> None:
        """Follow whoever holds the Lease."""
        while True:
            self._peer_client.follow(self._election.holder_address or None)
            await asyncio.sleep(_LOOK)

    def _woken(self, wake: Wake) -> None:
        if wake.resource == CONFIG_MAPS:
            self._serving.wake(wake.key)
        else:
            self._leading.wake(wake.resource, wake.key)

    def _deliver(
        self, tables: Mapping[PoolKey, RoutingTable], secrets: Mapping[SecretRef, SecretValue], unknown: Owners
    ) -> None:
        self._metrics.follow(tables.values())
        self._metrics.certificates(expiries(tables.values(), secrets))
        self._observer.follow(tables.values())
        self._peering.tables_changed()
        self._quotas.follow(tables)
        self._upstream.follow(tables.values(), secrets)
        self._gateways.want(tables, secrets, unknown)
        if (trusted := trusting(self._settings, tables.values())) != self._told_trust:
            self._told_trust = trusted
            self._certificates.wake()

    def _observed(self) -> None:
        observed = self._observer.overrides(_now())
        self._metrics.observed(observed)
        self._quotas.observed(observed)
        self._gateways.observed()
        self._peering.hosts_changed()
        self._leading.observations_changed()

    def _proxies_changed(self) -> None:
        self._peering.proxies_changed()
        self._leading.observations_changed()

    def _progress(self) -> None:
        self._share_probing()
        self._leading.observations_changed()

    def _share_probing(self) -> None:
        """Probe, unless a leader does it for us: while the API server is away nobody leads."""
        self._probing.lead(self._election.valid() or not self._peering.linked)

    def _secrets_changed(self) -> None:
        self._serving.secrets_changed()
        self._leading.secrets_changed()

    def _certified(self, pair: KeyPair, trusted: tuple[Certificate, ...]) -> None:
        self._metrics.certified(self._listening.certified(pair, trusted))


_LONGEST_START = 60.0
"""Seconds after which garbage is collected even if it has not started yet."""
_LOOK = 0.5
"""Seconds between two looks at who leads."""

_now = SteadyClock()
