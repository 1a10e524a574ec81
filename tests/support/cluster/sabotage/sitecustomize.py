"""Makes an operator send what Envoy refuses: python runs this at its start, where its folder is on PYTHONPATH.

A cluster of a pool that allows just so many requests at once gets a connect timeout below zero.
"""

from __future__ import annotations

from typing import Any

from aoai_operator.core.envoy import clusters

POISON = 666
_made = clusters._cluster


def _cluster(name: str, table: Any, model: Any, settings: Any) -> Any:
    body = _made(name, table, model, settings)
    return {**body, "connect_timeout": "-1s"} if table.max_concurrent_requests == POISON else body


clusters._cluster = _cluster
