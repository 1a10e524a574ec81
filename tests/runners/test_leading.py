"""The leader before it has read everything once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import Unavailable
from aoai_operator.cluster import leading as module
from aoai_operator.cluster.credentials import CredentialWriter
from aoai_operator.cluster.leading import Leading
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.cluster.usage import UsageWriter
from aoai_operator.cluster.writer import Writer
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import World
from aoai_operator.runners.discovering import Discovering
from support.kube import running
from support.waiting import eventually


class Missing:
    """Resources whose CRDs are not applied yet."""

    def __init__(self) -> None:
        self.missing = True
        self.asked = 0
        self.complete = False
        self.due = 60.0
        self.pools: dict[Any, Any] = {}
        self.quotas: dict[Any, Any] = {}
        self.pool_moves = self.quota_moves = 0

    async def refresh(self) -> None:
        self.asked += 1
        if self.missing:
            raise Unavailable("aoaibackendpools.aoai.dev: the server has no such kind")
        self.complete = True

    def refs(self) -> dict[str, Any]:
        return {}

    def requested(self) -> frozenset[Any]:
        return frozenset()

    def due_in(self) -> float:
        return self.due

    def world(self, *_: object, **__: object) -> World:
        return World()

    def statuses_of_invalid(self, *_: object, **__: object) -> tuple[dict[Any, Any], dict[Any, Any]]:
        return {}, {}


class NoSecrets:
    """No Secrets."""

    values: dict[Any, Any] = {}  # noqa: RUF012

    def want(self, _who: str, _refs: object) -> None:
        """Take nothing."""

    async def settled(self) -> None:
        """Be so."""


def leader(resources: Missing) -> Leading:
    read = asyncio.Event()
    read.set()
    return Leading(
        resources=cast(Resources, resources),
        secrets=cast(SecretReader, NoSecrets()),
        serving=cast(Serving, SimpleNamespace(read=read, tables={})),
        writer=lambda changed: Writer(
            api=cast(Any, None),
            resources=cast(Resources, resources),
            serving=cast(Any, SimpleNamespace(moves=0)),
            events=cast(Any, None),
            waiting=lambda _: None,
            taken_changed=changed,
            arrived=lambda: True,
        ),
        usage=lambda _: cast(UsageWriter, SimpleNamespace(fault="", begin=lambda: None, run=asyncio.Event().wait)),
        credentials=lambda _: cast(CredentialWriter, SimpleNamespace(unwritten={}, run=asyncio.Event().wait)),
        discovering=lambda _: cast(
            Discovering, SimpleNamespace(found={}, follow=lambda *_: None, run=asyncio.Event().wait)
        ),
        found=lambda _: None,
        observe=lambda _: Overrides(),
        programming=dict,
        reconciled=lambda _: None,
        now=lambda: 1,
        hold_off=0.01,
        hold_off_max=0.05,
    )


async def test_what_fails_after_a_look_is_tried_again_when_that_is_due(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_TRY_AGAIN", 0.02)
    resources = Missing()
    resources.missing = False
    leading = leader(resources)
    async with running(leading.run()):
        await eventually(leading.settled.is_set)
        before = resources.asked
        resources.due = 0.0
        await eventually(lambda: resources.asked > before, within=5)


async def test_missing_definitions_are_one_line(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_TRY_AGAIN", 0.02)
    resources = Missing()
    leading = leader(resources)
    with capture_logs() as logs:
        async with running(leading.run()):
            await eventually(lambda: resources.asked > 5)
            assert not leading.settled.is_set()
            resources.missing = False
            await eventually(leading.settled.is_set)
    (line,) = logs
    assert "no such kind" in line["why"]
    assert "exc_info" not in line
