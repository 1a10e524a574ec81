"""kstatus, worked out anew from its rules: what `helm --wait`, Flux and Argo CD make of a resource of ours.

Source: sigs.k8s.io/cli-utils, pkg/kstatus/README.md and pkg/kstatus/status/generic.go, for kinds that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["Current", "InProgress", "Failed", "Terminating"]


def verdict(resource: Mapping[str, Any]) -> Verdict:
    """Return the status that kstatus computes of a resource as the API server gives it."""
    metadata, status = resource["metadata"], resource.get("status", {})
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    said = {c["type"]: c["status"] for c in status.get("conditions", ())}
    if said.get("Reconciling") == "True":
        return "InProgress"
    if said.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if said.get("Ready", "True") in ("False", "Unknown") else "Current"
