"""Models of which there are many: what pydantic notes beside an instance's fields is held once for all alike."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_FIELDS_SETS: dict[frozenset[str], set[str]] = {}


class Frugal(BaseModel):
    """A frozen model. The set of the fields that were given, of hundreds of bytes, is shared between instances.

    Nobody may change such a set; pydantic itself only does so when a field is assigned to, which frozen models refuse.
    """

    def model_post_init(self, _context: Any, /) -> None:
        """Exchange the set of this instance for the one of all that were given the same fields."""
        given = self.__pydantic_fields_set__
        object.__setattr__(self, "__pydantic_fields_set__", _FIELDS_SETS.setdefault(frozenset(given), given))
