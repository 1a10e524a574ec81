"""A secret value that cannot be printed by accident."""

from __future__ import annotations

import re
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
    """Return a text of somebody else's, such as Envoy's words about a resource, without the secrets it may quote.

    Quotes and backslashes of a secret may be escaped, as often as the text was quoted in another. A private key is
    known by its PEM, however its line ends are written and wherever it is cut.
    """
    text = _PRIVATE_KEY.sub("[redacted]", text)
    for value in sorted({v.reveal() for v in values} - {""}, key=len, reverse=True):
        if _ESCAPED.search(value):
            text = re.sub(_quoted(value), "[redacted]", text)
        else:
            text = text.replace(value, "[redacted]")
    return text


_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_ESCAPED = re.compile(r"""["'\\]""")
_PARTS = re.compile(r"""(\\*)(["']?)([^"'\\]*)""")


def _quoted(value: str) -> str:
    """Return a pattern of a secret as others may write it."""
    return "".join(
        (r"\\+" if slashes else r"\\*" if quote else "") + quote + re.escape(rest)
        for slashes, quote, rest in _PARTS.findall(value)
    )


_DUMP = re.compile(r"\s*goo\.gle/debug")
_AFTER_DUMP = re.compile(r"(?:\n|\\n): (?=[^\n]*$)")


def undumped(text: str) -> str:
    """Return Envoy's words without the dump of a whole resource that they may hold.

    Envoy quotes a resource that breaks a constraint from its first field to its last, and gives the reason after
    it; in a NACK that is cut at 4,096 characters, and the reason with it.
    """
    dump = _DUMP.search(text)
    if dump is None:
        return text
    reasons = list(_AFTER_DUMP.finditer(text, dump.end()))
    told = text[reasons[-1].end() :] if reasons else "it breaks a constraint; the reason is in Envoy's own log line"
    return f"{text[: dump.start()]} {told}".strip()
