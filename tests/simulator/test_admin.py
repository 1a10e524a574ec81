"""The admin API, the command line and the settings file of the simulator."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from aoai_operator.simulator import Deployment, Region, Simulator
from aoai_operator.simulator.admin import Admin
from aoai_operator.simulator.config import ConfigError, parse, parse_region, read_file

PROGRAM = "from aoai_operator.simulator.cli import app; app()"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator([Region(name="eastus", deployments=[Deployment(name="d", model="m")], key="k")]) as running:
        yield running


@pytest.fixture
async def admin(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    runner = web.AppRunner(Admin(simulator).application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/_sim") as client:
        yield client
    await runner.cleanup()


async def test_faults_come_and_go(admin: httpx.AsyncClient, simulator: Simulator) -> None:
    answer = await admin.post("/regions/eastus/faults", json={"kind": "down"})
    assert answer.json()["faults"] == [{"kind": "down"}]
    assert answer.json()["listening"] is False
    await admin.post("/regions/eastus/faults", json={"kind": "slow", "seconds": 2, "deployment": "d"})
    await admin.delete("/regions/eastus/faults", params={"kind": "down"})
    assert [fault.kind for fault in simulator.regions["eastus"].faults] == ["slow"]
    assert simulator.regions["eastus"].server.listening
    assert (await admin.delete("/regions/eastus/faults")).json()["faults"] == []


async def test_keys_limits_log_and_counts(admin: httpx.AsyncClient, simulator: Simulator) -> None:
    region = simulator.regions["eastus"]
    await admin.put("/regions/eastus/keys", json={"keys": ["one", "two"]})
    await admin.patch("/regions/eastus/deployments/d", json={"tokens_per_minute": 5})
    async with httpx.AsyncClient(base_url=region.url) as client:
        body = {"model": "d", "messages": []}
        answer = await client.post("/openai/v1/chat/completions", json=body, headers={"api-key": "two"})
    assert answer.status_code == 429
    shown = (await admin.get("/regions")).text
    assert json.loads(shown)[0]["deployments"]["d"]["counts"]["throttled"] == 1
    log = await admin.get("/regions/eastus/log")
    assert log.json()[0]["status"] == 429
    assert "two" not in shown + log.text
    await admin.delete("/counts")
    assert (await admin.get("/regions/eastus")).json()["counts"]["attempts"] == 0
    await admin.delete("/regions/eastus/deployments/d")
    assert not region.deployments


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/regions/nowhere/faults", b"{}", 404, "there are eastus"),
        ("POST", "/regions/eastus/faults", b"{", 400, "not JSON"),
        ("POST", "/regions/eastus/faults", b"[]", 400, "JSON object"),
        ("POST", "/regions/eastus/faults", b'{"kind": "status", "status": 7}', 400, "status.status"),
        ("PUT", "/regions/eastus/keys", b'{"keys": "k"}', 400, "list of strings"),
        ("PATCH", "/regions/eastus/deployments/x", b"{}", 404, "there are d"),
        ("PATCH", "/regions/eastus/deployments/d", b'{"name": "z"}', 400, "name"),
        ("GET", "/regions/eastus/log?limit=x", b"", 400, "limit"),
    ],
)
async def test_bad_requests_say_what_is_wrong(
    admin: httpx.AsyncClient, *, method: str, path: str, body: bytes, status: int, says: str
) -> None:
    answer = await admin.request(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert says in answer.json()["error"]


async def test_only_json_is_taken(admin: httpx.AsyncClient) -> None:
    answer = await admin.post(
        "/regions/eastus/faults", content=b'{"kind": "down"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    file = tmp_path / "regions.yaml"
    file.write_text(example.group(1))
    assert [region.name for region in read_file(file)] == ["eastus", "swedencentral"]


def test_settings_errors_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"regions\.0\.deployments\.0\.kind"):
        parse({"regions": [{"name": "r", "deployments": [{"name": "d", "model": "m", "kind": "x"}]}]})
    with pytest.raises(ConfigError, match="eastus=120000"):
        parse_region("eastus")
    with pytest.raises(ConfigError, match="No such file"):
        read_file(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_file(broken)


async def run(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, *arguments, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_breaks_mends_and_ends_cleanly(number: signal.Signals) -> None:
    server = await run("--region", "eastus=1000", "--port", "0", "--admin", "0")
    assert server.stdout is not None
    shown = ""
    while "Ready" not in shown:
        line = await server.stdout.readline()
        assert line, shown
        shown += line.decode()
    admin = re.findall(r"curl -s (http://127.0.0.1:\d+)/_sim", shown)[0]
    region = re.findall(r"eastus +(http://127.0.0.1:\d+)", shown)[0]
    for arguments, code, says in (
        (("fault", "eastus", "throttle", "retry_after_ms=5000"), 0, b'"retry_after": 5'),
        (("fault", "eastus", "nonsense"), 1, b""),
        (("heal", "eastus", "throttle"), 0, b"no fault"),
        (("status",), 0, b"listening, 0 requests"),
    ):
        command = await run(*arguments, "--admin-url", admin)
        out, _ = await command.communicate()
        assert command.returncode == code
        assert says in out
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{region}/openai/v1/models", headers={"api-key": "sim-key-eastus"})
    assert answer.status_code == 200
    server.send_signal(number)
    _, errors = await server.communicate()
    assert (server.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    "arguments", [("--region", "bad"), ("--config", "none.yaml"), ("--region", "a=1", "--config", "x")]
)
async def test_wrong_options_end_with_a_sentence(arguments: tuple[str, ...]) -> None:
    command = await run(*arguments)
    _, errors = await command.communicate()
    assert command.returncode == 1
    assert errors.startswith(b"error: ")
    assert b"Traceback" not in errors
