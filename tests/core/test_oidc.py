"""Discovery documents and key sets, as issuers serve them and as nobody should."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from aoai_operator.core.oidc import OidcError, read_discovery, read_jwks
from aoai_operator.core.table import TokenIssuer

Json = dict[str, Any]

ACCOUNTS = TokenIssuer(kind="serviceAccount", url="https://oidc.example/cluster", audience="aoai")
ENTRA = TokenIssuer(kind="entra", url="https://login.microsoftonline.com/tid", audience="aoai")
RSA: Json = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key())) | {"kid": "a"}
SHORT: Json = RSA | {"n": RSA["n"][:171]}
EC: Json = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())) | {"kid": "b"}


def discovery(**told: object) -> bytes:
    keys = "https://oidc.example/keys"
    return json.dumps({"issuer": "https://oidc.example/cluster", "jwks_uri": keys, **told}).encode()


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_document_tells_name_and_keys() -> None:
    assert read_discovery(ACCOUNTS, discovery()) == ("https://oidc.example/cluster", "https://oidc.example/keys")
    # Some names end with a slash, and tokens have it too.
    assert read_discovery(ACCOUNTS, discovery(issuer="https://oidc.example/cluster/"))[0].endswith("/")
    assert read_discovery(ENTRA, discovery(issuer="https://sts.windows.net/tid/"))[0] == "https://sts.windows.net/tid/"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (discovery(issuer="https://sts.windows.net/tid/"), "another issuer"),
        (discovery(issuer=""), "tells no issuer"),
        (discovery(jwks_uri=7), "not where its keys are"),
        (discovery(jwks_uri="http://oidc.example/keys"), "not served by https"),
        (discovery(jwks_uri="file:///etc/passwd"), "not served by https"),
        (b"[]", "no JSON object"),
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_document_of_the_issuer_is_refused(told: bytes, why: str) -> None:
    with pytest.raises(OidcError, match=why):
        read_discovery(ACCOUNTS, told)


def test_keys_come_in_a_stable_order_and_without_what_nobody_needs() -> None:
    one = read_jwks(jwks(RSA, EC | {"x5c": ["MII"], "issuer": "https://x"}))
    assert one == read_jwks(jwks(EC, RSA, RSA))
    assert {key["kid"] for key in json.loads(one)["keys"]} == {"a", "b"}
    assert "x5c" not in one
    assert len(jwt.PyJWKSet.from_json(one).keys) == 2


def test_private_parts_go_no_further() -> None:
    assert '"d"' not in read_jwks(jwks(RSA | {"d": "secret"}))


@pytest.mark.parametrize(
    "bad",
    [
        SHORT,
        RSA | {"use": "enc"},
        RSA | {"n": "AQAB"},
        RSA | {"n": 7},
        RSA | {"e": "AA"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "c2VjcmV0"},
        EC | {"crv": "P-999"},
        EC | {"x": EC["y"]},
        EC | {"kid": ["b"]},
        "key",
        None,
    ],
)
def test_a_key_that_verifies_nothing_is_left_out(bad: object) -> None:
    assert read_jwks(jwks(bad, RSA)) == read_jwks(jwks(RSA))
    with pytest.raises(OidcError, match="no key"):
        read_jwks(jwks(bad))


_DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(_DOCUMENTS)
def test_no_document_makes_another_error(told: object) -> None:
    for read in (lambda text: read_discovery(ACCOUNTS, text), read_jwks):
        with pytest.raises(OidcError):
            read(json.dumps(told).encode())
