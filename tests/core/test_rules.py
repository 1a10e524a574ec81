"""Each CEL rule of the CRDs: a value that it accepts, one that it rejects, and the exact words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aoai_operator.core.api import AOAIBackendPool, Invalid, parse
from aoai_operator.core.api.base import VALIDATIONS
from aoai_operator.core.api.rules import violations
from aoai_operator.core.api.schema import structural
from aoai_operator.crds import crds
from support.raw import raw_pool, raw_tenant, with_field

# path set, accepted value, rejected value, field of the fault, its words
Case = tuple[str, Any, Any, str, str]
POOL: list[Case] = [
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["gpt-4o"],
        "spec.models[0].fallbackModels",
        "a model must not be its own fallback",
    ),
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["mini", "mini"],
        "spec.models[0].fallbackModels",
        "must not name a model twice",
    ),
    (
        "spec.endpoints[0].deployments[0].capacity",
        {"requestsPerMinute": 1},
        {},
        "spec.endpoints[0].deployments[0].capacity",
        "must give tokensPerMinute, requestsPerMinute or both",
    ),
    (
        "spec.health.probe",
        {"timeout": "2s", "interval": "2s"},
        {"timeout": "3s", "interval": "2s"},
        "spec.health.probe.timeout",
        "timeout must not be longer than interval",
    ),
    (
        "spec.allowedNamespaces",
        {"from": "List", "names": ["a"]},
        {"from": "All", "names": ["a"]},
        "spec.allowedNamespaces.names",
        "names may only be given when from is List",
    ),
    (
        "spec.allowedNamespaces",
        {"from": "All"},
        {"from": "List"},
        "spec.allowedNamespaces.names",
        "names must name at least one namespace when from is List",
    ),
    *(
        (f"spec.{path}", good, bad, f"spec.{path}", f"must be from {low} to {high}")
        for path, low, high, pairs in (
            ("failover.perTryTimeout", "100ms", "1h", (("100ms", "99ms"), ("1h", "1h1ms"))),
            ("throttling.maxRetryAfter", "1s", "1h", (("1s", "0.9s"), ("60m", "61m"))),
            ("throttling.rampUp", "0s", "5m", (("0s", "5m1s"),)),
            ("health.probe.interval", "1s", "10m", (("10m", "11m"),)),
            ("health.probe.timeout", "100ms", "1m", (("100ms", "0s"),)),
            ("timeouts.request", "1s", "1h", (("1s", "500ms"), ("1h", "2h"))),
            ("timeouts.idle", "1s", "1h", (("1h", "3601s"),)),
            ("timeouts.connect", "50ms", "1m", (("50ms", "49ms"), ("1m", "1m1s"))),
        )
        for good, bad in pairs
    ),
]


# CEL tells these of the list as a whole; parse() tells each place
MODELS: list[Case] = [
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["mini", "other"],
        "spec.models",
        "every fallback model must be one of spec.models",
    ),
    (
        "spec.endpoints[0].deployments[0].model",
        "mini",
        "other",
        "spec.endpoints",
        "every deployment's model must be one of spec.models",
    ),
]


@pytest.mark.parametrize(("path", "good", "bad", "field", "message"), MODELS)
def test_rule_of_model_references_accepts_and_rejects(path: str, good: Any, bad: Any, field: str, message: str) -> None:
    assert broken_rules(with_field(raw_pool(), path, good)) == []
    assert broken_rules(with_field(raw_pool(), path, bad)) == [(field, message)]


def broken_rules(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    body = {name: raw[name] for name in ("metadata", "spec")}
    pool = AOAIBackendPool.model_validate_json(json.dumps(body), by_alias=True, by_name=False)
    dumped = pool.model_dump(mode="json", by_alias=True, exclude_none=True)
    return [(f.field, f.message) for f in violations(structural(AOAIBackendPool), dumped)]


@pytest.mark.parametrize(("path", "good", "bad", "field", "message"), POOL)
def test_rule_accepts_and_rejects(path: str, good: Any, bad: Any, field: str, message: str) -> None:
    accepted = parse(with_field(raw_pool(), path, good))
    assert not isinstance(accepted, Invalid), accepted
    rejected = parse(with_field(raw_pool(), path, bad))
    assert isinstance(rejected, Invalid)
    assert [(f.field, f.message) for f in rejected.faults] == [(field, message)]


@pytest.mark.parametrize(
    ("make", "path", "value", "field", "message"),
    [
        (
            raw_pool,
            "spec.models[2]",
            {"name": "mini"},
            "spec.models[2]",
            "is given twice with the same name; the first is spec.models[1]",
        ),
        (
            raw_pool,
            "spec.endpoints[0].deployments[2]",
            {"model": "gpt-4o", "name": "dep"},
            "spec.endpoints[0].deployments[2]",
            "is given twice with the same model and name; the first is spec.endpoints[0].deployments[0]",
        ),
        (
            raw_pool,
            "spec.gateway.hostnames",
            ["a.b", "a.b"],
            "spec.gateway.hostnames[1]",
            "is given twice; the first is spec.gateway.hostnames[0]",
        ),
        (
            raw_tenant,
            "spec.poolRefs[1]",
            {"name": "chat"},
            "spec.poolRefs[1]",
            "is given twice with the same name and namespace; the first is spec.poolRefs[0]",
        ),
    ],
)
def test_list_sets_and_maps_hold_no_equal_items(make: Any, path: str, value: Any, field: str, message: str) -> None:
    rejected = parse(with_field(make(), path, value))
    assert isinstance(rejected, Invalid)
    assert [(f.field, f.message) for f in rejected.faults] == [(field, message)]


def test_every_rule_has_a_row_here() -> None:
    in_table = {message for *_, message in (*MODELS, *POOL)}
    by_name_pattern = {"metadata.name must have at most 63 characters"}  # the model's own bound tells it first
    in_crds = {rule["message"] for document in crds().values() for rule in _rules(document)}
    assert in_crds - by_name_pattern == in_table


def _rules(node: Any) -> Iterator[Mapping[str, str]]:
    if isinstance(node, dict):
        yield from node.get(VALIDATIONS, ())
        for value in node.values():
            yield from _rules(value)
    elif isinstance(node, list):
        for value in node:
            yield from _rules(value)
