"""Which events of a watch are news: the operator's own status writes are not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from aoai_operator.core.api.base import REQUESTED_AT


class Marks:
    """Remembers of each object what the operator reads of it."""

    def __init__(self) -> None:
        self._marks: dict[str, Hashable] = {}

    def listed(self, item: Mapping[str, Any]) -> None:
        """Note an object of a listing."""
        self._marks[item["metadata"]["uid"]] = _mark(item["metadata"])

    def news(self, item: Mapping[str, Any], *, deleted: bool) -> bool:
        """Return whether an event tells of something else than a status."""
        uid, mark = item["metadata"]["uid"], _mark(item["metadata"])
        if deleted:
            self._marks.pop(uid, None)
            return True
        if self._marks.get(uid) == mark:
            return False
        self._marks[uid] = mark
        return True


def _mark(metadata: Mapping[str, Any]) -> Hashable:
    """Return what only a user changes; the generation counts the changes of the spec."""
    return (
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        metadata.get("annotations", {}).get(REQUESTED_AT),
        frozenset(metadata.get("labels", {}).items()),
    )
