"""What was read of Azure: accounts of Azure OpenAI with their deployments. Facts, and no judgement on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aoai_operator.core.table import Identity


@dataclass(frozen=True, slots=True)
class AzureSource:
    """Which accounts are to be read, and by whom. Pools that ask for the same share what is found.

    Attributes:
        identity: as whom Azure Resource Manager is read; without a scope: that follows from where it is.
        manager: the URL of Azure Resource Manager, without a slash at its end; empty: that of the identity's cloud.
        subscriptions, groups: their ids and names, in lower case; no group: all.
        tags: names and values that an account has.
        kinds: the kinds of accounts.
        interval: milliseconds between two readings.
    """

    identity: Identity
    manager: str
    subscriptions: tuple[str, ...]
    groups: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ()
    interval: int = 300_000


@dataclass(frozen=True, slots=True)
class FoundDeployment:
    """A deployment. Source: Microsoft.CognitiveServices/accounts/deployments.

    Attributes:
        name: its own.
        model, version: Azure's names of what it serves.
        type: `sku.name`.
        state: `properties.provisioningState`.
        tokens, requests: what Azure lets it take in a minute; None: it does not say.
        content_filter: `properties.raiPolicyName`.
    """

    name: str
    model: str
    version: str = ""
    type: str = ""
    state: str = ""
    tokens: int | None = None
    requests: int | None = None
    content_filter: str = ""


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account. Source: Microsoft.CognitiveServices/accounts.

    Attributes:
        id: its resource id.
        name, subscription, group, kind: as Azure has them.
        location: its region, such as swedencentral.
        tags: its tags.
        url: where its Azure OpenAI endpoint is; empty: it has none of its own.
        addresses: all of its endpoints, each as host and port (see `address_of`).
        state: `properties.provisioningState`.
        local_auth: whether its keys may be used.
        deployments: what is deployed there.
    """

    id: str
    name: str
    subscription: str
    group: str
    kind: str
    location: str
    tags: tuple[tuple[str, str], ...] = ()
    url: str = ""
    addresses: tuple[str, ...] = ()
    state: str = ""
    local_auth: bool = True
    deployments: tuple[FoundDeployment, ...] = ()


@dataclass(frozen=True, slots=True)
class Retirement:
    """When Azure ends a version of a model in a region. Source: Microsoft.CognitiveServices/locations/models.

    Attributes:
        model, version: Azure's names of it.
        at: `deprecation.inference`, milliseconds of the Unix epoch.
        replacement: the model, and its version, that Azure names in its place; empty: none.
        planned: whether it is certain (`deprecationStatus`), and not an estimate.
    """

    model: str
    version: str
    at: int
    replacement: str = ""
    planned: bool = True


Retirements = Mapping[str, tuple[Retirement, ...]]
"""What retires, by region."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for one source.

    Attributes:
        accounts: as they were read last; None: they never were.
        retirements: what retires in their regions, as far as the identity may read it.
        seen: whether some were ever found by this process. Of each that is listed no more it was asked whether it is
            gone; without that an empty list may only mean that the identity sees nothing.
        fault: why not all of it is new, a sentence without a full stop and without any secret; empty: it is.
        read_at: when all of it was last read, milliseconds of the Unix epoch. It is no part of what is found, so that
            two readings that found the same are equal; but while there is a fault it stays as it is.
    """

    accounts: tuple[FoundAccount, ...] | None = None
    fault: str = ""
    read_at: int = field(default=0, compare=False)
    retirements: Retirements = field(default_factory=dict, hash=False)
    seen: bool = False


def address_of(url: str) -> str:
    """Return where a URL leads, `host:port` in lower case; empty for what is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    return f"{host}:{port or (443 if parts.scheme == 'https' else 80)}" if host else ""


NOT_READ = Found()
Discovered = Mapping[AzureSource, Found]
