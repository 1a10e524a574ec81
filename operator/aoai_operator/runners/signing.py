"""Keeps the key with which routing tables are signed: made once, and read by every replica."""

from __future__ import annotations

import asyncio
import base64
import secrets as randomness
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

import structlog

from aoai_operator.core.names import PoolKey
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.signing import KEY_BYTES, key_data, key_in, key_of
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource

_INTERVAL = 10.0
"""Seconds between two looks: a Secret that was deleted is missed by nobody but a replica that starts."""

_SOON = 1.0
"""The same until it was read for the first time: everything waits for it."""

_log = structlog.get_logger("signing")


class TableKey:
    """Looks after the Secret `<name>-tables`.

    One that is gone is made anew by the leader, and by a replica that starts: during an upgrade from a version without
    signatures the leader knows of none. One that cannot be used is made anew by the leader alone. All tables are then
    signed again; who had the old key serves what was signed with it until it is another table.
    """

    def __init__(
        self,
        *,
        api: KubeApi,
        secrets: Resource,
        namespace: str,
        name: str,
        leading: Callable[[], bool],
        changed: Callable[[], None],
        interval: float = _INTERVAL,
    ) -> None:
        """Take the parts.

        Args:
            api: the API server. What is written needs no Lease: it is not there yet, or of the version that was read.
            secrets: names Secrets to it.
            namespace: the operator's own.
            name: the first part of the Secret's name.
            leading: tells whether this replica leads.
            changed: hears that `key` is another one.
            interval: seconds between two looks.
        """
        self._api = api
        self._secrets = secrets
        self._place = PoolKey(namespace, f"{name}-tables")
        self._leading = leading
        self._changed = changed
        self._interval = interval
        self._woken = asyncio.Event()
        self._looking = asyncio.Lock()
        self._told = ""
        self.key: SecretValue | None = None
        """The key as it was read last; None: not read yet."""

    def wake(self) -> None:
        """Look soon: we lead now."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._woken.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval if self.key else min(_SOON, self._interval)):
                    await self._woken.wait()

    async def look(self) -> None:
        """Read the key now: something is signed with another one. While it cannot be read, the last one is kept."""
        async with self._looking:
            try:
                found = await self._found_or_made()
            except KubeError as error:
                if self._is_new(error.reason):
                    _log.warning("the key of the routing tables cannot be read now", why=error.message)
                return
            if found is None:
                if self._is_new("unusable"):
                    _log.warning("the key of the routing tables is not usable, a leader makes it anew")
                return
            self._told = ""
            if found != self.key:
                self.key = found
                self._changed()

    async def _found_or_made(self) -> SecretValue | None:
        found = await self._api.get(self._secrets, self._place)
        if (key := _key_in(found)) is not None:
            return key
        made = self._secret(key_of(randomness.token_bytes(KEY_BYTES)))
        if found is None:
            return await self._created(made) if self._leading() or self.key is None else self.key
        if self._leading():
            _log.error("a Secret of ours is not usable, and is made anew", secret=str(self._place))
            made["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            return _key_in(await self._api.apply(self._secrets, made))
        return self.key

    async def _created(self, made: JsonObject) -> SecretValue | None:
        try:
            key = _key_in(await self._api.create(self._secrets, made))
        except KubeError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            # Another replica was quicker.
            return _key_in(await self._api.get(self._secrets, self._place))
        _log.info("made a key for the routing tables", secret=str(self._place))
        return key

    def _secret(self, key: SecretValue) -> JsonObject:
        labels = {"app.kubernetes.io/managed-by": "aoai-operator"}
        metadata = {"namespace": self._place.namespace, "name": self._place.name, "labels": labels}
        data = {entry: base64.b64encode(value).decode() for entry, value in key_data(key).items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}

    def _is_new(self, trouble: str) -> bool:
        """Tell whether this was not said at the last look: it is said once."""
        before, self._told = self._told, trouble
        return trouble != before


def _key_in(secret: JsonObject | None) -> SecretValue | None:
    entries = (secret or {}).get("data") or {}
    return key_in({entry: base64.b64decode(value) for entry, value in entries.items()})
