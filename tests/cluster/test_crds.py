"""The CustomResourceDefinitions on the real API server: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from aoai_operator.core.api import Invalid, parse
from aoai_operator.crds import crds
from support.cluster.client import Json, path
from support.cluster.commands import CommandFailedError
from support.cluster.control_plane import ControlPlane
from support.raw import Raw, raw_pool, raw_tenant, with_field
from support.rules import MODELS, POOL, REPEATED, TENANT
from support.schema_cases import SchemaCase, accepted, changed, fields, rejected, whole_pool, whole_tenant

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "crds"
SCHEMAS: dict[str, Json] = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for crd in crds().values()
}
PLURALS = {crd["spec"]["names"]["kind"]: crd["spec"]["names"]["plural"] for crd in crds().values()}
WHOLE = {"AOAIBackendPool": whole_pool, "TenantQuota": whole_tenant}
EACH_KIND = pytest.mark.parametrize("kind", WHOLE)


@pytest.fixture
async def cluster(plane: ControlPlane) -> ControlPlane:
    """The control plane with our kinds."""
    await plane.apply(ROOT / "crds")
    names = [f"crd/{plural}.aoai.dev" for plural in PLURALS.values()]
    await plane.kubectl("wait", *names, "--for=condition=Established", "--timeout=30s")
    return plane


async def submit(cluster: ControlPlane, raw: Raw) -> httpx.Response:
    """Send a resource to be checked and thrown away, as strictly as kubectl does."""
    body = {**raw, "metadata": {**raw["metadata"], "namespace": "default"}}
    url = path(f"aoai.dev/v1alpha1/{PLURALS[raw['kind']]}", namespace="default")
    return await cluster.request("POST", f"{url}?dryRun=All&fieldValidation=Strict", json=body)


def told(answer: httpx.Response) -> list[str]:
    """Return what the API server says is wrong, by field."""
    body = answer.json()
    causes = [c for c in body.get("details", {}).get("causes", ()) if "rules were not checked" not in c["message"]]
    return [f"{c['field']}: {c['message']}" for c in causes] or [body["message"]]


async def submit_all(
    cluster: ControlPlane, cases: Iterable[SchemaCase], whole: Raw
) -> list[tuple[SchemaCase, httpx.Response]]:
    """Submit all, a few at a time."""
    limit = asyncio.Semaphore(8)

    async def one(case: SchemaCase) -> tuple[SchemaCase, httpx.Response]:
        async with limit:
            return case, await submit(cluster, changed(whole, case))

    return await asyncio.gather(*(one(case) for case in cases))


@EACH_KIND
async def test_every_rule_of_the_schema_refuses_in_the_words_recorded(
    cluster: ControlPlane, kind: str, pytestconfig: pytest.Config
) -> None:
    whole = WHOLE[kind]()
    answers = await submit_all(cluster, rejected(SCHEMAS[kind]["spec"], whole["spec"]), whole)
    assert {f"{case.path} {case.rule}" for case, answer in answers if answer.is_success} == set()
    made = {f"{case.path}, {case.rule}": told(answer) for case, answer in answers}
    text = yaml.safe_dump(made, sort_keys=True, width=10_000, allow_unicode=True)
    recorded = GOLDEN / f"{kind}.rejected.yaml"
    if pytestconfig.getoption("--update-golden"):
        recorded.write_text(text, encoding="utf-8")
    assert recorded.read_text(encoding="utf-8") == text, f"{recorded.name} differs; run make golden, read the diff"


@EACH_KIND
def test_what_the_api_server_refuses_the_offline_check_refuses(kind: str) -> None:
    whole = WHOLE[kind]()
    assert not isinstance(parse(whole), Invalid)
    for case in rejected(SCHEMAS[kind]["spec"], whole["spec"]):
        assert isinstance(parse(changed(whole, case)), Invalid), case


@EACH_KIND
async def test_every_word_and_bound_is_accepted(cluster: ControlPlane, kind: str) -> None:
    whole = WHOLE[kind]()
    assert (await submit(cluster, whole)).is_success
    # Names go with from: List only, which is a rule of its own.
    cases = [c for c in accepted(SCHEMAS[kind]["spec"], whole["spec"]) if "allowedNamespaces" not in c.path]
    for case, answer in await submit_all(cluster, cases, whole):
        assert answer.is_success, (case, told(answer))
        assert not isinstance(parse(changed(whole, case)), Invalid), case


OF_A_KIND = [*((raw_pool, *case) for case in (*POOL, *MODELS)), *((raw_tenant, *case) for case in TENANT)]


@pytest.mark.parametrize(("make", "path", "good", "bad", "field", "message"), OF_A_KIND)
async def test_rules_between_fields_say_the_same_as_offline(
    cluster: ControlPlane, *, make: Any, path: str, good: Any, bad: Any, field: str, message: str
) -> None:
    accepted = await submit(cluster, with_field(make(), path, good))
    assert accepted.is_success, told(accepted)
    answer = await submit(cluster, with_field(make(), path, bad))
    (cause,) = answer.json()["details"]["causes"]
    assert cause["field"] == field
    assert re.fullmatch(rf'(Invalid|Required) value: ("[^"]*": )?{re.escape(message)}', cause["message"])


@pytest.mark.parametrize(("make", "path", "value", "field", "message"), REPEATED)
async def test_lists_hold_no_equal_items(
    cluster: ControlPlane, *, make: Any, path: str, value: Any, field: str, message: str
) -> None:
    (cause,) = (await submit(cluster, with_field(make(), path, value))).json()["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldValueDuplicate", field)


@pytest.mark.parametrize("make", [raw_pool, raw_tenant])
async def test_a_name_is_short_enough_to_be_a_label(cluster: ControlPlane, make: Any) -> None:
    assert (await submit(cluster, with_field(make(), "metadata.name", "x" * 63))).is_success
    refused = await submit(cluster, with_field(make(), "metadata.name", "x" * 64))
    assert told(refused)[0].endswith(": metadata.name must have at most 63 characters")


@EACH_KIND
async def test_explain_tells_meaning_and_default_of_every_field(cluster: ControlPlane, kind: str) -> None:
    plural, whole = PLURALS[kind], WHOLE[kind]()
    shown = (await cluster.kubectl("explain", plural, "--recursive=false")).strip()
    assert "FIELDS:" in shown
    openapi = (await cluster.request("GET", "/openapi/v3/apis/aoai.dev/v1alpha1")).json()
    published = openapi["components"]["schemas"][f"dev.aoai.v1alpha1.{kind}"]["properties"]
    for where, field, _ in fields(SCHEMAS[kind]["spec"], whole["spec"], "spec"):
        if where.endswith("]"):
            continue
        told_of = _at(published["spec"], where)
        assert told_of["description"] == field["description"], where
        if "default" in field and not isinstance(field["default"], dict | list):
            assert f"Default {_spelled(field)}" in field["description"], where


def _spelled(field: Json) -> str:
    default = field["default"]
    if field.get("x-kubernetes-int-or-string"):
        return f"{default // 2**20}Mi"
    if isinstance(default, float):
        return f"{default:g}"
    return "empty" if default == "" else json.dumps(default).strip('"')


def _at(schema: Json, where: str) -> Json:
    for step in where.split(".")[1:]:
        name, bracket, _ = step.partition("[")
        schema = schema["properties"][name]
        schema = schema["items"] if bracket else schema
    return schema


async def test_kubectl_explain_shows_it(cluster: ControlPlane) -> None:
    shown = await cluster.kubectl("explain", "abp.spec.throttling.maxRetryAfter")
    assert "FIELD: maxRetryAfter <string>" in shown
    assert "Default 60s" in " ".join(shown.split())


async def test_short_names_category_and_columns(cluster: ControlPlane, namespace: str) -> None:
    pool, tenant = raw_pool(), raw_tenant()
    for raw in (pool, tenant):
        raw["metadata"]["namespace"] = namespace
    await cluster.apply(pool, tenant, namespace=namespace)
    both = await cluster.kubectl("get", "aoai", "-n", namespace, "-o", "name")
    assert set(both.split()) == {"aoaibackendpool.aoai.dev/chat", "tenantquota.aoai.dev/team"}
    pools = await cluster.kubectl("get", "abp", "-n", namespace)
    assert pools.splitlines()[0].split() == ["NAME", "READY", "HEALTHY", "GATEWAY", "AGE"]
    assert pools.splitlines()[1].split()[:2] == ["chat", "default"]
    wide = await cluster.kubectl("get", "abp", "-n", namespace, "-o", "wide")
    assert wide.splitlines()[0].split() == ["NAME", "READY", "HEALTHY", "GATEWAY", "REVISION", "MESSAGE", "AGE"]
    tenants = await cluster.kubectl("get", "tq", "-n", namespace, "-o", "wide")
    assert tenants.splitlines()[0].split() == [
        "NAME",
        "READY",
        "TOKENS",
        "BUDGET",
        "REQUESTS",
        "POOLS",
        "MESSAGE",
        "AGE",
    ]
    assert tenants.splitlines()[1].split()[:2] == ["team", "chat"]


async def test_a_fresh_object_is_in_progress(cluster: ControlPlane, namespace: str) -> None:
    await cluster.apply(raw_pool() | {"metadata": {"name": "chat"}}, namespace=namespace)
    await cluster.apply(raw_tenant() | {"metadata": {"name": "team"}}, namespace=namespace)
    shown = await cluster.kubectl("get", "aoai", "-n", namespace, "-o", "yaml")
    assert {(a["kind"], a["status"]) for a in json.loads(await cluster.run("kstatus", stdin=shown))} == {
        ("AOAIBackendPool", "InProgress"),
        ("TenantQuota", "InProgress"),
    }


async def test_applying_twice_changes_nothing(cluster: ControlPlane, namespace: str) -> None:
    pool = raw_pool() | {"metadata": {"name": "chat"}}
    await cluster.apply(pool, namespace=namespace)
    # The API server stores the default of a status with the first write after the creation; here there is no operator.
    await cluster.apply(pool, namespace=namespace)
    before = await cluster.get("aoai.dev/v1alpha1/aoaibackendpools", "chat", namespace=namespace)
    await cluster.apply(pool, namespace=namespace)
    assert await cluster.get("aoai.dev/v1alpha1/aoaibackendpools", "chat", namespace=namespace) == before
    text = json.dumps(pool)
    assert await cluster.kubectl("diff", "--server-side", "-n", namespace, "-f", "-", stdin=text) == ""


async def test_kubectl_shows_the_words(cluster: ControlPlane, namespace: str) -> None:
    wrong = with_field(raw_pool(), "spec.health.probe", {"timeout": "3s", "interval": "2s"})
    wrong["metadata"]["namespace"] = namespace
    with pytest.raises(CommandFailedError) as refused:
        await cluster.apply(wrong, namespace=namespace)
    assert refused.value.output == (
        'The AOAIBackendPool "chat" is invalid: spec.health.probe.timeout: Invalid value: '
        "timeout must not be longer than interval"
    )
