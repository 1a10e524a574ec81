"""The kinds that the operator deals with."""

from __future__ import annotations

from aoai_operator.core.api import GROUP, VERSION, AOAIBackendPool, TenantQuota
from aoai_operator.ports import Resource

POOLS = Resource(GROUP, VERSION, "aoaibackendpools", AOAIBackendPool.KIND)
QUOTAS = Resource(GROUP, VERSION, "tenantquotas", TenantQuota.KIND)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret", confidential=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
TOKEN_REVIEWS = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False, confidential=True
)
