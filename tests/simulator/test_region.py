"""A region's behaviour, without a network."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import aoai_operator.simulator as package
from aoai_operator.simulator import BadHeaders, Deployment, Fault, Region, Slow, Status, Throttle, parse_fault
from aoai_operator.simulator.accounting import Incoming
from aoai_operator.simulator.region import RegionState, Reply

_EDGE = {"arm_edge.py", "entra_edge.py", "__init__.py", "edge.py", "simulator.py", "admin.py", "cli.py", "config.py"}
_DEPLOYMENTS = (
    Deployment(name="d", model="gpt-4o", tokens_per_minute=1000, requests_per_minute=600, context_tokens=500),
    Deployment(name="e", model="embed", kind="embeddings"),
)


class Caller:
    """Sends requests to a region at a time it sets."""

    def __init__(self, **settings: Any) -> None:
        self.region = RegionState(Region(name="eastus2", key="k", deployments=_DEPLOYMENTS, **settings), now=0.0)
        self.now = 0.0

    def send(
        self,
        content: str = "hi",
        *,
        path: str = "/openai/v1/chat/completions",
        query: str = "",
        method: str = "POST",
        headers: tuple[tuple[str, str], ...] = (("api-key", "k"),),
        raw: bytes | None = None,
        **body: Any,
    ) -> Reply:
        whole = {"model": "d", "messages": [{"role": "user", "content": content}], **body}
        seen = Incoming(method, path, query, headers, json.dumps(whole).encode() if raw is None else raw)
        return self.region.receive(seen, self.now)


def error_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["error"]["code"]


def test_the_pure_part_imports_no_clock_loop_or_network() -> None:
    folder = Path(package.__file__).parent
    for file in folder.glob("*.py"):
        if file.name in _EDGE:
            continue
        nodes = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
        assert not names & {"asyncio", "time", "socket", "ssl", "aiohttp", "random", "os"}, file.name


def test_the_estimate_is_characters_by_four_and_the_maximum_of_output() -> None:
    caller = Caller()
    reply = caller.send("x" * 400, max_tokens=50)
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - 100 - 50)
    assert caller.send("x" * 400).headers["x-ratelimit-remaining-tokens"] == str(850 - 100 - 16)
    assert caller.region.counts.admitted_tokens == 266


def test_over_the_limit_is_429_with_both_retry_headers_and_the_message_of_the_surface() -> None:
    caller = Caller()
    caller.send(max_tokens=400)
    caller.send(max_tokens=400)
    caller.now = 45.5
    reply = caller.send(max_tokens=400)
    assert error_of(reply) == (429, "RateLimitReached")
    assert reply.headers["retry-after"] == "15"
    assert reply.headers["retry-after-ms"] == "14500"
    assert b"d for gpt-4o in East US 2 have exceeded the token rate limit" in reply.body
    old = caller.send(max_tokens=400, path="/openai/deployments/d/chat/completions", query="api-version=2024-10-21")
    assert error_of(old) == (429, "429")
    assert b"exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 15 sec" in old.body
    caller.now = 60.0
    assert caller.send(max_tokens=400).status == 200
    assert caller.region.counts.throttled == caller.region.deployments["d"].counts.throttled == 2


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"headers": ()}, (401, "401")),
        ({"headers": (("api-key", "wrong"),)}, (401, "401")),
        ({"headers": (("authorization", "Basic k"),)}, (401, "401")),
        ({"model": "none"}, (404, "DeploymentNotFound")),
        ({"path": "/openai/deployments/d/chat/completions"}, (404, "404")),
        ({"path": "/openai/deployments/x/chat/completions", "query": "api-version=1"}, (404, "DeploymentNotFound")),
        ({"path": "/openai/deployments/d", "query": "api-version=1", "method": "GET"}, (404, "404")),
        ({"path": "/openai/v1/nothing"}, (404, "404")),
        ({"path": "/openai/v1/models/none", "method": "GET"}, (404, "model_not_found")),
        ({"raw": b"{nope"}, (400, None)),
        ({"raw": b"[]"}, (400, None)),
        ({"model": None}, (400, None)),
        ({"messages": "text"}, (400, None)),
        ({"max_tokens": -1}, (400, None)),
        ({"model": "e"}, (400, "OperationNotSupported")),
        (
            {
                "path": "/openai/deployments/d/chat/completions",
                "query": "api-version=2024-02-01",
                "stream_options": {},
            },
            (400, None),
        ),
        ({"content": "x" * 2400}, (400, "context_length_exceeded")),
        ({"content": "[[content_filter]]"}, (400, "content_filter")),
        ({"headers": (("api-key", "k"), *((f"x-{i}", "") for i in range(11)))}, (431, "431")),
    ],
)
def test_refusals(request_: dict[str, Any], expected: tuple[int, str | None]) -> None:
    assert error_of(Caller().send(**request_)) == expected


@pytest.mark.parametrize("credential", [("api-key", "k"), ("authorization", "Bearer k")])
def test_either_credential_opens(credential: tuple[str, str]) -> None:
    caller = Caller()
    assert caller.send(headers=(credential,)).status == 200
    assert caller.region.log[-1].key_index == 0
    assert caller.region.log[-1].header(credential[0]) == "[redacted]"


def test_ten_custom_headers_pass_and_those_of_the_sdk_count_when_so_set() -> None:
    custom = tuple((f"x-{i}", "") for i in range(10))
    headers = (("api-key", "k"), ("x-stainless-lang", "python"), *custom)
    assert Caller().send(headers=headers).status == 200
    assert Caller(count_sdk_headers=True).send(headers=headers).status == 431


def test_a_filtered_prompt_consumes_tokens() -> None:
    caller = Caller()
    reply = caller.send("[[content_filter]]", max_tokens=95)
    body = json.loads(reply.body)["error"]
    assert body["param"] == "prompt"
    assert body["inner_error"]["code"] == body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert reply.headers["x-ratelimit-remaining-tokens"] == "900"


def test_output_filter_length_reasoning_and_choices() -> None:
    caller = Caller()
    filtered = json.loads(caller.send("[[output_filter]]").body)
    assert filtered["choices"][0]["finish_reason"] == "content_filter"
    short = json.loads(caller.send("[[reasoning:3]]", max_tokens=5, n=2).body)
    assert [c["finish_reason"] for c in short["choices"]] == ["length", "length"]
    assert short["usage"]["completion_tokens"] == 10
    assert short["usage"]["completion_tokens_details"]["reasoning_tokens"] == 6


def test_the_prompt_cache_hits_in_steps_of_128_tokens() -> None:
    caller = Caller()
    caller.region.deploy(Deployment(name="d", model="m"))
    prefix = "p" * 4 * 1300
    cached = [
        json.loads(caller.send(prefix + tail).body)["usage"]["prompt_tokens_details"]["cached_tokens"]
        for tail in ("a", "b")
    ]
    assert cached == [0, 1280]


def test_a_provisioned_deployment_refuses_by_utilization_until_completion_corrects_it() -> None:
    caller = Caller()
    caller.region.deploy(Deployment(name="d", model="m", type="GlobalProvisionedManaged", tokens_per_minute=6000))
    admitted = caller.send(max_tokens=1000)
    assert not any(name.startswith("x-ratelimit") for name in admitted.headers)
    refused = caller.send()
    assert error_of(refused) == (429, "429")
    assert {"retry-after", "retry-after-ms"} <= refused.headers.keys()
    caller.region.finished(admitted, caller.now)
    assert caller.send().status == 200


def test_faults_strike_their_deployment_and_share_only() -> None:
    caller = Caller()
    caller.region.inject(Status(status=503, deployment="d", share=0.5))
    assert [caller.send().status for _ in range(4)] == [200, 503, 200, 503]
    embedding: dict[str, Any] = {"path": "/openai/v1/embeddings", "model": "e", "input": "x"}
    assert {caller.send(**embedding).status for _ in range(4)} == {200}
    caller.region.heal(kind="slow")
    caller.region.heal(deployment="e")
    assert [caller.send().status for _ in range(2)] == [200, 503]
    caller.region.heal(kind="status")
    assert {caller.send().status for _ in range(4)} == {200}


def test_a_fault_of_the_same_kind_replaces_and_others_add_up() -> None:
    caller = Caller()
    for fault in (Slow(seconds=1), Slow(seconds=2), BadHeaders(form="missing")):
        caller.region.inject(fault)
    reply = caller.send()
    assert reply.delay == 2
    assert not any(name.startswith("x-ratelimit") for name in reply.headers)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Throttle(), ("1000", "1")),
        (Throttle(retry_after_ms=2500), ("2500", "3")),
        (Throttle(retry_after=86400), (None, "86400")),
        (Throttle(retry_after_ms=None), (None, None)),
    ],
)
def test_a_throttle_sends_the_headers_it_was_given(fault: Throttle, expected: tuple[str | None, str | None]) -> None:
    caller = Caller()
    caller.region.inject(fault)
    reply = caller.send()
    assert reply.status == 429
    assert (reply.headers.get("retry-after-ms"), reply.headers.get("retry-after")) == expected


@pytest.mark.parametrize("form", ["minus_one", "zero", "garbage"])
def test_bad_headers(form: str) -> None:
    caller = Caller()
    caller.region.inject(parse_fault({"kind": "bad_headers", "form": form}))
    expected = {"minus_one": "-1", "zero": "0", "garbage": "soon; perhaps"}[form]
    assert caller.send().headers["x-ratelimit-remaining-tokens"] == expected


@pytest.mark.parametrize("raw", [{"kind": "nope"}, {"kind": "down", "share": 0.5}, {"kind": "status", "status": 200}])
def test_a_wrong_fault_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse_fault(raw)


def test_limits_and_keys_change_at_run_time() -> None:
    caller = Caller()
    caller.region.adjust("d", {"tokens_per_minute": 20})
    assert caller.send(max_tokens=30).status == 429
    caller.region.keys = ("new",)
    assert caller.send().status == 401
    caller.region.undeploy("d")
    assert caller.send(headers=(("api-key", "new"),)).status == 404


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "content",
                    "text",
                    "type",
                    "function",
                    "name",
                    "parameters",
                    "properties",
                    "items",
                    "json_schema",
                    "schema",
                ]
            ),
            inner | st.sampled_from(["function", "object", "array", "json_schema"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
_FIELDS = [
    "messages",
    "input",
    "prompt",
    "tools",
    "tool_choice",
    "response_format",
    "text",
    "n",
    "max_tokens",
    "best_of",
]


@settings(deadline=None)
@given(
    st.sampled_from(["chat/completions", "completions", "responses", "embeddings", "images/generations"]),
    st.dictionaries(st.sampled_from([*_FIELDS, "stream", "stream_options", "dimensions", "model"]), _JSON),
    st.sampled_from(["d", "e", "i"]),
)
def test_no_body_breaks_it(operation: str, body: dict[str, Any], model: str) -> None:
    caller = Caller()
    caller.region.deploy(Deployment(name="i", model="i", kind="images"))
    reply = caller.send(path=f"/openai/v1/{operation}", **{"model": model, **body})
    assert reply.status in {200, 400, 404, 429}


def test_a_body_nested_too_deeply_is_malformed() -> None:
    assert Caller().send(raw=b"[" * 100_000).status == 400


def test_every_kind_of_fault_has_a_json_form() -> None:
    fault: Fault = parse_fault({"kind": "flapping", "down_seconds": 0.5})
    assert parse_fault(fault.model_dump()) == fault
