"""Events: what happened to an object, for `kubectl describe`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import structlog

from aoai_operator.adapters.kube.resources import EVENTS
from aoai_operator.ports import JsonObject, KubeApi, KubeError

_log = structlog.get_logger("events")

CONTROLLER = "aoai.dev/operator"
_QUEUE = 1000
_NOTE = 1024
"""Longest note, in bytes (events.k8s.io/v1)."""
_NAME = 200
_RETRY, _TRIES = 1.0, 3


class EventPoster:
    """Posts Events in the background, in order. One that cannot be posted is logged and forgotten."""

    def __init__(self, api: KubeApi, *, instance: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Take the API server, and who we are, such as the pod's name."""
        self._api = api
        self._instance = instance
        self._now = now
        self._queue: asyncio.Queue[JsonObject] = asyncio.Queue(_QUEUE)

    def post(
        self, regarding: JsonObject, kind: Literal["Normal", "Warning"], *, reason: str, message: str, action: str
    ) -> None:
        """Post an Event soon.

        Args:
            regarding: the object, with apiVersion, kind and metadata.
            kind: Warning for what somebody should look at.
            reason: why, a word in CamelCase.
            message: a sentence; what is longer than 1,024 bytes is cut.
            action: what the operator did, a word in CamelCase.
        """
        metadata = regarding["metadata"]
        event = {
            "metadata": {"namespace": metadata["namespace"], "generateName": f"{metadata['name'][:_NAME]}-"},
            "eventTime": self._now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "type": kind,
            "reason": reason,
            "action": action,
            "note": _cut(message),
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                **{
                    field: metadata[field]
                    for field in ("namespace", "name", "uid", "resourceVersion")
                    if field in metadata
                },
            },
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
        }
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("too many events wait to be posted, one is dropped", reason=reason, object=metadata["name"])

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            await self._post(await self._queue.get())

    async def _post(self, event: JsonObject) -> None:
        for tries in range(1, _TRIES + 1):
            try:
                await self._api.create(EVENTS, event)
            except KubeError as error:
                if error.retryable and tries < _TRIES:
                    await asyncio.sleep(_RETRY)
                    continue
                _log.warning(
                    "an event could not be posted", event_reason=event["reason"], note=event["note"], why=error.message
                )
            return


def _cut(message: str) -> str:
    if len(message.encode()) <= _NOTE:
        return message
    return message.encode()[: _NOTE - 3].decode(errors="ignore") + "..."
