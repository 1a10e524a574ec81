"""What is wrong, with its place in a file: what the commands tell people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class LocatedFault:
    """One thing wrong in a file, or, among the notes, worth knowing. Never holds a value of a Secret.

    Attributes:
        file: path of the file as it was given or found.
        line: line in it, from 1; 0 for the file as a whole.
        object: "AOAIBackendPool ai/chat"; empty when there is none.
        field: path such as `spec.endpoints[1].weigth`; empty for the object as a whole.
        message: what is wrong.
        mend: what to do; may be empty.
    """

    file: str
    line: int
    object: str
    field: str
    message: str
    mend: str = ""

    def sentence(self) -> str:
        """Return everything as one line."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        told = f"{self.message}; {self.mend}" if self.mend else self.message
        return ": ".join(part for part in (place, self.object, self.field, told) if part)
