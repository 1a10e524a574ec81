"""A simulated Entra ID, by TLS that nobody else trusts, and who is in it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from aoai_operator.simulator import Application, Entra, EntraState, Federated
from support.certificates import authority, certificate, pair, pem

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
APP = "11111111-1111-1111-1111-111111111111"
STRANGER = "22222222-2222-2222-2222-222222222222"
"""In the directory, without the role."""
CLIENT_SECRET = "client-secret-canary-Zq8~"
ISSUER = "https://oidc.example.com/cluster"
SUBJECT = "system:serviceaccount:aoai-system:aoai-operator"


@dataclass(frozen=True)
class Azure:
    """A directory that is served, and what proves to it who somebody is."""

    entra: Entra
    ca_file: Path
    certificate: str
    """The application's, with its private key, as PEM."""
    token_file: Path
    """A projected service-account token, as far as Entra ID looks at it."""

    @property
    def state(self) -> EntraState:
        """What the directory does."""
        return self.entra.state

    @property
    def environment(self) -> dict[str, str]:
        """What a workload identity's webhook sets, and where the metadata service is."""
        return {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": APP,
            "AZURE_FEDERATED_TOKEN_FILE": str(self.token_file),
            "AZURE_AUTHORITY_HOST": self.entra.url,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.entra.imds_url,
        }


@asynccontextmanager
async def azure(folder: Path, *, lifetime: int = 3600) -> AsyncIterator[Azure]:
    """Serve a directory while the block runs; its files are in a folder."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own = certificate(key)
    served = pair("localhost")
    paths = {name: folder / name for name in ("ca.crt", "tls.crt", "tls.key", "token")}
    paths["ca.crt"].write_text(authority()[1])
    paths["tls.crt"].write_text(served.crt)
    paths["tls.key"].write_text(served.key)
    paths["token"].write_text(projected())
    user = Application(
        client_id=APP,
        secrets=[CLIENT_SECRET],
        certificates=[own],
        federated=[Federated(issuer=ISSUER, subject=SUBJECT)],
    )
    stranger = Application(client_id=STRANGER, secrets=["x"], openai_user=False)
    state = EntraState(TENANT, [user, stranger], now=time.time, lifetime=lifetime)
    async with Entra(state, certfile=str(paths["tls.crt"]), keyfile=str(paths["tls.key"])) as entra:
        yield Azure(entra, paths["ca.crt"], own + pem(key), paths["token"])


def projected(subject: str = SUBJECT) -> str:
    """Return a token as the API server projects it into a pod."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = {"iss": ISSUER, "sub": subject, "aud": ["api://AzureADTokenExchange"], "exp": int(time.time()) + 3600}
    return jwt.encode(claims, key, algorithm="RS256")
