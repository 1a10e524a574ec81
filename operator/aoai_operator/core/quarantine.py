"""Which version of each pool to publish when an Envoy refuses one: one broken pool must not hold back the others.

Some resources are made of several pools (the routes, the tenants' keys, our Lua). When an Envoy refuses such a
resource it does not say which pool is to blame, and everything else in it stays old too. So every pool that changed
since the last acknowledgement goes back to its last acknowledged version, and then they are let in one at a time:
the one whose turn brings a refusal is the culprit, and stays out until it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from aoai_operator.core.names import PoolKey


class Revised(Protocol):
    """Anything whose content has a name: equal content, equal revision."""

    @property
    def revision(self) -> str:
        """Return the content hash."""
        ...


T = TypeVar("T", bound=Revised)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A revision that an Envoy refused, and Envoy's own words."""

    revision: str
    message: str


@dataclass(frozen=True)
class Quarantine(Generic[T]):
    """The versions of every pool: wanted, last acknowledged, refused, and waiting for their turn.

    Attributes:
        wanted: what the resources ask for now.
        good: what every connected Envoy last acknowledged.
        refused: pools whose wanted revision was refused.
        waiting: suspects of a refusal that are to be let in one at a time, in this order.
        trial: the suspect that is let in now.
        blameless: Envoy's words about a refusal at a time when no pool had changed; the fault is then not a pool's.
    """

    wanted: Mapping[PoolKey, T] = field(default_factory=dict)
    good: Mapping[PoolKey, T] = field(default_factory=dict)
    refused: Mapping[PoolKey, Refusal] = field(default_factory=dict)
    waiting: tuple[PoolKey, ...] = ()
    trial: PoolKey | None = None
    blameless: str = ""

    @cached_property
    def published(self) -> Mapping[PoolKey, T]:
        """The version of each pool to publish; a pool without any acceptable version is absent."""
        chosen = {key: self.good.get(key) if self._is_held(key) else entry for key, entry in self.wanted.items()}
        return {key: entry for key, entry in chosen.items() if entry is not None}

    @cached_property
    def unknown(self) -> frozenset[PoolKey]:
        """Pools without any acceptable version. An Envoy may have one, of before this process: it is to keep it."""
        return frozenset(self.wanted.keys() - self.published.keys())

    @cached_property
    def revisions(self) -> Mapping[PoolKey, str]:
        """The revision of each pool that is to be published."""
        return {key: entry.revision for key, entry in self.published.items()}

    def want(self, entries: Mapping[PoolKey, T]) -> Quarantine[T]:
        """Take in what the resources ask for now. A refused pool that changed is tried again."""
        changed = [k for k, e in entries.items() if k not in self.wanted or self.wanted[k].revision != e.revision]
        waiting = [k for k in self.waiting if k in entries]
        trial = self.trial if self.trial in entries else None
        if waiting or trial:
            # While suspects are tried one at a time, a newcomer waits too: or its fault would be blamed on them.
            waiting += [k for k in sorted(changed) if k not in waiting]
            trial = None if trial in changed else trial
        state = replace(
            self,
            wanted=dict(entries),
            good={k: e for k, e in self.good.items() if k in entries},
            refused={k: r for k, r in self.refused.items() if k in entries and entries[k].revision == r.revision},
            waiting=tuple(waiting),
            trial=trial,
        )
        return state._next()

    def acknowledged(self) -> Quarantine[T]:
        """Every connected Envoy took what is `published`: it is good. The next suspect gets its turn."""
        return replace(self, good=dict(self.published), trial=None, blameless="")._next()

    def rejected(self, message: str, *, owner: PoolKey | None = None) -> Quarantine[T]:
        """Some Envoy refused something of what is `published`.

        Args:
            message: Envoy's words.
            owner: the one pool that the refused resource comes from, None when several share it.
        """
        changed = sorted(
            k for k, e in self.published.items() if k not in self.good or self.good[k].revision != e.revision
        )
        suspects = [k for k in changed if owner in (None, k)]
        if not suspects:
            return replace(self, blameless=message)
        if len(suspects) > 1:
            waiting = (*self.waiting, *(k for k in suspects if k not in self.waiting))
            return replace(self, waiting=waiting, trial=None)._next()
        culprit = suspects[0]
        refused = {**self.refused, culprit: Refusal(self.wanted[culprit].revision, message)}
        return replace(self, refused=refused, trial=None if self.trial == culprit else self.trial)._next()

    def _is_held(self, key: PoolKey) -> bool:
        return key in self.refused or key in self.waiting

    def _next(self) -> Quarantine[T]:
        if self.trial or not self.waiting:
            return self
        return replace(self, trial=self.waiting[0], waiting=self.waiting[1:])
