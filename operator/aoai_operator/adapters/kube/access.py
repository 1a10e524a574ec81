"""Where the API server is, and with which credentials it is called."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp import ClientHttpProxyError
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

_AGAIN = 60.0
"""Seconds after which a kubeconfig is read again, for a token in a file, or one that a program gives."""


class AccessError(Exception):
    """It cannot be known where the API server is, or who we are; the message is one sentence for people."""


async def configuration(kubeconfig: Path | None) -> Configuration:
    """Return how to call the API server; to be used in one event loop.

    Without a file, the pod's service account is used, or else $KUBECONFIG, or ~/.kube/config. Tokens are read again
    while it is used: those of service accounts are replaced every hour. The proxy is the kubeconfig's, or else
    that of the environment: HTTPS_PROXY, unless NO_PROXY names the server's host.

    Raises:
        AccessError: see there.
    """
    config = Configuration()
    # Chain and host name are verified; but the CAs of not a few clusters lack extensions that RFC 5280 asks for.
    config.disable_strict_ssl_verification = True
    try:
        if kubeconfig is None:
            try:
                load_incluster_config(config)  # type: ignore[no-untyped-call]
            except ConfigException:
                await _from_file(config, None)
        else:
            await _from_file(config, kubeconfig)
    except (ConfigException, OSError) as error:
        where = "the pod's service account or $KUBECONFIG" if kubeconfig is None else str(kubeconfig)
        raise AccessError(f"{where} gives no access to an API server: {error}") from error
    config.proxy = config.proxy or _proxy(config.host)
    return config


async def authorization(config: Configuration) -> str | None:
    """Return the present value of the header Authorization."""
    value: str | None = await config.get_api_key_with_prefix("BearerToken")
    return value


def said(error: Exception) -> str:
    """Return the words of a call's error; those of a proxy's refusal would quote its address, with the password."""
    if isinstance(error, ClientHttpProxyError):
        return f"the proxy answers with HTTP status {error.status}: {error.message}"
    return str(error)


def _proxy(server: str) -> str | None:
    """Return the environment's proxy. aiohttp would look for it, and for a password in ~/.netrc, at each call."""
    url = urlsplit(server)
    if not url.hostname or proxy_bypass(url.hostname):
        return None
    return getproxies().get(url.scheme)


async def _from_file(config: Configuration, file: Path | None) -> None:
    async def load() -> None:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=None if file is None else str(file), client_configuration=config, persist_config=False
        )

    read = time.monotonic()

    async def again(_config: Any) -> None:
        nonlocal read
        if time.monotonic() - read >= _AGAIN:
            read = time.monotonic()
            await load()

    await load()
    config.refresh_api_key_hook = again  # type: ignore[assignment]
