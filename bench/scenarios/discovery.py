"""What a reading of Azure costs: 200 accounts with 10 deployments each, against bare requests for the same bodies."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from aoai_operator.adapters.arm import ArmReader
from aoai_operator.core.discovered import AzureSource, Found
from aoai_operator.core.pki import Subject, make_authority, make_leaf
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity
from aoai_operator.ports import Token
from aoai_operator.runners.survey import AT_ONCE, Reading, survey
from aoai_operator.simulator import Account, AccountDeployment, Arm, ArmState
from bench.machine import rss_kib
from bench.processes import BenchError
from bench.report import Outcome, Table
from bench.site import Site

ACCOUNTS, DEPLOYMENTS = 200, 10
_SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"
_PROVIDER = "/providers/Microsoft.CognitiveServices"
_SOURCE = AzureSource(Identity(kind="workload", scope=""), "", (_SUBSCRIPTION,))


def run(site: Site) -> Outcome:
    """Measure readings, and the compilation of what they find."""
    return asyncio.run(_run(site))


async def _run(site: Site) -> Outcome:
    files = _certificates(site.scratch)
    async with Arm(_state(), certfile=str(files / "tls.crt"), keyfile=str(files / "tls.key")) as arm:
        bare = [await _timed(lambda: _bare(arm, files)) for _ in range(site.rounds)]
        before = rss_kib(os.getpid())
        arm.state.calls.clear()
        first = await _read(arm, files, Found())
        calls, after = dict(arm.state.calls), rss_kib(os.getpid())
        if first.fault or len(first.accounts or ()) != ACCOUNTS:
            raise BenchError(f"the reading is not whole: {first.fault}")
        found = Found(first.accounts, retirements=first.retirements)
        again = [await _timed(lambda: _read(arm, files, found)) for _ in range(site.rounds)]
    ratio = min(again) / min(bare)
    rows = (
        ("requests: lists of accounts", calls.get("accounts", 0)),
        ("requests: lists of deployments", calls.get("deployments", 0)),
        ("requests: models of regions, once a day", calls.get("models", 0)),
        ("CPU time of a reading, to that of bare requests for the same bodies", ratio),
        ("MB that the first reading adds, the client itself included", (after - before) / 1024),
    )
    title = f"{ACCOUNTS} accounts with {DEPLOYMENTS} deployments each"
    notes = (
        f"{AT_ONCE} requests at a time, by TLS; both figures of time include the simulated Azure in the same process",
        "bare: httpx and json.loads",
    )
    return Outcome("discovery", tables=(Table(title, ("what", "figure"), rows),), notes=notes)


def _state() -> ArmState:
    made = [
        AccountDeployment(name=f"d{n}", model=f"model-{n}", rate_limits=[("request", 10, 100), ("token", 60, 100_000)])
        for n in range(DEPLOYMENTS)
    ]
    accounts = [
        Account(name=f"contoso-{n:03}", subscription=_SUBSCRIPTION, location=f"region{n % 10}", deployments=made)
        for n in range(ACCOUNTS)
    ]
    return ArmState(accounts, page=100)


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    begun = time.process_time()
    await work()
    return time.process_time() - begun


async def _read(arm: Arm, files: Path, before: Found) -> Reading:
    reader = ArmReader(_Tokens(), ca_file=files / "ca.crt")
    source = AzureSource(_SOURCE.identity, arm.url, _SOURCE.subscriptions)
    async with reader.open(source, None) as session:
        return await survey(session, source, before)


class _Tokens:
    """Gives a token that nobody looks at."""

    async def token(self, _identity: Identity, _credential: SecretValue | None) -> Token:
        return Token(SecretValue("token"), time.time() + 3600)


async def _bare(arm: Arm, files: Path) -> None:
    free = asyncio.Semaphore(AT_ONCE)
    context = ssl.create_default_context(cafile=str(files / "ca.crt"))
    async with httpx.AsyncClient(base_url=arm.url, verify=context, trust_env=False) as client:

        async def get(path: str) -> dict[str, object]:
            async with free:
                answer: dict[str, object] = (await client.get(path)).raise_for_status().json()
                return answer

        group = f"/subscriptions/{_SUBSCRIPTION}"
        url: object = f"{group}{_PROVIDER}/accounts?api-version=1"
        while url:
            url = (await get(str(url))).get("nextLink")
        accounts = [f"{group}/resourceGroups/rg{_PROVIDER}/accounts/contoso-{n:03}" for n in range(ACCOUNTS)]
        await asyncio.gather(*(get(f"{account}/deployments?api-version=1") for account in accounts))


def _certificates(folder: Path) -> Path:
    now = datetime.now(UTC)
    authority = make_authority(now=now, lifetime=timedelta(hours=1))
    leaf = make_leaf(Subject("localhost", dns=("localhost",)), authority, now=now, lifetime=timedelta(hours=1))
    (folder / "ca.crt").write_bytes(authority.certificate.pem)
    (folder / "tls.crt").write_bytes(leaf.certificate.pem)
    (folder / "tls.key").write_bytes(leaf.key)
    return folder
