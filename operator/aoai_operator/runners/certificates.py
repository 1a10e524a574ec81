"""Keeps the certificates of proxies and operator: the leader makes and renews them, every replica reads its own."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from aoai_operator.core.names import PoolKey
from aoai_operator.core.pki import OPERATOR_ID, Certificate, KeyPair, PkiError, Subject, bundle, gateway_id
from aoai_operator.core.rotation import (
    TRUST,
    Holdings,
    Schedule,
    SecretData,
    authorities_data,
    leaf_data,
    read_authorities,
    read_leaf,
    settled,
)
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource

_INTERVAL = 30.0
_AUTHORITIES, _SERVER = "ca", "server"

_log = structlog.get_logger("certificates")


class Certificates:
    """Looks after the Secrets `<name>-{ca,server,gateway-<gateway>}` and the ConfigMaps `<name>-trust`.

    A Secret that is gone, broken or somebody else's is made anew. When it is the authorities', every proxy is cut off
    from the control plane until it has the new bundle, a minute or two; its traffic goes on.
    """

    def __init__(
        self,
        *,
        api: KubeApi,
        secrets: Resource,
        configmaps: Resource,
        namespace: str,
        name: str,
        gateways: Sequence[str],
        leading: Callable[[], bool],
        trusting: Callable[[], Collection[str]],
        served: Callable[[KeyPair, tuple[Certificate, ...]], None],
        now: Callable[[], datetime],
        trust_files: Mapping[str, str] | None = None,
        schedule: Schedule | None = None,
        interval: float = _INTERVAL,
    ) -> None:
        """Take the parts.

        Args:
            api: the API server.
            secrets: names Secrets to it.
            configmaps: names ConfigMaps to it.
            namespace: the operator's own.
            name: the first part of the objects' names.
            gateways: whose proxies get a client certificate.
            leading: tells whether this replica may write.
            trusting: returns the namespaces that get the bundle, for sidecars.
            served: hears the server's certificate and the authorities that it trusts, when they have changed.
            now: gives the time.
            trust_files: what stands beside the bundle in the ConfigMaps.
            schedule: how long certificates live.
            interval: seconds between two looks.
        """
        self._api = api
        self._secrets = secrets
        self._configmaps = configmaps
        self._namespace = namespace
        self._name = name
        self._leading = leading
        self._trusting = trusting
        self._served = served
        self._now = now
        self._trust_files = dict(trust_files or {})
        self._schedule = schedule or Schedule()
        self._interval = interval
        self._woken = asyncio.Event()
        self._odd = ""
        self._last: tuple[KeyPair, tuple[Certificate, ...]] | None = None
        self._wanted = {_SERVER: _server(namespace, name)}
        self._wanted |= {f"gateway-{gateway}": _gateway(gateway) for gateway in gateways}

    def wake(self) -> None:
        """Look soon: we lead now, or a namespace was added."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._woken.clear()
            try:
                if self._leading():
                    await self._maintain()
                await self._read_own()
                self._odd = ""
            except KubeError as error:
                _log.warning("certificates cannot be looked after now", why=str(error))
            except Exception as error:  # noqa: BLE001 - one odd Secret must not end this replica, and then the next
                if self._odd != repr(error):
                    _log.exception("certificates cannot be looked after, they are tried again")
                self._odd = repr(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._woken.wait()

    async def _maintain(self) -> None:
        found = {suffix: await self._data(suffix) for suffix in (_AUTHORITIES, *self._wanted)}
        holdings, done = settled(self._usable(found), self._wanted, self._now(), self._schedule)
        for action in done:
            _log.info(action.step.value, **({"certificate": action.leaf} if action.leaf else {}))
        if holdings.authorities is None:
            raise AssertionError("a settled plan has authorities")
        trusted = holdings.authorities.trusted
        # Who signs is written first: a leaf of an authority that was lost again would be trusted by nobody.
        wanted: dict[str, SecretData] = {_AUTHORITIES: authorities_data(holdings.authorities)}
        wanted |= {name: leaf_data(holdings.leaves[name], trusted) for name in self._wanted}
        for suffix, data in wanted.items():
            if data != found[suffix] and self._leading():
                await self._api.apply(self._secrets, self._secret(suffix, data))
        for namespace in sorted(self._trusting()):
            await self._tell(namespace, bundle(trusted).decode())

    def _usable(self, found: Mapping[str, SecretData | None]) -> Holdings:
        authorities, leaves = None, {}
        for suffix, data in found.items():
            if data is None:
                continue
            try:
                if suffix == _AUTHORITIES:
                    authorities = read_authorities(data)
                else:
                    leaves[suffix] = read_leaf(data)[0]
            except PkiError as error:
                _log.error(
                    "a Secret of ours is not usable, and is made anew", secret=self._named(suffix), why=str(error)
                )
        return Holdings(authorities, leaves)

    async def _tell(self, namespace: str, pem: str) -> None:
        """Put the bundle into a namespace; one that is going away, or is not ours, stops no other."""
        data = {**self._trust_files, TRUST: pem}
        key = PoolKey(namespace, self._named("trust"))
        try:
            found = await self._api.get(self._configmaps, key)
            if (found is None or found.get("data") != data) and self._leading():
                await self._api.apply(self._configmaps, {**_head("ConfigMap", key), "data": data})
        except KubeError as error:
            _log.warning("a namespace cannot be given the trusted authorities", namespace=namespace, why=str(error))

    async def _read_own(self) -> None:
        data = await self._data(_SERVER)
        if data is None:
            return
        try:
            own = read_leaf(data)
        except PkiError as error:
            _log.warning("the server's certificate is not usable", secret=self._named(_SERVER), why=str(error))
            return
        if own != self._last:
            self._last = own
            self._served(*own)

    async def _data(self, suffix: str) -> SecretData | None:
        found = await self._api.get(self._secrets, PoolKey(self._namespace, self._named(suffix)))
        return None if found is None else {key: _decoded(value) for key, value in (found.get("data") or {}).items()}

    def _secret(self, suffix: str, data: SecretData) -> JsonObject:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        head = _head("Secret", PoolKey(self._namespace, self._named(suffix)))
        return {**head, "type": "kubernetes.io/tls", "data": encoded}

    def _named(self, suffix: str) -> str:
        return f"{self._name}-{suffix}"


def server_name(namespace: str, name: str) -> str:
    """Return the DNS name of the control plane's Service, which its certificate has."""
    return f"{name}-xds.{namespace}.svc"


def _server(namespace: str, name: str) -> Subject:
    """The operator's one certificate: it serves proxies with it, and shows it to its other replicas."""
    return Subject(f"{name}-xds", dns=(server_name(namespace, name),), uris=(OPERATOR_ID,))


def _gateway(gateway: str) -> Subject:
    return Subject(gateway, uris=(gateway_id(gateway),))


def _head(kind: str, key: PoolKey) -> JsonObject:
    labels = {"app.kubernetes.io/managed-by": "aoai-operator"}
    metadata = {"namespace": key.namespace, "name": key.name, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
