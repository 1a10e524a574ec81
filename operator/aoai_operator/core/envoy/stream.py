"""One proxy's aggregated stream: which response goes out next, over all resource types."""

from __future__ import annotations

from collections.abc import Collection

from aoai_operator.core.envoy.delta import (
    REMOVAL_ORDER,
    WILDCARD_TYPES,
    Acked,
    Outcome,
    Request,
    Response,
    Subscription,
)
from aoai_operator.core.envoy.packed import WILDCARD, PackedSnapshot, Reference
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.envoy.warming import Warming

_REFER_TO_CLUSTERS = frozenset({TypeUrl.LISTENER, TypeUrl.SCOPE, TypeUrl.ROUTE})
_FIRST_TYPES = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER})
"""What a proxy asks for at its start, whatever it is told."""


class DeltaStream:
    """Make before break: what is referred to is sent, and warm, before what refers to it; removals come last.

    At most one response per type is under way, so a slow proxy gets the latest state and not every state between,
    and a NACK has one possible cause.
    """

    def __init__(self) -> None:
        self._subscriptions: dict[TypeUrl, Subscription] = {}
        self._warming = {url: Warming() for url in WILDCARD_TYPES}
        self._nonces = 0
        self._impatient = False
        self._unrepeated: set[str] = set()
        self.holding_back = False
        """Whether routes or listeners wait until the proxy has warmed the clusters."""

    def receive(self, request: Request) -> list[Outcome]:
        """Take a request; return what it tells about the versions that the proxy holds or refuses."""
        subscription = self._subscriptions.get(request.type_url)
        if subscription is not None:
            outcomes = subscription.answered(request)
            subscription.change(request)
            for outcome in outcomes:
                self._doubt_warmth(request.type_url, outcome.versions)
            self._doubt_warmth(request.type_url, request.unsubscribe)
            return outcomes
        legacy_wildcard = request.type_url in WILDCARD_TYPES and not request.subscribe
        subscription = Subscription(wildcard=legacy_wildcard, held=request.initial_versions)
        subscription.change(request)
        self._subscriptions[request.type_url] = subscription
        if request.type_url is TypeUrl.ENDPOINT:
            subscription.repeat(self._unrepeated)
            self._unrepeated.clear()
        return [Acked(request.type_url, request.initial_versions)] if request.initial_versions else []

    def next_response(self, snapshot: PackedSnapshot) -> Response | None:
        """Return the next response to send on the way to `snapshot`; None when there is nothing to send now."""
        for subscription in self._subscriptions.values():
            subscription.leave(snapshot.unknown)
        return self._next_update(snapshot) or self._next_removal(snapshot)

    def stop_waiting(self) -> None:
        """Send what is held back, although some clusters are not warm: the proxy seems not to want them."""
        self._impatient = True

    def settled(self, snapshot: PackedSnapshot) -> bool:
        """Tell whether the proxy has accepted all of `snapshot` that it wants."""
        subscriptions = self._subscriptions
        return (
            subscriptions.keys() >= _FIRST_TYPES
            and not any(s.in_flight or s.refuses() for s in subscriptions.values())
            and all(self._is_warm(url, snapshot) for url in WILDCARD_TYPES & subscriptions.keys())
            and not any(self._lags(url, snapshot) for url in subscriptions)
        )

    def _lags(self, url: TypeUrl, snapshot: PackedSnapshot) -> bool:
        subscription, current = self._subscriptions[url], snapshot.resources.get(url, {})
        return subscription.has_update(current) or bool(subscription.removals(current))

    def _next_update(self, snapshot: PackedSnapshot) -> Response | None:
        self.holding_back = False
        for url in TypeUrl:
            subscription = self._subscriptions.get(url)
            if subscription is None or subscription.in_flight:
                continue
            current = snapshot.resources.get(url, {})
            if not subscription.has_update(current):
                continue
            if url in _REFER_TO_CLUSTERS and not self._clusters_ready(snapshot):
                self.holding_back = True
                return None
            update = subscription.next_update(current)
            if update is None:
                continue
            return self._send(url, subscription, Response(url, self._nonce(), tuple(update[0]), tuple(update[1])))
        return None

    def _clusters_ready(self, snapshot: PackedSnapshot) -> bool:
        if self._impatient:
            return True
        subscription = self._subscriptions.get(TypeUrl.CLUSTER)
        return subscription is None or (not subscription.in_flight and self._is_warm(TypeUrl.CLUSTER, snapshot))

    def _is_warm(self, url: TypeUrl, snapshot: PackedSnapshot) -> bool:
        """Tell whether the proxy was answered all that its accepted resources of a type made it ask for."""
        current = snapshot.resources.get(url, {})
        return self._warming[url].done(current, self._subscriptions[url], self._was_answered)

    def _doubt_warmth(self, url: TypeUrl, names: Collection[str]) -> None:
        """Look again at the warmth of these, and of what refers to them: they were sent, answered or dropped."""
        for own, warming in self._warming.items():
            if WILDCARD in names:
                warming.doubt_all()
            elif own is url:
                warming.doubt(names)
            warming.doubt_referring(url, names)

    def _was_answered(self, reference: Reference) -> bool:
        subscription = self._subscriptions.get(reference.type_url)
        if subscription is None:
            return False
        if reference.name == WILDCARD:
            return True
        if reference.name not in subscription.held:
            return False
        response = subscription.in_flight
        return response is None or reference.name not in response.versions

    def _next_removal(self, snapshot: PackedSnapshot) -> Response | None:
        """Remove only when all else is settled; keep what a refused resource's predecessor may still refer to."""
        if self.holding_back or any(s.in_flight for s in self._subscriptions.values()):
            return None
        for url in REMOVAL_ORDER:
            subscription = self._subscriptions.get(url)
            if subscription is None:
                continue
            if names := subscription.removals(snapshot.resources.get(url, {})):
                return self._send(url, subscription, Response(url, self._nonce(), (), tuple(names)))
            if subscription.refuses():
                return None
        return None

    def _send(self, url: TypeUrl, subscription: Subscription, response: Response) -> Response:
        self._impatient = self._impatient and url in _REFER_TO_CLUSTERS
        subscription.sent(response)
        self._doubt_warmth(url, response.versions)
        if url is TypeUrl.CLUSTER:
            self._repeat_endpoints(response)
        return response

    def _repeat_endpoints(self, response: Response) -> None:
        """An updated cluster warms until it hears of its endpoints, but Envoy does not ask for them again.

        Source: Envoy, "xDS REST and gRPC protocol", "Resource warming". Without this it waits for 15 seconds. A proxy
        that connects again asks for its clusters first, and says only then which endpoints it has.
        """
        names = {name for r in response.resources for url, name in r.references if url is TypeUrl.ENDPOINT}
        if (subscription := self._subscriptions.get(TypeUrl.ENDPOINT)) is not None:
            subscription.repeat(names)
        else:
            self._unrepeated |= names

    def _nonce(self) -> str:
        self._nonces += 1
        return str(self._nonces)
