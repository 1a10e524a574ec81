"""Sets up structured logging: one line an event on standard error, for people or as JSON."""

from __future__ import annotations

import logging
import sys
from json import JSONEncoder
from typing import Any

import structlog

_JSON = JSONEncoder(default=repr)


def configure(*, json: bool, level: str) -> None:
    """Send every log line to standard error, ours and those of the libraries that use `logging`.

    `level` is a name of `logging`, in small letters.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            # The default shows the local variables of every frame, credentials among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    least = logging.getLevelName(level.upper())
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer] if json else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    # A library's chatter (every probe that httpx sends) is of no use here; its warnings are.
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)
    # azure-identity warns of each request that fails; what asks says so once, and in our words.
    logging.getLogger("azure").setLevel(max(least, logging.ERROR))


def _to_json(event: object, **_defaults: Any) -> str:
    # `json.dumps` with a `default`, as structlog calls it, makes a new encoder for each line.
    return _JSON.encode(event)
