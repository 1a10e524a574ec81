"""json.lua and what request.lua and response.lua read and write of JSON, in a real LuaJIT, against Python's json.

The real Envoy runs the same Lua in tests/envoy; here it meets thousands of odd documents.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.json_texts import SPACES, bodies, object_of, pairs, values
from support.lua import Lua

LUA = Lua()
READ = ("model", "stream", "stream_options", "include_usage")
QUICK = settings(deadline=None, max_examples=100)


def named(text: str) -> str | None:
    """Return the model that the gateway reads in a body; None: it refuses, or finds none."""
    if LUA.disguised(text.encode()):
        return None
    found = LUA.text_member(text.encode(), b'"model"')
    return found[0].decode() if found else None


@QUICK
@given(bodies())
@example('{"model":"mini","x":[' + '"model",' * 70 + '1],"model":"gpt-4o"}')
@example('{"x\\"model":"mini"}')
@example('{"model":"mini","mod\\u0065l":"gpt-4o"}')
@example('{"model":"mini","\\u006D\\u006f\\u0064\\u0065\\u006c":"gpt-4o"}')
@example('{"a":{"model":"gpt-4o"},"model":"mini"}')
@example('{"model":"mini","model":"gpt-4o"}')
@example('{"model":"mini"\n,"model"\t:\r\n"gpt-4o"}')
@example('{"a":"\\\\","model":"mini","b":"\\"}]"}')
def test_no_other_model_than_python_reads(text: str) -> None:
    """Members given twice, nested, escaped, in strings: either both read the same model, or the request is refused."""
    model = named(text)
    if model is not None:
        assert json.loads(text).get("model") == model


@QUICK
@given(bodies())
def test_a_plain_model_is_found_with_its_place(text: str) -> None:
    said = [value for key, value in pairs(text) if key == "model"]
    if len(said) != 1 or not isinstance(said[0], str) or not re.fullmatch(r"[\w.-]+", said[0], re.ASCII):
        return
    raw = text.encode()
    if "\\u00" in text:
        return
    name, start, end = LUA.text_member(raw, b'"model"')
    assert name.decode() == said[0]
    assert raw[start - 1 : end] == f'"{said[0]}"'.encode()


@QUICK
@given(bodies())
def test_a_disguised_name_is_noticed(text: str) -> None:
    raw_keys = re.findall(r'"((?:[^"\\]|\\.)*)"\s*:', text)
    hidden = [key for key in raw_keys if "\\" in key and json.loads(f'"{key}"', strict=False) in READ]
    if hidden:
        assert LUA.disguised(text.encode())
    elif "\\u00" not in text:
        assert not LUA.disguised(text.encode())


@pytest.mark.parametrize(
    "content",
    ['{"caf\\u00e9": 1}', '{"\\u0041": 1}', "\\u0041", '"\\u0041":', "a\\\\u0041b"],
)
def test_escapes_in_what_people_write_are_no_disguise(content: str) -> None:
    assert not LUA.disguised(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())


@st.composite
def _streaming(draw: st.DrawFn) -> str:
    options = draw(st.none() | st.just("null") | st.just("{ }") | object_of([]) | values)
    members = [('"messages"', draw(values)), ('"stream"', "true")]
    if options is not None:
        members.append(('"stream_options"', options))
    return draw(SPACES) + draw(object_of(draw(st.permutations(members))))


@QUICK
@given(_streaming())
@example('{"stream":true,"stream_options":{"include_usage":false}}')
@example('{"stream":true,"stream_options":{"x":{"include_usage":true},"include_usage" : false}}')
@example('{"stream":true,"stream_options":{"x":"}","include_usage":null}}')
def test_usage_is_asked_for_and_nothing_else_changes(text: str) -> None:
    said = json.loads(text)
    options = said.get("stream_options")
    made = LUA.with_usage(text.encode())
    if made is None:
        usage = options.get("include_usage") if isinstance(options, dict) else None
        assert usage is True or isinstance(options, str | list) or isinstance(usage, str | list | dict)
        return
    kept = options if isinstance(options, dict) else {}
    assert json.loads(made) == {**said, "stream_options": {**kept, "include_usage": True}}
    raw = text.encode()
    span = LUA.member(raw, b'"stream_options"')
    before, after = (raw[: span[0] - 1], raw[span[1] :]) if span else _around_first_brace(raw)
    assert made.startswith(before)
    assert made.endswith(after)


def _around_first_brace(raw: bytes) -> tuple[bytes, bytes]:
    at = raw.index(b"{") + 1
    return raw[:at], raw[at:].lstrip()


@QUICK
@given(bodies(), st.dictionaries(st.sampled_from(["prompt_tokens", "total_tokens"]), st.integers(0), max_size=2))
def test_usage_at_the_end_is_found(text: str, usage: dict[str, int]) -> None:
    """Azure writes the usage behind the rest; whatever stands before it, also in the words of a model, is not it."""
    whole = {**{k: v for k, v in json.loads(text).items() if k != "usage"}, "usage": usage}
    assert json.loads(LUA.usage_in(json.dumps(whole).encode())) == usage


@QUICK
@given(bodies())
def test_usage_is_an_object_of_the_document(text: str) -> None:
    found = LUA.usage_in(text.encode())
    if found is not None:
        assert found[:1] + found[-1:] == b"{}"
        assert found in text.encode()


_garbage = st.binary(max_size=60) | st.text('{}[]":,\\u0065model \n', max_size=40).map(str.encode)


@QUICK
@given(_garbage)
def test_garbage_raises_nothing(raw: bytes) -> None:
    _all(raw)


@QUICK
@given(bodies(), st.data())
def test_a_document_cut_short_raises_nothing(text: str, data: st.DataObject) -> None:
    _all(text.encode()[: data.draw(st.integers(0, len(text)))])


def _all(raw: bytes) -> list[Any]:
    return [
        LUA.disguised(raw),
        LUA.member(raw, b'"model"'),
        LUA.text_member(raw, b'"model"'),
        LUA.usage_in(raw),
        LUA.events_end(raw),
        LUA.without_usage(raw, 1),
        LUA.rewrite(raw, None, None, None, True) if b"{" in raw else None,
    ]
