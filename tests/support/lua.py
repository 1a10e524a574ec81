"""Our Lua in a real LuaJIT, as Envoy runs it, with Python where Envoy would be.

Envoy itself is not here: tests/envoy run the same Lua in the real one. What is here can be tried thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lupa import luajit21

from aoai_operator.core.envoy.luadata import source

_DATA = "local ANONYMOUS = 'anonymous'\nlocal POOLS = {}\nlocal TENANTS = {}\n"
_LOCALS = (
    "member",
    "text_member",
    "disguised",
    "with_usage",
    "usage_in",
    "events_end",
    "without_usage",
    "stream_answer",
    "rewrite",
)


class Lua:
    """The functions of json.lua and downstream.lua. Texts are bytes on both sides."""

    def __init__(self) -> None:
        self.runtime = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        exported = ", ".join(f"{name} = {name}" for name in _LOCALS)
        code = f"{source('json.lua')}\n{_DATA}{source('downstream.lua')}\nreturn {{{exported}}}"
        self._functions = self.runtime.execute(code.encode())

    def __getattr__(self, name: str) -> Any:
        return self._functions[name.encode()]


@dataclass
class Chunk:
    """What `bodyChunks()` yields: a buffer that can be changed until Envoy has sent it on."""

    content: bytes
    sent: bool = False

    def length(self) -> int:
        return len(self.content)

    def getBytes(self, start: int, count: int) -> bytes:  # noqa: N802
        assert start >= 0, "Envoy raises an error"
        assert start + count <= len(self.content), "Envoy raises an error"
        return self.content[start : start + count]

    def setBytes(self, content: bytes) -> int:  # noqa: N802
        assert not self.sent, "the buffer is gone"
        self.content = content
        return len(content)


@dataclass
class Stream:
    """An answer that comes in chunks, as the handle of Envoy's Lua filter shows it.

    Envoy sends a chunk on when the script asks for the next; the last one waits until the script has ended.
    """

    chunks: list[bytes]
    sent: list[bytes] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)
    pending: list[Chunk] = field(default_factory=list)

    def run(self, lua: Lua, state: str | None) -> bytes:
        """Run `stream_answer` over it, and return all that the client gets."""
        self.pending = [Chunk(content) for content in self.chunks]
        lua.stream_answer(self, state.encode() if state else None)
        return b"".join([*self.sent, self.pending[-1].content])

    def bodyChunks(self) -> Any:  # noqa: N802
        """Return an iterator of Lua."""
        chunks = self._pass_on()
        return lambda *_: next(chunks, None)

    def _pass_on(self) -> Iterator[Chunk]:
        for chunk in self.pending:
            yield chunk
            if chunk is not self.pending[-1]:
                chunk.sent = True
                self.sent.append(chunk.content)

    def streamInfo(self) -> Stream:  # noqa: N802
        """Return what holds the dynamic metadata."""
        return self

    def dynamicMetadata(self) -> Stream:  # noqa: N802
        """Return what holds the dynamic metadata."""
        return self

    def set(self, namespace: bytes, key: bytes, value: bytes) -> None:
        """Set dynamic metadata."""
        assert namespace == b"aoai"
        self.metadata[key.decode()] = value
