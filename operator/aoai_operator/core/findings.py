"""What compile() finds wrong between resources: which object, which field, what, and the mend."""

from __future__ import annotations

from dataclasses import dataclass

from aoai_operator.core.conditions import FAULTS, ConditionReason, ConditionType
from aoai_operator.core.names import PoolKey


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong. `field` is a path such as `spec.endpoints[1].auth.apiKey.secretRef`; no value of a Secret.

    `fault` is one of FAULTS.
    """

    kind: str
    key: PoolKey
    fault: ConditionReason
    field: str
    message: str
    mend: str

    @property
    def condition(self) -> ConditionType:
        """Return the condition that it is told by."""
        return FAULTS[self.fault]

    def sentence(self) -> str:
        """Return field, message and mend as one line."""
        return f"{self.field}: {self.message}; {self.mend}"
