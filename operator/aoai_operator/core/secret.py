"""A secret value that cannot be printed by accident."""

from __future__ import annotations

from collections.abc import Iterable


class SecretValue:
    """Holds a credential; `reveal()` is the only way to it. Its repr and str say nothing."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the credential itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "SecretValue([redacted])"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def redacted(text: str, values: Iterable[SecretValue]) -> str:
    """Return a text of somebody else's, such as Envoy's words about a resource, without the secrets it may quote."""
    for value in sorted({v.reveal() for v in values} - {""}, key=len, reverse=True):
        text = text.replace(value, "[redacted]")
    return text
