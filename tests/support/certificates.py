"""Certificates for tests: a CA of their own, and leaves that are right, or wrong in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, PEM."""

    crt: str
    key: str


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, encryption: Any = None) -> str:
    """Return a private key as PEM."""
    return str(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode())


@cache
def authority() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """Return the key and certificate of a CA that tests trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, certificate(key, names=(), issuer="test CA", ca=True)


def pair(*names: str, key: Any = None, **options: Any) -> Pair:
    """Return a certificate for these DNS names, signed by `authority`, with its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Pair(certificate(key, names=names, signer=authority()[0], **options), pem(key))


def certificate(
    key: Any,
    *,
    names: Sequence[str] = (),
    signer: Any = None,
    issuer: str = "test CA",
    ca: bool = False,
    now: datetime | None = None,
    days: tuple[float, float] = (-1, 30),
    extensions: Sequence[x509.ExtensionType] = (),
) -> str:
    """Return a certificate of a key as PEM.

    Args:
        key: whose public half it certifies.
        names: its DNS names; none: no subjectAltName.
        signer: the CA's key; None: it signs itself.
        issuer: the CA's name, and the subject's of a CA.
        ca: whether it is one.
        now: what `days` counts from.
        days: when it begins and ends.
        extensions: more, none of them critical.
    """
    now = now or datetime.now(UTC)
    subject = issuer if ca else "gateway"
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((signer or key).public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if ca:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    for one in extensions:
        builder = builder.add_extension(one, critical=False)
    made = builder.sign(signer or key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def tls_secret(name: str, held: Pair, *, namespace: str = "ai") -> dict[str, Any]:
    """Return a Secret of the type kubernetes.io/tls."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"tls.crt": held.crt, "tls.key": held.key},
    }
