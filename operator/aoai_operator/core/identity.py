"""Who is at the other end of a connection, by what it proves, and what it may have for that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.pki import OPERATOR_ID, Certificate, gateway_of

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SERVICE_ACCOUNT = "system:serviceaccount:"


class PeerKind(StrEnum):
    """What a peer has proven to be."""

    POD = "pod"
    """A process in this pod: it reached a socket in a directory that the pod's containers share."""
    GATEWAY = "gateway"
    """A proxy of a gateway: it holds the key of the gateway's client certificate."""
    OPERATOR = "operator"
    """Another replica of the operator: it holds the key of the operator's certificate."""
    SERVICE_ACCOUNT = "service account"
    """A pod: it holds a token of its service account that was made for us."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end."""

    kind: PeerKind
    name: str = ""
    """The gateway, or the service account's name."""
    namespace: str = ""
    """The service account's namespace."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind.value, "/".join(filter(None, (self.namespace, self.name)))) if part)


class RefusedError(Exception):
    """A peer proves nothing, or not what it claims; the message is one sentence for its owner, and holds no secret."""

    def __init__(self, message: str, *, peer: Peer | None = None) -> None:
        """Take the sentence, and the peer if it has proven at least who it is."""
        super().__init__(message)
        self.peer = peer


def peer_of_certificate(certificate: Certificate, now: datetime) -> Peer:
    """Return whom a client certificate speaks for, whose chain to our CA TLS has verified.

    Its time is looked at again: TLS does so when a connection begins, and a resumed session may be older.

    Raises:
        RefusedError: it is over, or its URI is none of ours.
    """
    if not certificate.not_before <= now < certificate.not_after:
        raise RefusedError("the client certificate is over, or not valid yet")
    if OPERATOR_ID in certificate.names:
        return Peer(PeerKind.OPERATOR)
    gateways = {gateway for name in certificate.names if (gateway := gateway_of(name))}
    if len(gateways) != 1:
        raise RefusedError("the client certificate names no gateway")
    return Peer(PeerKind.GATEWAY, gateways.pop())


def peer_of_user(username: str | None) -> Peer:
    """Return whom a reviewed token speaks for, by the user name that the API server gave it.

    Raises:
        RefusedError: it is no token of a service account that was made for us.
    """
    namespace, _, name = (username or "").removeprefix(_SERVICE_ACCOUNT).partition(":")
    if not (username and username.startswith(_SERVICE_ACCOUNT) and namespace and name):
        raise RefusedError("the token is not valid, or was not made for this audience")
    return Peer(PeerKind.SERVICE_ACCOUNT, name, namespace)


def audience_of(peer: Peer, gateway: str) -> Audience:
    """Return which resources a proxy gets.

    Args:
        peer: who it has proven to be.
        gateway: the gateway that it claims to belong to, by its `node.cluster`.

    Raises:
        RefusedError: it may not have that gateway's.
    """
    if not _NAME.fullmatch(gateway):
        raise RefusedError("node.cluster is no name of a gateway", peer=peer)
    match peer.kind:
        case PeerKind.POD:
            return Audience(gateway, Placement.POD)
        case PeerKind.SERVICE_ACCOUNT:
            return Audience(gateway, Placement.SIDECAR, peer.namespace)
        case PeerKind.GATEWAY if peer.name == gateway:
            return Audience(gateway, Placement.GATEWAY)
        case PeerKind.GATEWAY:
            raise RefusedError(f"its certificate is for the gateway {peer.name!r}, not for {gateway!r}", peer=peer)
    raise RefusedError(f"an {peer.kind} is no proxy", peer=peer)
