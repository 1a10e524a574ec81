"""Tokens of service accounts, as the real API server makes them, prove who calls a pool."""

from __future__ import annotations

from typing import Any

import httpx

from support.calls import HELLO
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import start_fleet
from support.cluster.house import POOLS, House
from support.waiting import eventually

Json = dict[str, Any]
AUDIENCE = "aoai.dev/tenants"


async def test_a_pods_token_is_its_tenants_and_no_other_token_is(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        account = {"serviceAccount": {"name": "default"}}
        quotas = {"team": {"identities": [account], "limits": {"requestsPerMinute": 1_000}}}
        await house.apply_pool(spec={"auth": {"serviceAccounts": {}}}, quotas=quotas)

        async def call(token: str) -> httpx.Response:
            async with httpx.AsyncClient(timeout=30) as client:
                return await client.post(
                    f"{house.release.url}/{namespace}/chat/openai/v1/chat/completions",
                    headers={"authorization": f"Bearer {token}"},
                    json={"model": "gpt-4o", "messages": HELLO},
                )

        async def token(name: str = "default", audience: str = AUDIENCE) -> str:
            made = await plane.service_account(namespace, name, audience=audience)
            return str(made.token)

        own = await token()

        async def taken() -> bool:
            return (await call(own)).status_code == 200

        await eventually(taken, within=30, what="its token is taken")
        assert (await call(own)).headers["x-ratelimit-limit-requests"] == "1000"
        other = {"metadata": {"name": "other"}}
        made = await plane.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", json=other)
        made.raise_for_status()
        head, body, signature = own.split(".")
        wrong = {
            "another service account": await token("other"),
            "made for the API server": await token(audience=""),
            "made for the control plane": await token(audience="aoai.dev"),
            "unsigned": f"{head}.{body}.",
            "another body": f"{head}.{(await token('other')).split('.')[1]}.{signature}",
        }
        refused = {what: (await call(each)).status_code for what, each in wrong.items()}
        assert refused == dict.fromkeys(wrong, 401)

        await house.apply_pool(spec={"auth": {"serviceAccounts": {}}}, tenants={})
        await plane.kubectl("delete", "tq", "team", "-n", namespace)

        async def gone() -> bool:
            return (await call(own)).status_code == 401

        await eventually(gone, within=10, what="a tenant that is deleted has no token any more")


async def test_an_issuer_that_cannot_be_had_is_a_condition_and_keys_go_on(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        await house.apply_pool(spec={"auth": {"serviceAccounts": {"issuer": "http://127.0.0.1:1/nobody"}}})

        def told(pool: Json) -> bool:
            conditions = {c["type"]: c for c in pool.get("status", {}).get("conditions", ())}
            return bool(conditions.get("ResolvedRefs", {}).get("reason") == "IssuerUnreachable")

        pool = await plane.wait_for(told, POOLS, "chat", namespace=namespace)
        assert pool["status"]["healthyEndpoints"] == "2/2"
