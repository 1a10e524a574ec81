"""Certificates between Envoys and the control plane: making and reading them. Time is passed in; keys are random.

P-256, as every TLS library has it, signs fast and is small. `rotation.py` says when what is made.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "aoai.dev"
OPERATOR_ID = f"spiffe://{TRUST_DOMAIN}/operator"
"""The URI of the operator's own certificate."""
_GATEWAY_ID = f"spiffe://{TRUST_DOMAIN}/gateway/"

BACKDATE = timedelta(hours=1)
"""How much earlier than now a certificate begins, for clocks that are behind."""


class PkiError(ValueError):
    """Some PEM is not what it should be; the message is one sentence that quotes no key."""


def gateway_id(gateway: str) -> str:
    """Return the URI in the client certificate of a gateway's proxies (a SPIFFE ID)."""
    return _GATEWAY_ID + gateway


def gateway_of(uri: str) -> str | None:
    """Return the gateway that a client certificate's URI names; None for any other URI."""
    gateway = uri.removeprefix(_GATEWAY_ID)
    return gateway if gateway and gateway != uri and "/" not in gateway else None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate: what the rotation asks about it, and its PEM."""

    pem: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    names: frozenset[str]
    """Its subject alternative names: DNS names, IP addresses and URIs."""
    is_ca: bool

    def signed_by(self, issuer: Certificate) -> bool:
        """Tell whether another certificate's key signed this one."""
        try:
            x509.load_pem_x509_certificate(self.pem).verify_directly_issued_by(
                x509.load_pem_x509_certificate(issuer.pem)
            )
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: Certificate
    key: bytes = field(repr=False)
    """PKCS #8, PEM, not encrypted."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a leaf is made for."""

    common_name: str
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """All of its subject alternative names."""
        return frozenset((*self.dns, *self.addresses, *self.uris))


def make_authority(*, now: datetime, lifetime: timedelta) -> KeyPair:
    """Return a new certificate authority, which may sign leaves and nothing else.

    Each has a name of its own: with several in a bundle, a verifier then looks at the right one at once.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(f"aoai-operator CA {serial:040x}"[:34])
    builder = (
        _builder(subject=name, issuer=name, key=key, serial=serial, now=now, lifetime=lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(subject: Subject, authority: KeyPair, *, now: datetime, lifetime: timedelta) -> KeyPair:
    """Return a certificate signed by the authority; it never outlives it.

    With DNS names or addresses it may serve; with a URI it may be a client's.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate.pem)
    issuer_key = _load_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    lifetime = min(lifetime, authority.certificate.not_after - now)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if subject.dns or subject.addresses else []
    purposes += [ExtendedKeyUsageOID.CLIENT_AUTH] if subject.uris else []
    names: list[x509.GeneralName] = [x509.DNSName(one) for one in subject.dns]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in subject.addresses]
    names += [x509.UniformResourceIdentifier(one) for one in subject.uris]
    name = _name(subject.common_name)
    serial = x509.random_serial_number()
    builder = (
        _builder(subject=name, issuer=issuer.subject, key=key, serial=serial, now=now, lifetime=lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def read_certificates(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates of some PEM, in its order.

    Raises:
        PkiError: there is none, or one cannot be read.
    """
    try:
        return tuple(_certificate(one) for one in x509.load_pem_x509_certificates(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PkiError("is no PEM certificate") from error


def read_pair(certificate: bytes, key: bytes) -> KeyPair:
    """Return a certificate with its key.

    Raises:
        PkiError: one of them cannot be read, or they do not belong together.
    """
    found = read_certificates(certificate)[0]
    private = _load_key(key)
    if x509.load_pem_x509_certificate(found.pem).public_key() != private.public_key():
        raise PkiError("its key belongs to another certificate")
    return KeyPair(found, _key_pem(private))


def bundle(certificates: tuple[Certificate, ...]) -> bytes:
    """Return certificates as one PEM text."""
    return b"".join(one.pem for one in certificates)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PkiError("its key is no PEM private key without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("its key is not of an elliptic curve")
    return key


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(_certificate(certificate), _key_pem(key))


def _certificate(found: x509.Certificate) -> Certificate:
    names: frozenset[str] = frozenset()
    is_ca = False
    for extension in found.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = frozenset(str(name.value) for name in extension.value)
        if isinstance(extension.value, x509.BasicConstraints):
            is_ca = extension.value.ca
    pem = found.public_bytes(serialization.Encoding.PEM)
    not_before, not_after = found.not_valid_before_utc, found.not_valid_after_utc
    return Certificate(pem, not_before.astimezone(UTC), not_after.astimezone(UTC), names, is_ca)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    """X.520 bounds a common name at 64 characters; what counts are the alternative names."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
