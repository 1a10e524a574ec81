"""What the leader holds of a pool or a tenant: its model, what it refers to and its status, but not the object itself.

A fleet has ten thousand objects, and each of our own writes makes another version of one. So an object whose spec is
the same keeps its model, and a status that says the same is the same: what follows from them is known by that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    Invalid,
    Parsed,
    TenantQuota,
    TenantQuotaStatus,
    parse,
    read_status,
)
from aoai_operator.core.api.base import REQUESTED_AT
from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.claims import key_refs
from aoai_operator.core.names import SecretRef
from aoai_operator.core.pools import credential_refs
from aoai_operator.core.table import tls_refs
from aoai_operator.ports import JsonObject

S = TypeVar("S", AOAIBackendPoolStatus, TenantQuotaStatus)


@dataclass(slots=True, eq=False)
class Known(Generic[S]):
    """A pool or a tenant as it was read last.

    Attributes:
        reference: apiVersion, kind and metadata, as far as an Event about it needs them.
        parsed: the resource, or what is wrong with it.
        generation: the one of its spec.
        refs: the entries of Secrets that it refers to.
        status: what its status says; None for nothing that we could have written. Without `usage`.
        usage: what a tenant used, as its status says.
    """

    reference: JsonObject
    parsed: Parsed | Invalid
    generation: int
    refs: frozenset[SecretRef]
    status: S | None
    _read_of: tuple[object, ...]
    usage: TenantUsage | None = None

    @property
    def uid(self) -> str:
        """The object's uid."""
        uid: str = self.reference["metadata"]["uid"]
        return uid

    def says(self, status: S) -> bool:
        """Tell whether its status says this; then it is held once, here and where it was worked out."""
        if self.status is None:
            return False
        if self.status is not status and self.status == status:
            self.status = status
        return self.status is status


def _known(kind: str, model: type[S], raw: JsonObject, before: Known[S] | None) -> Known[S]:
    """Return what is to be held of an object; see `ObjectStore`."""
    metadata = raw["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k == REQUESTED_AT}
    # A generation counts the changes of the spec; of the metadata only this annotation is read, and can change.
    read_of = (metadata["uid"], metadata["generation"], annotations, raw["apiVersion"])
    status = read_status(model, raw.get("status"))
    usage = status.usage if isinstance(status, TenantQuotaStatus) else None
    if status is not None and usage is not None:
        # It is written apart: what is compiled says nothing of it.
        status = status.model_copy(update={"usage": None})
    about = _reference(kind, raw)
    if before is not None and before._read_of == read_of:
        same = before.status if before.status == status else status
        return Known(about, before.parsed, before.generation, before.refs, same, before._read_of, usage)
    # Annotations can be as long as the object itself: kubectl writes down there what it applied.
    short = {**metadata, "annotations": annotations}
    parsed = parse({"apiVersion": raw["apiVersion"], "kind": kind, "spec": raw.get("spec"), "metadata": short})
    return Known(about, parsed, metadata["generation"], frozenset(_refs(parsed)), status, read_of, usage)


def _reference(kind: str, raw: JsonObject) -> JsonObject:
    metadata: Mapping[str, str] = raw["metadata"]
    told = {field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion")}
    return {"apiVersion": raw["apiVersion"], "kind": kind, "metadata": told}


def _refs(resource: Parsed | Invalid) -> Iterator[SecretRef]:
    if isinstance(resource, Invalid):
        return
    namespace = resource.metadata.namespace
    if isinstance(resource, TenantQuota):
        yield from key_refs(resource)
        return
    yield from credential_refs(resource)
    if resource.spec.gateway.tls is not None:
        yield from tls_refs(namespace, resource.spec.gateway.tls.secret_ref.name)


KnownPool = Known[AOAIBackendPoolStatus]
KnownQuota = Known[TenantQuotaStatus]
read_pool = partial(_known, AOAIBackendPool.KIND, AOAIBackendPoolStatus)
read_quota = partial(_known, TenantQuota.KIND, TenantQuotaStatus)
