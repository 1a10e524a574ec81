"""`stream_answer` of response.lua in a real LuaJIT: event streams cut into chunks anywhere, and ended anywhere.

The handle is a fake that keeps to what Envoy does with a chunk (support/lua.py); the real Envoy is in tests/envoy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.lua import Lua

LUA = Lua()
QUICK = settings(deadline=None, max_examples=100)
CUT = b'data: {"error":{"message":"The upstream ended the stream early."'


@dataclass(frozen=True)
class Sse:
    """A stream of events, the one that holds the usage, and how it came in."""

    events: tuple[bytes, ...]
    usage: bytes
    chunks: tuple[bytes, ...]

    @property
    def whole(self) -> bytes:
        """What Azure sent."""
        return b"".join(self.chunks)


_WORDS = st.sampled_from(
    ["Hello", '"usage":{"total_tokens":9}', "[DONE", "\n\n", "é", "data: ", '"choices":[]', "x" * 3000]
)


def _delta(word: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": word}, "index": 0}], "usage": None}


_ORDINARY = st.just({"choices": [], "prompt_filter_results": [{"index": 0}]}) | _WORDS.map(_delta)
_USAGE = st.dictionaries(st.sampled_from(["prompt_tokens", "total_tokens"]), st.integers(0, 10**9), max_size=2)


@st.composite
def streams(draw: st.DrawFn, *, cut: bool) -> Sse:
    """Return a stream as Azure writes it, usage asked for; `cut`: it ends before [DONE]."""
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n"]))
    used = json.dumps(draw(_USAGE))
    bodies = [json.dumps(one) for one in draw(st.lists(_ORDINARY, max_size=6))]
    bodies += [f'{{"choices":{draw(st.sampled_from(["", " "]))}[], "usage":{used}}}', "[DONE]"]
    events = tuple(f"data: {body}{end}".encode() for body in bodies)
    whole = b"".join(events)
    if cut:
        whole = whole[: draw(st.integers(0, whole.rindex(b"[DONE]") + 5))]
    points = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    if draw(st.booleans()):
        points = sorted({*points, *range(max(0, len(whole) - 30), len(whole))})
    chunks = tuple(whole[a:b] for a, b in pairwise([0, *points, len(whole)]))
    return Sse(events, used.encode(), chunks)


def complete(raw: bytes) -> tuple[bytes, bytes]:
    """Return the complete events of a stream, and what follows them."""
    at = max((m.end() for m in re.finditer(rb"\n\r?\n", raw)), default=0)
    return raw[:at], raw[at:]


@QUICK
@given(streams(cut=False))
@example(
    Sse(
        (b'data: {"choices":[],"usage":{}}\n\n', b"data: [DONE]\n\n"),
        b"{}",
        (b'data: {"choices":[],"usage":{}}\n\n', b"data: [DONE]", b"\n", b"\n"),
    )
)
def test_the_usage_event_alone_is_taken_out_and_nothing_else_is_held_back(sse: Sse) -> None:
    got = LUA.stream(sse.chunks, "strip")
    assert got.usage == sse.usage
    assert got.whole == sse.whole.replace(sse.events[-2], b"")
    for count in range(1, len(got.chunks)):
        events, _ = complete(b"".join(sse.chunks[:count]))
        assert b"".join(got.chunks[:count]) == events.replace(sse.events[-2], b"")


@QUICK
@given(streams(cut=False))
def test_a_client_that_asked_for_usage_gets_every_byte_at_once(sse: Sse) -> None:
    got = LUA.stream(sse.chunks, "keep")
    assert got.chunks == sse.chunks
    assert got.usage == sse.usage


@QUICK
@given(streams(cut=True))
def test_a_stream_that_ends_early_says_so(sse: Sse) -> None:
    events, _ = complete(sse.whole)
    before, error = LUA.stream(sse.chunks, "strip").whole.split(CUT)
    assert error.endswith(b"\n\n")
    assert before == events.replace(sse.events[-2], b"")
    before, error = LUA.stream(sse.chunks, "keep").whole.split(CUT)
    assert error.endswith(b"\n\n")
    assert before in (sse.whole, sse.whole + b"\n\n")
    assert complete(before)[1].strip() == b""


@QUICK
@given(streams(cut=True))
def test_other_streams_pass_as_they_are(sse: Sse) -> None:
    """A stream of another operation ends as it likes: only chat has [DONE]."""
    assert LUA.stream(sse.chunks, None).chunks == sse.chunks


@QUICK
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n\n", b'"usage":{', b"data: "]), max_size=8))
def test_garbage_raises_nothing(chunks: list[bytes]) -> None:
    for state in ("strip", "keep", None):
        assert len(LUA.stream(tuple(chunks), state).chunks) == len(chunks)


RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created","response":{"error":null,"usage":null}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":3},"x":"'
    + b"y" * 5000
    + b'"}}\n\n',
)


@QUICK
@given(st.lists(st.integers(0, len(b"".join(RESPONSES))), max_size=8))
@example([231, 232])
def test_a_whole_stream_of_responses_stays_as_it_is(cuts: list[int]) -> None:
    whole = b"".join(RESPONSES)
    chunks = tuple(whole[a:b] for a, b in pairwise([0, *sorted(cuts), len(whole)]))
    assert b"".join(LUA.stream(chunks, "responses").chunks) == whole


@QUICK
@given(st.integers(1, len(RESPONSES[0] + RESPONSES[1])))
def test_a_cut_stream_of_responses_ends_with_an_error(at: int) -> None:
    sent = b"".join(LUA.stream((b"".join(RESPONSES)[:at],), "responses").chunks)
    last = sent.rstrip(b"\n").rpartition(b"\n\n")[2].split(b"\n", 1)
    assert last[0] == b"event: error"
    assert json.loads(last[1].removeprefix(b"data: "))["error"]["code"] == "upstream_stream_truncated"
