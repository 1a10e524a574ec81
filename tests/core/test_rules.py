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
from support.rules import MODELS, POOL, REPEATED, TENANT


@pytest.mark.parametrize(("path", "good", "bad", "field", "message"), MODELS)
def test_rule_of_model_references_accepts_and_rejects(path: str, good: Any, bad: Any, field: str, message: str) -> None:
    assert broken_rules(with_field(raw_pool(), path, good)) == []
    assert broken_rules(with_field(raw_pool(), path, bad)) == [(field, message)]


def broken_rules(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    body = {name: raw[name] for name in ("metadata", "spec")}
    pool = AOAIBackendPool.model_validate_json(json.dumps(body), by_alias=True, by_name=False)
    dumped = pool.model_dump(mode="json", by_alias=True, exclude_none=True)
    return [(f.field, f.message) for f in violations(structural(AOAIBackendPool), dumped)]


OF_A_KIND = [*((raw_pool, *case) for case in POOL), *((raw_tenant, *case) for case in TENANT)]


@pytest.mark.parametrize(("make", "path", "good", "bad", "field", "message"), OF_A_KIND)
def test_rule_accepts_and_rejects(*, make: Any, path: str, good: Any, bad: Any, field: str, message: str) -> None:
    accepted = parse(with_field(make(), path, good))
    assert not isinstance(accepted, Invalid), accepted
    rejected = parse(with_field(make(), path, bad))
    assert isinstance(rejected, Invalid)
    assert [(f.field, f.message) for f in rejected.faults] == [(field, message)]


@pytest.mark.parametrize(("make", "path", "value", "field", "message"), REPEATED)
def test_list_sets_and_maps_hold_no_equal_items(make: Any, path: str, value: Any, field: str, message: str) -> None:
    rejected = parse(with_field(make(), path, value))
    assert isinstance(rejected, Invalid)
    assert [(f.field, f.message) for f in rejected.faults] == [(field, message)]


def test_every_rule_has_a_row_here() -> None:
    in_table = {message for *_, message in (*MODELS, *POOL, *TENANT)}
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
