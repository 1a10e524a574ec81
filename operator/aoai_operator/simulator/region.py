"""One region's behaviour, without a network: requests in, replies out, time passed in (seconds, monotonic)."""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from aoai_operator.simulator import errors
from aoai_operator.simulator.accounting import Counts, Incoming, RequestLog, RequestRecord
from aoai_operator.simulator.answers import Facts
from aoai_operator.simulator.entra import EntraState
from aoai_operator.simulator.faults import (
    ActiveFault,
    BadHeaders,
    Blackhole,
    CutStream,
    Fault,
    Garbage,
    RequestFault,
    Reset,
    Slow,
    Stall,
    Status,
    Throttle,
)
from aoai_operator.simulator.generation import Usage, generate
from aoai_operator.simulator.headers import MAX_CUSTOM_HEADERS, answer_headers, count_custom, spoil
from aoai_operator.simulator.limits import Limit, Refusal, Work, limit_of
from aoai_operator.simulator.model import Deployment, Region
from aoai_operator.simulator.others import embeddings_body, images_body, models_body
from aoai_operator.simulator.prompt import PromptCache, read_prompt
from aoai_operator.simulator.routes import (
    KIND_OF,
    OPERATION_IDS,
    Route,
    operation_word,
    parse_route,
    takes_stream_options,
)

_EPOCH = 1_700_000_000
_F = TypeVar("_F", bound=RequestFault)


