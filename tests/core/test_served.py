"""What the ready line says of a pool."""

from __future__ import annotations

from dataclasses import replace

from aoai_operator.core.compiler import compile_world
from aoai_operator.core.served import ready_line, served_pools
from support.resources import pool, world

ADDRESS = "http://127.0.0.1:8080"


def test_a_pool_that_nobody_may_call_yet_says_so() -> None:
    resources = world(pool("chat"))
    for found, said in (
        (resources, "models gpt-4o)"),
        (replace(resources, quotas=()), "models gpt-4o, no tenant yet)"),
    ):
        compiled = compile_world(found)
        line = ready_line(ADDRESS, served_pools(ADDRESS, compiled.tables, compiled.pool_statuses))
        assert line == f"ready: {ADDRESS}  pools: ns/chat (1 endpoint, {said}"
