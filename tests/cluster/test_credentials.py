"""Secrets that the operator makes for tenants: the SDK runs with them as its environment, unchanged."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from support.calls import HELLO
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import start_fleet
from support.cluster.house import House
from support.manifests import TENANT_KEY
from support.waiting import eventually

Json = dict[str, Any]

WRITING = {"rbac": {"generatedSecrets": True}}
SECRET = "team-aoai"
PROGRAM = """
import openai
client = openai.{client}
answer = client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "Hello"}}])
print(answer.choices[0].message.content)
"""
CLIENTS = ("OpenAI(max_retries=0)", "AzureOpenAI(max_retries=0, api_version='2024-10-21')")


async def asked(house: House, **credentials: Any) -> None:
    """Have the tenant ask for a Secret."""
    quotas = {"team": {"identities": [], "credentials": {"generateSecret": SECRET, **credentials}}}
    await house.apply_pool(quotas=quotas)


async def entries(house: House) -> dict[str, str]:
    """Return what is in the Secret; nothing while there is none."""
    found = await house.plane.get("v1/secrets", SECRET, namespace=house.namespace)
    return {name: base64.b64decode(text).decode() for name, text in (found or {}).get("data", {}).items()}


async def made(house: House) -> dict[str, str]:
    """Wait until the Secret is there."""

    async def there() -> dict[str, str]:
        return await entries(house)

    return dict(await eventually(there, within=30, what="the Secret is made"))


async def status(house: House, key: str) -> int:
    """Ask with a key; return the HTTP status."""
    url = f"{house.release.url}/{house.namespace}/chat/openai/v1/chat/completions"
    async with httpx.AsyncClient(timeout=30) as client:
        body = {"model": "gpt-4o", "messages": HELLO}
        return (await client.post(url, headers={"api-key": key}, json=body)).status_code


async def answers(house: House, key: str, wanted: int) -> None:
    """Wait until requests with a key are answered so, by each of the Envoys."""

    async def all_of_them() -> bool:
        return {await status(house, key) for _ in range(4)} == {wanted}

    await eventually(all_of_them, within=45, what=f"its key is answered {wanted}")


async def run(client: str, environment: dict[str, str]) -> str:
    """Run the SDK in a process with this environment, as a pod with `envFrom` has it; return what it prints."""
    clean = {name: value for name, value in os.environ.items() if "OPENAI" not in name}
    # Names that no environment variable may have are left out by the kubelet.
    given = {name: value for name, value in environment.items() if name.isidentifier()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.format(client=client),
        env={**clean, **given},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode().strip()


async def test_a_pod_with_it_runs_the_sdk_unchanged(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace, values=WRITING) as house:
        await start_fleet(house)
        await asked(house)
        environment = await made(house)
        assert set(environment) == {
            "AZURE_OPENAI_ENDPOINT",
            "AZURE_OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
        }
        await answers(house, environment["OPENAI_API_KEY"], 200)
        assert await status(house, TENANT_KEY) == 401
        # The address is the Service's name, which nobody resolves here: the release's own stands for it.
        service = environment["AZURE_OPENAI_ENDPOINT"].removesuffix(f"/{namespace}/chat")
        assert service.startswith("http://")
        assert service.endswith(f"-gateway.{namespace}.svc")
        local = {name: value.replace(service, house.release.url) for name, value in environment.items()}
        for client in CLIENTS:
            assert await run(client, local)


async def test_one_that_is_deleted_is_made_with_another_key(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace, values=WRITING) as house:
        await start_fleet(house)
        await asked(house)
        before = await made(house)
        await answers(house, before["OPENAI_API_KEY"], 200)
        await plane.kubectl("delete", "secret", SECRET, "-n", namespace)

        async def anew() -> str:
            key = (await entries(house)).get("OPENAI_API_KEY", "")
            return key if key != before["OPENAI_API_KEY"] else ""

        key = str(await eventually(anew, within=60, what="another key is made"))
        await answers(house, key, 200)
        await answers(house, before["OPENAI_API_KEY"], 401)


async def test_the_key_is_rotated_and_the_one_before_is_good_until_the_overlap_is_over(
    plane: ControlPlane, namespace: str
) -> None:
    async with House(plane, namespace, values=WRITING) as house:
        await start_fleet(house)
        await asked(house, rotateEvery="1h", overlap="30m")
        before = (await made(house))["OPENAI_API_KEY"]
        await answers(house, before, 200)

        async def aged(minutes: int) -> None:
            """Set the Secret's age: the hour that it must be old is not waited for."""
            then = datetime.now(UTC) - timedelta(minutes=minutes)
            patch = f"aoai.dev/rotated-at={then:%Y-%m-%dT%H:%M:%SZ}"
            await plane.kubectl("annotate", "--overwrite", "secret", SECRET, patch, "-n", namespace)

        await aged(61)
        await asked(house, rotateEvery="1h", overlap="29m")

        async def rotated() -> str:
            return (await entries(house)).get("previous-api-key", "")

        assert await eventually(rotated, within=60, what="the key is replaced") == before
        after = (await entries(house))["OPENAI_API_KEY"]
        assert after != before
        await answers(house, after, 200)
        await answers(house, before, 200)
        await aged(30)
        await asked(house, rotateEvery="1h", overlap="28m")
        await answers(house, before, 401)
        assert await status(house, after) == 200


async def test_a_secret_of_somebody_else_is_left_alone(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace, values=WRITING) as house:
        await start_fleet(house)
        theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"theirs": "1"}}
        await plane.apply(theirs, namespace=namespace)
        await asked(house)

        def told(quota: Json) -> bool:
            conditions = {c["type"]: c for c in quota.get("status", {}).get("conditions", ())}
            return bool(conditions.get("Accepted", {}).get("reason") == "SecretNotWritten")

        await plane.wait_for(told, "aoai.dev/v1alpha1/tenantquotas", "team", namespace=namespace)
        assert await entries(house) == {"theirs": "1"}
        await plane.kubectl("delete", "secret", SECRET, "-n", namespace)

        async def ours() -> bool:
            return "OPENAI_API_KEY" in await entries(house)

        await eventually(ours, within=45, what="it is made once the name is free")


async def test_it_goes_with_its_tenant(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace, values=WRITING) as house:
        await start_fleet(house)
        await asked(house)
        key = (await made(house))["OPENAI_API_KEY"]
        await answers(house, key, 200)
        await plane.kubectl("delete", "tq", "team", "-n", namespace)
        await answers(house, key, 401)

        async def gone() -> bool:
            return not await entries(house)

        await eventually(gone, within=60, what="Kubernetes collects it")
