"""The words of conditions: their types and their reasons. Stable; each is documented in the spec pages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ConditionType(StrEnum):
    """Which fact a condition tells. True is good, but for kstatus' own two."""

    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    PROGRAMMED = "Programmed"
    HEALTHY = "Healthy"
    DISCOVERED = "Discovered"
    UNIFORM = "Uniform"
    PROVISIONED = "Provisioned"
    CURRENT = "Current"
    GUARANTEED = "Guaranteed"
    ENFORCED = "Enforced"
    EXACT = "Exact"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionReason(StrEnum):
    """Why a condition is as it is. `Ready`, `Reconciling` and `Stalled` also give the reasons of other conditions."""

    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    NO_DEPLOYMENT = "NoDeployment"
    KEY_CONFLICT = "KeyConflict"
    HOSTNAME_CONFLICT = "HostnameConflict"
    CONFIG_MAP_CONFLICT = "ConfigMapConflict"
    SECRET_NOT_WRITTEN = "SecretNotWritten"  # noqa: S105

    RESOLVED_REFS = "ResolvedRefs"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    SECRET_INVALID = "SecretInvalid"  # noqa: S105
    CERTIFICATE_INVALID = "CertificateInvalid"
    HOST_UNRESOLVED = "HostUnresolved"
    POOL_NOT_FOUND = "PoolNotFound"
    NAMESPACE_NOT_WATCHED = "NamespaceNotWatched"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    MODEL_NOT_FOUND = "ModelNotFound"
    TIME_ZONE_NOT_FOUND = "TimeZoneNotFound"
    PRICE_NOT_FOUND = "PriceNotFound"
    TOKENS_NOT_TAKEN = "TokensNotTaken"
    ISSUER_UNREACHABLE = "IssuerUnreachable"
    TENANT_NOT_FOUND = "TenantNotFound"
    HOST_NOT_TRUSTED = "HostNotTrusted"
    TOKEN_NOT_GRANTED = "TokenNotGranted"  # noqa: S105

    DISCOVERED = "Discovered"
    NOT_READ = "NotRead"
    AZURE_UNREADABLE = "AzureUnreadable"
    NOTHING_FOUND = "NothingFound"
    MODEL_NOT_DEPLOYED = "ModelNotDeployed"

    UNIFORM = "Uniform"
    VERSIONS_DIFFER = "VersionsDiffer"
    CONTENT_FILTERS_DIFFER = "ContentFiltersDiffer"
    PROVISIONED = "Provisioned"
    PROVISIONING_FAILED = "ProvisioningFailed"
    CURRENT = "Current"
    RETIRES_IN_90_DAYS = "RetiresIn90Days"
    RETIRES_IN_30_DAYS = "RetiresIn30Days"
    RETIRES_IN_7_DAYS = "RetiresIn7Days"
    RETIRED = "Retired"

    GUARANTEED = "Guaranteed"
    OVERCOMMITTED = "Overcommitted"
    CAPACITY_UNKNOWN = "CapacityUnknown"

    ENFORCED = "Enforced"
    SHADOW = "Shadow"
    EXACT = "Exact"
    LEDGER_UNREACHABLE = "LedgerUnreachable"

    PROGRAMMED = "Programmed"
    SUSPENDED = "Suspended"
    PENDING = "Pending"
    REFUSED = "Refused"
    NO_TABLE = "NoTable"
    NO_PROXIES = "NoProxies"

    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    NO_HEALTHY_ENDPOINT = "NoHealthyEndpoint"
    ALL_THROTTLED = "AllThrottled"

    READY = "Ready"


FAULTS: Mapping[ConditionReason, ConditionType] = {
    ConditionReason.NO_DEPLOYMENT: ConditionType.ACCEPTED,
    ConditionReason.KEY_CONFLICT: ConditionType.ACCEPTED,
    ConditionReason.HOSTNAME_CONFLICT: ConditionType.ACCEPTED,
    ConditionReason.CONFIG_MAP_CONFLICT: ConditionType.ACCEPTED,
    ConditionReason.SECRET_NOT_WRITTEN: ConditionType.ACCEPTED,
    ConditionReason.SECRET_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.SECRET_INVALID: ConditionType.RESOLVED_REFS,
    ConditionReason.CERTIFICATE_INVALID: ConditionType.RESOLVED_REFS,
    ConditionReason.HOST_UNRESOLVED: ConditionType.RESOLVED_REFS,
    ConditionReason.POOL_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.NAMESPACE_NOT_WATCHED: ConditionType.RESOLVED_REFS,
    ConditionReason.NAMESPACE_NOT_ALLOWED: ConditionType.RESOLVED_REFS,
    ConditionReason.MODEL_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.TIME_ZONE_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.PRICE_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.TOKENS_NOT_TAKEN: ConditionType.RESOLVED_REFS,
    ConditionReason.ISSUER_UNREACHABLE: ConditionType.RESOLVED_REFS,
    ConditionReason.TENANT_NOT_FOUND: ConditionType.RESOLVED_REFS,
    ConditionReason.HOST_NOT_TRUSTED: ConditionType.RESOLVED_REFS,
    ConditionReason.TOKEN_NOT_GRANTED: ConditionType.RESOLVED_REFS,
}
"""The reasons that findings give, each with its condition: Accepted is about the object itself, ResolvedRefs about what
it refers to."""
