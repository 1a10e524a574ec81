"""Serving certificates: what a kubernetes.io/tls Secret holds, and whether Envoy and clients will take it.

Envoy refuses a certificate that it cannot use, and with it the whole update. So what reaches it was read here, and is
written anew: the chain and the key in plain PEM, without whatever stood around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import Unreadable, missing
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable

_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_SMALLEST_RSA = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_KEY_BLOCK = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_BOTH = "a Secret of the type kubernetes.io/tls has two entries, tls.crt and tls.key, both PEM"
_REMEMBERED = 4096
"""Pairs that are kept as read: reading one takes milliseconds, and every compilation and snapshot wants all of them."""


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A certificate that Envoy can serve with its key; `chain` and `key` are PEM, the leaf first.

    `names` are the DNS names of the leaf, in lower case. Times are milliseconds of the Unix epoch.
    """

    chain: str = field(repr=False)
    key: SecretValue
    names: tuple[str, ...]
    not_before: int
    not_after: int
    for_servers: bool

    def covers(self, hostname: str) -> bool:
        """Tell whether clients take it for a host name. `*` stands for one label, the first (RFC 9525, 6.3)."""
        _, _, parent = hostname.partition(".")
        return hostname in self.names or (bool(parent) and f"*.{parent}" in self.names)


def read_certificate(
    secrets: Mapping[SecretRef, SecretValue], refs: Sequence[SecretRef]
) -> ServingCertificate | Unreadable:
    """Return the pair that `refs` name, certificate and key; or why Envoy could not serve it."""
    for ref in refs:
        if ref not in secrets:
            absent = missing(secrets, ref)
            some = any((r.namespace, r.name) == (ref.namespace, ref.name) for r in secrets)
            return replace(absent, mend=_BOTH) if some else absent
    certificate, key = refs
    read = _read(secrets[certificate], secrets[key])
    if isinstance(read, ServingCertificate):
        return read
    entry, wrong, mend = read
    return Unreadable(
        ConditionReason.CERTIFICATE_INVALID, f"the entry {certificate if entry == 'crt' else key} {wrong}", mend
    )


class Standing(IntEnum):
    """How good a pair is; of two, the higher serves."""

    UNUSABLE = 0
    """Envoy could not serve it, or there is none."""
    DOUBTFUL = 1
    """Envoy could, but clients will refuse it."""
    GOOD = 2


def examine(
    secrets: Mapping[SecretRef, SecretValue], refs: Sequence[SecretRef], *, hostnames: Sequence[str], now: int
) -> tuple[Standing, Unreadable | None]:
    """Return how good the pair that `refs` name is, and what is wrong with it; `now` in milliseconds of the epoch."""
    read = read_certificate(secrets, refs)
    if isinstance(read, Unreadable):
        return Standing.UNUSABLE, read
    wrong = _complaint(read, refs[0], hostnames, now)
    return (Standing.DOUBTFUL if wrong else Standing.GOOD), wrong


def _complaint(
    certificate: ServingCertificate, ref: SecretRef, hostnames: Sequence[str], now: int
) -> Unreadable | None:

    def wrong(message: str, mend: str) -> Unreadable:
        return Unreadable(ConditionReason.CERTIFICATE_INVALID, f"the certificate in {ref} {message}", mend)

    if now > certificate.not_after:
        return wrong(f"expired at {_moment(certificate.not_after)}", "renew it")
    if now < certificate.not_before:
        return wrong(f"is not valid before {_moment(certificate.not_before)}", "use one that is, or mend the clock")
    if not certificate.for_servers:
        return wrong("is for clients only", "issue one with the extended key usage serverAuth")
    if uncovered := [name for name in hostnames if not certificate.covers(name)]:
        held = ", ".join(certificate.names) or "none"
        mend = "issue one with all of spec.gateway.hostnames as DNS names (subjectAltName)"
        return wrong(f"does not cover {', '.join(uncovered)}; its DNS names: {held}", mend)
    return None


