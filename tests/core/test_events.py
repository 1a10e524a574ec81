"""Events: a transition is told once, and daily work is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from aoai_operator.core.api import AOAIBackendPoolStatus, Condition, EndpointStatus, read_status
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.events import Event, pool_events, quota_events
from aoai_operator.core.observed import State
from aoai_operator.core.world import World
from support.strategies import worlds

TIME = "2026-11-23T00:00:00Z"


def condition(kind: str, status: Any, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=TIME)


def pool(*conditions: Condition, **endpoints: tuple[State, str]) -> AOAIBackendPoolStatus:
    listed = (EndpointStatus(name=n, deployment="gpt", state=s, reason=r) for n, (s, r) in endpoints.items())
    return AOAIBackendPoolStatus(conditions=conditions, endpoints=tuple(listed))


def between(before: AOAIBackendPoolStatus | None, after: AOAIBackendPoolStatus) -> list[Event]:
    return list(pool_events(before, after))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(worlds())
def test_a_new_leader_tells_nothing_of_what_it_finds(world: World) -> None:
    compiled = compile_world(world)
    for status in compiled.pool_statuses.values():
        found = read_status(AOAIBackendPoolStatus, status.model_dump(mode="json", by_alias=True, exclude_none=True))
        assert between(found, status) == []
    for quota in compiled.quota_statuses.values():
        assert list(quota_events(quota, quota)) == []


def test_a_fault_is_told_with_its_reason_and_message_and_so_is_its_end() -> None:
    well = pool(condition("ResolvedRefs", "True", "ResolvedRefs"))
    sick = pool(condition("ResolvedRefs", "False", "SecretNotFound", "spec.x: there is no Secret."))
    assert between(well, sick) == [Event("Warning", "SecretNotFound", "spec.x: there is no Secret.")]
    assert [(e.type, e.reason) for e in between(sick, well)] == [("Normal", "ResolvedRefs")]


def test_a_fault_of_the_first_look_is_told() -> None:
    assert [e.reason for e in between(None, pool(condition("Accepted", "False", "NoDeployment", "why")))] == [
        "NoDeployment"
    ]


def test_other_words_for_the_same_are_none() -> None:
    """Such as how many Envoys have it: they come and go all day."""
    before, after = (pool(condition("Programmed", "True", "Programmed", f"{n} Envoys have it.")) for n in (2, 3))
    assert between(before, after) == []


def test_ready_does_not_repeat_what_it_lacks() -> None:
    well = pool(condition("Accepted", "True", "Accepted"), condition("Ready", "True", "Ready"))
    sick = pool(*(condition(kind, "False", "NoDeployment", "why") for kind in ("Accepted", "Ready", "Stalled")))
    assert between(well, sick) == [Event("Warning", "NoDeployment", "why")]


@pytest.mark.parametrize("reason", ["Pending", "NoProxies"])
def test_what_is_on_its_way_is_none(reason: str) -> None:
    on_its_way = pool(condition("Programmed", "Unknown", reason), condition("Ready", "Unknown", reason))
    ready = pool(condition("Programmed", "True", "Programmed"), condition("Ready", "True", "Ready"))
    assert between(ready, on_its_way) == []


def test_an_endpoint_that_falls_out_and_comes_back_is_told() -> None:
    well, sick = pool(east=(State.HEALTHY, "Ok")), pool(east=(State.UNHEALTHY, "Connect"))
    assert between(well, sick) == [Event("Warning", "EndpointUnhealthy", "east/gpt is out: Connect.")]
    assert between(sick, well) == [Event("Normal", "EndpointRecovered", "east/gpt serves again.")]
    assert between(sick, sick) == []
    other = pool(east=(State.UNHEALTHY, "Auth"))
    assert between(sick, other) == [Event("Warning", "EndpointUnhealthy", "east/gpt is out: Auth.")]


@pytest.mark.parametrize("state", [State.THROTTLED, State.DRAINING, State.UNKNOWN])
def test_daily_work_of_an_endpoint_is_none(state: State) -> None:
    well, away = pool(east=(State.HEALTHY, "Ok")), pool(east=(state, "RetryAfter"))
    assert between(well, away) == between(away, well) == []
