"""Reading a key from a Secret: what is missing or unusable is a finding, never an exception, never a printed value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aoai_operator.core.api import SecretKeyRef
from aoai_operator.core.findings import Fault
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue

RESERVED = "anonymous"
"""The published key of pools that need none (core/envoy/extensions.py); no tenant may own it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a key cannot be used: the fault, what is wrong, and the mend."""

    fault: Fault
    message: str
    mend: str


def reference(namespace: str, ref: SecretKeyRef) -> SecretRef:
    """Return the full reference of a `secretRef` in an object of `namespace`."""
    return SecretRef(namespace, ref.name, ref.key)


def read_key(secrets: Mapping[SecretRef, SecretValue], ref: SecretRef) -> SecretValue | Unreadable:
    """Return the key that `ref` names.

    An HTTP header value may hold visible ASCII only (RFC 9110, 5.5). The commonest mistake, a newline at the end from
    `echo key | base64`, is forgiven by `cleaned` when Secrets are read.
    """
    value = secrets.get(ref)
    if value is None:
        message = f"the Secret {ref.namespace}/{ref.name} has no entry {ref.key}, or does not exist"
        return Unreadable(Fault.SECRET_NOT_FOUND, message, "create it, or name another in secretRef")
    text = value.reveal()
    if not text:
        return Unreadable(Fault.SECRET_INVALID, f"the entry {ref} is empty", "put the key into it")
    if not all(" " < c <= "~" for c in text):
        message = f"the entry {ref} holds characters that no HTTP header may carry"
        return Unreadable(Fault.SECRET_INVALID, message, "store the bare key, without quotes, spaces or line breaks")
    return value


def cleaned(text: str) -> SecretValue:
    """Return a Secret's entry as a key: white space around it is dropped."""
    return SecretValue(text.strip())
