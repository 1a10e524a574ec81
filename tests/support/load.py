"""Load by the real SDK while a test breaks something: every error is kept, and none is allowed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncAzureOpenAI, OpenAIError

from support.calls import HELLO, ask
from support.waiting import eventually

_AT_ONCE = 4
_PAUSE = 0.02
"""Seconds between two requests of one caller: the machine has other work, too."""


class Load:
    """Several callers of one client, each with one request after the other, and one reader of streams.

    Attributes:
        answers: requests that were answered.
        streams: streams that were read to their end.
        errors: what went wrong.
    """

    def __init__(self, client: AsyncAzureOpenAI, *, streams: str = "") -> None:
        """Take the client, and the model that is streamed, if any."""
        self._client = client
        self._model = streams
        self.answers = 0
        self.streams = 0
        self.errors: list[str] = []

    async def goes_on(self, requests: int = 20) -> None:
        """Return when so many more requests were answered."""
        goal = self.answers + requests
        await eventually(lambda: self.answers >= goal or self.errors, what="requests are answered")
        assert not self.errors, self.errors[:10]

    async def run(self, end: asyncio.Event) -> None:
        """Call until `end`; what is under way is finished."""
        callers = [self._call(end) for _ in range(_AT_ONCE)]
        await asyncio.gather(*callers, *([self._stream(end)] if self._model else []))

    async def _call(self, end: asyncio.Event) -> None:
        while not end.is_set():
            try:
                self.answers += bool(await ask(self._client))
            except OpenAIError as error:
                self.errors.append(_told(error))
            await asyncio.sleep(_PAUSE)

    async def _stream(self, end: asyncio.Event) -> None:
        while not end.is_set():
            finished: Any = None
            try:
                stream = await self._client.chat.completions.create(model=self._model, messages=HELLO, stream=True)
                async for chunk in stream:
                    finished = chunk.choices[0].finish_reason if chunk.choices else finished
            except Exception as error:  # noqa: BLE001 - whatever a reader of a stream gets is an error of the client
                self.errors.append(f"a stream: {_told(error)}")
            else:
                if finished is None:
                    self.errors.append("a stream had no end")
                self.streams += 1
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def load(client: AsyncAzureOpenAI, *, streams: str = "") -> AsyncIterator[Load]:
    """Load while the block runs, and close the client; an error of any request fails the test."""
    under = Load(client, streams=streams)
    end = asyncio.Event()
    async with client:
        running = asyncio.create_task(under.run(end))
        try:
            await under.goes_on()
            yield under
            await under.goes_on()
        finally:
            end.set()
            await running
    assert not under.errors, under.errors[:10]
    assert under.streams or not streams


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error} ({error.__cause__!r})"
