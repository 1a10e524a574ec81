"""The API server's audit log: who called what, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # A watch is logged as it opens (ResponseStarted) too: it may stay open for longer than the test.
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the API server.

    Attributes:
        user: who asked; a ServiceAccount is system:serviceaccount:NAMESPACE:NAME.
        verb: as RBAC names it: get, list, watch, create, update, patch, delete, deletecollection.
        group: the API group, "" for the core group.
        resource: the plural; "" for a path that is no resource, such as /readyz.
        subresource: such as status; "" for none.
        namespace: "" for what lies in none, or for all.
        name: the object's; "" for a collection.
        path: the request's URI.
        code: the HTTP status of the answer.
        agent: the client's User-Agent.
    """

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    path: str
    code: int
    agent: str


class Audit:
    """The calls so far, in the order of the log."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def mark(self) -> int:
        """Return a mark for `since`: the end of what is logged by now."""
        return self._file.stat().st_size if self._file.exists() else 0

    def since(self, mark: int = 0, *, user: str | None = None) -> list[Call]:
        """Return the calls logged since the mark, of one user or of all.

        A call is logged when its answer ends, which its client may see a moment earlier: wait for what must be there.
        """
        with self._file.open("rb") as log:
            log.seek(mark)
            lines = log.read().split(b"\n")[:-1]
        # Two entries of one call: its watch opened, its watch ended.
        entries = {entry["auditID"]: _call(entry) for entry in map(json.loads, lines)}
        return [call for call in entries.values() if user in {None, call.user}]


def _call(entry: dict[str, Any]) -> Call:
    of = entry.get("objectRef", {})
    return Call(
        user=entry["user"].get("username", ""),
        verb=entry["verb"],
        group=of.get("apiGroup", ""),
        resource=of.get("resource", ""),
        subresource=of.get("subresource", ""),
        namespace=of.get("namespace", ""),
        name=of.get("name", ""),
        path=entry["requestURI"],
        code=entry.get("responseStatus", {}).get("code", 0),
        agent=entry.get("userAgent", ""),
    )
