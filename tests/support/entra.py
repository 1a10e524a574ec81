"""A stand-in for Entra ID: its discovery documents and keys, and tokens as it signs them.

A mock, as the real one is in Azure. Documents and claims follow Microsoft identity platform, "OpenID Connect", "Access
tokens" and "Access token claims reference": two versions of tokens, with an issuer each, and one set of keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

Json = dict[str, Any]

DIRECTORY = "72f988bf-86f1-41af-91ab-2d7cd011db47"
AUDIENCE = "https://cognitiveservices.azure.com"
_KID = "first"


class Entra:
    """One directory."""

    def __init__(self) -> None:
        self.url = ""
        self.broken = False
        """Whether it answers with 503."""
        self._key = generate_private_key(public_exponent=65537, key_size=2048)

    def issuer(self, version: int) -> str:
        """Return its name in tokens of a version."""
        v2 = f"https://login.microsoftonline.com/{DIRECTORY}/v2.0"
        return v2 if version == 2 else f"https://sts.windows.net/{DIRECTORY}/"

    def token(
        self, *, version: int = 1, key: RSAPrivateKey | None = None, algorithm: str = "RS256", **claims: Any
    ) -> str:
        """Return a token with these claims: by default one that is good for an hour, for Azure OpenAI."""
        now = int(time.time())
        whole = {"iss": self.issuer(version), "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 3600, **claims}
        signing: Any = None if algorithm == "none" else key or self._key
        said = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(said, signing, algorithm=algorithm, headers={"kid": _KID})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Entra]:
        """Serve while the block runs."""
        app = web.Application()
        app.add_routes(
            [
                web.get(f"/{DIRECTORY}/.well-known/openid-configuration", self._discovery(1)),
                web.get(f"/{DIRECTORY}/v2.0/.well-known/openid-configuration", self._discovery(2)),
                web.get("/keys", self._jwks),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _discovery(self, version: int) -> Any:
        async def answer(_request: web.Request) -> web.Response:
            if self.broken:
                return web.Response(status=503)
            return web.json_response({"issuer": self.issuer(version), "jwks_uri": f"{self.url}/keys"})

        return answer

    async def _jwks(self, _request: web.Request) -> web.Response:
        public = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        told = {"kty": "RSA", "use": "sig", "kid": _KID, "x5t": _KID, "n": public["n"], "e": public["e"]}
        return web.json_response({"keys": [told]})
