"""What a request will use, before anybody knows: learned from what earlier ones used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from math import ceil, log2

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
        cap: the most tokens of an answer that the client asks for; None: as many as the model gives.
        answers: how many it asks for (`n`).
    """

    text_bytes: int
    cap: int | None = None
    answers: int = 1


class TokensPerByte:
    """Learns how many tokens a byte of a model's prompts is."""

    __slots__ = ("_bytes", "_tokens")

    def __init__(self) -> None:
        self._bytes = _PRIOR_BYTES
        self._tokens = _PRIOR_BYTES * _TOKENS_PER_BYTE

    def learn(self, text_bytes: int, tokens: int) -> None:
        """Take what a prompt of so many bytes was."""
        kept = 0.5 ** (text_bytes / _MEMORY_BYTES)
        self._bytes = self._bytes * kept + text_bytes
        self._tokens = self._tokens * kept + min(tokens, text_bytes)

    def tokens(self, text_bytes: int) -> int:
        """Return what a prompt of so many bytes is likely to be."""
        return ceil(text_bytes * self._tokens / self._bytes)


class Distribution:
    """Learns how long the answers of a tenant and a model are."""

    __slots__ = ("_seen", "_weights")

    def __init__(self) -> None:
        self._weights: dict[int, float] = {}
        self._seen = 0.0

    def learn(self, tokens: int) -> None:
        """Take the length of an answer."""
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


def estimate(
    request: Request, prompts: TokensPerByte, answers: Distribution, *, reservation: Reservation, context: int
) -> int:
    """Return the tokens to reserve.

    Args:
        request: what its body tells.
        prompts: what was learned of the model's prompts.
        answers: what was learned of the tenant's answers of this model.
        reservation: `Strict` takes the most that there can be. No text has more tokens than bytes: the models'
            encodings are byte-level BPE, and each message's own few tokens are less than the JSON around it.
        context: the most tokens that the model takes and gives, together.
    """
    most = context if request.cap is None else min(request.cap, context)
    if reservation is Reservation.STRICT:
        return min(request.text_bytes, context) + most * request.answers
    prompt = min(prompts.tokens(request.text_bytes), context)
    likely = answers.quantile(_PART)
    return prompt + (most if likely is None else min(most, likely)) * request.answers
