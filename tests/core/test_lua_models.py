"""No way around the list of models that a tenant may use, through request.lua in a real LuaJIT.

The handle is a fake; tests/envoy do the same, less often, in the real Envoy.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from support.json_texts import bodies
from support.lua import Lua

LUA = Lua()
PATHS = ["chat/completions", "embeddings", "responses"]


@pytest.mark.parametrize("query", ["", "?model=mini", "?deployment=mini", "?model=gpt-4o", "?model=nothing"])
@pytest.mark.parametrize("operation", PATHS)
@settings(deadline=None, max_examples=20)
@given(body=bodies())
def test_a_tenant_gets_its_own_models_only(operation: str, query: str, body: str) -> None:
    """Azure goes by the body (v1 API): what passes names `mini` there, or nothing, and goes to the hosts of `mini`."""
    refused, model, content = LUA.request(f"/ai/chat/openai/v1/{operation}{query}", body.encode())
    if refused is None:
        assert model == "mini"
        assert json.loads(content).get("model", "mini") == "mini"
    else:
        assert refused in ("400", "403", "404")


@pytest.mark.parametrize("operation", PATHS)
@pytest.mark.parametrize("model", ['"gpt-4o"', "null", '"mini","model":"gpt-4o"'])
def test_the_query_does_not_overrule_the_body(operation: str, model: str) -> None:
    refused, _, _ = LUA.request(f"/ai/chat/openai/v1/{operation}?model=mini", f'{{"model":{model}}}'.encode())
    assert refused in ("400", "403")


def test_a_model_that_may_be_used_passes() -> None:
    for path, body in (
        ("chat/completions", b'{"model":"mini"}'),
        ("embeddings?model=mini", b'{"input":"x"}'),
        ("images/generations?model=mini", b""),
    ):
        assert LUA.request(f"/ai/chat/openai/v1/{path}", body) == (None, "mini", body)


@pytest.mark.parametrize("path", ["files", "batches", "files/file-1", "responses/resp_1", "fine_tuning/jobs", "x", ""])
def test_what_else_our_credential_could_do_is_no_tenant_s(path: str) -> None:
    for query in ("", "?model=mini", "?deployment=mini"):
        assert LUA.request(f"/ai/chat/openai/v1/{path}{query}", b'{"model":"mini"}')[0] == "404"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "HEAD"])
def test_inference_is_by_post_alone(method: str) -> None:
    path = "/ai/chat/openai/v1/chat/completions?model=mini"
    assert LUA.request(path, b"", method=method)[0] == "404"


@pytest.mark.parametrize("body", [b'--B\r\nname="model"\r\n\r\ngpt-4o\r\n--B--', b"audio", b"[]", b'"model"'])
def test_a_query_names_no_model_for_a_body_that_cannot_be_read(body: bytes) -> None:
    assert LUA.request("/ai/chat/openai/v1/audio/transcriptions?model=mini", body)[0] == "400"
