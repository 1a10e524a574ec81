"""Bodies and stream events of chat/completions and completions [Azure OpenAI REST API reference; v1 specification]."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aoai_operator.simulator.generation import Generation

DONE = b"data: [DONE]\n\n"

_SAFE = {
    name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
}  # fmt: skip
_FILTERED = {**_SAFE, "violence": {"filtered": True, "severity": "medium"}}
_PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": _SAFE}]
_HOLE = "\x00"


def _filter(generation: Generation) -> dict[str, Any]:
    return _FILTERED if generation.finish_reason == "content_filter" else _SAFE


def _tool_calls(generation: Generation, arguments: str, request_id: str, index: int) -> list[dict[str, Any]]:
    call = {"name": generation.tool, "arguments": arguments}
    return [{"id": f"call_{request_id}{index}", "type": "function", "function": call}]


def chat_body(generation: Generation, *, model: str, request_id: str, created: int) -> bytes:
    """A whole chat completion."""
    choices = []
    for index in range(generation.choices):
        message: dict[str, Any] = {"role": "assistant", "content": generation.text, "refusal": None}
        if generation.tool:
            message |= {"content": None, "tool_calls": _tool_calls(generation, generation.text, request_id, index)}
        choices.append(
            {
                "content_filter_results": _filter(generation),
                "finish_reason": generation.finish_reason,
                "index": index,
                "logprobs": None,
                "message": message,
            }
        )
    answer = {
        "choices": choices,
        "created": created,
        "id": f"chatcmpl-{request_id}",
        "model": model,
        "object": "chat.completion",
        "prompt_filter_results": _PROMPT_FILTER,
        "system_fingerprint": "fp_simulated",
        "usage": generation.usage.chat(),
    }
    return json.dumps(answer).encode()


def chat_events(
    generation: Generation, *, model: str, request_id: str, created: int, include_usage: bool
) -> list[bytes]:
    """A streamed chat completion.

    The first chunk has no choices but ``prompt_filter_results``. With ``include_usage`` every chunk has ``usage: null``
    but the last, which has no choices.
    """
    base: dict[str, Any] = {
        "created": created,
        "id": f"chatcmpl-{request_id}",
        "model": model,
        "object": "chat.completion.chunk",
        "system_fingerprint": "fp_simulated",
    }
    if include_usage:
        base["usage"] = None
    first = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": _PROMPT_FILTER}
    events = [_event(first)]
    delta = {"tool_calls": [{"index": 0, "function": {"arguments": _HOLE}}]} if generation.tool else {"content": _HOLE}
    for index in range(generation.choices):
        events.append(_event(base | {"choices": [_choice(index, _opening(generation, request_id, index))]}))
        head, tail = _template(base, index, delta)
        events.extend(b"".join((head, json.dumps(piece).encode(), tail)) for piece in generation.pieces)
        events.append(_event(base | {"choices": [_choice(index, {}, generation)]}))
    if include_usage:
        events.append(_event(base | {"choices": [], "usage": generation.usage.chat()}))
    events.append(DONE)
    return events


def _opening(generation: Generation, request_id: str, index: int) -> dict[str, Any]:
    """The delta that opens a choice: the role and, of a tool call, its id and name."""
    if not generation.tool:
        return {"role": "assistant", "content": "", "refusal": None}
    calls = _tool_calls(generation, "", request_id, index)
    return {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call} for call in calls]}


def _choice(index: int, delta: dict[str, Any], last: Generation | None = None) -> dict[str, Any]:
    return {
        "content_filter_results": _filter(last) if last is not None and not last.tool else {},
        "delta": delta,
        "finish_reason": last.finish_reason if last is not None else None,
        "index": index,
        "logprobs": None,
    }


def _template(base: dict[str, Any], index: int, delta: dict[str, Any]) -> tuple[bytes, bytes]:
    """What stands before and after the piece of text in each chunk: encoding a chunk anew for each token is slow."""
    whole = _event(base | {"choices": [_choice(index, delta)]})
    head, _, tail = whole.partition(json.dumps(_HOLE).encode())
    return head, tail


def _event(data: dict[str, Any]) -> bytes:
    return b"".join((b"data: ", json.dumps(data).encode(), b"\n\n"))


def completion_body(generation: Generation, *, model: str, request_id: str, created: int) -> bytes:
    """A whole (legacy) text completion."""
    choices = [
        {
            "content_filter_results": _filter(generation),
            "finish_reason": generation.finish_reason,
            "index": index,
            "logprobs": None,
            "text": generation.text,
        }
        for index in range(generation.choices)
    ]
    answer = {
        "choices": choices,
        "created": created,
        "id": f"cmpl-{request_id}",
        "model": model,
        "object": "text_completion",
        "prompt_filter_results": _PROMPT_FILTER,
        "usage": generation.usage.chat(),
    }
    return json.dumps(answer).encode()


def completion_events(
    generation: Generation, *, model: str, request_id: str, created: int, include_usage: bool
) -> list[bytes]:
    """A streamed (legacy) text completion."""
    base: dict[str, Any] = {"created": created, "id": f"cmpl-{request_id}", "model": model, "object": "text_completion"}
    if include_usage:
        base["usage"] = None

    def chunks() -> Iterator[dict[str, Any]]:
        for index in range(generation.choices):
            for piece in generation.pieces:
                yield {"finish_reason": None, "index": index, "logprobs": None, "text": piece}
            yield {"finish_reason": generation.finish_reason, "index": index, "logprobs": None, "text": ""}

    events = [_event(base | {"choices": [choice]}) for choice in chunks()]
    if include_usage:
        events.append(_event(base | {"choices": [], "usage": generation.usage.chat()}))
    events.append(DONE)
    return events
