"""The composition root of the demo: regions, gateway, load, story; then the claims."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web
from rich.console import Console

from aoai_operator.demo.claims import check
from aoai_operator.demo.counting import counted
from aoai_operator.demo.facts import Facts, Strays, Tokens
from aoai_operator.demo.gateway import Gateway, GatewayError
from aoai_operator.demo.load import Load
from aoai_operator.demo.pasting import what_to_paste
from aoai_operator.demo.screen import JsonView, LiveView, PlainView, View
from aoai_operator.demo.site import BIGGEST, MINUTE_SECONDS, PLANS, THROTTLED, Tenant, manifests, regions
from aoai_operator.demo.story import RATE, Story
from aoai_operator.settings import OutputFormat
from aoai_operator.simulator import Simulator
from aoai_operator.simulator.admin import Admin

_OURS = ("x-aoai-", "x-envoy-", "x-forwarded-")
_SETTINGS_OF_SDK = ("OPENAI_", "AZURE_OPENAI_")


class DemoError(Exception):
    """The demo cannot be run, or broke off. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How the demo is run.

    Attributes:
        keep: go on after the summary, until Ctrl-C.
        seconds: the sum of the phases' shortest lengths.
        output: how it is shown.
        port: where the gateway listens on 127.0.0.1; 0: any free port.
        attempts: `spec.failover.attempts` of the pool; 1 is a gateway without failover, which must fail the claims.
    """

    keep: bool
    seconds: float
    output: OutputFormat
    port: int
    attempts: int


async def run_demo(options: DemoOptions) -> bool:
    """Run the demo, and return whether all claims hold. Whatever it started is ended when it returns or raises.

    Raises:
        DemoError: see there.
        asyncio.CancelledError: Ctrl-C or SIGTERM, before the summary.
    """
    console = Console(file=sys.stdout)
    view = _view(options, console)
    _forget_settings_of_sdk()
    with _signals_cancel():
        try:
            return await _run(options, view, console)
        except (GatewayError, OSError) as error:
            raise DemoError(str(error)) from error


async def _run(options: DemoOptions, view: View, console: Console) -> bool:
    tenant = Tenant()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="aoai-demo-")))
        simulator = await stack.enter_async_context(Simulator(regions()))
        files = directory / "manifests"
        files.mkdir()
        for name, text in manifests(simulator.regions.values(), tenant, attempts=options.attempts).items():
            (files / name).write_text(text)
        gateway = Gateway(files, log=directory / "gateway.log", port=options.port, changed=view.event)
        with view:
            view.phase("starting", "aoai-operator " + " ".join(gateway.command))
            await stack.enter_async_context(gateway)
            view.event(f"the gateway answers at {gateway.url}")
            load = Load(gateway.url, tenant.key, rate=RATE)
            story = Story(simulator, gateway, load, view, seconds=options.seconds)
            async with load.running():
                await story.tell()
            view.tick(story.moment())
            facts = await _facts(simulator, gateway, load, story, tenant)
            claims = check(facts)
            view.result(claims, story.phases)
        holds = all(claim.holds for claim in claims)
        if options.keep:
            # Standard output is for the one document, where it is for programs.
            human = Console(stderr=True) if options.output is OutputFormat.JSON else console
            await _keep(simulator, gateway, tenant, human)
        return holds


async def _facts(simulator: Simulator, gateway: Gateway, load: Load, story: Story, tenant: Tenant) -> Facts:
    billed = Tokens()
    for region in simulator.regions.values():
        billed += Tokens(region.counts.prompt_tokens, region.counts.completion_tokens)
    return Facts(
        capacity={plan.name: plan.tokens_per_minute for plan in PLANS},
        minute_seconds=MINUTE_SECONDS,
        phases=story.phases,
        by_way={way.name: load.ok[way.name] for way in load.ways},
        errors=load.errors,
        seen=load.tokens,
        billed=billed,
        counted=await counted(gateway.metrics_url, tenant.full_name, at_least=load.ok.total()),
        storm=story.storm(),
        killed=BIGGEST,
        throttled=THROTTLED,
        strays=_strays(simulator),
    )


def _strays(simulator: Simulator) -> Strays:
    attempts = credential = deployment = headers = 0
    for region in simulator.regions.values():
        for record in region.log:
            attempts += 1
            credential += record.auth != "api-key" or record.key_index != 0
            deployment += bool(record.deployment) and record.deployment not in region.deployments
            headers += any(name.startswith(_OURS) for name in record.header_names)
    return Strays(attempts=attempts, credential=credential, deployment=deployment, headers=headers)


async def _keep(simulator: Simulator, gateway: Gateway, tenant: Tenant, console: Console) -> None:
    """Leave it all running until Ctrl-C or SIGTERM, or until the gateway ends."""
    runner = web.AppRunner(Admin(simulator).application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        admin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        text = what_to_paste(gateway.url, gateway.metrics_url, admin, tenant.key, str(gateway.command[1]))
        console.print(text, soft_wrap=True, highlight=False, markup=False)
        await gateway.ended()
        raise gateway.failure()
    except asyncio.CancelledError:
        console.print("ending", highlight=False)
    finally:
        await runner.cleanup()


def _view(options: DemoOptions, console: Console) -> View:
    if options.output is OutputFormat.JSON:
        return JsonView(console)
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(console)


def _forget_settings_of_sdk() -> None:
    """Keep the caller's own settings of the SDK (keys, addresses, organisation) out of this process."""
    for name in [n for n in os.environ if n.startswith(_SETTINGS_OF_SDK)]:
        del os.environ[name]


@contextmanager
def _signals_cancel() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM cancel the task that runs this, so that everything is ended in order."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