def expiries(tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> dict[PoolKey, int]:
    """Return when the certificate in each pool's Secret ends, in milliseconds of the epoch, where it can be read."""
    found = {}
    for table in tables:
        if table.tls_secret and isinstance(read := read_certificate(secrets, table.tls_refs), ServingCertificate):
            found[table.key] = read.not_after
    return found


_Wrong = tuple[str, str, str]
"""Which entry ("crt" or "key"), what is wrong with it, the mend."""


@lru_cache(maxsize=_REMEMBERED)
def _read(crt: SecretValue, key: SecretValue) -> ServingCertificate | _Wrong:
    try:
        chain = x509.load_pem_x509_certificates(crt.reveal().encode())
        leaf = chain[0]
        served = leaf.public_key()
        extensions = leaf.extensions
    except _UNREADABLE:
        return "crt", "is no certificate in PEM", "put the chain into it, the server's own certificate first"
    block = _KEY_BLOCK.search(key.reveal())
    try:
        private = load_pem_private_key(block[0].encode() if block else b"", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "key", "is no private key in PEM, or has a password", "put the bare key of the certificate into it"
    if not _servable(served):
        mend = "use a key of RSA with 2048 bits or more, of P-256, P-384 or P-521, or Ed25519"
        return "crt", "has a key of a kind that Envoy does not serve", mend
    if _public_bytes(private.public_key()) != _public_bytes(served):
        return _mismatch(chain[1:], private.public_key())
    if refused := _refused(extensions, served):
        return refused
    return ServingCertificate(
        chain="".join(one.public_bytes(Encoding.PEM).decode() for one in chain),
        key=SecretValue(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()),
        names=_names(extensions),
        not_before=_milliseconds(leaf.not_valid_before_utc),
        not_after=_milliseconds(leaf.not_valid_after_utc),
        for_servers=_for_servers(extensions),
    )


def _servable(key: object) -> bool:
    """Tell whether Envoy takes a key. Source: its context_impl.cc, and trying all of them."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _SMALLEST_RSA
    return isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    )


def _mismatch(chain: Sequence[x509.Certificate], public: object) -> _Wrong:
    if any(_public_bytes_of(one) == _public_bytes(public) for one in chain):
        return "crt", "does not begin with the certificate of tls.key", "put the server's own certificate first"
    return "key", "belongs to another certificate than tls.crt", "store the two that were issued together"


def _refused(extensions: x509.Extensions, key: object) -> _Wrong | None:
    """Return what else Envoy refuses: must-staple, as it has no OCSP response, and a key that may not sign."""
    for one in extensions:
        if isinstance(one.value, x509.TLSFeature) and x509.TLSFeatureType.status_request in one.value:
            return "crt", "demands a stapled OCSP response (must-staple)", "issue one without it"
        may_sign = not isinstance(one.value, x509.KeyUsage) or one.value.digital_signature
        if not may_sign and not isinstance(key, rsa.RSAPublicKey):
            return "crt", "may not sign", "issue one with the key usage digitalSignature"
    return None


def _names(extensions: x509.Extensions) -> tuple[str, ...]:
    for one in extensions:
        if isinstance(one.value, x509.SubjectAlternativeName):
            return tuple(name.lower() for name in one.value.get_values_for_type(x509.DNSName))
    return ()


def _for_servers(extensions: x509.Extensions) -> bool:
    for one in extensions:
        if isinstance(one.value, x509.ExtendedKeyUsage):
            usages = set(one.value)
            return bool(usages & {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
    return True


def _public_bytes(key: object) -> bytes:
    """Return a public key's DER; of kinds that have none, nothing: they equal no other."""
    if not hasattr(key, "public_bytes"):
        return b""
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def _public_bytes_of(certificate: x509.Certificate) -> bytes:
    try:
        return _public_bytes(certificate.public_key())
    except _UNREADABLE:
        return b""


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
