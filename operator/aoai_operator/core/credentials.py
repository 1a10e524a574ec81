"""Reading a key from a Secret: what is missing or unusable is a finding, never an exception, never a printed value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aoai_operator.core.api import AzureDiscovery, EndpointAuth, EntraIdentity, SecretEntryRef, SecretKeyRef
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue

RESERVED = "anonymous"
"""The published key of pools that need none (core/envoy/extensions.py); no tenant may own it."""

_DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a key cannot be used: the fault, what is wrong, and the mend."""

    fault: ConditionReason
    message: str
    mend: str


def reference(namespace: str, ref: SecretKeyRef | SecretEntryRef) -> SecretRef:
    """Return the full reference of a `secretRef` in an object of `namespace`."""
    return SecretRef(namespace, ref.name, ref.key)


def endpoint_secret(namespace: str, auth: EndpointAuth) -> SecretRef | None:
    """Return the entry of a Secret that an endpoint of a pool in `namespace` needs; None: it needs none."""
    if auth.api_key is not None:
        return reference(namespace, auth.api_key.secret_ref)
    return identity_secret(namespace, auth.entra) if auth.entra else None


def identity_secret(namespace: str, identity: EntraIdentity) -> SecretRef | None:
    """Return the entry of a Secret with which an identity proves itself; None: it needs none."""
    given = identity.client_secret or identity.client_certificate
    return reference(namespace, given.secret_ref) if given else None


def discovery_secrets(namespace: str, azure: AzureDiscovery) -> tuple[SecretRef, ...]:
    """Return the entries of Secrets that discovery needs: to read Azure, and to call what it finds there."""
    identities = (azure.identity, azure.auth.entra if azure.auth else None)
    found = (identity_secret(namespace, identity) for identity in identities if identity)
    return tuple(ref for ref in found if ref)


def read_key(secrets: Mapping[SecretRef, SecretValue], ref: SecretRef) -> SecretValue | Unreadable:
    """Return the key that `ref` names.

    An HTTP header value may hold visible ASCII only (RFC 9110, 5.5). The commonest mistake, a newline at the end from
    `echo key | base64`, is forgiven by `cleaned` when Secrets are read.
    """
    value = secrets.get(ref)
    if value is None:
        return missing(secrets, ref)
    text = value.reveal()
    if not text:
        return Unreadable(ConditionReason.SECRET_INVALID, f"the entry {ref} is empty", "put the key into it")
    if not is_sendable(value):
        message = f"the entry {ref} holds characters that no HTTP header may carry"
        return Unreadable(
            ConditionReason.SECRET_INVALID, message, "store the bare key, without quotes, spaces or line breaks"
        )
    return value


_SENDABLE = re.compile(r"[!-~]+")


def is_sendable(value: SecretValue) -> bool:
    """Tell whether an HTTP header may carry it: visible ASCII, some of it."""
    return _SENDABLE.fullmatch(value.reveal()) is not None


def missing(secrets: Mapping[SecretRef, SecretValue], ref: SecretRef) -> Unreadable:
    """Return what is not there: the Secret, or the entry in it. Entries are named, never shown."""
    entries = sorted(r.key for r in secrets if (r.namespace, r.name) == (ref.namespace, ref.name))
    if entries:
        message = f"the Secret {ref.namespace}/{ref.name} has no entry {ref.key}"
        mend = f"it has {', '.join(entries)}: name one of them in secretRef.key, or add the entry"
        return Unreadable(ConditionReason.SECRET_NOT_FOUND, message, mend)
    message = f"there is no Secret {ref.namespace}/{ref.name}, or it is empty"
    # The commonest slip: a manifest without metadata.namespace.
    if any((r.namespace, r.name) == (_DEFAULT_NAMESPACE, ref.name) for r in secrets):
        mend = f"there is one in the namespace {_DEFAULT_NAMESPACE}: give it metadata.namespace: {ref.namespace}"
        return Unreadable(ConditionReason.SECRET_NOT_FOUND, message, mend)
    return Unreadable(ConditionReason.SECRET_NOT_FOUND, message, "create it, or name another in secretRef")


def cleaned(text: str) -> SecretValue:
    """Return a Secret's entry as a key: white space around it is dropped."""
    return SecretValue(text.strip())
