"""The keys with which the API server signs the tokens of its service accounts.

Any service account may read them: the ClusterRole system:service-account-issuer-discovery is everybody's by default.
Source: Kubernetes, "Managing Service Accounts", "Service account issuer discovery".
"""

from __future__ import annotations

import json

from aoai_operator.adapters.kube.client import Kube
from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.oidc import DISCOVERY, OidcError, read_discovery, read_jwks
from aoai_operator.core.table import TokenIssuer
from aoai_operator.ports import IssuerError, Issuers, KubeError

_KEYS = "/openid/v1/jwks"


class ClusterIssuers:
    """Implements `Issuers`: of the cluster that the operator runs in, and by others of all that have a URL."""

    def __init__(self, api: Kube, *, others: Issuers) -> None:
        """Take the API server, and whom to ask for all others."""
        self._api = api
        self._others = others

    async def keys(self, issuer: TokenIssuer) -> SigningKeys:
        """Return an issuer's name and keys; the cluster's own, whatever address it tells others for them."""
        if issuer.url:
            return await self._others.keys(issuer)
        try:
            told, keys = await self._api.document(DISCOVERY), await self._api.document(_KEYS)
            name, _ = read_discovery(issuer, json.dumps(told).encode())
            return SigningKeys(name, read_jwks(json.dumps(keys).encode()))
        except (KubeError, OidcError) as error:
            raise IssuerError(f"the API server: {error}") from None
