"""The simulator's regions from a YAML file (see ``docs/simulator.md``) or from short ``NAME=TPM`` options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aoai_operator.simulator.model import Deployment, Kind, Latency, Region

DEFAULT_REGIONS = ("eastus=120000", "swedencentral=60000", "westus3=20000")


class ConfigError(ValueError):
    """What is wrong with the settings, in words for their author."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Latency(_Model):
    first_token: float = Field(default=0.0, ge=0)
    tokens_per_second: float = Field(default=0.0, ge=0)


class _Deployment(_Model):
    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    kind: Kind = "chat"
    type: str = "Standard"
    tokens_per_minute: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=0)
    rpm_window_seconds: Literal[1, 10] = 10
    unset_max_tokens: int = Field(default=16, ge=0)
    rejected_requests_count: bool = True
    output_weight: int = Field(default=8, ge=1)
    context_tokens: int = Field(default=128_000, ge=1)
    output_tokens: int = Field(default=16, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    dimensions: int = Field(default=1536, ge=1)


class _Region(_Model):
    name: str = Field(min_length=1)
    deployments: list[_Deployment] = Field(min_length=1)
    key: str = ""
    keys: list[str] = Field(default_factory=list)
    title: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    latency: _Latency = _Latency()
    minute_seconds: float = Field(default=60.0, gt=0)
    count_sdk_headers: bool = False
    certfile: str | None = None
    keyfile: str | None = None


class _File(_Model):
    regions: list[_Region] = Field(min_length=1)


def read_file(path: Path) -> list[Region]:
    """The regions of a YAML file. Raises ConfigError which names the file and the wrong field."""
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        return parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(raw: Any) -> list[Region]:
    """The regions of a parsed file. Raises ConfigError which names the wrong field."""
    try:
        found = _File.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ConfigError(f"{where}: {first['msg']}" if where else first["msg"]) from error
    return [
        Region(
            **region.model_dump(exclude={"deployments", "latency"}),
            latency=Latency(**region.latency.model_dump()),
            deployments=[Deployment(**deployment.model_dump()) for deployment in region.deployments],
        )
        for region in found.regions
    ]


def parse_region(text: str) -> Region:
    """A region from ``NAME=TPM``, with a chat, an embeddings and an image deployment under their models' names.

    Raises ConfigError.
    """
    name, _, limit = text.partition("=")
    if not name or not limit.isdecimal():
        raise ConfigError(f"{text!r}: write NAME=TOKENS_PER_MINUTE, as in eastus=120000")
    return Region(
        name=name,
        deployments=[
            Deployment(name="gpt-4o", model="gpt-4o", tokens_per_minute=int(limit)),
            Deployment(
                name="text-embedding-3-small",
                model="text-embedding-3-small",
                kind="embeddings",
                tokens_per_minute=int(limit),
            ),
            Deployment(name="gpt-image-1", model="gpt-image-1", kind="images", requests_per_minute=60),
        ],
    )
