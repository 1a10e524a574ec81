"""What a simulated region is made of: settings only, no behaviour.

Wherever public sources disagree about the real service, the rule is a field here and never a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["chat", "embeddings", "images"]

_REGION_TITLES = {
    "australiaeast": "Australia East",
    "canadaeast": "Canada East",
    "eastus": "East US",
    "eastus2": "East US 2",
    "francecentral": "France Central",
    "japaneast": "Japan East",
    "northcentralus": "North Central US",
    "southcentralus": "South Central US",
    "swedencentral": "Sweden Central",
    "switzerlandnorth": "Switzerland North",
    "uksouth": "UK South",
    "westeurope": "West Europe",
    "westus": "West US",
    "westus3": "West US 3",
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A model deployment of a resource.

    ``type`` is the SKU name as in Azure's management API (``Standard``, ``GlobalStandard``, ``ProvisionedManaged``...).
    A provisioned deployment meters by utilisation, every other one by counts (see ``limits``).
    ``kind`` says which operations it serves: chat (chat/completions, completions, responses), embeddings or images.
    """

    name: str
    model: str
    kind: Kind = "chat"
    type: str = "Standard"
    tokens_per_minute: int | None = None
    """Tokens a minute; of a provisioned deployment, the input tokens that it drains in a minute. None: no limit."""
    requests_per_minute: int | None = None
    """Limit of requests a minute, evaluated over ``rpm_window_seconds``. None: no limit."""
    rpm_window_seconds: int = 10
    """1 or 10: the documentation names both."""
    unset_max_tokens: int = 16
    """Output tokens that the estimate assumes when a request sets no maximum (measured by authors of load tools)."""
    rejected_requests_count: bool = True
    """Whether a refused request adds to the running counts, as documented."""
    output_weight: int = 8
    """Provisioned only: input tokens that one output token weighs (8 for gpt-5.2)."""
    context_tokens: int = 128_000
    """Context window: prompt and maximum of output above it answer 400."""
    output_tokens: int = 16
    """Length of an answer when neither the prompt nor a maximum of tokens says otherwise."""
    reasoning_tokens: int = 0
    """Hidden reasoning tokens reported in the usage of each answer, as a reasoning model does."""
    dimensions: int = 1536
    """Size of an embedding when the request does not say."""

    @property
    def provisioned(self) -> bool:
        """Whether it is metered by utilisation: every provisioned SKU carries the word in its name."""
        return "Provisioned" in self.type


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long answers take, in seconds. The default is at once."""

    first_token: float = 0.0
    tokens_per_second: float = 0.0
    """Speed of generation; 0 means no wait between tokens."""

    @property
    def per_token(self) -> float:
        """Seconds between two tokens."""
        return 1.0 / self.tokens_per_second if self.tokens_per_second > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Region:
    """One resource in one region: a listening address with keys and deployments.

    ``minute_seconds`` is the length of the simulated minute: 60, or less so that a test sees several of them.
    ``count_sdk_headers``: whether ``x-stainless-*`` are among the 10 custom headers that a request may carry.
    ``certfile`` and ``keyfile`` (PEM) make the region speak TLS.
    ``log_size`` requests are kept, each with the first ``log_body_bytes`` of its body.
    """

    name: str
    deployments: Sequence[Deployment]
    key: str = field(default="", repr=False)
    keys: Sequence[str] = field(default=(), repr=False)
    title: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    latency: Latency = Latency()
    minute_seconds: float = 60.0
    count_sdk_headers: bool = False
    certfile: str | None = None
    keyfile: str | None = None
    log_size: int = 1000
    log_body_bytes: int = 65_536

    @property
    def accepted_keys(self) -> tuple[str, ...]:
        """The keys that open the region at start; ``sim-key-<region>`` when none is given."""
        given = tuple(k for k in (self.key, *self.keys) if k)
        return given or (f"sim-key-{self.name}",)

    @property
    def display_name(self) -> str:
        """The region as ``x-ms-region`` spells it, such as ``East US 2``."""
        return self.title or _REGION_TITLES.get(self.name, self.name)
