"""Statuses: what is written is read again, whole, and every tool of GitOps understands it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.core.api import AOAIBackendPoolStatus, FieldFault, TenantQuotaStatus, read_status
from aoai_operator.core.api.schema import structural
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.names import PoolKey
from aoai_operator.core.status import invalid_pool_status, invalid_quota_status
from aoai_operator.core.world import World
from support import resources
from support.kstatus import Verdict, verdict
from support.strategies import worlds

Json = dict[str, Any]
Status = AOAIBackendPoolStatus | TenantQuotaStatus
S = TypeVar("S", AOAIBackendPoolStatus, TenantQuotaStatus)
NOW = 1_780_000_000_000
LATER = NOW + 3_600_000
FAULTS = (FieldFault("spec.endpoints[0].url", "is no address", "write https://host"),)
thorough = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def written(status: Status) -> Json:
    """Return what the API server gives after it was written."""
    body: Json = json.loads(json.dumps(status.model_dump(mode="json", by_alias=True, exclude_none=True)))
    return body


def statuses(world: World) -> Iterator[tuple[int, Status]]:
    """Yield every status of a world, with the generation of its resource."""
    compiled = compile_world(world)
    for pool in world.pools:
        yield pool.metadata.generation, compiled.pool_statuses[pool.key]
    for quota in world.quotas:
        yield quota.metadata.generation, compiled.quota_statuses[quota.key]


def of(status: Status) -> dict[str, str]:
    return {c.type: c.status for c in status.conditions}


@thorough
@given(worlds())
def test_what_is_written_is_read(world: World) -> None:
    for _, status in statuses(world):
        assert read_status(type(status), written(status)) == status


@thorough
@given(worlds())
def test_what_is_written_is_what_the_crd_takes(world: World) -> None:
    for _, status in statuses(world):
        jsonschema.validate(written(status), structural(type(status)))


@thorough
@given(worlds())
def test_the_next_leader_finds_nothing_to_write(world: World) -> None:
    """It starts from what is on the API server, at another time: what is the same has no new time, and is no write."""
    first = compile_world(world)
    second = compile_world(
        replace(
            world,
            now=world.now + 1_000_000,
            last_good=first.tables,
            pool_statuses={k: _read(AOAIBackendPoolStatus, s) for k, s in first.pool_statuses.items()},
            quota_statuses={k: _read(TenantQuotaStatus, s) for k, s in first.quota_statuses.items()},
        )
    )
    assert second.pool_statuses == first.pool_statuses
    assert second.quota_statuses == first.quota_statuses


def _read(model: type[S], status: S) -> S:
    found = read_status(model, written(status))
    assert found is not None
    return found


@thorough
@given(worlds())
def test_kstatus_says_what_ready_says(world: World) -> None:
    for generation, status in statuses(world):
        said = of(status)
        assert {said[kind] for kind in ("Reconciling", "Stalled") if kind in said} <= {"True"}
        assert not {"Reconciling", "Stalled"} <= said.keys()
        expected: Verdict = "Current" if said["Ready"] == "True" else "InProgress"
        expected = "Failed" if "Stalled" in said else expected
        assert verdict({"metadata": {"generation": generation}, "status": written(status)}) == expected
        assert said["Ready"] != "True" or "Reconciling" not in said


@thorough
@given(worlds())
def test_a_new_generation_is_in_progress_until_it_was_looked_at(world: World) -> None:
    for generation, status in statuses(world):
        assert verdict({"metadata": {"generation": generation + 1}, "status": written(status)}) == "InProgress"


def test_a_fresh_object_is_in_progress() -> None:
    assert verdict({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}) == "InProgress"


def _deeply(value: Any) -> Any:
    """Return the value with a field more in every map of it."""
    if isinstance(value, Mapping):
        return {**{key: _deeply(inner) for key, inner in value.items()}, "addedLater": {"by": "a newer version"}}
    return [_deeply(inner) for inner in value] if isinstance(value, list) else value


@thorough
@given(worlds())
def test_fields_of_a_newer_version_are_read_over(world: World) -> None:
    for _, status in statuses(world):
        assert read_status(type(status), _deeply(written(status))) == status


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from(["observedGeneration", "conditions", "endpoints", "proxies", "healthyEndpoints"])


@given(
    _values | st.dictionaries(_fields, _values, max_size=4), st.sampled_from([AOAIBackendPoolStatus, TenantQuotaStatus])
)
def test_garbage_is_no_status_and_never_raises(raw: Any, model: type[Status]) -> None:
    found = read_status(model, raw)
    assert found is None or isinstance(found, model)


@pytest.mark.parametrize("raw", [None, {}])
def test_no_status_is_none(raw: Any) -> None:
    assert read_status(AOAIBackendPoolStatus, raw) is None


@pytest.mark.parametrize(
    ("model", "make"), [(AOAIBackendPoolStatus, invalid_pool_status), (TenantQuotaStatus, invalid_quota_status)]
)
def test_what_cannot_be_used_says_field_and_mend(model: type[Status], make: Any) -> None:
    status = make(FAULTS, None, generation=4, now=NOW)
    assert isinstance(status, model)
    assert of(status) == {"Accepted": "False", "Ready": "False", "Stalled": "True"}
    assert {c.message for c in status.conditions} == {"spec.endpoints[0].url: is no address; write https://host."}
    assert {c.reason for c in status.conditions} == {"Invalid"}
    assert status.observed_generation == 4
    assert verdict({"metadata": {"generation": 4}, "status": written(status)}) == "Failed"
    assert make(FAULTS, read_status(model, written(status)), generation=4, now=LATER) == status


def test_what_cannot_be_used_keeps_what_was_observed() -> None:
    before = AOAIBackendPoolStatus(healthy_endpoints="2/2", last_handled_reconcile_at="then")
    status = invalid_pool_status(FAULTS, before, generation=4, now=NOW)
    assert status.healthy_endpoints == "2/2"
    assert status.last_handled_reconcile_at == "then"


def test_a_table_that_cannot_be_written_is_nowhere() -> None:
    key = PoolKey("ns", "a")
    given = replace(resources.world(resources.pool("a")), taken={key: "a-routing"})
    status = compile_world(given).pool_statuses[key]
    told = {c.type: (c.status, c.reason, c.message) for c in status.conditions}
    assert told["Accepted"][:2] == ("False", "ConfigMapConflict")
    assert told["Programmed"] == ("False", "NoTable", "The routing table cannot be written, so no Envoy gets it.")
    assert (status.routing_table.config_map, status.routing_table.revision) == ("", "")
