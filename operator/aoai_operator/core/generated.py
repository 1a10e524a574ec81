"""The Secret that the operator makes for a tenant: where its pool answers, and a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aoai_operator.core.api import AOAIBackendPool, TenantQuota, milliseconds
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue

KEY, AZURE_KEY = "OPENAI_API_KEY", "AZURE_OPENAI_API_KEY"
BASE_URL, AZURE_ENDPOINT = "OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"
"""What the SDKs read: openai-python, `OpenAI` and `AzureOpenAI`."""
PREVIOUS = "previous-api-key"
"""The key before, while both are good. No name of an environment variable, so that `envFrom` leaves it out."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway answers.

    Attributes:
        url: by HTTP, without a path, such as http://gateway.aoai.svc:8080; empty: nobody knows.
        tls_port: the port for HTTPS.
    """

    url: str
    tls_port: int = 443

    def of(self, pool: AOAIBackendPool) -> str:
        """Return where a pool answers: at its first host name, else below the gateway's own address."""
        names = pool.spec.gateway.hostnames
        if names and pool.spec.gateway.tls:
            return f"https://{names[0]}" + (f":{self.tls_port}" if self.tls_port != 443 else "")
        scheme, _, authority = self.url.partition("://")
        if names:
            port = authority.rpartition(":")[2]
            return f"http://{names[0]}" + (f":{port}" if port.isdecimal() else "")
        return f"{scheme}://{authority}/{pool.metadata.namespace}/{pool.metadata.name}" if authority else ""


@dataclass(frozen=True, slots=True)
class Made:
    """What is in the Secret. Times are milliseconds of the Unix epoch.

    Attributes:
        entries: all of its entries.
        rotated_at: since when its key is the one that it is.
    """

    entries: Mapping[str, SecretValue] = field(repr=False)
    rotated_at: int


def made_anew(quota: TenantQuota, found: Made | None, address: str, *, fresh: SecretValue, now: int) -> Made:
    """Return what the Secret should hold now.

    Args:
        quota: whose it is; it has `credentials`.
        found: what it holds; None: it is not there.
        address: where the tenant's first pool answers.
        fresh: a key that nobody has, for when another one is needed.
        now: the time.
    """
    entries = found.entries if found else {}
    key, previous = entries.get(KEY), entries.get(PREVIOUS)
    rotated_at = found.rotated_at if found else now
    every, overlap = _times(quota)
    if key is None or not key.reveal():
        key, previous, rotated_at = fresh, None, now
    elif every is not None and now >= rotated_at + every:
        key, previous, rotated_at = fresh, key, now
    if every is None or now >= rotated_at + overlap:
        previous = None
    urls = {AZURE_ENDPOINT: SecretValue(address), BASE_URL: SecretValue(f"{address}/openai/v1")}
    return Made({**urls, KEY: key, AZURE_KEY: key, **({PREVIOUS: previous} if previous else {})}, rotated_at)


def changes_at(quota: TenantQuota, made: Made) -> int | None:
    """Return when the Secret should hold something else, by the passing of time alone; None: never."""
    every, overlap = _times(quota)
    if every is None:
        return None
    return made.rotated_at + (overlap if PREVIOUS in made.entries else every)


def generated_refs(quota: TenantQuota) -> tuple[SecretRef, ...]:
    """Return the entries of the Secret that are keys of the tenant: the present one, and the one before."""
    credentials = quota.spec.credentials
    if credentials is None:
        return ()
    names = (KEY, PREVIOUS) if credentials.rotate_every else (KEY,)
    return tuple(SecretRef(quota.metadata.namespace, credentials.generate_secret, name) for name in names)


def _times(quota: TenantQuota) -> tuple[int | None, int]:
    credentials = quota.spec.credentials
    if credentials is None or credentials.rotate_every is None:
        return None, 0
    return milliseconds(credentials.rotate_every), milliseconds(credentials.overlap)
