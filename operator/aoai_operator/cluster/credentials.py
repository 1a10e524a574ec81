"""Writes the Secrets that tenants asked for (`spec.credentials`), and never one that is not theirs."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets as randomness
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from aoai_operator.adapters.kube.resources import SECRETS
from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.cluster.known import KnownQuota
from aoai_operator.cluster.resources import Resources
from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.generated import Address, Made, changes_at, generated_refs, made_anew
from aoai_operator.core.names import PoolKey
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.times import timestamp
from aoai_operator.ports import JsonObject, KubeApi, KubeError

_log = structlog.get_logger("credentials")

_LOOK = 1.0
"""Seconds between two looks at what is to be written."""
_AGAIN = 10.0
"""Seconds until one is tried again that could not be written."""
_RECHECK = 300.0
"""Seconds after which one is looked at though nothing is known to have changed."""
_KEY_BYTES = 32
_ROTATED = "aoai.dev/rotated-at"
"""The annotation that tells since when the key is the one that it is."""


class CredentialWriter:
    """Writes for one term of a leader."""

    def __init__(
        self,
        *,
        api: KubeApi,
        resources: Resources,
        secrets: SecretReader,
        address: Address,
        changed: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        """Take the parts.

        Args:
            api: the API server, where only a leader's writes succeed.
            resources: the pools and tenants.
            secrets: reads Secrets, and misses those that are gone.
            address: where the gateway answers.
            changed: hears that `unwritten` changed.
            now: gives milliseconds of the Unix epoch.
        """
        self.unwritten: dict[PoolKey, str] = {}
        """Why a tenant's Secret is not written, by tenant."""
        self._api = api
        self._resources = resources
        self._secrets = secrets
        self._address = address
        self._changed = changed
        self._now = now
        self._done: dict[PoolKey, tuple[str, int, str]] = {}
        self._due: dict[PoolKey, float] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            wanted = dict(self._wanted())
            for gone in self._done.keys() - wanted.keys():
                del self._done[gone]
                self._due.pop(gone, None)
            for key, (known, quota, address) in wanted.items():
                if self._is_due(key, known, quota, address):
                    await self._look(key, known, quota, address)
            self._tell({key: why for key, why in self.unwritten.items() if key in wanted})

    def _wanted(self) -> Mapping[PoolKey, tuple[KnownQuota, TenantQuota, str]]:
        found = {}
        for key, known in self._resources.quotas.items():
            quota = known.parsed
            if isinstance(quota, TenantQuota) and quota.spec.credentials:
                pool = self._resources.pools.get(quota.spec.pool_refs[0].key(quota.metadata.namespace))
                parsed = pool.parsed if pool else None
                address = self._address.of(parsed) if isinstance(parsed, AOAIBackendPool) else ""
                found[key] = known, quota, address
        return found

    def _is_due(self, key: PoolKey, known: KnownQuota, quota: TenantQuota, address: str) -> bool:
        if self._done.get(key) != (known.uid, known.generation, address):
            return True
        # One that somebody deleted is missed as soon as it is read again.
        missing = generated_refs(quota)[0] not in self._secrets.values and key not in self.unwritten
        return missing or self._due[key] <= asyncio.get_running_loop().time()

    async def _look(self, key: PoolKey, known: KnownQuota, quota: TenantQuota, address: str) -> None:
        clock = asyncio.get_running_loop().time()
        self._done[key] = known.uid, known.generation, address
        self._due[key] = clock + _AGAIN
        try:
            why, made = await self._brought_up(known, quota, address)
        except KubeError as error:
            why, made = f"the API server refuses it: {error.message}", None
        if made is not None:
            at = changes_at(quota, made)
            self._due[key] = clock + min(_RECHECK, _RECHECK if at is None else max(_LOOK, (at - self._now()) / 1000))
        self._tell({**self.unwritten, key: why} if why else {k: w for k, w in self.unwritten.items() if k != key})

    async def _brought_up(self, known: KnownQuota, quota: TenantQuota, address: str) -> tuple[str, Made | None]:
        """Bring the Secret to what it should be; return why that cannot be, and what is in it."""
        place = _place(quota)
        if not address:
            return "nobody knows where its pool answers: give the operator --gateway-url, or the pool a host name", None
        found = await self._api.get(SECRETS, place)
        if found is not None and not _owned(found, known.uid):
            return f"the Secret {place} is there already, and belongs to somebody else", None
        before = _made(found) if found else None
        fresh = SecretValue(randomness.token_urlsafe(_KEY_BYTES))
        made = made_anew(quota, before, address, fresh=fresh, now=self._now())
        if made != before or found is None:
            body = _secret(place, known, made)
            if found is None:
                await self._api.create(SECRETS, body)
            else:
                # Of the version that was read: what somebody wrote since is seen first.
                body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
                await self._api.replace(SECRETS, body)
            _log.info("a tenant's Secret is written", tenant=str(quota.key), secret=str(place))
            self._secrets.refresh([place])
        return "", made

    def _tell(self, unwritten: dict[PoolKey, str]) -> None:
        if unwritten != self.unwritten:
            self.unwritten = unwritten
            self._changed()


def _place(quota: TenantQuota) -> PoolKey:
    if quota.spec.credentials is None:
        raise AssertionError("it asks for a Secret")
    return PoolKey(quota.metadata.namespace, quota.spec.credentials.generate_secret)


def _owned(secret: JsonObject, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in secret["metadata"].get("ownerReferences") or ())


def _made(secret: JsonObject) -> Made:
    """Return what a Secret holds. A key whose age nobody knows is as old as can be, and replaced where keys rotate."""
    entries = {}
    for name, text in (secret.get("data") or {}).items():
        try:
            entries[name] = SecretValue(base64.b64decode(text).decode())
        except (binascii.Error, ValueError):
            continue
    told = (secret["metadata"].get("annotations") or {}).get(_ROTATED, "")
    try:
        rotated_at = round(datetime.fromisoformat(told).timestamp() * 1000)
    except ValueError:
        rotated_at = 0
    return Made(entries, rotated_at)


def _secret(place: PoolKey, known: KnownQuota, made: Made) -> JsonObject:
    about = known.reference
    owner = {"apiVersion": about["apiVersion"], "kind": about["kind"], "name": about["metadata"]["name"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": place.namespace,
            "name": place.name,
            "labels": {"app.kubernetes.io/managed-by": "aoai-operator"},
            "annotations": {_ROTATED: timestamp(made.rotated_at)},
            "ownerReferences": [{**owner, "uid": known.uid, "controller": True}],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value.reveal().encode()).decode() for name, value in made.entries.items()},
    }
