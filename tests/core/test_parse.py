"""parse(): a resource, or each fault by field, message and mend; never an exception."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_operator.core.api import (
    AOAIBackendPool,
    Invalid,
    TenantQuota,
    format_duration,
    parse,
    parse_duration,
    parse_size,
)
from aoai_operator.core.api.schema import structural
from aoai_operator.core.names import PoolKey
from support.raw import raw_pool, raw_tenant, with_field

CANARY = "sk-canary-0123456789"


def test_defaults_are_filled_in() -> None:
    pool = parse(raw_pool())
    assert isinstance(pool, AOAIBackendPool)
    assert pool.key == PoolKey("ai", "chat")
    assert pool.spec.failover.per_try_timeout == timedelta(seconds=120)
    assert pool.spec.limits.max_request_bytes == 32 * 1024 * 1024
    api_key = pool.spec.endpoints[0].auth.api_key
    assert api_key is not None
    assert api_key.secret_ref.key == "api-key"
    assert not pool.spec.allowed_namespaces.allows("other", own="ai")
    tenant = parse(raw_tenant())
    assert isinstance(tenant, TenantQuota)
    assert tenant.spec.pool_refs[0].key("ai") == PoolKey("ai", "chat")


def test_url_parts() -> None:
    pool = parse(with_field(raw_pool(), "spec.endpoints[0].url", "http://[::1]:8080/"))
    assert isinstance(pool, AOAIBackendPool)
    endpoint = pool.spec.endpoints[0]
    assert (endpoint.tls, endpoint.host, endpoint.port) == (False, "::1", 8080)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("spec.endpoints[0].weigth", 3, "spec.endpoints[0].weigth: unknown field; did you mean weight?"),
        ("spec.endpoints[0].per_try", 3, None),
        (
            "spec.failover.per_try_timeout",
            "3s",
            "spec.failover.per_try_timeout: unknown field; did you mean perTryTimeout?",
        ),
        (
            "spec.endpoints[0].weight",
            "3",
            "spec.endpoints[0].weight: must be a whole number, not a text; write it without quotes",
        ),
        ("spec.endpoints[0].weight", 0, "spec.endpoints[0].weight: must be at least 1"),
        ("spec.endpoints[0].weight", True, "spec.endpoints[0].weight: must be a whole number, not true or false"),
        (
            "spec.endpoints[0].auth",
            {"apiKey": CANARY},
            "spec.endpoints[0].auth.apiKey: must be a map of fields, not a text",
        ),
        (
            "spec.endpoints[0].url",
            f"https://u:{CANARY}@host",
            "spec.endpoints[0].url: must be https://host or https://host:port; leave out path, query and credentials",
        ),
        (
            "spec.balancing.strategy",
            "headroom",
            "spec.balancing.strategy: must be one of Headroom, Weighted, LeastRequest; did you mean Headroom?",
        ),
        (
            "spec.timeouts.request",
            "soon",
            "spec.timeouts.request: must be a duration; write a number with ms, s, m or h, such as 30s",
        ),
        (
            "spec.limits.maxRequestBytes",
            "257Mi",
            (
                "spec.limits.maxRequestBytes: must be a size from 1 byte to 256Mi; write bytes, or a number with Ki or "
                "Mi, such as 32Mi"
            ),
        ),
        (
            "spec.endpoints[0].deployments[1].model",
            "gpt4o",
            (
                "spec.endpoints[0].deployments[1].model: the model gpt4o of the endpoint east is not in spec.models; "
                "did you mean gpt-4o?"
            ),
        ),
        (
            "spec.models[0].fallbackModels",
            ["mini", "other"],
            (
                "spec.models[0].fallbackModels[1]: the fallback model other of gpt-4o is not in spec.models; "
                "add it there, or name one of gpt-4o, mini"
            ),
        ),
        (
            "spec.endpoints",
            [],
            "spec.endpoints: must name at least one endpoint, or say where they are found in discovery",
        ),
        ("apiVersion", "v1", "apiVersion: must be aoai.dev/v1alpha1; write apiVersion: aoai.dev/v1alpha1"),
        ("kind", "AOAIBackendpool", "kind: must be one of AOAIBackendPool, TenantQuota; did you mean AOAIBackendPool?"),
        ("sepc", {}, "sepc: unknown field; did you mean spec?"),
        (
            "metadata.name",
            "a\r\nb",
            "metadata.name: must be lower-case letters, digits, hyphens and dots, as in a DNS name",
        ),
        ("metadata.name", "x" * 64, "metadata.name: must have at most 63 characters"),
        ("spec.models[0].name", "gpt\r\n4", None),
    ],
)
def test_fault_names_field_and_mend(path: str, value: Any, sentence: str | None) -> None:
    found = parse(with_field(raw_pool(), path, value))
    assert isinstance(found, Invalid)
    sentences = [fault.sentence() for fault in found.faults]
    assert CANARY not in "\n".join(sentences)
    assert CANARY not in repr(found)
    if sentence is not None:
        assert sentences == [sentence]


def test_nulls_count_as_absent_and_status_is_ignored() -> None:
    raw = with_field(with_field(raw_pool(), "spec.suspend", None), "status.observedGeneration", "x")
    assert isinstance(parse(raw), AOAIBackendPool)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)
_PATHS = st.sampled_from(
    [
        "metadata",
        "metadata.name",
        "spec",
        "spec.models",
        "spec.models[0]",
        "spec.models[0].fallbackModels",
        "spec.endpoints[0].deployments",
        "spec.endpoints[0].auth",
        "spec.timeouts.idle",
        "spec.limits.maxRequestBytes",
        "spec.allowedNamespaces",
        "kind",
    ]
)


@settings(max_examples=150, deadline=None)
@given(_PATHS, _JSON)
def test_never_raises(path: str, value: Any) -> None:
    found = parse(with_field(raw_pool(), path, value))
    assert isinstance(found, AOAIBackendPool) or (isinstance(found, Invalid) and found.faults)


@settings(max_examples=50, deadline=None)
@given(_JSON)
def test_never_raises_on_anything(value: Any) -> None:
    found = parse(value)
    assert isinstance(found, Invalid)
    assert found.faults


def test_never_raises_on_what_holds_itself() -> None:
    raw = raw_pool()
    raw["spec"]["balancing"] = raw
    assert isinstance(parse(raw), Invalid)


def test_what_the_schema_accepts_parse_accepts() -> None:
    schema = structural(AOAIBackendPool)["properties"]["spec"]
    for path, good, bad in (
        ("spec.timeouts.idle", "1m30s", "90"),
        ("spec.limits.maxRequestBytes", 1000, 0),
        ("spec.limits.maxRequestBytes", "1000", "1Gi"),
        ("spec.endpoints[0].url", "https://A.b:443/", "https://a.b:70000"),
        ("spec.endpoints[0].region", "", "East US"),
    ):
        for value, valid in ((good, True), (bad, False)):
            raw = with_field(raw_pool(), path, value)
            assert jsonschema.Draft202012Validator(schema).is_valid(raw["spec"]) is valid, (path, value)
            assert (not isinstance(parse(json.loads(json.dumps(raw))), Invalid)) is valid, (path, value)


def test_durations_and_sizes() -> None:
    assert parse_duration("1m30.5s") == timedelta(seconds=90, milliseconds=500)
    assert format_duration(timedelta(milliseconds=250)) == "250ms"
    assert format_duration(timedelta(minutes=2)) == "120s"
    assert (parse_size("2Ki"), parse_size("256Mi"), parse_size("7")) == (2048, 268435456, 7)
    for wrong in ("", "1", "1d", "-1s", "9999999999999h", "٣s"):
        with pytest.raises(ValueError, match="duration"):
            parse_duration(wrong)
