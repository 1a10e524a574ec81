"""The operator's metrics."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import cast

from aoai_operator.core.accesslog import Attempt
from aoai_operator.core.api import AOAIBackendPool
from aoai_operator.core.discovered import FoundDeployment, Retirement
from aoai_operator.core.discovery import Expansion, Member
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Grant, HostState, Overrides, Reason, State
from aoai_operator.core.proxies import Proxy
from aoai_operator.core.quota.asking import Question
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.estimate import Request
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.policy import Settled
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Tenant
from aoai_operator.metrics import MOST_TENANTS, Metrics
from support.answers import ANSWER
from support.tables import endpoint, endpoint_key, host_key, routing_table

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
TABLE = routing_table(endpoint("east"), endpoint("west"))
ROUTE = {"pool": "ai/chat", "model": "gpt", "endpoint": "east", "region": "east"}


TEAM = PoolKey("ai", "team")
QUESTION = Question(TEAM, TABLE.key, "gpt", "r", Request(100), {}, {}, ())
SETTLED = Settled(TEAM, TABLE.key, "gpt", 30, {Unit.TOKENS: 18, Unit.COST: 250_000}, "USD")


def tenants(*names: str) -> tuple[Tenant, ...]:
    return tuple(Tenant(namespace="ai", name=name, models=(), api_keys=()) for name in names)


def metrics(*names: str) -> Metrics:
    meters = Metrics()
    meters.follow([TABLE.model_copy(update={"tenants": tenants(*names)})])
    return meters


def failed(**changes: object) -> Attempt:
    fields = {
        "pool": "ai/chat",
        "model": "gpt",
        "endpoint": "east",
        "deployment": "gpt",
        "region": "east",
        "status": 429,
        "flags": "",
        "retry_after_ms": 1_000,
        **changes,
    }
    return Attempt(**fields)  # type: ignore[arg-type]


def value(meters: Metrics, name: str, **labels: str) -> float:
    return meters.registry.get_sample_value(name, labels) or 0


def series(meters: Metrics) -> int:
    return sum(len(metric.samples) for metric in meters.registry.collect())


def test_an_answer_counts_as_request_tokens_and_times() -> None:
    meters = metrics("team")
    meters.answer(ANSWER)
    request = {"tenant": "ai/team", **ROUTE, "operation": "chat/completions", "code": "200"}
    assert value(meters, "aoai_requests_total", **request) == 1
    kinds = {"prompt": 10, "completion": 5, "cached": 4, "reasoning": 2}
    for kind, tokens in kinds.items():
        assert value(meters, "aoai_tokens_total", tenant="ai/team", **ROUTE, kind=kind) == tokens
    group = {"pool": "ai/chat", "model": "gpt", "stream": ""}
    assert value(meters, "aoai_request_duration_seconds_sum", **group) == 1.5
    assert value(meters, "aoai_time_to_first_byte_seconds_sum", **group) == 0.3


def test_an_answer_of_the_gateway_itself_has_no_endpoint_and_no_tokens() -> None:
    meters = metrics()
    meters.answer(
        ANSWER._replace(tenant="", model="", endpoint="", region="", status=401, usage=None, first_byte_ms=None)
    )
    labels = {"tenant": "", "pool": "ai/chat", "model": "", "endpoint": "", "region": ""}
    assert value(meters, "aoai_requests_total", **labels, operation="chat/completions", code="401") == 1
    assert meters.registry.get_sample_value("aoai_time_to_first_byte_seconds_count", {"pool": "ai/chat"}) is None


def test_a_failed_attempt_counts_by_code_and_reason_and_a_429_as_a_throttle() -> None:
    meters = metrics()
    meters.attempt(failed())
    meters.attempt(failed(status=0, flags="UF"))
    assert value(meters, "aoai_failed_attempts_total", **ROUTE, code="429", reason="") == 1
    assert value(meters, "aoai_failed_attempts_total", **ROUTE, code="0", reason="UF") == 1
    assert value(meters, "aoai_throttles_total", **ROUTE, deployment="gpt") == 1


def test_a_quota_counts_how_it_let_in_and_why_it_refused() -> None:
    meters = metrics("team")
    refused = ("no:budgets:gpt", "unasked:budgets:gpt", "no:nonsense:other")
    for quota in ("7:0:0:0:100", "7:1:20:0:100", "7:2:20:0:100", "owed", *refused):
        meters.answer(ANSWER._replace(quota=quota))
    meters.quotas.settled(SETTLED)
    whose = {"tenant": "ai/team", "pool": "ai/chat", "model": "gpt"}
    admitted = {by: value(meters, "aoai_quota_admitted_total", **whose, by=by) for by in ("ledger", "lease", "owed")}
    assert admitted == {"ledger": 1, "lease": 2, "owed": 1}
    assert value(meters, "aoai_quota_refused_total", **whose, limit="budgets") == 2
    assert value(meters, "aoai_quota_refused_total", **{**whose, "model": "other"}, limit="other") == 1
    assert value(meters, "aoai_quota_reserved_tokens_total", **whose) == 30
    assert value(meters, "aoai_quota_settled_tokens_total", **whose) == 18
    assert value(meters, "aoai_quota_cost_total", **whose, currency="USD") == 0.25


def test_series_stay_bounded_whatever_is_asked() -> None:
    names = [f"t{i}" for i in range(10_000)]
    meters = metrics(*names)
    chance = random.Random(7)

    def ask(many: int) -> None:
        for _ in range(many):
            word = str(chance.random())
            meters.answer(ANSWER._replace(tenant=f"ai/{chance.choice(names)}", usage=None))
            meters.answer(
                ANSWER._replace(tenant=word, model=word, pool=word, endpoint=word, status=chance.randrange(10**6))
            )
            meters.attempt(failed(pool=word, model=word, endpoint=word, deployment=word))

    ask(10_000)
    before = series(meters)
    ask(1_000)
    assert before < 3 * MOST_TENANTS
    assert series(meters) - before < 100


def test_the_states_of_present_hosts_are_shown() -> None:
    meters = metrics()
    both = {host_key("east"): HostState(State.THROTTLED), host_key("west"): HostState(State.HEALTHY)}
    meters.observed(Overrides(hosts=both))
    meters.observed(Overrides(hosts={host_key("east"): HostState(State.HEALTHY)}))
    shown = {
        tuple(sample.labels.values()): sample.value
        for metric in meters.registry.collect()
        if metric.name == "aoai_endpoint_state"
        for sample in metric.samples
    }
    assert {labels for labels, on in shown.items() if on} == {("ai/chat", "east", "gpt", "Healthy")}
    assert len(shown) == len(State)


def test_probes_restarts_and_the_build_are_shown() -> None:
    meters = metrics()
    meters.probed(endpoint_key("east"), Reason.TLS)
    meters.envoy_restarted()
    assert value(meters, "aoai_probes_total", pool="ai/chat", endpoint="east", reason="Tls") == 1
    assert value(meters, "aoai_envoy_restarts_total") == 1
    assert [m.name for m in meters.registry.collect() if m.name == "aoai_build_info"] == ["aoai_build_info"]


def test_when_a_token_is_over_and_how_often_entra_was_asked_are_shown() -> None:
    meters = metrics()
    token = SecretValue("canary")
    grants = {
        endpoint_key("east"): Grant(token, 1_780_000_000_500, good=True),
        endpoint_key("west"): Grant(fault="AADSTS90033"),
    }
    meters.observed(Overrides(grants=grants))
    meters.token_asked(granted=True)
    meters.token_asked(granted=False)
    meters.azure_read(complete=True)
    meters.azure_read(complete=False)
    assert value(meters, "aoai_token_expires_seconds", pool="ai/chat", endpoint="east") == 1_780_000_000.5
    assert value(meters, "aoai_token_expires_seconds", pool="ai/chat", endpoint="west") == 0
    assert value(meters, "aoai_token_requests_total", result="granted") == 1
    assert value(meters, "aoai_token_requests_total", result="refused") == 1
    assert value(meters, "aoai_discovery_readings_total", result="complete") == 1
    assert value(meters, "aoai_discovery_readings_total", result="partial") == 1


def test_series_at_hand_follow_the_tables() -> None:
    meters = metrics("team")
    meters.answer(ANSWER)
    meters.follow([routing_table(endpoint("west"))])
    meters.answer(ANSWER)
    gone = {"tenant": "ai/team", "pool": "ai/chat", "model": "gpt", "endpoint": "other", "region": "other"}
    assert value(meters, "aoai_requests_total", **gone, operation="chat/completions", code="200") == 1


def test_the_page_names_every_metric_with_its_type_and_labels() -> None:
    meters, proxy = metrics("team"), Proxy("n", "g")
    meters.answer(ANSWER._replace(quota="7:1:20:0:100"))
    meters.answer(ANSWER._replace(quota="no:tokensPerMinute:gpt", model="", status=429))
    meters.quotas.shadowed(QUESTION, Refused("tokensPerMinute", "", 1_000))
    meters.quotas.settled(SETTLED)
    meters.attempt(failed())
    meters.probed(endpoint_key("east"), Reason.OK)
    grants = {endpoint_key("east"): Grant(SecretValue("token"), 1_780_000_000_000, good=True)}
    meters.observed(Overrides(hosts={host_key("east"): HostState()}, grants=grants))
    meters.token_asked(granted=True)
    meters.azure_read(complete=True)
    member = Member("gpt", "east/gpt", FoundDeployment("gpt", "gpt"), Retirement("gpt", "1", 1_780_000_000_000))
    meters.found({TABLE.key: Expansion(cast(AOAIBackendPool, None), members=(member,))})
    meters.connected(proxy)
    meters.acked(proxy, TypeUrl.CLUSTER, {})
    meters.called(verb="get", resource="secrets", result="200", seconds=0.01)
    meters.certificates({TABLE.key: 1_780_000_000_000})
    rows = re.findall(r"^\| `(aoai_\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    shown = {}
    for metric in meters.registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        shown[name] = (metric.type, {label for sample in metric.samples for label in sample.labels} - {"le"})
    assert told == shown
    assert len(rows) == len(told)


def test_only_pools_with_a_certificate_show_when_it_ends() -> None:
    meters, other = Metrics(), PoolKey("ns", "other")

    def shown(key: PoolKey) -> float | None:
        return meters.registry.get_sample_value("aoai_certificate_expires_seconds", {"pool": str(key)})

    meters.certificates({TABLE.key: 2000, other: 3000})
    assert (shown(TABLE.key), shown(other)) == (2, 3)
    meters.certificates({TABLE.key: 4000})
    assert (shown(TABLE.key), shown(other)) == (4, None)
    meters.certificates({})
    meters.certificates({other: 5000})
    assert (shown(TABLE.key), shown(other)) == (None, 5)
