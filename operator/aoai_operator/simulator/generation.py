"""What the simulated model writes: repeatable text, tool calls and the usage that goes with them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_operator.simulator.limits import Work
from aoai_operator.simulator.model import Deployment
from aoai_operator.simulator.prompt import Prompt

_MOST_CHOICES = 128
_TEXT = (
    "the region answers in time and every token is counted once so that nothing is lost when a neighbour falls silent "
    "because load moves to where capacity is left"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Billed tokens. ``cached`` is a part of ``prompt``, ``reasoning`` a part of ``completion``."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0

    @property
    def work(self) -> Work:
        """The work that utilisation is charged with: cached prompt tokens are deducted [Provisioned throughput]."""
        return Work(self.prompt - self.cached, self.completion)

    def chat(self) -> dict[str, Any]:
        """As ``usage`` of chat/completions and completions [Azure OpenAI v1 specification]."""
        return {
            "completion_tokens": self.completion,
            "completion_tokens_details": {
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": self.reasoning,
                "rejected_prediction_tokens": 0,
            },
            "prompt_tokens": self.prompt,
            "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": self.cached},
            "total_tokens": self.prompt + self.completion,
        }

    def responses(self) -> dict[str, Any]:
        """As ``usage`` of the Responses API [Azure OpenAI v1 specification]."""
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True, slots=True)
class Generation:
    """One written answer, one piece a token: a text, or the arguments of a call of the function ``tool``."""

    pieces: tuple[str, ...]
    finish_reason: str
    usage: Usage
    tool: str = ""
    choices: int = 1

    @property
    def text(self) -> str:
        """All pieces joined."""
        return "".join(self.pieces)


def generate(prompt: Prompt, body: Mapping[str, Any], deployment: Deployment, *, cached: int) -> Generation:
    """Write the answer. The same request gets the same one, whatever the region.

    A tool is called when ``tool_choice`` forces one, or when the last message is the user's and holds ``[[tool]]``.
    """
    tool = _chosen_tool(prompt, body)
    reasoning = prompt.markers.get("reasoning", deployment.reasoning_tokens)
    if tool is not None:
        parameters = tool.get("parameters")
        pieces = _split(json.dumps(_sample(parameters if isinstance(parameters, dict) else {})))
    elif (schema := _schema(body)) is not None:
        pieces = _split(json.dumps(_sample(schema)))
    else:
        pieces = _words(prompt, prompt.markers.get("tokens", deployment.output_tokens))
    finish = "tool_calls" if tool is not None else "stop"
    if prompt.max_tokens is not None and len(pieces) + reasoning > prompt.max_tokens:
        reasoning = min(reasoning, prompt.max_tokens)
        pieces = pieces[: prompt.max_tokens - reasoning]
        finish = "length"
    if "output_filter" in prompt.markers:
        pieces = pieces[: len(pieces) // 2]
        finish = "content_filter"
    n = body.get("n")
    choices = n if isinstance(n, int) and 0 < n <= _MOST_CHOICES else 1
    usage = Usage(prompt.tokens, (len(pieces) + reasoning) * choices, cached, reasoning * choices)
    return Generation(pieces, finish, usage, str(tool.get("name")) if tool is not None else "", choices)


def _words(prompt: Prompt, count: int) -> tuple[str, ...]:
    words = _TEXT.split()
    seed = zlib.crc32(prompt.text.encode("utf-8", "surrogatepass"))
    return tuple((" " if i else "") + words[(seed + i) % len(words)] for i in range(count))


def _split(text: str) -> tuple[str, ...]:
    return tuple(text[i : i + 4] for i in range(0, len(text), 4))


def _chosen_tool(prompt: Prompt, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function to call. Chat nests it as ``{"function": {...}}``, the Responses API does not."""
    tools = body.get("tools")
    choice = body.get("tool_choice", "auto")
    if not isinstance(tools, list) or choice == "none":
        return None
    functions = [_nested(t, "function") for t in tools if isinstance(t, dict) and t.get("type") == "function"]
    if isinstance(choice, dict):
        wanted = _nested(choice, "function").get("name")
        return next((f for f in functions if f.get("name") == wanted), None)
    asked = "tool" in prompt.markers and prompt.last_role == "user"
    return functions[0] if functions and (choice == "required" or asked) else None


def _nested(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under ``name``, or the value itself where the API flattens it."""
    inner = value.get(name)
    return inner if isinstance(inner, dict) else value


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema of a structured output; an empty one for JSON mode; None for plain text."""
    text = body.get("text")
    form = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    if not isinstance(form, dict):
        return None
    if form.get("type") == "json_schema":
        schema = _nested(form, "json_schema").get("schema")
        return schema if isinstance(schema, dict) else {}
    return {} if form.get("type") == "json_object" else None


def _sample(schema: Mapping[str, Any]) -> Any:
    """The plainest value of a JSON schema's type."""
    if isinstance(enum := schema.get("enum"), list) and enum:
        return enum[0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {name: _sample(inner if isinstance(inner, dict) else {}) for name, inner in properties.items()}
    if kind == "array":
        items = schema.get("items")
        return [_sample(items)] if isinstance(items, dict) else []
    plain: dict[Any, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True}
    return plain.get(kind if isinstance(kind, str) else None)
