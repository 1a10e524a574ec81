"""In what two states of the same things differ. What stayed is the same object, and costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def differing(one: Mapping[K, object], other: Mapping[K, object]) -> set[K]:
    """Return the keys that only one of two mappings has, or that have other values in it."""
    if one is other:
        return set()
    changed = {key for key, value in one.items() if (last := other.get(key)) is not value and last != value}
    return changed | (other.keys() - one.keys())


def exchanged(before: Sequence[T], after: Sequence[T]) -> tuple[list[T], list[T]]:
    """Return what left and what came, told apart by identity alone: what was read anew did both."""
    if before is after:
        return [], []
    # Ten thousand of them: of those that stayed not even a key is asked for.
    old, new = set(map(id, before)), set(map(id, after))
    return [one for one in before if id(one) not in new], [one for one in after if id(one) not in old]


def still(before: T | None, made: T) -> T:
    """Return what was made, and where that is what was there before, the very same: it is held once."""
    return before if before is not None and before == made else made
