"""Tokens of Entra ID, by azure-identity."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from azure.core.credentials_async import AsyncSupportsTokenInfo
from azure.core.exceptions import AzureError
from azure.identity.aio import (
    AzureCliCredential,
    AzureDeveloperCliCredential,
    AzurePowerShellCredential,
    CertificateCredential,
    ChainedTokenCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from aoai_operator.core.credentials import is_sendable
from aoai_operator.core.secret import SecretValue, redacted
from aoai_operator.core.table import Identity
from aoai_operator.ports import GrantError, Token

_WITHIN = 30.0
_TOKEN_FILE = "AZURE_FEDERATED_TOKEN_FILE"  # noqa: S105
_VOLATILE = re.compile(r"\s*(Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
"""How Entra ID ends its words: other ones in each answer, and of no use but to its own support."""
_WRAPPED = re.compile(r".*?(?=AADSTS\d+:)", re.DOTALL)
_LONGEST = 500


class EntraTokens:
    """Implements `TokenSource`. Asks anew each time: azure-identity would give what it has until it is nearly over."""

    def __init__(
        self, *, ca_file: Path | None = None, developer: bool = False, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Take how to ask.

        Args:
            ca_file: PEM file of the CAs that are trusted; None: those of the machine.
            developer: whether the developer's own sign-in stands in for a workload identity that there is none of.
            environment: the variables that a workload identity's webhook, or the chart, sets.
        """
        self._options: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}
        if ca_file is not None:
            self._options["connection_verify"] = str(ca_file)
        self._developer = developer
        self._environment = environment

    async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
        """Return a token of an identity."""
        try:
            async with asyncio.timeout(_WITHIN), self._credential(identity, credential) as asked:
                found = await asked.get_token_info(identity.scope)
        except TimeoutError:
            raise GrantError(f"there was no answer within {_WITHIN:g} s") from None
        except (AzureError, ValueError, OSError) as error:
            raise GrantError(_said(error, credential)) from None
        value = SecretValue(found.token)
        if not is_sendable(value):
            raise GrantError("the token holds characters that no HTTP header may carry")
        return Token(value, found.expires_on, found.refresh_on)

    def _credential(self, identity: Identity, credential: SecretValue | None) -> AsyncSupportsTokenInfo:
        options = {**self._options, **self._authority(identity)}
        tenant, client = identity.tenant_id, identity.client_id
        match identity.kind:
            case "managed":
                options = self._options if not client else {**self._options, "client_id": client}
                return ManagedIdentityCredential(**options)
            case "secret":
                return ClientSecretCredential(tenant, client, _given(credential, identity), **options)
            case "certificate":
                pem = _given(credential, identity).encode()
                return CertificateCredential(tenant, client, certificate_data=pem, **options)
            case "workload":
                return self._workload(tenant, client, options)

    def _workload(self, tenant: str, client: str, options: dict[str, Any]) -> AsyncSupportsTokenInfo:
        known = self._environment
        if self._developer and not known.get(_TOKEN_FILE):
            return ChainedTokenCredential(
                AzureCliCredential(tenant_id=tenant),
                AzureDeveloperCliCredential(tenant_id=tenant),
                AzurePowerShellCredential(tenant_id=tenant),
            )
        values = {
            "AZURE_TENANT_ID": tenant or known.get("AZURE_TENANT_ID", ""),
            "AZURE_CLIENT_ID": client or known.get("AZURE_CLIENT_ID", ""),
            _TOKEN_FILE: known.get(_TOKEN_FILE, ""),
        }
        if absent := [name for name, value in values.items() if not value]:
            raise GrantError(f"the operator has no workload identity: {', '.join(absent)} is not set")
        return WorkloadIdentityCredential(
            tenant_id=values["AZURE_TENANT_ID"],
            client_id=values["AZURE_CLIENT_ID"],
            token_file_path=values[_TOKEN_FILE],
            **options,
        )

    def _authority(self, identity: Identity) -> dict[str, Any]:
        host = identity.authority_host or self._environment.get("AZURE_AUTHORITY_HOST", "")
        return {"authority": host} if host else {}


def _given(credential: SecretValue | None, identity: Identity) -> str:
    if credential is None or not credential.reveal():
        raise GrantError(f"there is no {identity.credential}, or it is empty")
    return credential.reveal()


def _said(error: Exception, credential: SecretValue | None) -> str:
    """Return what Entra ID, or azure-identity, said: short, on one line, the same each time, without any secret."""
    text = _VOLATILE.sub("", getattr(error, "message", "") or str(error) or type(error).__name__)
    text = " ".join(redacted(text, [credential] if credential else []).split())
    return _WRAPPED.sub("", text, count=1)[:_LONGEST].rstrip(". ")
