"""Mappings that know what changed in them, so that whoever follows them looks at the change and not at the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_REMEMBERED = 16
"""How many changes a generation knows of; who is further behind looks at everything."""
_LARGE = 4
"""A change of more than one in so many is not worth remembering."""


class Generation(dict[str, T], Generic[T]):
    """A mapping by name that is never changed itself: a change makes the next generation of it."""

    __slots__ = ("_before", "_token")

    def __init__(self, content: Mapping[str, T] | None = None) -> None:
        """Take the content of a first generation."""
        super().__init__(content or {})
        self._token = object()
        self._before: tuple[tuple[object, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, T]) -> Generation[T]:
        """Return a mapping if it is a generation, else a first one with its content."""
        return content if isinstance(content, Generation) else cls(content)

    def after(self, put: Mapping[str, T], gone: Iterable[str] = ()) -> Generation[T]:
        """Return the next generation, with some put in and some taken out; this one, if there are none."""
        changed = frozenset(put).union(gone)
        if not changed:
            return self
        made = Generation(self)
        for name in changed - put.keys():
            made.pop(name, None)
        made.update(put)
        if len(changed) * _LARGE <= len(self):
            made._before = (*self._before[1 - _REMEMBERED :], (self._token, changed))
        return made

    def changed_since(self, before: Mapping[str, object]) -> frozenset[str] | None:
        """Return the names that may differ from those in an earlier mapping; None: it is not known."""
        if before is self:
            return frozenset()
        token = before._token if isinstance(before, Generation) else None
        found: set[str] = set()
        for earlier, changed in reversed(self._before):
            found |= changed
            if earlier is token:
                return frozenset(found)
        return None


def changed_between(before: Mapping[str, object], after: Mapping[str, object]) -> frozenset[str] | None:
    """Return the names that may differ in two mappings; None: it is not known."""
    return after.changed_since(before) if isinstance(after, Generation) else None


class Doubts:
    """Which names of a mapping are worth a look: all at first; then what changed since the last one, or was added.

    A look keeps those that still need one. So it costs what has changed, however much there is.
    """

    __slots__ = ("_current", "_names")

    def __init__(self) -> None:
        self._current: Mapping[str, object] | None = None
        self._names: set[str] | None = None

    def add(self, names: Iterable[str]) -> None:
        """Look at these again."""
        if self._names is not None:
            self._names.update(names)

    def add_all(self) -> None:
        """Look at everything again."""
        self._names = None

    def about(self, current: Mapping[str, object]) -> set[str] | None:
        """Return the names to look at, those that are no more too; None: all."""
        if current is not self._current:
            changed = None if self._current is None else changed_between(self._current, current)
            self._current = current
            if changed is None:
                self._names = None
            elif self._names is not None:
                self._names |= changed
        return self._names

    def drop(self, names: Iterable[str]) -> None:
        """Look at these no more; while all are to be looked at, they stay."""
        if self._names is not None:
            self._names.difference_update(names)

    def keep(self, names: Iterable[str]) -> set[str]:
        """End a look: only these still need one. Return them, as a set that shrinks when names are taken out of it."""
        self._names = set(names)
        return self._names