@dataclass(slots=True)
class Reply:
    """What to send, and how: the edge carries it out.

    ``events`` is None for a plain body. ``delay`` is waited before the first byte, ``event_delay`` after each event
    (seconds). ``wire`` is a fault that replaces the answer, ``ending`` one that spoils the end of a stream.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    events: list[bytes] | None = None
    delay: float = 0.0
    event_delay: float = 0.0
    wire: Reset | Blackhole | None = None
    ending: CutStream | Stall | None = None
    record: RequestRecord | None = None
    usage: Usage | None = None
    estimate: Work | None = None


@dataclass(slots=True)
class DeploymentState:
    """A deployment at run time."""

    settings: Deployment
    limit: Limit
    counts: Counts = field(default_factory=Counts)
    cache: PromptCache = field(default_factory=PromptCache)


@dataclass(slots=True)
class _Call:
    """A request as far as it could be understood; ``problem`` is why it went no further."""

    route: Route | None = None
    target: DeploymentState | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    problem: errors.AzureError | None = None


class RegionState:
    """Keys, deployments, limits, faults, counts and log of one region."""

    def __init__(self, settings: Region, now: float) -> None:
        self.settings = settings
        self.keys: tuple[str, ...] = settings.accepted_keys
        self.entra: EntraState | None = None
        """The directory whose tokens open it besides the keys."""
        self.counts = Counts()
        self.log = RequestLog(size=settings.log_size, body_bytes=settings.log_body_bytes)
        self.faults: list[ActiveFault] = []
        self.deployments: dict[str, DeploymentState] = {}
        self._origin = now
        self._ids = itertools.count(1)
        for deployment in settings.deployments:
            self.deploy(deployment)

    def deploy(self, deployment: Deployment) -> None:
        """Add a deployment, or replace the one of that name: its counts stay, its limits start anew."""
        limit = limit_of(deployment, minute_seconds=self.settings.minute_seconds, origin=self._origin)
        known = self.deployments.get(deployment.name)
        counts = known.counts if known else Counts()
        self.deployments[deployment.name] = DeploymentState(deployment, limit, counts)

    def adjust(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change settings of a deployment. Raises KeyError for an unknown one, TypeError for an unknown setting."""
        self.deploy(replace(self.deployments[name].settings, **changes))

    def undeploy(self, name: str) -> None:
        """Remove a deployment: from now on it answers DeploymentNotFound."""
        del self.deployments[name]

    def reset_counts(self) -> None:
        """Start the counts and the log afresh. Limits keep their state."""
        self.counts = Counts()
        for state in self.deployments.values():
            state.counts = Counts()
        self.log.clear()

    def inject(self, fault: Fault) -> None:
        """Add a fault; one of the same kind and deployment is replaced."""
        place = (fault.kind, _scope(fault))
        self.faults = [a for a in self.faults if (a.fault.kind, _scope(a.fault)) != place]
        self.faults.append(ActiveFault(fault))

    def heal(self, *, kind: str | None = None, deployment: str | None = None) -> None:
        """Remove the faults of this kind and this deployment; None stands for any."""
        self.faults = [
            active
            for active in self.faults
            if kind not in {None, active.fault.kind} or deployment not in {None, _scope(active.fault)}
        ]

    def receive(self, seen: Incoming, now: float) -> Reply:
        """Take a request and decide on its answer."""
        record = self.log.add(self.settings.name, seen, now)
        self.counts.attempts += 1
        record.auth, record.key_index = self._credential(seen)
        if record.auth == "bearer" and record.key_index is None and self.entra is not None:
            principal = self.entra.principal(_bearer(seen))
            record.auth, record.principal = "entra", principal.client_id if principal else ""
        call = self._understand(seen)
        if call.route is not None:
            record.operation = call.route.operation
        if call.target is not None:
            record.deployment = call.target.settings.name
            call.target.counts.attempts += 1
        struck = [f.fault for f in self.faults if f.strikes(record.deployment)] if self.faults else []
        wire = _first(struck, Reset) or _first(struck, Blackhole)
        if wire is not None:
            return Reply(0, {}, wire=wire, record=record)
        try:
            reply = self._answer(seen, call, record, struck, now)
        except errors.AzureError as error:
            reply = Reply(error.status, error.headers, error.body)
        reply.record = record
        return self._dress(reply, seen, call, struck, now)

    def finished(self, reply: Reply, now: float) -> None:
        """The reply has been written to its end."""
        record = reply.record
        if record is None:
            return
        record.completed = True
        target = self.deployments.get(record.deployment)
        for counts in (self.counts, target.counts) if target else (self.counts,):
            if reply.status < 300:
                counts.served += 1
            if reply.usage is not None:
                counts.prompt_tokens += reply.usage.prompt
                counts.completion_tokens += reply.usage.completion
        if target and reply.usage is not None and reply.estimate is not None:
            target.limit.settle(reply.estimate, reply.usage.work, now)

    def abandoned(self, reply: Reply) -> None:
        """The reply did not reach its end: the client left, or a fault cut it."""
        target = self.deployments.get(reply.record.deployment) if reply.record else None
        for counts in (self.counts, target.counts) if target else (self.counts,):
            counts.abandoned += 1

    def _credential(self, seen: Incoming) -> tuple[str, int | None]:
        """How the request authenticates, and with which key."""
        kind, given = "api-key", seen.header("api-key")
        if given is None:
            scheme, _, given = (seen.header("authorization") or "").partition(" ")
            if scheme.lower() != "bearer":
                return "none", None
            kind = "bearer"
        for index, key in enumerate(self.keys):
            if hmac.compare_digest(key.encode(), given.encode()):
                return kind, index
        return kind, None

    def _understand(self, seen: Incoming) -> _Call:
        """Find route, body and deployment. Nothing is refused yet: faults and credentials come first."""
        route = parse_route(seen.method, seen.path, seen.query)
        if route is None:
            return _Call(problem=errors.resource_not_found())
        if route.operation == "models":
            return _Call(route)
        call = _Call(route)
        call.target = self.deployments.get(route.deployment)
        if route.deployment and call.target is None:
            call.problem = errors.deployment_not_found()
            return call
        try:
            body = json.loads(seen.body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            call.problem = errors.malformed_json()
            return call
        call.body = body
        if call.target is None:
            name = body.get("model")
            call.target = self.deployments.get(name) if isinstance(name, str) else None
            if call.target is None:
                missing = errors.bad_request("Missing required parameter: 'model'.", param="model")
                call.problem = errors.deployment_not_found() if isinstance(name, str) and name else missing
        return call

    def _answer(self, seen: Incoming, call: _Call, record: RequestRecord, struck: Sequence[Fault], now: float) -> Reply:
        """The steps of a request, in order. Each refuses by raising ``AzureError``."""
        names = (name for name, _ in seen.headers)
        if count_custom(names, sdk=self.settings.count_sdk_headers) > MAX_CUSTOM_HEADERS:
            raise errors.too_many_headers()
        self._force(call, struck)
        if record.key_index is None:
            self._admit(record, seen)
        if call.problem is not None:
            raise call.problem
        route = call.route
        if route is None or call.target is None:
            served = [state.settings for state in self.deployments.values()]
            return Reply(200, _JSON.copy(), models_body(served, route.model if route else ""))
        settings = call.target.settings
        if KIND_OF[route.operation] != settings.kind:
            raise errors.operation_not_supported(operation_word(route.operation), settings.model)
        return self._generate(route, call.target, call.body, record, now)

    def _admit(self, record: RequestRecord, seen: Incoming) -> None:
        """Let in who shows a token of somebody with the role; by a key nobody is here."""
        if record.auth != "entra" or self.entra is None:
            raise errors.access_denied()
        application = self.entra.applications.get(record.principal)
        if application is None:
            raise errors.token_refused()
        if not application.openai_user:
            raise errors.permission_denied(application.client_id, f"{seen.method} {seen.path}")

    def _generate(
        self, route: Route, target: DeploymentState, body: Mapping[str, Any], record: RequestRecord, now: float
    ) -> Reply:
        settings = target.settings
        if "stream_options" in body and not takes_stream_options(route.api_version):
            raise errors.bad_request("Unrecognized request argument supplied: stream_options")
        prompt = read_prompt(route.operation, body)
        cached = target.cache.lookup(prompt, str(body.get("prompt_cache_key", "")))
        estimate = prompt.estimate(settings)
        charged = replace(estimate, prompt=estimate.prompt - cached) if settings.provisioned else estimate
        refusal = target.limit.admit(charged, now)
        if refusal is not None:
            raise self._refused(refusal, route, settings)
        record.admitted_tokens = estimate.prompt + estimate.output
        for counts in (self.counts, target.counts):
            counts.admit(record.admitted_tokens, now)
        if "content_filter" in prompt.markers:
            raise errors.content_filter()
        if prompt.tokens + (prompt.max_tokens or 0) > settings.context_tokens:
            raise errors.context_length(settings.context_tokens, prompt.tokens + (prompt.max_tokens or 0))
        created = _EPOCH + int(now - self._origin)
        if settings.kind == "embeddings":
            usage = Usage(prompt.tokens, 0)
            return Reply(200, _JSON.copy(), embeddings_body(prompt, body, settings), usage=usage, estimate=charged)
        if settings.kind == "images":
            return Reply(200, _JSON.copy(), images_body(body, created), estimate=charged)
        generation = generate(prompt, body, settings, cached=cached)
        record.stream = body.get("stream") is True
        facts = Facts(settings.model, f"{next(self._ids):024x}", created)
        reply = Reply(200, {}, usage=generation.usage, estimate=charged, delay=self.settings.latency.first_token)
        per_token = self.settings.latency.per_token
        if record.stream:
            options = body.get("stream_options")
            include_usage = isinstance(options, dict) and options.get("include_usage") is True
            reply.events = facts.events(route.operation, generation, include_usage=include_usage)
            reply.event_delay = per_token
            reply.headers["content-type"] = "text/event-stream; charset=utf-8"
        else:
            reply.body = facts.body(route.operation, generation)
            reply.delay += per_token * generation.usage.completion
            reply.headers.update(_JSON)
        return reply

    def _force(self, call: _Call, struck: Sequence[Fault]) -> None:
        """Raise the error that a fault puts in place of the answer."""
        status = _first(struck, Status)
        if status is not None:
            raise errors.forced(status.status)
        throttle = _first(struck, Throttle)
        if throttle is None:
            return
        wait = throttle.retry_after or (throttle.retry_after_ms or 0) / 1000
        if throttle.reason == "capacity" or call.route is None or call.target is None:
            error = errors.high_demand()
        else:
            error = self._quota_error(throttle.reason, call.route, call.target.settings, f"{wait:g}")
        given = {"retry-after-ms": throttle.retry_after_ms, "retry-after": throttle.retry_after}
        error.headers.update({name: str(value) for name, value in given.items() if value is not None})
        raise error

    def _refused(self, refusal: Refusal, route: Route, settings: Deployment) -> errors.AzureError:
        headers = errors.retry_headers(refusal.wait)
        if refusal.limit == "utilization":
            error = errors.provisioned_busy()
        else:
            error = self._quota_error(refusal.limit, route, settings, headers["retry-after"])
        error.headers.update(headers)
        return error

    def _quota_error(self, limit: Any, route: Route, settings: Deployment, wait: str) -> errors.AzureError:
        return errors.rate_limited(
            limit,
            operation_id=OPERATION_IDS.get(route.operation, route.operation),
            api_version=route.api_version,
            deployment=settings.name,
            model=settings.model,
            region=self.settings.display_name,
            wait=wait,
        )

    def _dress(self, reply: Reply, seen: Incoming, call: _Call, struck: Sequence[Fault], now: float) -> Reply:
        """Add the headers, count the status, and let the faults that touch an answer do so."""
        target = call.target
        if reply.body and "content-type" not in reply.headers:
            reply.headers.update(_JSON)
        reply.headers.update(
            answer_headers(
                region=self.settings.display_name,
                deployment=target.settings.name if target else "",
                request_id=f"00000000-0000-4000-8000-{next(self._ids):012x}",
                api_version=call.route.api_version if call.route else "",
                took_ms=int(reply.delay * 1000),
            )
        )
        client_id = seen.header("x-ms-client-request-id")
        if client_id is not None:
            reply.headers["x-ms-client-request-id"] = client_id
        if target is not None and reply.status not in {401, 431}:
            reply.headers.update(target.limit.headers(now, refused=reply.status == 429))
        for counts in (self.counts, target.counts) if target else (self.counts,):
            counts.answered(reply.status)
        if reply.record is not None:
            reply.record.status = reply.status
        if struck:
            _spoil(reply, struck)
        return reply


_JSON = {"content-type": "application/json"}


def _first(struck: Sequence[Fault], kind: type[_F]) -> _F | None:
    return next((fault for fault in struck if isinstance(fault, kind)), None)


def _bearer(seen: Incoming) -> str:
    return (seen.header("authorization") or "").partition(" ")[2]


def _scope(fault: Fault) -> str | None:
    return getattr(fault, "deployment", None)


def _spoil(reply: Reply, struck: Sequence[Fault]) -> None:
    for fault in struck:
        if isinstance(fault, Slow):
            reply.delay += fault.seconds
            reply.event_delay += fault.between_events
        elif isinstance(fault, BadHeaders):
            spoil(reply.headers, fault)
        elif isinstance(fault, CutStream | Stall) and reply.events is not None:
            reply.ending = fault
        elif isinstance(fault, Garbage) and reply.status == 200:
            reply.body = reply.body[: len(reply.body) // 2] + b"\x00{]"
            reply.events = None if reply.events is None else [b"data: {]garbage\n\n" for _ in reply.events]
