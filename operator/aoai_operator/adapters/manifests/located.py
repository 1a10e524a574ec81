"""What was read from manifest files, and where each field of it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource stands: its file, and the line of each field by its path."""

    file: str
    lines: Mapping[str, int] = field(repr=False)

    def line(self, path: str) -> int:
        """Return the line of a field, or of the nearest one around it that is written."""
        while path not in self.lines and path:
            path = re.sub(r"(^|\.)[^.\[]*$|\[[0-9]+\]$", "", path)
        return self.lines.get(path, 1)


@dataclass(frozen=True, slots=True)
class Manifests:
    """All that was read.

    Attributes:
        pools, quotas: the valid resources, in the order in which they were found.
        secrets: every entry of every Secret.
        invalid: pools that are there but invalid: their last good state should be kept.
        unreadable: files that could not be read to their end: what stands there is not known.
        faults: what is wrong, by file and line.
        notes: what was left out on purpose.
        origins: where each resource stands, by kind and key.
    """

    pools: tuple[AOAIBackendPool, ...] = ()
    quotas: tuple[TenantQuota, ...] = ()
    secrets: Mapping[SecretRef, SecretValue] = field(default_factory=dict, repr=False)
    invalid: frozenset[PoolKey] = frozenset()
    unreadable: frozenset[str] = frozenset()
    faults: tuple[LocatedFault, ...] = ()
    notes: tuple[LocatedFault, ...] = ()
    origins: Mapping[tuple[str, PoolKey], Origin] = field(default_factory=dict, repr=False)

    def locate(self, kind: str, key: PoolKey, path: str, message: str, mend: str) -> LocatedFault:
        """Return a fault that was found in a valid resource, with its place in the files."""
        origin = self.origins.get((kind, key), Origin("", {}))
        return LocatedFault(origin.file, origin.line(path), f"{kind} {key}", path, message, mend)
