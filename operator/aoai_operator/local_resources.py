"""The resources of `aoai-operator local`: what the files say, and for what is broken in them, what they said before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from aoai_operator.adapters.manifests import Manifests, read_manifests
from aoai_operator.core.findings import Finding
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.names import PoolKey
from aoai_operator.core.world import World


class FileResources:
    """Reads the manifests, and remembers the last good form of each object."""

    def __init__(self, paths: Sequence[Path], token_hosts: Iterable[str] = ()) -> None:
        """Take the files and directories, and domains that are trusted with tokens besides Azure's own."""
        self._paths = paths
        self._token_hosts = tuple(token_hosts)
        self._last = Manifests()

    def load(self) -> tuple[World, tuple[LocatedFault, ...]]:
        """Return what is wanted now, and what is wrong with the files."""
        found = read_manifests(self._paths)
        self._last = carried_over(self._last, found)
        return world_of(self._last, self._token_hosts), found.faults

    def located(self, findings: Iterable[Finding]) -> tuple[LocatedFault, ...]:
        """Return what was found wrong between the resources that were loaded last, by file and line."""
        return located(self._last, findings)


def located(manifests: Manifests, findings: Iterable[Finding]) -> tuple[LocatedFault, ...]:
    """Return findings about some manifests, by file and line, in that order."""
    return tuple(sorted({manifests.locate(f.kind, f.key, f.field, f.message, f.mend) for f in findings}))


def world_of(manifests: Manifests, token_hosts: Iterable[str] = ()) -> World:
    """Return the world of some manifests now, with nothing observed; tokens are sent to some hosts besides Azure's."""
    return World(
        pools=manifests.pools,
        quotas=manifests.quotas,
        secrets=manifests.secrets,
        invalid=manifests.invalid,
        token_hosts=frozenset(host.lower() for host in token_hosts),
        now=time.time_ns() // 1_000_000,
    )


def carried_over(last: Manifests, now: Manifests) -> Manifests:
    """Return `now` with what is broken in it as it was in `last`: faulty objects, and all of an unreadable file.

    An object that is gone is gone; one that is broken stays as it was, so that a slip in an editor cuts nobody off.
    """
    faulty = {fault.object for fault in now.faults}

    def stays(kind: str, key: PoolKey) -> bool:
        origin = last.origins.get((kind, key))
        return f"{kind} {key}" in faulty or (origin is not None and origin.file in now.unreadable)

    known_pools, known_quotas = {p.key for p in now.pools}, {q.key for q in now.quotas}
    pools = [p for p in last.pools if stays(p.KIND, p.key) and p.key not in known_pools]
    quotas = [q for q in last.quotas if stays(q.KIND, q.key) and q.key not in known_quotas]
    secrets = {ref: v for ref, v in last.secrets.items() if stays("Secret", PoolKey(ref.namespace, ref.name))}
    return replace(
        now,
        pools=(*now.pools, *pools),
        quotas=(*now.quotas, *quotas),
        secrets={**secrets, **now.secrets},
        invalid=now.invalid - {p.key for p in pools},
        origins={**{named: origin for named, origin in last.origins.items() if stays(*named)}, **now.origins},
    )
