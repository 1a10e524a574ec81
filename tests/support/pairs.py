"""Pairs of certificate and key as people store them: good, and wrong in one way each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from support.certificates import Pair, authority, pair, pem

NAME = "chat.example"
_SMALL_RSA = 1024


def usable() -> Mapping[str, Pair]:
    """Return pairs that Envoy can serve, by what is special about them."""
    key = _key()
    sec1 = pem(key, PrivateFormat.TraditionalOpenSSL)
    plain = pair(NAME, key=key)
    return {
        "P-256": plain,
        "P-384": pair(NAME, key=ec.generate_private_key(ec.SECP384R1())),
        "P-521": pair(NAME, key=ec.generate_private_key(ec.SECP521R1())),
        "RSA": pair(NAME, key=_rsa(2048)),
        "Ed25519": pair(NAME, key=ed25519.Ed25519PrivateKey.generate()),
        "RSA, PKCS #1": Pair(pair(NAME, key=_rsa(2048)).crt, pem(_rsa(2048), PrivateFormat.TraditionalOpenSSL)),
        "RSA that may only encipher": pair(NAME, key=_rsa(2048), extensions=[_usage(key_encipherment=True)]),
        "SEC 1": Pair(plain.crt, sec1),
        "SEC 1 behind its parameters": Pair(plain.crt, f"{_PARAMETERS}{sec1}"),
        "with its issuer": Pair(plain.crt + authority()[1], plain.key),
        "words around it": Pair(f"Certificate:\n  Data\n{plain.crt}the end", f"a key\n{plain.key}"),
        "no line end": Pair(plain.crt.strip(), plain.key.strip()),
        "line ends of Windows": Pair(plain.crt.replace("\n", "\r\n"), plain.key.replace("\n", "\r\n")),
        "expired": pair(NAME, key=key, days=(-30, -1)),
        "not yet valid": pair(NAME, key=key, days=(1, 30)),
        "without names": pair(key=key),
        "for clients": pair(NAME, key=key, extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])]),
    }


def unusable() -> Mapping[str, tuple[Pair, str]]:
    """Return pairs that Envoy refuses, each with the words for it."""
    key, other = _key(), ec.generate_private_key(ec.SECP256R1())
    good = pair(NAME, key=key)
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    locked = pem(key, encryption=BestAvailableEncryption(b"password"))
    kind = "has a key of a kind that Envoy does not serve"
    return {
        "empty": (Pair("", good.key), "is no certificate in PEM"),
        "no PEM": (Pair("certificate", "key"), "is no certificate in PEM"),
        "cut": (Pair(good.crt[:200], good.key), "is no certificate in PEM"),
        "the issuer is broken": (Pair(good.crt + broken, good.key), "is no certificate in PEM"),
        "swapped": (Pair(good.key, good.crt), "is no certificate in PEM"),
        "no key": (Pair(good.crt, ""), "is no private key in PEM"),
        "key cut": (Pair(good.crt, good.key[:90]), "is no private key in PEM"),
        "key with a password": (Pair(good.crt, locked), "or has a password"),
        "key of another": (Pair(good.crt, pem(other)), "belongs to another certificate than tls.crt"),
        "key of another kind": (Pair(good.crt, pem(_rsa(2048))), "belongs to another certificate than tls.crt"),
        "issuer first": (Pair(authority()[1] + good.crt, good.key), "does not begin with the certificate of tls.key"),
        "small RSA": (pair(NAME, key=_rsa(_SMALL_RSA)), kind),
        "P-224": (pair(NAME, key=ec.generate_private_key(ec.SECP224R1())), kind),
        "secp256k1": (pair(NAME, key=ec.generate_private_key(ec.SECP256K1())), kind),
        "must-staple": (pair(NAME, key=key, extensions=[staple]), "demands a stapled OCSP response"),
        "may not sign": (pair(NAME, key=key, extensions=[_usage(key_agreement=True)]), "may not sign"),
    }


_PARAMETERS = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, bits)


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    usages: dict[str, Any] = dict.fromkeys(names, False)
    return x509.KeyUsage(**{**usages, **allowed})
