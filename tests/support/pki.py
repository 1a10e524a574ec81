"""Certificates for tests: one authority, a server, and clients of every kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from aoai_operator.adapters.grpc_server import ServerCertificate
from aoai_operator.core.pki import (
    OPERATOR_ID,
    Certificate,
    KeyPair,
    Subject,
    bundle,
    gateway_id,
    make_authority,
    make_leaf,
)

SERVER_NAME = "aoai-operator-xds.aoai-system.svc"
_DAY = timedelta(days=1)


class Pki:
    """An authority, and what it signs."""

    def __init__(self) -> None:
        self.authority = make_authority(now=_now(), lifetime=365 * _DAY)
        self.trusted: tuple[Certificate, ...] = (self.authority.certificate,)

    def server(self) -> KeyPair:
        """Return a certificate of the operator."""
        return self._leaf(Subject("server", dns=(SERVER_NAME,), uris=(OPERATOR_ID,)))

    def served(self) -> ServerCertificate:
        """Return what a server needs."""
        return ServerCertificate(self.server(), self.trusted)

    def gateway(self, name: str = "default", *, ago: timedelta = timedelta(0)) -> KeyPair:
        """Return a client certificate of a gateway's proxies, made some time ago for a day."""
        return self._leaf(Subject(name, uris=(gateway_id(name),)), ago=ago)

    def other(self, uri: str) -> KeyPair:
        """Return a client certificate with some URI."""
        return self._leaf(Subject("other", uris=(uri,)))

    def expired(self) -> KeyPair:
        """Return a gateway's that is over."""
        return self.gateway(ago=2 * _DAY)

    def rotate(self) -> None:
        """Make a new authority that signs from now on; the old one stays trusted."""
        self.authority = make_authority(now=_now(), lifetime=365 * _DAY)
        self.trusted += (self.authority.certificate,)

    def volume(self, directory: Path, pair: KeyPair | None = None, *, token: str | None = None) -> None:
        """Write a volume, or update it, as the kubelet does: all files at once, by a swap of the link `..data`."""
        files = {"ca.crt": bundle(self.trusted)}
        if pair is not None:
            files |= {"tls.crt": pair.certificate.pem, "tls.key": pair.key}
        if token is not None:
            files["token"] = token.encode()
        directory.mkdir(exist_ok=True)
        version = directory / f"..{len(list(directory.glob('..[0-9]*')))}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        fresh = directory / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.rename(directory / "..data")

    def _leaf(self, subject: Subject, *, ago: timedelta = timedelta(0)) -> KeyPair:
        return make_leaf(subject, self.authority, now=_now() - ago, lifetime=_DAY)


def _now() -> datetime:
    return datetime.now(UTC)
