"""`aoai-operator local`: a real process, a real Envoy, the real SDK; only Azure is simulated."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import openai
import pytest
import yaml
from openai.types.chat import ChatCompletionMessageParam

from aoai_operator.simulator import Simulator
from support.local import LocalGateway
from support.manifests import TENANT_KEY, pool_manifest, secret, to_yaml
from support.waiting import eventually

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ask(gateway: LocalGateway, *, pool: str = "ai/chat", key: str = TENANT_KEY) -> str:
    """Ask a question through the gateway, and return the answer."""
    async with gateway.client(pool=pool, key=key) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    return answer.choices[0].message.content or ""


async def served(gateway: LocalGateway, *, pool: str = "ai/chat", key: str = TENANT_KEY) -> bool:
    """Tell whether a question gets an answer."""
    try:
        return bool(await ask(gateway, pool=pool, key=key))
    except openai.OpenAIError:
        return False


async def test_the_sdk_gets_answers(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        assert await ask(gateway)
        async with gateway.azure_client() as client:
            answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.usage is not None


async def test_the_sdk_gets_streams(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway, gateway.client() as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        words = [c.choices[0].delta.content async for c in stream if c.choices]
    assert any(words)


async def test_it_says_when_it_is_ready_and_how_to_call_it(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions), arguments=["--output", "text"], wait=False) as gateway:
        lines = gateway.events
        ready = await eventually(lambda: next((e["event"] for e in lines if e["event"].startswith("ready:")), ""))
        assert re.fullmatch(r"ready: http://127\.0\.0\.1:\d+  pools: ai/chat \(2 endpoints, models gpt-4o\)", ready)
        await eventually(lambda: any("OpenAI(base_url=" in e["event"] for e in lines))
        assert any("curl http://" in e["event"] for e in lines)


async def test_sigterm_ends_it_with_0_and_leaves_no_envoy(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        envoy = gateway.envoy_pid
        assert envoy
        assert await gateway.stop() == 0
        assert not alive(envoy)


async def test_sigterm_lets_a_running_stream_finish(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway, gateway.client() as client:
        stream = await client.chat.completions.create(
            model="gpt-4o",
            messages=HELLO,
            stream=True,
            max_tokens=200,
        )
        first = await anext(stream)
        assert first
        gateway.process.send_signal(signal.SIGTERM)
        rest = [chunk async for chunk in stream]
        assert rest[-1].choices == [] or rest[-1].choices[0].finish_reason
        assert await gateway.ended() == 0


async def test_killed_with_9_it_leaves_no_envoy(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        envoy = gateway.envoy_pid
        assert envoy
        gateway.process.kill()
        await eventually(lambda: not alive(envoy))


async def test_an_envoy_killed_with_9_comes_back_at_the_same_address(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        before = gateway.envoy_pid
        assert before
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: gateway.envoy_pid not in (None, before))
        await eventually(lambda: served(gateway))


async def test_a_broken_edit_keeps_serving_and_says_where_it_is_broken(regions: Simulator) -> None:
    whole = pool_manifest(regions)
    async with LocalGateway(whole) as gateway:
        broken = whole.replace("priority", "priority").replace("  models:\n", "  modles:\n", 1)
        gateway.write(broken)
        faults = (await eventually(lambda: gateway.events_of("broken")))[0]["faults"]
        line = 1 + broken.splitlines().index("  modles:")
        assert any(f"manifests.yaml:{line}" in fault and "spec.modles" in fault for fault in faults), faults
        assert await ask(gateway)
        gateway.write(whole)
        await eventually(lambda: gateway.events_of("mended"))


async def test_yaml_that_cannot_be_read_keeps_serving(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        gateway.write("spec: [unclosed\n")
        faults = (await eventually(lambda: gateway.events_of("broken")))[0]["faults"]
        assert any("manifests.yaml:" in fault for fault in faults), faults
        assert await ask(gateway)


async def test_a_pool_that_is_added_by_an_edit_is_served(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        assert not await served(gateway, pool="ai/second")
        gateway.write(pool_manifest(regions, name="second", tenants={"other": "another-key-0123456789"}), "second.yaml")
        await eventually(lambda: served(gateway, pool="ai/second", key="another-key-0123456789"))
        assert await ask(gateway)


async def test_a_pool_that_is_removed_by_an_edit_is_served_no_more(regions: Simulator) -> None:
    second = pool_manifest(regions, name="second", tenants={"other": "another-key-0123456789"})
    async with LocalGateway({"first.yaml": pool_manifest(regions), "second.yaml": second}) as gateway:
        assert await served(gateway, pool="ai/second", key="another-key-0123456789")
        (gateway.directory / "second.yaml").unlink()

        async def gone() -> bool:
            return not await served(gateway, pool="ai/second", key="another-key-0123456789")

        await eventually(gone)
        assert await ask(gateway)


async def test_a_rotated_secret_is_used(regions: Simulator) -> None:
    often = {"health": {"probe": {"interval": "1s", "timeout": "1s"}}}
    documents = list(yaml.safe_load_all(pool_manifest(regions, spec=often)))
    pool = to_yaml(d for d in documents if d["kind"] != "Secret")
    secrets = [d for d in documents if d["kind"] == "Secret"]
    async with LocalGateway({"pool.yaml": pool, "keys.yaml": to_yaml(secrets)}) as gateway:
        for region in regions.regions.values():
            region.set_keys(f"rotated-{region.name}")
        rotated = {f"chat-{name}": f"rotated-{name}" for name in regions.regions} | {"team-key": TENANT_KEY}
        gateway.write(to_yaml(secret(name, key) for name, key in rotated.items()), "keys.yaml")
        await eventually(lambda: served(gateway))


async def test_a_tenants_new_key_is_used_and_the_old_one_refused(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        gateway.write(pool_manifest(regions, tenants={"team": "new-key-0123456789"}))
        await eventually(lambda: served(gateway, key="new-key-0123456789"))
        with pytest.raises(openai.AuthenticationError):
            await ask(gateway)


async def test_usage_shows_in_the_metrics(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions)) as gateway:
        await ask(gateway)

        async def counted() -> bool:
            return bool(
                re.search(r'^aoai_\w*tokens\w*\{.*tenant="ai/team".*\} [1-9]', await gateway.metrics(), re.MULTILINE)
            )

        await eventually(counted)


async def test_a_sick_endpoint_is_shown_once(regions: Simulator) -> None:
    manifest = pool_manifest(
        regions, spec={"health": {"probe": {"interval": "1s", "timeout": "1s"}, "unhealthyAfter": 1}}
    )
    async with LocalGateway(manifest) as gateway:
        await regions.regions["eastus"].server.stop()
        shown = await eventually(lambda: [e for e in gateway.events_of("transition") if e["value"] == "Unhealthy"])
        assert [e["name"] for e in shown] == ["ai/chat eastus/gpt-4o-east"]
        assert await ask(gateway)


async def test_a_port_in_use_is_a_clear_error(regions: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with LocalGateway(pool_manifest(regions), listen=listen, wait=False) as gateway:
            assert await gateway.ended() == 2
        assert any(listen in e["event"] and "in use" in e["event"] for e in gateway.logs)


async def test_manifests_without_a_pool_are_a_clear_error(regions: Simulator) -> None:
    async with LocalGateway(to_yaml([secret("a", "b")]), wait=False) as gateway:
        assert await gateway.ended() == 1
    assert any("AOAIBackendPool" in e["event"] for e in gateway.logs)


async def test_broken_manifests_at_the_start_are_a_clear_error(regions: Simulator) -> None:
    async with LocalGateway(pool_manifest(regions).replace("models:", "modles:", 1), wait=False) as gateway:
        assert await gateway.ended() == 1
    assert any("spec.modles" in e["event"] for e in gateway.logs)


async def test_faults_at_the_start_are_told_once_and_promise_nothing(regions: Simulator) -> None:
    broken = pool_manifest(regions).replace("models:", "modles:", 1)
    async with LocalGateway(broken, arguments=["--output", "text"], wait=False) as gateway:
        assert await gateway.ended() == 1
    assert gateway.events == []


async def test_what_is_wrong_between_resources_is_told_with_file_and_line(regions: Simulator) -> None:
    whole = pool_manifest(regions)
    async with LocalGateway(whole) as gateway:
        gateway.write(whole.replace("name: chat-eastus", "name: chat-est", 1))
        (finding,) = await eventually(lambda: gateway.events_of("finding"))
        lines = whole.splitlines()
        assert finding["file"].endswith("manifests.yaml")
        assert lines[finding["line"] - 1].strip() == "secretRef:"
        assert finding["field"] == "spec.endpoints[0].auth.apiKey.secretRef"
        assert await ask(gateway)


async def test_a_ca_file_without_a_certificate_is_a_clear_error(regions: Simulator, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    arguments = ["--ca-file", str(tmp_path / "ca.pem")]
    async with LocalGateway(pool_manifest(regions), arguments=arguments, wait=False) as gateway:
        assert await gateway.ended() == 2
    assert any("ca.pem holds no certificate" in e["event"] for e in gateway.logs), gateway.logs
    assert not any("Traceback" in e["event"] for e in gateway.logs)


async def test_a_file_that_is_not_there_is_a_clear_error() -> None:
    async with LocalGateway({}, arguments=["/no/such/file.yaml"], wait=False) as gateway:
        assert await gateway.ended() == 2
    assert any("/no/such/file.yaml" in e["event"] for e in gateway.logs)
