"""What is odd about the deployments that were found: they differ, could not be provisioned, or retire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aoai_operator.core.conditions import ConditionReason, ConditionType
from aoai_operator.core.discovery import Expansion, Member
from aoai_operator.core.times import timestamp

DAY = 86_400_000
STAGES = (
    (0, ConditionReason.RETIRED),
    (7, ConditionReason.RETIRES_IN_7_DAYS),
    (30, ConditionReason.RETIRES_IN_30_DAYS),
    (90, ConditionReason.RETIRES_IN_90_DAYS),
)
"""The most days that are left, and what is said then."""
_MOST_NAMED = 3
OF_MEMBERS = frozenset({ConditionType.UNIFORM, ConditionType.PROVISIONED, ConditionType.CURRENT})
"""The conditions about what was found."""

Fact = tuple[ConditionType, bool | None, ConditionReason, str]


def member_facts(expansion: Expansion, now: int) -> list[Fact]:
    """Return what is to be said of the deployments; nothing where none was found. `now` is in epoch milliseconds."""
    if not expansion.members:
        return []
    return [
        (ConditionType.UNIFORM, *_uniform(expansion.members)),
        (ConditionType.PROVISIONED, *_provisioned(expansion)),
        (ConditionType.CURRENT, *_current(expansion, now)),
    ]


def _provisioned(expansion: Expansion) -> tuple[bool, ConditionReason, str]:
    failed = {m.name for m in expansion.members if m.found.state == "Failed"}
    failed |= {one.name for one in expansion.omitted if one.reason == ConditionReason.PROVISIONING_FAILED}
    if not failed:
        return True, ConditionReason.PROVISIONED, ""
    why = f"Azure could not provision {_named(sorted(failed))}: see its last operation. What served before does so."
    return False, ConditionReason.PROVISIONING_FAILED, why


def stage(expansion: Expansion, now: int) -> ConditionReason | None:
    """Return how soon the first of the deployments retires; None: in none of the stages."""
    ends = min((m.retires.at for m in expansion.members if m.retires), default=None)
    return None if ends is None else _stage(ends, now)


def _stage(ends: int, now: int) -> ConditionReason | None:
    return next((reason for days, reason in STAGES if ends - now <= days * DAY), None)


def _uniform(members: Iterable[Member]) -> tuple[bool, ConditionReason, str]:
    members = tuple(members)
    versions = list(_differing(members, "versions", lambda m: m.found.version))
    filters = list(_differing(members, "content filters", lambda m: m.found.content_filter))
    if versions:
        return False, ConditionReason.VERSIONS_DIFFER, " ".join(versions + filters)
    if filters:
        return False, ConditionReason.CONTENT_FILTERS_DIFFER, " ".join(filters)
    return True, ConditionReason.UNIFORM, ""


def _differing(members: tuple[Member, ...], what: str, of: Callable[[Member], str]) -> Iterator[str]:
    """Yield a sentence for each model whose deployments are not alike."""
    for model in dict.fromkeys(member.model for member in members):
        found: dict[str, list[str]] = {}
        for member in members:
            if member.model == model and of(member):
                found.setdefault(of(member), []).append(member.name)
        if len(found) > 1:
            listed = "; ".join(f"{value}: {_named(names)}" for value, names in sorted(found.items()))
            yield f"The deployments of {model} have different {what}: {listed}."


def _current(expansion: Expansion, now: int) -> tuple[bool, ConditionReason, str]:
    reason = stage(expansion, now)
    if reason is None:
        return True, ConditionReason.CURRENT, ""
    ending: dict[str, list[str]] = {}
    for member in sorted(expansion.members, key=lambda m: m.retires.at if m.retires else 0):
        if (retires := member.retires) and _stage(retires.at, now):
            sure = "retires" if retires.planned else "is expected to retire"
            instead = f", and Azure names {retires.replacement} in its place" if retires.replacement else ""
            day = timestamp(retires.at).partition("T")[0]
            ending.setdefault(f"{retires.model} {retires.version} {sure} on {day}{instead}", []).append(member.name)
    return False, reason, " ".join(f"{what}: {_named(names)}." for what, names in ending.items())


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
