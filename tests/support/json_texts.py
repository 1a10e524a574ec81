"""Texts of JSON objects as nobody would write them, and still valid: odd spaces, escapes, members given twice."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

SPACES = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
NAMES = ["model", "stream", "stream_options", "include_usage", "usage", "Model", 'x"model', "messages", "a\\", "é", ""]
TRICKY = ['"model":"x"', "}", "{", "]", '"', "\\", 'x"model":', "model", '{"usage":{"a":1}}', "\\u006dodel", "[DONE]"]

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def _word(draw: st.DrawFn, text: str) -> str:
    """Return a JSON string of the text, some of its characters in escapes."""
    plain = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if text.isalnum() and draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        escape = f"\\u{ord(text[at]):04x}"
        escaped = escape.upper().replace("U", "u") if draw(st.booleans()) else escape
        return f'"{text[:at]}{escaped}{text[at + 1 :]}"' if ord(text[at]) < 0x10000 else plain
    return plain


_texts = st.sampled_from(TRICKY + NAMES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_keys = st.sampled_from(NAMES) | _texts


@st.composite
def _object(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = draw(st.lists(st.tuples(_keys.flatmap(_word), values), max_size=5))
    return draw(object_of([(k, v) for k, v in members]))


@st.composite
def object_of(draw: st.DrawFn, members: list[tuple[str, str]]) -> str:
    """Return a JSON object of members whose keys and values are JSON texts, with spaces anywhere."""
    s = SPACES
    inner = ",".join(f"{draw(s)}{k}{draw(s)}:{draw(s)}{v}{draw(s)}" for k, v in members)
    return f"{{{inner}{draw(s)}}}"


def _nested(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(values, max_size=4).map(lambda items: "[" + ", ".join(items) + "]")
    return _object(values) | lists


values: st.SearchStrategy[str] = st.recursive(_scalars.map(json.dumps) | _texts.flatmap(_word), _nested, max_leaves=10)
"""A JSON text of any value."""


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Return the JSON text of an object, with space around it, in which the members that we read are frequent."""
    names = st.sampled_from(["model", "model", "stream", "stream_options", "usage"])
    found = st.sampled_from(['"gpt-4o"', '"mini"', '"mini"', "true", "false", "null", "{}", '{"include_usage":false}'])
    common = st.tuples(names.flatmap(_word), found | values)
    other = st.tuples(_keys.flatmap(_word), values)
    return draw(SPACES) + draw(object_of(draw(st.lists(common | other, max_size=7)))) + draw(SPACES)


def pairs(text: str) -> list[tuple[str, Any]]:
    """Return the top-level members of a JSON object, in their order, those given twice included."""
    found = json.loads(text, object_pairs_hook=list)
    assert isinstance(found, list)
    return found
