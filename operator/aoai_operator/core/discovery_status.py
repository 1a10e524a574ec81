"""What people see of what was found in Azure."""

from __future__ import annotations

from aoai_operator.core.api import DiscoveryStatus, OmittedStatus
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.discovery import Expansion
from aoai_operator.core.times import timestamp

MOST_OMITTED = 64


def discovery_status(expansion: Expansion) -> DiscoveryStatus | None:
    """Return what the status says of discovery; None where nothing is looked for."""
    found = expansion.found
    if found is None:
        return None
    return DiscoveryStatus(
        accounts=len(found.accounts or ()),
        endpoints=expansion.endpoints,
        deployments=expansion.deployments,
        stale_since=timestamp(found.read_at) if found.fault and found.read_at else None,
        omitted=tuple(
            OmittedStatus(name=one.name[:256], reason=one.reason, message=one.message[:1024])
            for one in expansion.omitted[:MOST_OMITTED]
        ),
    )


def discovered(expansion: Expansion) -> tuple[bool | None, ConditionReason, str] | None:
    """Return what the condition `Discovered` says: status, reason, message; None where nothing is looked for."""
    found = expansion.found
    if found is None:
        return None
    if found.fault:
        since = f"what was found until {timestamp(found.read_at)} serves on" if found.read_at else "it is tried again"
        return False, ConditionReason.AZURE_UNREADABLE, f"{found.fault}; {since}."
    if found.accounts is None:
        return None, ConditionReason.NOT_READ, "Azure was not read yet."
    if not found.accounts:
        why = "No account is as spec.discovery.azure says, or the identity may see none."
        kept = " What was found before serves on." if expansion.endpoints else ""
        return False, ConditionReason.NOTHING_FOUND, f"{why}{kept} Mend it, or give the identity the role Reader there."
    served = {d.model for e in expansion.pool.spec.endpoints for d in e.deployments}
    if lacking := [model.name for model in expansion.pool.spec.models if model.name not in served]:
        why = f"No deployment of {', '.join(lacking)} was found, and none is in spec.endpoints."
        return False, ConditionReason.MODEL_NOT_DEPLOYED, f"{why} status.discovery.omitted tells what does not serve."
    return True, ConditionReason.DISCOVERED, ""
