"""What is wrong with one field of a resource, in words for the one who wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]


def field_name(path: Iterable[str | int]) -> str:
    """Return a path as people write it: `spec.endpoints[1].url`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault. Holds no value of the field, which may be a secret in the wrong place, but for names of models.

    Attributes:
        field: path such as `spec.endpoints[1].weigth`; empty for the resource as a whole.
        message: what is wrong.
        mend: what to do; empty when the message says so already.
    """

    field: str
    message: str
    mend: str = ""

    @staticmethod
    def at(path: Iterable[str | int], message: str, mend: str = "") -> FieldFault:
        """Return the fault of the field at a path."""
        return FieldFault(field_name(path), message, mend)

    def sentence(self) -> str:
        """Return field, message and mend as one line."""
        told = f"{self.message}; {self.mend}" if self.mend else self.message
        return f"{self.field}: {told}" if self.field else told
