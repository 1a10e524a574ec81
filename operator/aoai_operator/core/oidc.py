"""OpenID Connect discovery: an issuer's name and the public keys of its tokens, from what it serves.

Sources: OpenID Connect Discovery 1.0, 3 and 4.3; JSON Web Key, RFC 7517 and RFC 7518, 6. Only what Envoy can verify is
taken, checked here one by one: it would refuse the whole filter, of all pools, for a set without any good key.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aoai_operator.core.table import TokenIssuer

DISCOVERY = "/.well-known/openid-configuration"

_MOST_KEYS = 50
_LEAST_RSA_BITS = 2048
_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_FIELDS = ("alg", "crv", "e", "kid", "kty", "n", "use", "x", "y")
"""Those of a public key; an issuer's own additions, and private parts that nobody should publish, go no further."""


class OidcError(Exception):
    """What an issuer serves is not what it should be; the message is a sentence without a full stop."""


def read_discovery(issuer: TokenIssuer, text: bytes) -> tuple[str, str]:
    """Return an issuer's name in its tokens, and where its keys are, from its discovery document.

    The name must be the address of the document, so that no issuer can speak for another. Entra ID's is not; of it we
    know the address for sure.

    Raises:
        OidcError: it is no such document.
    """
    told = _object(text, "the discovery document")
    name, keys = told.get("issuer"), told.get("jwks_uri")
    if not isinstance(name, str) or not isinstance(keys, str) or not name:
        raise OidcError("the discovery document tells no issuer, or not where its keys are")
    if issuer.kind == "serviceAccount" and issuer.url and name.rstrip("/") != issuer.url:
        raise OidcError(f"the discovery document is of another issuer, {name!r}")
    # By http only where the issuer itself is, as in tests.
    schemes = ("https://", "http://") if issuer.url.startswith("http://") else ("https://",)
    if not keys.startswith(schemes):
        raise OidcError("the issuer's keys are not served by https")
    return name, keys


def read_jwks(text: bytes) -> str:
    """Return a JSON Web Key Set as Envoy takes it: the keys that verify signatures, in a stable order.

    Raises:
        OidcError: there is none in it.
    """
    keys = _object(text, "the key set").get("keys")
    good = {_canonical(key) for key in keys[:_MOST_KEYS] if _verifies(key)} if isinstance(keys, list) else set()
    if not good:
        raise OidcError("the key set has no key that verifies signatures")
    return f'{{"keys":[{",".join(sorted(good))}]}}'


def _object(text: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise OidcError(f"{what} is no JSON") from None
    if not isinstance(found, dict):
        raise OidcError(f"{what} is no JSON object")
    return found


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps({name: key[name] for name in _FIELDS if name in key}, sort_keys=True, separators=(",", ":"))


def _verifies(key: object) -> bool:
    if not isinstance(key, dict) or key.get("use", "sig") != "sig":
        return False
    if not all(isinstance(key[name], str) for name in _FIELDS if name in key):
        return False
    try:
        return _is_rsa(key) if key.get("kty") == "RSA" else key.get("kty") == "EC" and _is_ec(key)
    except (KeyError, ValueError):
        return False


def _is_rsa(key: Mapping[str, str]) -> bool:
    return rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key().key_size >= _LEAST_RSA_BITS


def _is_ec(key: Mapping[str, str]) -> bool:
    ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), _CURVES[key["crv"]]).public_key()
    return True


def _number(text: str) -> int:
    return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
