"""What a request asks for: its text, token counts, and markers by which a test steers the answer.

Markers are written into the prompt: ``[[content_filter]]``, ``[[output_filter]]``, ``[[tool]]``, ``[[tokens:200]]``,
``[[reasoning:64]]``.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_operator.simulator.errors import bad_request
from aoai_operator.simulator.limits import Work
from aoai_operator.simulator.model import Deployment

_MARKER = re.compile(r"\[\[([a-z_]+)(?::(\d{1,6}))?\]\]")
_CHARS_PER_TOKEN = 4
_REQUIRED = {
    "chat/completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "images/generations": "prompt",
    "responses": "input",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text of a request and what the simulator reads out of it. Token counts are in tokens, not characters."""

    text: str
    tokens: int
    last_role: str
    max_tokens: int | None
    best_of: int = 1
    markers: Mapping[str, int] = field(default_factory=dict)

    def estimate(self, deployment: Deployment) -> Work:
        """Tokens counted at admission: prompt by characters, and the maximum of output x best_of [Azure OpenAI quota].

        Embeddings and images have no output tokens.
        """
        if deployment.kind != "chat":
            return Work(self.tokens, 0)
        output = deployment.unset_max_tokens if self.max_tokens is None else self.max_tokens
        return Work(self.tokens, output * self.best_of)


def count_tokens(text: str) -> int:
    """Tokens of a text: one for four characters, rounded up. The documentation says "character count" and no ratio."""
    return math.ceil(len(text) / _CHARS_PER_TOKEN)


def read_prompt(operation: str, body: Mapping[str, Any]) -> Prompt:
    """Read the prompt of a request.

    Raises ``AzureError`` 400 when the field that the operation needs is missing or of a wrong type.
    """
    source = _REQUIRED[operation]
    value = body.get(source)
    if value is None or (source == "messages" and not isinstance(value, list)):
        raise bad_request(f"Missing or invalid parameter: '{source}'.", param=source)
    parts: list[str] = []
    _collect(body.get("instructions"), parts)
    _collect(value, parts)
    text = "\n".join(parts)
    return Prompt(
        text=text,
        tokens=count_tokens(text),
        last_role=_last_role(value),
        max_tokens=_positive(body, "max_completion_tokens", "max_tokens", "max_output_tokens"),
        best_of=_positive(body, "best_of") or 1,
        markers=_markers(text),
    )


def _collect(value: Any, into: list[str]) -> None:
    """Gather every text of a string, a list of messages or parts, or a single one."""
    if isinstance(value, str):
        into.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, into)
    elif isinstance(value, dict):
        for name in ("content", "text", "output"):
            _collect(value.get(name), into)


def _last_role(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return str(value[-1].get("role") or value[-1].get("type") or "user")
    return "user"


def _positive(body: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad_request(f"Invalid value for '{name}': expected a positive integer.", param=name)
        return value
    return None


def _markers(text: str) -> dict[str, int]:
    if "[[" not in text:
        return {}
    return {name: int(number or 1) for name, number in _MARKER.findall(text)}


class PromptCache:
    """Cached prompt tokens [Prompt caching documentation].

    A prompt of at least 1,024 tokens whose first 1,024 were seen before hits, in steps of 128 tokens. The last prompt
    of each prefix and ``prompt_cache_key`` is remembered, 256 of them.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, str], str] = OrderedDict()

    def lookup(self, prompt: Prompt, cache_key: str) -> int:
        """Cached tokens of this prompt; remembers it for the next."""
        if prompt.tokens < 1024:
            return 0
        key = (prompt.text[: 1024 * _CHARS_PER_TOKEN], cache_key)
        before = self._seen.pop(key, None)
        self._seen[key] = prompt.text
        if len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        if before is None:
            return 0
        return _common_prefix(before, prompt.text) // _CHARS_PER_TOKEN // 128 * 128


def _common_prefix(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
