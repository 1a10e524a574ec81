"""Tokens by the real azure-identity, of a simulated directory over TLS."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aoai_operator.adapters.entra import EntraTokens
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity
from aoai_operator.ports import GrantError
from support.azure import APP, CLIENT_SECRET, STRANGER, TENANT, Azure, azure, projected

SCOPE = "https://cognitiveservices.azure.com/.default"
REF = SecretRef("ai", "entra", "client-secret")


@pytest.fixture(name="cloud")
async def served(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as found:
        yield found


def source(cloud: Azure, **environment: str) -> EntraTokens:
    return EntraTokens(ca_file=cloud.ca_file, environment={**cloud.environment, **environment})


def application(cloud: Azure, kind: str = "secret", **other: str) -> Identity:
    values = {"client_id": APP, "tenant_id": TENANT, "authority_host": cloud.entra.url, "scope": SCOPE, **other}
    return Identity.model_validate({"kind": kind, "credential": REF, **values})


async def test_a_workload_identity_shows_its_projected_token_anew_each_time(cloud: Azure) -> None:
    tokens = source(cloud)

    first = await tokens.token(Identity(kind="workload", scope=SCOPE), None)
    cloud.token_file.write_text(projected("system:serviceaccount:somebody:else"))

    assert cloud.state.principal(first.value.reveal())
    assert 3500 < first.until - time.time() <= 3600
    with pytest.raises(
        GrantError, match=r"^AADSTS700213: No matching federated identity record found .*somebody:else'$"
    ):
        await tokens.token(Identity(kind="workload", scope=SCOPE), None)


@pytest.mark.parametrize("resource", ["https://cognitiveservices.azure.com", "https://ai.azure.com"])
async def test_a_service_principal_proves_itself_by_a_secret(cloud: Azure, resource: str) -> None:
    found = await source(cloud).token(application(cloud, scope=f"{resource}/.default"), SecretValue(CLIENT_SECRET))

    principal = cloud.state.principal(found.value.reveal())
    assert principal is not None
    assert principal.client_id == APP
    assert cloud.state.asked == {("secret", APP, f"{resource}/.default"): 1}


async def test_a_service_principal_proves_itself_by_a_certificate(cloud: Azure) -> None:
    await source(cloud).token(application(cloud, "certificate"), SecretValue(cloud.certificate.strip()))

    assert list(cloud.state.asked) == [("certificate", APP, SCOPE)]


@pytest.mark.parametrize("client", ["", APP])
async def test_a_managed_identity_asks_the_metadata_service(
    cloud: Azure, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.entra.imds_url)

    found = await source(cloud).token(Identity(kind="managed", client_id=client, scope=SCOPE), None)

    assert cloud.state.principal(found.value.reveal())


async def test_each_request_is_a_new_token(cloud: Azure) -> None:
    tokens = source(cloud)

    values = {(await tokens.token(Identity(kind="workload", scope=SCOPE), None)).value for _ in range(3)}

    assert len(values) == 3


async def test_what_entra_says_is_told_without_what_differs_each_time_and_without_the_secret(cloud: Azure) -> None:
    wrong = "wrong-secret-canary"

    with pytest.raises(GrantError) as refused:
        await source(cloud).token(application(cloud), SecretValue(wrong))

    said = str(refused.value)
    assert said.startswith("AADSTS7000215: Invalid client secret provided.")
    assert said.endswith(f"for a secret added to app '{APP}'")
    assert wrong not in said
    assert "Trace" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tenant_id": STRANGER}, "AADSTS90002: Tenant"),
        ({"client_id": TENANT}, "AADSTS700016: Application with identifier"),
        ({"scope": "https://storage.azure.com/.default"}, "AADSTS500011: The resource principal named"),
    ],
)
async def test_a_wrong_identity_is_told_in_the_words_of_entra(cloud: Azure, changes: dict[str, str], said: str) -> None:
    with pytest.raises(GrantError, match=said):
        await source(cloud).token(application(cloud, **changes), SecretValue(CLIENT_SECRET))


async def test_an_unknown_managed_identity_is_told(cloud: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.entra.imds_url)

    with pytest.raises(GrantError, match="Identity not found"):
        await source(cloud).token(Identity(kind="managed", client_id=TENANT, scope=SCOPE), None)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_issuer_that_fails_is_asked_once_and_told(cloud: Azure, status: int) -> None:
    cloud.state.fault = status

    with pytest.raises(GrantError, match="AADSTS90033"):
        await source(cloud).token(application(cloud), SecretValue(CLIENT_SECRET))

    assert cloud.state.asked.total() == 1


async def test_an_issuer_that_is_away_or_not_trusted_is_told(cloud: Azure) -> None:
    away = application(cloud, authority_host="https://localhost:1")

    with pytest.raises(GrantError, match=r"localhost:1"):
        await source(cloud).token(away, SecretValue(CLIENT_SECRET))
    with pytest.raises(GrantError, match="CERTIFICATE_VERIFY_FAILED"):
        await EntraTokens(environment={}).token(application(cloud), SecretValue(CLIENT_SECRET))


async def test_what_is_missing_is_named(cloud: Azure) -> None:
    with pytest.raises(GrantError, match=r"^there is no ai/entra\[client-secret\], or it is empty$"):
        await source(cloud).token(application(cloud), None)
    with pytest.raises(GrantError, match=r"AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE is not set"):
        await EntraTokens(environment={}).token(Identity(kind="workload", scope=SCOPE), None)
    with pytest.raises(GrantError, match=r"."):
        await source(cloud).token(application(cloud, "certificate"), SecretValue("no certificate"))


async def test_a_developer_is_who_signed_in_on_the_machine(
    cloud: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `az`: the real one wants a browser."""
    told = {"accessToken": "developers-token", "expires_on": int(time.time()) + 3000, "tokenType": "Bearer"}
    az = tmp_path / "bin" / "az"
    az.parent.mkdir()
    az.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    az.chmod(0o755)
    monkeypatch.setenv("PATH", f"{az.parent}:{os.environ['PATH']}")
    tokens = EntraTokens(ca_file=cloud.ca_file, developer=True, environment={})

    found = await tokens.token(Identity(kind="workload", scope=SCOPE), None)

    assert found.value.reveal() == "developers-token"
    az.write_text(az.read_text().replace("developers-token", "two words"))
    with pytest.raises(GrantError, match="no HTTP header"):
        await tokens.token(Identity(kind="workload", scope=SCOPE), None)
