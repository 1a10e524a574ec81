"""TenantQuota: who a tenant is, and which pools and models it may use."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from aoai_operator.core.api.auth import CREDENTIALS_RULES, IDENTITY_RULES, Credentials, Identity
from aoai_operator.core.api.base import (
    LABEL,
    LIST_ATOMIC,
    LIST_SET,
    Model,
    ModelName,
    ObjectMeta,
    ResourceName,
    list_map,
    rule,
    rules,
)
from aoai_operator.core.api.quota import (
    MODEL_LIMITS_RULES,
    Enforcement,
    Guarantee,
    ModelLimits,
    OnLedgerFailure,
    Priority,
    QuotaLimits,
    Reservation,
    TokenWeights,
)
from aoai_operator.core.names import PoolKey


class PoolRef(Model):
    """A pool that the tenant may use."""

    name: ResourceName = Field(description="Name of the AOAIBackendPool. Required.")
    namespace: Annotated[str, Field(max_length=63, pattern=f"^({LABEL})?$")] = Field(
        default="",
        description="Namespace of the AOAIBackendPool. Default empty: the namespace of this TenantQuota. "
        "A pool of another namespace must allow this one in its allowedNamespaces.",
    )

    def key(self, own_namespace: str) -> PoolKey:
        """Return the pool's key, for a tenant that lives in `own_namespace`."""
        return PoolKey(self.namespace or own_namespace, self.name)


class TenantQuotaSpec(Model):
    """What is wanted of a tenant."""

    pool_refs: tuple[PoolRef, ...] = Field(
        min_length=1,
        max_length=32,
        description="Pools that the tenant may use. At least 1, at most 32.",
        json_schema_extra=list_map("name", "namespace"),
    )
    identities: tuple[Annotated[Identity, Field(json_schema_extra=IDENTITY_RULES)], ...] = Field(
        default=(),
        max_length=8,
        description="Who the tenant is: a caller that shows any one of these is the tenant. "
        "At least 1, or credentials; at most 8: several allow a key to be replaced without a gap.",
        json_schema_extra=LIST_ATOMIC,
    )
    credentials: Annotated[Credentials, Field(json_schema_extra=CREDENTIALS_RULES)] | None = Field(
        default=None,
        description="A Secret that the operator makes for the tenant, with a key that is one more identity. "
        "Default: none.",
    )
    models: tuple[ModelName, ...] = Field(
        default=(),
        max_length=64,
        description="Models that the tenant may use, by the names of the pool's models. "
        "Default empty: all models of the pools. At most 64.",
        json_schema_extra=LIST_SET,
    )
    # None of these has a default of the schema's: the API server would fill it in, and a version before this one
    # refuses what it does not know.
    limits: QuotaLimits | None = Field(
        default=None,
        description="What the tenant may use, over all models, pools and proxies. Default: nothing is limited.",
    )
    per_model: (
        Annotated[tuple[Annotated[ModelLimits, Field(json_schema_extra=MODEL_LIMITS_RULES)], ...], Field(max_length=64)]
        | None
    ) = Field(
        default=None,
        description="Limits of single models, which hold besides those of all. Default none. At most 64.",
        json_schema_extra=list_map("model"),
    )
    guaranteed: Guarantee | None = Field(
        default=None,
        description="What is kept free for the tenant when a pool is short; of models whose deployments all tell their "
        "capacity. Default: nothing.",
    )
    burst: bool | None = Field(
        default=None,
        description="Whether it may use more than is guaranteed, where others leave it. Default true.",
    )
    priority: Priority | None = Field(
        default=None,
        description="Its place when a pool is short: what is guaranteed to nobody goes to those that are Critical, "
        "then Standard, then Sheddable; equals share it evenly. Default Standard.",
    )
    spill_over: bool | None = Field(
        default=None,
        description="Whether it may use a pool's shared endpoints when all that are dedicated to it are out. Default "
        "false.",
    )
    token_weights: TokenWeights | None = Field(
        default=None, description="What a token counts for in limits on tokens. Default: 1 each."
    )
    reservation: Reservation | None = Field(
        default=None,
        description="How much of a request is reserved until it is known what it used: Expected (what requests like it "
        "used) or Strict (the most that it can use, so that no limit is ever passed). Default Expected.",
    )
    enforcement: Enforcement | None = Field(
        default=None,
        description="Whether limits refuse: Enforce, or Shadow (all is let in, and what would have been refused is "
        "counted). Default Enforce.",
    )
    on_ledger_failure: OnLedgerFailure | None = Field(
        default=None,
        description="What proxies do while they cannot ask the operator: Allow (each worker lets in its share of the "
        "limits by the minute, and tells it later) or Deny (nothing beyond what was granted already). Default Allow.",
    )


QUOTA_RULES = rules(
    rule(
        "self.identities.size() > 0 || has(self.credentials)",
        "identities must name at least one, or credentials be given: nobody could be the tenant",
        field_path=".identities",
        reason="FieldValueRequired",
    ),
    rule(
        "!has(self.guaranteed) || !has(self.limits) || !has(self.limits.tokensPerMinute) "
        "|| self.guaranteed.tokensPerMinute <= self.limits.tokensPerMinute",
        "guaranteed.tokensPerMinute must not be above limits.tokensPerMinute",
        field_path=".guaranteed",
    ),
    rule(
        "!has(self.burst) || self.burst || has(self.guaranteed)",
        "guaranteed must be given when burst is false: nothing would be left for the tenant",
        field_path=".burst",
        reason="FieldValueRequired",
    ),
    rule(
        "!has(self.limits) || self.limits.budgets.all(a, self.limits.budgets.all(b, !has(a.cost) || !has(b.cost) "
        "|| a.cost.currency == b.cost.currency))",
        "all budgets in money must be in one currency",
        field_path=".limits.budgets",
    ),
    rule(
        "self.models.size() == 0 || !has(self.perModel) || self.perModel.all(m, m.model in self.models)",
        "every model of perModel must be one of spec.models, where these are given",
        field_path=".perModel",
    ),
    rule(
        "!has(self.limits) || !has(self.perModel) || !has(self.limits.tokensPerMinute) "
        "|| self.perModel.all(m, !has(m.tokensPerMinute) "
        "|| m.tokensPerMinute <= self.limits.tokensPerMinute)",
        "no model's tokensPerMinute may be above limits.tokensPerMinute",
        field_path=".perModel",
    ),
    rule(
        "!has(self.limits) || !has(self.perModel) || !has(self.limits.requestsPerMinute) "
        "|| self.perModel.all(m, !has(m.requestsPerMinute) "
        "|| m.requestsPerMinute <= self.limits.requestsPerMinute)",
        "no model's requestsPerMinute may be above limits.requestsPerMinute",
        field_path=".perModel",
    ),
)


class TenantQuota(Model):
    """A tenant of one or more pools."""

    KIND: ClassVar[str] = "TenantQuota"

    metadata: ObjectMeta
    spec: Annotated[TenantQuotaSpec, Field(json_schema_extra=QUOTA_RULES)]

    @cached_property
    def key(self) -> PoolKey:
        """The tenant's key "namespace/name"."""
        return PoolKey(self.metadata.namespace, self.metadata.name)
