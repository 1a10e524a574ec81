"""`aoai-operator check`: all that is wrong with manifests, found without a cluster, Envoy or Azure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from aoai_operator.adapters.manifests import Manifests, read_manifests
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.located import LocatedFault
from aoai_operator.local_resources import located, world_of


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: faults, by file and line, and notes on what was left out on purpose."""

    pools: int
    quotas: int
    faults: tuple[LocatedFault, ...]
    notes: tuple[LocatedFault, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 1."""
        return 1 if self.faults else 0

    def text(self) -> str:
        """Return a line for each fault and note, and one that sums up."""
        lines = [fault.sentence() for fault in self.faults]
        lines += [f"note: {note.sentence()}" for note in self.notes]
        found = f"{_counted(self.pools, 'pool')}, {_counted(self.quotas, 'tenant')}"
        lines.append(f"{found}: {_counted(len(self.faults), 'fault') if self.faults else 'all good'}")
        return "\n".join(lines)

    def json(self) -> str:
        """Return the same as one JSON document."""
        document = {
            "valid": not self.faults,
            "pools": self.pools,
            "quotas": self.quotas,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": [asdict(note) for note in self.notes],
        }
        return json.dumps(document, indent=2, ensure_ascii=False)


def check(paths: Iterable[Path], token_hosts: Iterable[str] = ()) -> Report:
    """Check files and directories: YAML, schema, CEL rules, then what the resources refer to.

    Args:
        paths: the files and directories.
        token_hosts: domains that are trusted with tokens of Entra ID, besides Azure's own.
    """
    named = tuple(paths)
    return _report(read_manifests(named), ", ".join(map(str, named)), token_hosts)


def _report(manifests: Manifests, where: str, token_hosts: Iterable[str]) -> Report:
    found = located(manifests, compile_world(world_of(manifests, token_hosts)).findings)
    empty = not (manifests.pools or manifests.quotas or manifests.faults)
    nothing = [LocatedFault(where, 0, "", "", "there is no AOAIBackendPool and no TenantQuota")] if empty else []
    return Report(
        pools=len(manifests.pools),
        quotas=len(manifests.quotas),
        faults=tuple(sorted({*manifests.faults, *found, *nothing})),
        notes=manifests.notes,
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
