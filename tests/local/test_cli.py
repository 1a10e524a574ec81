"""The commands that need neither Envoy nor a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aoai_operator.adapters.kube.lease import LeaseTiming
from aoai_operator.cli import app
from aoai_operator.cluster.cli import SHORTEST_LEASE
from aoai_operator.command_line import USAGE
from aoai_operator.settings import HostPort
from aoai_operator.simulator import Simulator
from support.manifests import pool_manifest

runner = CliRunner()


@pytest.fixture
def manifest(regions: Simulator, tmp_path: Path) -> Path:
    path = tmp_path / "pool.yaml"
    path.write_text(pool_manifest(regions))
    return path


@pytest.mark.parametrize("duration", ["500ms", "2s", "9.9s"])
def test_a_lease_that_nobody_could_hold_is_refused(duration: str) -> None:
    result = runner.invoke(app, ["run", "--namespace", "a", "--identity", "b", "--lease-duration", duration])
    assert result.exit_code == USAGE
    said = " ".join(result.output.replace("│", "").split())
    assert "--lease-duration" in said
    assert f"{duration} is too short to renew a Lease in; give 10s or more" in said


@pytest.mark.parametrize("seconds", [SHORTEST_LEASE, 10.9, 15, 3600])
def test_every_other_lease_can_be_held(seconds: float) -> None:
    timing = LeaseTiming.lasting(seconds)
    assert timing.duration == int(seconds)
    assert timing.deadline < timing.duration - 2


@pytest.mark.parametrize(
    "url",
    [
        "redis.data:6379",
        "http://redis.data",
        "redis://",
        "redis://h:x",
        "redis://h:70000",
        "redis://h/3",
        "redis://h?db=3",
    ],
)
def test_what_is_no_redis_is_refused(url: str) -> None:
    assert f"{url} is no URL of a Redis; write rediss://HOST[:PORT]" in refused_redis(url)


def test_a_password_does_not_belong_into_a_url_and_is_not_said_again() -> None:
    told = refused_redis("redis://:secret-4711@redis.data")
    assert "credentials do not belong into a URL; give --redis-credentials" in told
    assert "4711" not in told


def refused_redis(url: str) -> str:
    """Return what is said of a --redis-url that is refused."""
    result = runner.invoke(app, ["run", "--namespace", "a", "--identity", "b", "--redis-url", url])
    assert result.exit_code == USAGE
    said = " ".join(result.output.replace("│", "").split())
    assert "--redis-url" in said
    return said


async def test_good_manifests_pass_the_check(manifest: Path) -> None:
    result = runner.invoke(app, ["check", str(manifest)])
    assert result.exit_code == 0, result.output


def test_a_fault_fails_the_check_and_is_located(tmp_path: Path) -> None:
    manifest = tmp_path / "broken.yaml"
    manifest.write_text("apiVersion: aoai.dev/v1alpha1\nkind: AOAIBackendPool\nmetadata: {name: chat}\n")
    result = runner.invoke(app, ["check", str(manifest), "--output", "json"])
    assert result.exit_code == 1
    assert {fault["file"] for fault in json.loads(result.output)["faults"]} == {str(manifest)}


async def test_tables_are_rendered(manifest: Path) -> None:
    result = runner.invoke(app, ["render", str(manifest)])
    (table,) = yaml.safe_load_all(result.output)
    assert (table["namespace"], table["name"]) == ("ai", "chat")


async def test_no_credential_is_rendered(manifest: Path, regions: Simulator) -> None:
    result = runner.invoke(app, ["render", str(manifest), "--envoy"])
    (resources,) = yaml.safe_load_all(result.output)
    assert set(resources["cluster"]) == {"ai/chat/gpt-4o"}
    assert "[redacted]" in result.output
    secrets = [r.key for r in regions.regions.values()] + ["tenant-key"]
    assert not [secret for secret in secrets if secret in result.output]


async def test_an_unknown_pool_cannot_be_rendered(manifest: Path) -> None:
    result = runner.invoke(app, ["render", str(manifest), "--pool", "ai/none"])
    assert result.exit_code == 1
    assert "ai/chat" in result.output


def test_the_definitions_can_be_piped_into_kubectl() -> None:
    result = runner.invoke(app, ["crds"])
    assert [d["kind"] for d in yaml.safe_load_all(result.output)] == ["CustomResourceDefinition"] * 2


def test_the_definitions_are_written(tmp_path: Path) -> None:
    assert runner.invoke(app, ["crds", "--write", str(tmp_path / "new")]).exit_code == 0
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize("command", ["local", "check", "render", "crds", "simulate", "version"])
def test_every_command_explains_itself(command: str) -> None:
    assert runner.invoke(app, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", HostPort("127.0.0.1", 8080)),
        ("localhost:0", HostPort("127.0.0.1", 0)),
        (":80", HostPort("0.0.0.0", 80)),
        ("[::1]:443", HostPort("::1", 443)),
    ],
)
def test_addresses_are_read(text: str, address: HostPort) -> None:
    assert HostPort.parse(text) == address


@pytest.mark.parametrize("text", ["8080", "host:80", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        HostPort.parse(text)
