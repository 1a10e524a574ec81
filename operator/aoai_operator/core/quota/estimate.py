"""What a request will use, before anybody knows: learned from what earlier ones used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from math import ceil, log2

from aoai_operator.core.quota.terms import Used

_TOKENS_PER_BYTE = 0.25
"""Of English prose: about four characters a token. It holds until something was learned."""
_PRIOR_BYTES = 4_096.0
"""Bytes of prompts that the prior is worth."""
_MEMORY_BYTES = 16_000_000.0
"""Bytes of prompts after which what was learned before is worth half."""
_MEMORY_ANSWERS = 1_000.0
"""Answers after which what was learned before is worth half."""
_PER_OCTAVE = 4
"""Steps of a distribution in which sizes double: each is 19 % wide."""


class Reservation(StrEnum):
    """How much of a request is reserved: what it is expected to use, or the most that it can."""

    EXPECTED = "Expected"
    STRICT = "Strict"


@dataclass(frozen=True, slots=True)
class Request:
    """What its body tells.

    Attributes:
        text_bytes: the bytes of its body, without inline images and audio.
        images: how many images it names or holds.
        cap: the most tokens of an answer that the client asks for; None: as many as the model gives.
        answers: how many it asks for (`n`).
    """

    text_bytes: int
    cap: int | None = None
    answers: int = 1
    images: int = 0


class TokensPerByte:
    """Learns how many tokens a byte is: of a model's prompts, or of its streams."""

    __slots__ = ("_bytes", "_tokens")

    def __init__(self, prior: float = _TOKENS_PER_BYTE) -> None:
        self._bytes = _PRIOR_BYTES
        self._tokens = _PRIOR_BYTES * prior

    def learn(self, text_bytes: int, tokens: int) -> None:
        """Take what a prompt of so many bytes was."""
        kept = 0.5 ** (text_bytes / _MEMORY_BYTES)
        self._bytes = self._bytes * kept + text_bytes
        self._tokens = self._tokens * kept + min(tokens, text_bytes)

    @property
    def per_byte(self) -> float:
        """The tokens that a byte is likely to be."""
        return self._tokens / self._bytes


class Distribution:
    """Learns how long the answers of a tenant and a model are."""

    __slots__ = ("_seen", "_weights", "count")

    def __init__(self) -> None:
        self.count = 0
        self._weights: dict[int, float] = {}
        self._seen = 0.0

    def learn(self, tokens: int) -> None:
        """Take the length of an answer."""
        self.count += 1
        kept = 0.5 ** (1 / _MEMORY_ANSWERS)
        self._weights = {step: weight * kept for step, weight in self._weights.items() if weight > 1e-6}
        step = ceil(log2(max(1, tokens)) * _PER_OCTAVE)
        self._weights[step] = self._weights.get(step, 0.0) + 1.0
        self._seen = sum(self._weights.values())

    def quantile(self, part: float) -> int | None:
        """Return a length that at least this part of the answers do not exceed; None before there was any."""
        steps = sorted(self._weights)
        if not steps:
            return None
        below = accumulate(self._weights[step] for step in steps)
        # The last one where the sums' roundings differ.
        found = next(
            (step for step, weight in zip(steps, below, strict=True) if weight >= part * self._seen), steps[-1]
        )
        return ceil(2 ** (found / _PER_OCTAVE))


_PART = 0.95
"""Of the answers are at most as long as what is reserved for one."""
_ENOUGH = 20
"""Answers of which that can be said: one of them may be longer."""
_ANSWER = 1_000
"""Tokens of an answer without a cap, as long as nothing was learned."""
_IMAGE = 765
"""Tokens of an image of 1024 x 1024 in high detail. Source: Azure OpenAI, "Vision-enabled chat models", of GPT-4o."""
_LARGEST_IMAGE = 48_169
"""The most that one can be: in high detail for GPT-4o mini, 8 tiles of 5,667 tokens and 2,833 (see `_IMAGE`)."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What is reserved for a tenant's requests for a model. Our Lua works with the very same numbers (lua/quota.lua).

    Attributes:
        per_byte: tokens a byte of text.
        per_image: tokens an image.
        capped, uncapped: tokens of one answer, where the client gives a cap that is no lower, and where it gives none.
        context: the most tokens that the model takes, and the most that it gives.
    """

    per_byte: float
    per_image: int
    capped: int
    uncapped: int
    context: int

    def of(self, request: Request) -> Used:
        """Return what is reserved for a request."""
        prompt = ceil(request.text_bytes * self.per_byte) + request.images * self.per_image
        answer = self.uncapped if request.cap is None else min(request.cap, self.capped)
        return Used(min(prompt, self.context), answer * request.answers)


def guess(prompts: TokensPerByte, answers: Distribution, *, reservation: Reservation, context: int) -> Guess:
    """Return what to reserve.

    Args:
        prompts: what was learned of the model's prompts.
        answers: what was learned of the tenant's answers of this model.
        reservation: `Strict` takes the most that there can be. No text has more tokens than bytes: the models'
            encodings are byte-level BPE, and each message's own few tokens are less than the JSON around it.
        context: the most tokens that the model takes and gives.
    """
    if reservation is Reservation.STRICT:
        return Guess(1.0, _LARGEST_IMAGE, context, context, context)
    likely = answers.quantile(_PART) if answers.count >= _ENOUGH else None
    capped, uncapped = (context, _ANSWER) if likely is None else (likely, likely)
    return Guess(prompts.per_byte, _IMAGE, min(capped, context), min(uncapped, context), context)
