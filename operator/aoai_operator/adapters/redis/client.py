"""Connects to Redis or Valkey: by TLS, and with credentials that may change while we run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from aoai_operator.adapters.redis.ledger import Client
from aoai_operator.settings import RedisSettings

DEADLINE = 0.1
"""Seconds until an answer comes too late: a proxy does not wait any longer for ours."""
_CONNECT = 1.0
"""Seconds to connect in: longer, as the next one who asks has use for it too."""
_CONNECTIONS = 32
"""At most; asks beyond wait for one."""
_USERNAME, _PASSWORD = "username", "password"
"""Files of the directory of credentials, as a Secret is mounted."""


def connect(settings: RedisSettings) -> Client:
    """Return a client, which connects when it is first used, and again whenever it was cut off."""
    common: dict[str, Any] = {
        "credential_provider": _Files(settings.credentials) if settings.credentials else None,
        "socket_timeout": DEADLINE,
        "socket_connect_timeout": _CONNECT,
        "socket_keepalive": True,
        "client_name": "aoai-operator",
        "protocol": 2,
    }
    tls: dict[str, Any] = {}
    if settings.tls:
        tls = {"ssl_ca_certs": str(settings.ca_file) if settings.ca_file else None, "ssl_check_hostname": True}
    host, port = settings.address.host, settings.address.port
    # One try: whoever asks tries again, or lets the quota's onLedgerFailure decide.
    retry = Retry(NoBackoff(), 0)
    if settings.cluster:
        cluster = RedisCluster(host, port, retry=retry, ssl=settings.tls, max_connections=_CONNECTIONS, **common, **tls)
        return cast("Client", cluster)
    if settings.tls:
        common["connection_class"] = SSLConnection
    pool = BlockingConnectionPool(
        max_connections=_CONNECTIONS, timeout=DEADLINE, host=host, port=port, retry=retry, **common, **tls
    )
    return cast("Client", Redis.from_pool(pool))


class _Files(CredentialProvider):
    """Reads the credentials anew for each connection."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = (self._directory / _PASSWORD).read_text("utf-8").strip()
            name = self._directory / _USERNAME
            username = name.read_text("utf-8").strip() if name.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise AuthenticationError(f"{self._directory} holds no readable file {_PASSWORD}") from error
        return (username, password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()
