"""Body and stream events of the Responses API [Azure OpenAI v1 specification; Responses API documentation]."""

from __future__ import annotations

import json
from typing import Any

from aoai_operator.simulator.generation import Generation


def _output(generation: Generation, request_id: str) -> dict[str, Any]:
    if generation.tool:
        return {
            "type": "function_call",
            "id": f"fc_{request_id}",
            "call_id": f"call_{request_id}",
            "name": generation.tool,
            "arguments": generation.text,
            "status": "completed",
        }
    return {
        "type": "message",
        "id": f"msg_{request_id}",
        "role": "assistant",
        "status": "completed",
        "content": [_part(generation.text)],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(generation: Generation, *, model: str, request_id: str, created: int, done: bool) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    incomplete = reasons.get(generation.finish_reason) if done else None
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created,
        "status": ("incomplete" if incomplete else "completed") if done else "in_progress",
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [_output(generation, request_id)] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": generation.usage.responses() if done else None,
    }


def responses_body(generation: Generation, *, model: str, request_id: str, created: int) -> bytes:
    """A whole response."""
    return json.dumps(_response(generation, model=model, request_id=request_id, created=created, done=True)).encode()


def responses_events(generation: Generation, *, model: str, request_id: str, created: int) -> list[bytes]:
    """A streamed response. The usage stands in the last event; there is no ``[DONE]``."""
    finished = _response(generation, model=model, request_id=request_id, created=created, done=True)
    started = _response(generation, model=model, request_id=request_id, created=created, done=False)
    output = finished["output"][0]
    place = {"item_id": output["id"], "output_index": 0}
    last = "response.incomplete" if finished["incomplete_details"] else "response.completed"
    middle = (
        _call_events(generation, place) if generation.tool else _text_events(generation, place | {"content_index": 0})
    )
    opened: dict[str, Any] = output | {"status": "in_progress"} | _unwritten(generation)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": started}),
        ("response.in_progress", {"response": started}),
        ("response.output_item.added", {"output_index": 0, "item": opened}),
        *middle,
        ("response.output_item.done", {"output_index": 0, "item": output}),
        (last, {"response": finished}),
    ]
    return [_event(number, kind, data) for number, (kind, data) in enumerate(steps)]


def _unwritten(generation: Generation) -> dict[str, Any]:
    return {"arguments": ""} if generation.tool else {"content": []}


def _text_events(generation: Generation, place: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    deltas = [("response.output_text.delta", place | {"delta": piece, "logprobs": []}) for piece in generation.pieces]
    return [
        ("response.content_part.added", place | {"part": _part("")}),
        *deltas,
        ("response.output_text.done", place | {"text": generation.text, "logprobs": []}),
        ("response.content_part.done", place | {"part": _part(generation.text)}),
    ]


def _call_events(generation: Generation, place: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    deltas = [("response.function_call_arguments.delta", place | {"delta": piece}) for piece in generation.pieces]
    done = place | {"name": generation.tool, "arguments": generation.text}
    return [*deltas, ("response.function_call_arguments.done", done)]


def _event(number: int, kind: str, data: dict[str, Any]) -> bytes:
    body = json.dumps({"type": kind, "sequence_number": number, **data}).encode()
    return b"".join((b"event: ", kind.encode(), b"\ndata: ", body, b"\n\n"))
