"""Requests and answers as Azure OpenAI sees and gives them, in the order and size of the real ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

MODEL = "gpt-4o"
API_VERSION = "2024-10-21"
CLIENT_KEY = "sk-bench-0123456789abcdef0123456789"

_SENTENCE = "Our gateway balances requests over regions by the capacity that is reported as left. "


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion: how large, on which surface, streamed or not."""

    kilobytes: int = 2
    azure_path: bool = False
    stream: bool = False
    path: str = ""
    max_tokens: int = 256
    key: str = CLIENT_KEY

    def at(self, path: str) -> Request:
        """Return the same request for another path."""
        return replace(self, path=path)

    def text(self) -> bytes:
        """Write the whole HTTP/1.1 request, with the credential where the SDK of that surface puts it."""
        body = json.dumps(self._body(), separators=(",", ":")).encode()
        azure = f"/openai/deployments/{MODEL}/chat/completions?api-version={API_VERSION}"
        path = self.path or (azure if self.azure_path else "/openai/v1/chat/completions")
        credential = f"api-key: {self.key}" if self.azure_path else f"Authorization: Bearer {self.key}"
        agent = "AzureOpenAI/Python 3.0.0" if self.azure_path else "OpenAI/Python 3.0.0"
        head = [
            f"POST {path} HTTP/1.1",
            "Host: 127.0.0.1",
            credential,
            f"User-Agent: {agent}",
            "Accept: application/json",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    def _body(self) -> dict[str, Any]:
        count = {2: 4, 29: 64, 180: 128}.get(self.kilobytes, 4)
        length = self.kilobytes * 1000 // count - 45
        text = (_SENTENCE * (length // len(_SENTENCE) + 1))[:length]
        roles = ["system", *(["user", "assistant"] * count)]
        # Messages come first, as the SDK writes them: who looks for the model has to pass them.
        body: dict[str, Any] = {
            "messages": [{"role": roles[i], "content": text} for i in range(count)],
            "model": MODEL,
            "max_tokens": self.max_tokens,
            "temperature": 0.2,
            "stream": self.stream,
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return body


def _usage() -> dict[str, Any]:
    return {
        "prompt_tokens": 420,
        "completion_tokens": 98,
        "total_tokens": 518,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _filters() -> dict[str, Any]:
    return {k: {"filtered": False, "severity": "safe"} for k in ("hate", "self_harm", "sexual", "violence")}


def answer() -> str:
    """Write a chat completion of about 1.3 KB."""
    choice = {
        "content_filter_results": _filters(),
        "finish_reason": "stop",
        "index": 0,
        "logprobs": None,
        "message": {"role": "assistant", "content": _SENTENCE * 5, "refusal": None},
    }
    return json.dumps(
        {
            "choices": [choice],
            "created": 1795000000,
            "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012",
            "model": "gpt-4o-2024-11-20",
            "object": "chat.completion",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _filters()}],
            "system_fingerprint": "fp_0123456789",
            "usage": _usage(),
        },
        separators=(",", ":"),
    )


EVENTS = 100
"""Events of content in a stream; the usage and the closing [DONE] come on top."""


def events() -> str:
    """Write a stream of chat completion chunks, then usage, then [DONE]."""
    chunks = [_chunk([_delta({"content": " capacity"}, None)]) for _ in range(EVENTS - 1)]
    chunks = [*chunks, _chunk([_delta({}, "stop")]), _chunk([], _usage())]
    return "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])


def _delta(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {
        "content_filter_results": {},
        "delta": delta,
        "finish_reason": finish,
        "index": 0,
        "logprobs": None,
    }


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
    chunk = {
        "choices": choices,
        "created": 1795000000,
        "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012",
        "model": "gpt-4o-2024-11-20",
        "object": "chat.completion.chunk",
        "system_fingerprint": "fp_0123456789",
        "usage": usage,
    }
    return json.dumps(chunk, separators=(",", ":"))
