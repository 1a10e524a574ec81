"""Load by the real `openai` SDK, in the ways that applications call Azure OpenAI. Without the SDK's own retries."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openai import AsyncAzureOpenAI, AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from aoai_operator.demo.facts import ClientError, Tokens
from aoai_operator.demo.site import CHAT, EMBEDDINGS, POOL

_API_VERSION = "2024-10-21"
_MOST_AT_ONCE = 64
_GIVE_UP = 60.0
_ANSWER_TOKENS = 24
_TOPICS = ("tides", "bridges", "glass", "rye bread", "lighthouses", "moss", "clocks", "salt")


class IncompleteError(Exception):
    """An answer that ended without an error, and yet is not whole."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way of calling."""

    name: str
    call: Callable[[str], Awaitable[Tokens]]
    streams: bool = False


class Load:
    """Calls at a steady rate, whatever the answers; the rate and the size of the calls can be changed while it runs."""

    def __init__(self, url: str, key: str, *, rate: float) -> None:
        """Take the gateway's address, a tenant's key, and the calls a second."""
        # The caller's proxies are not meant for 127.0.0.1.
        http = DefaultAsyncHttpxClient(trust_env=False, timeout=_GIVE_UP)
        self._azure = AsyncAzureOpenAI(
            azure_endpoint=f"{url}/{POOL}", api_key=key, api_version=_API_VERSION, max_retries=0, http_client=http
        )
        self._openai = AsyncOpenAI(base_url=f"{url}/{POOL}/openai/v1", api_key=key, max_retries=0, http_client=http)
        self.ways = (
            Way("AsyncAzureOpenAI chat", self._azure_chat),
            Way("AsyncOpenAI chat", self._openai_chat),
            Way("AsyncAzureOpenAI stream", self._azure_stream, streams=True),
            Way("AsyncOpenAI stream", self._openai_stream, streams=True),
            Way("AsyncOpenAI embeddings", self._embeddings),
        )
        self.rate = rate
        self.max_tokens = _ANSWER_TOKENS
        """What each chat call asks for at most: the size by which Azure admits it."""
        self.phase = ""
        self.hold_streams = False
        """True: no new stream is begun."""
        self.ok: Counter[str] = Counter()
        """Answers by way of calling."""
        self.errors: list[ClientError] = []
        self.tokens = Tokens()
        """Usage as the SDK was told."""
        self.in_flight = 0
        self.streams_open = 0
        self.peak_in_flight = 0
        """The most calls at once since it was last set to 0."""
        self._calls: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Call while the block runs; at its end wait for the answers that are still to come."""
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            try:
                await asyncio.gather(*self._calls, return_exceptions=True)
            finally:
                for call in self._calls:
                    call.cancel()
                await self._openai.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in itertools.count():
            way = self.ways[number % len(self.ways)]
            if not (way.streams and self.hold_streams) and self.in_flight < _MOST_AT_ONCE:
                call = asyncio.create_task(
                    self._once(way, f"What is there to say about {_TOPICS[number % 8]}? ({number})")
                )
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            # A machine that is too slow gets less load, and not a burst of what it missed.
            due = max(due + 1 / self.rate, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _once(self, way: Way, question: str) -> None:
        phase = self.phase
        self.in_flight += 1
        self.streams_open += way.streams
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            tokens = await way.call(question)
            self.tokens += tokens
            self.ok[way.name] += 1
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises has reached the client
            self.errors.append(ClientError(phase, way.name, f"{type(error).__name__}: {error}"[:300]))
        finally:
            self.in_flight -= 1
            self.streams_open -= way.streams

    async def _azure_chat(self, question: str) -> Tokens:
        answer = await self._azure.chat.completions.create(
            model=CHAT, messages=_messages(question), max_tokens=self.max_tokens
        )
        return _whole(answer.usage, finished=bool(answer.choices[0].finish_reason))

    async def _openai_chat(self, question: str) -> Tokens:
        answer = await self._openai.chat.completions.create(
            model=CHAT, messages=_messages(question), max_tokens=self.max_tokens
        )
        return _whole(answer.usage, finished=bool(answer.choices[0].finish_reason))

    async def _azure_stream(self, question: str) -> Tokens:
        return await _read(
            await self._azure.chat.completions.create(
                model=CHAT,
                messages=_messages(question),
                max_tokens=self.max_tokens,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    async def _openai_stream(self, question: str) -> Tokens:
        return await _read(
            await self._openai.chat.completions.create(
                model=CHAT,
                messages=_messages(question),
                max_tokens=self.max_tokens,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    async def _embeddings(self, question: str) -> Tokens:
        answer = await self._openai.embeddings.create(model=EMBEDDINGS, input=question, dimensions=8)
        if not answer.data:
            raise IncompleteError("no embedding in the answer")
        return Tokens(answer.usage.prompt_tokens, 0)


def _messages(question: str) -> list[ChatCompletionMessageParam]:
    # The simulator reads the wished length of the answer out of the prompt.
    return [{"role": "user", "content": f"{question} [[tokens:{_ANSWER_TOKENS}]]"}]


async def _read(stream: AsyncStream[ChatCompletionChunk]) -> Tokens:
    finished, usage = False, None
    async for chunk in stream:
        usage = chunk.usage or usage
        finished = finished or any(choice.finish_reason for choice in chunk.choices)
    return _whole(usage, finished=finished)


def _whole(usage: CompletionUsage | None, *, finished: bool) -> Tokens:
    if usage is None or not finished:
        raise IncompleteError("no usage in the answer" if finished else "the answer has no finish_reason")
    return Tokens(usage.prompt_tokens, usage.completion_tokens)
