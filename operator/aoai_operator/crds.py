"""The CustomResourceDefinitions, written from the models: the file in crds/ is never edited by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aoai_operator.core.api import (
    GROUP,
    VERSION,
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    TenantQuota,
    TenantQuotaStatus,
)
from aoai_operator.core.api.base import Model, rule, rules
from aoai_operator.core.api.schema import structural
from aoai_operator.core.conditions import ConditionType

CATEGORY = "aoai"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a wide one shows only with `-o wide`."""

    name: str
    json_path: str
    description: str
    type: str = "string"
    wide: bool = False

    def document(self) -> dict[str, Any]:
        """Return it as the CRD spells it."""
        made = {"name": self.name, "type": self.type, "jsonPath": self.json_path, "description": self.description}
        return made | {"priority": 1} if self.wide else made


@dataclass(frozen=True, slots=True)
class _Kind:
    model: type[AOAIBackendPool] | type[TenantQuota]
    status: type[Model]
    plural: str
    short: str
    description: str
    columns: tuple[Column, ...]


def _condition(
    column: str, condition: ConditionType, description: str, field: str = "status", *, wide: bool = False
) -> Column:
    return Column(column, f'.status.conditions[?(@.type=="{condition}")].{field}', description, wide=wide)


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since it was created.", type="date")

_KINDS = (
    _Kind(
        AOAIBackendPool,
        AOAIBackendPoolStatus,
        plural="aoaibackendpools",
        short="abp",
        description="AOAIBackendPool makes regional Azure OpenAI endpoints answer as one: balanced, with failover.",
        columns=(
            _condition("Ready", ConditionType.READY, "Whether the pool serves."),
            Column("Healthy", ".status.healthyEndpoints", "Endpoints that can serve, of all."),
            Column("Gateway", ".spec.gateway.name", "Gateway that serves the pool."),
            Column("Revision", ".status.routingTable.revision", "Routing table that serves.", wide=True),
            _condition("Message", ConditionType.READY, "Why it is ready or not.", "message", wide=True),
            _AGE,
        ),
    ),
    _Kind(
        TenantQuota,
        TenantQuotaStatus,
        plural="tenantquotas",
        short="tq",
        description="TenantQuota says who a tenant is, which pools and models it may use, and how much.",
        columns=(
            _condition("Ready", ConditionType.READY, "Whether the tenant can call its pools."),
            Column("Tokens", ".status.usage.tokens", "Tokens of the last minute, of the limit."),
            Column("Budget", ".status.usage.budget", "How much of its fullest budget is used."),
            Column("Requests", ".status.usage.requests", "Requests of the last minute, of the limit.", wide=True),
            Column("Pools", ".spec.poolRefs[*].name", "Pools that the tenant may use.", wide=True),
            _condition("Message", ConditionType.READY, "Why it is ready or not.", "message", wide=True),
            _AGE,
        ),
    ),
)


def crds() -> dict[str, dict[str, Any]]:
    """Return each CustomResourceDefinition by its file name."""
    return {f"{GROUP}_{kind.plural}.yaml": _document(kind) for kind in _KINDS}


def rendered() -> dict[str, str]:
    """Return the text of each file of crds/ by its name."""
    return {
        name: yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        for name, document in crds().items()
    }


def write_crds(directory: Path) -> list[Path]:
    """Write the files into `directory`, which is made if need be, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in rendered().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


class _Dumper(yaml.SafeDumper):
    """Repeats a value that occurs twice; an anchor would be legal, but nobody reads it easily."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _document(kind: _Kind) -> dict[str, Any]:
    singular = kind.model.KIND.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.model.KIND,
                "listKind": f"{kind.model.KIND}List",
                "plural": kind.plural,
                "singular": singular,
                "shortNames": [kind.short],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [column.document() for column in kind.columns],
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _root(kind: _Kind) -> dict[str, Any]:
    spec = structural(kind.model)["properties"]["spec"]
    return {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Group and version: {GROUP}/{VERSION}. Required."},
            "kind": {"type": "string", "description": f"Kind: {kind.model.KIND}. Required."},
            "metadata": {"type": "object"},  # the API server refuses anything more here, a description too
            "spec": {**spec, "description": "What is wanted. Set by the user. Required."},
            "status": {
                **structural(kind.status),
                "description": "What was observed. Set by the operator only.",
                "default": {"observedGeneration": -1},
            },
        },
        **rules(rule("self.metadata.name.size() <= 63", "metadata.name must have at most 63 characters")),
    }
