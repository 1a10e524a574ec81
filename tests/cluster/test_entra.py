"""Endpoints without keys in a cluster: the operator's own projected token, as the real API server makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt

from aoai_operator.simulator import Application, Federated
from support.azure import APP, Azure, azure
from support.calls import HELLO
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import whole
from support.cluster.house import POOLS, House
from support.waiting import eventually

Json = dict[str, Any]
AUDIENCE = "api://AzureADTokenExchange"


async def trusting_the_operator(house: House, cloud: Azure) -> None:
    """Have the directory take tokens of the operator's ServiceAccount, and put one where the kubelet would."""
    account = f"{house.release.name}-aoai-operator"
    made = await house.plane.service_account(house.namespace, account, audience=AUDIENCE)
    claims = jwt.decode(str(made.token), options={"verify_signature": False})
    assert claims["sub"] == f"system:serviceaccount:{house.namespace}:{account}"
    federated = Federated(issuer=claims["iss"], subject=claims["sub"], audience=AUDIENCE)
    cloud.state.applications[APP] = Application(client_id=APP, federated=[federated])
    cloud.token_file.write_text(str(made.token))


async def test_a_workload_identity_serves_and_its_failing_issuer_is_a_condition(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    values = {"entra": {"tokenHosts": ["127.0.0.1"]}}
    async with azure(tmp_path, lifetime=10) as cloud, House(plane, namespace, values=values) as house:
        await trusting_the_operator(house, cloud)
        house.azure.regions["east"].state.entra = cloud.state
        for number in range(2):
            environment = {**cloud.environment, "AOAI_CA_FILE": str(cloud.ca_file)}
            await house.release.start_operator(f"operator-{number}", **environment)
            await house.release.start_gateway(f"gateway-{number}")
        await house.apply_pool()
        await whole(house)
        keyless: Json = {"east": {"auth": {"apiKey": None, "entra": {}}}}
        await house.apply_pool(endpoints=keyless, spec={"balancing": {"strategy": "Weighted"}})

        async def called_with_tokens() -> bool:
            async with house.client(max_retries=0) as client:
                await client.chat.completions.create(model="gpt-4o", messages=HELLO)
            return any(one.principal == APP and one.status == 200 for one in house.azure.regions["east"].log)

        await eventually(called_with_tokens, what="east is called with a token", within=60)
        await house.pool_is("Healthy")
        assert {client for _, client, _ in cloud.state.asked} == {APP}

        cloud.state.fault = 503

        def told(pool: Json) -> bool:
            conditions = {c["type"]: c for c in pool.get("status", {}).get("conditions", ())}
            states = {e["name"]: (e["state"], e.get("reason")) for e in pool["status"]["endpoints"]}
            refs = conditions.get("ResolvedRefs", {})
            return refs.get("reason") == "TokenNotGranted" and states["east"] == ("Unhealthy", "Auth")

        pool = await plane.wait_for(told, POOLS, "chat", namespace=namespace, within=60)
        conditions = {c["type"]: c for c in pool["status"]["conditions"]}
        said = "spec.endpoints[0].auth.entra: AADSTS90033: A transient error has occurred. Please try again; mend"
        assert said in conditions["ResolvedRefs"]["message"]
        assert conditions["Ready"]["status"] == "True"
        async with house.client(max_retries=0) as client:
            for _ in range(4):
                await client.chat.completions.create(model="gpt-4o", messages=HELLO)

        cloud.state.fault = None
        await house.pool_is("ResolvedRefs", within=90)
        await no_token_is_shown(house, cloud)


async def no_token_is_shown(house: House, cloud: Azure) -> None:
    """Look for every token, in all that Kubernetes holds of the namespace but Secrets, and in all logs."""
    resources = ("v1/configmaps", "v1/events", "coordination.k8s.io/v1/leases", POOLS)
    objects = [await house.plane.get(one, namespace=house.namespace) for one in resources]
    shown = json.dumps([objects, house.logs()], default=str)
    assert "chat-routing" in shown
    for canary in (cloud.token_file.read_text(), *cloud.state.issued):
        assert canary not in shown
        assert canary[-40:] not in shown
