"""What the access log and the ledger are told of a request, in tests."""

from __future__ import annotations

from aoai_operator.core.accesslog import Answer, Usage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.quota.terms import Used

ANSWER = Answer(
    request_id="r",
    pool="ai/chat",
    tenant="ai/team",
    model="gpt",
    operation="chat/completions",
    endpoint="east",
    deployment="gpt",
    region="east",
    status=200,
    flags="",
    details="via_upstream",
    attempts=1,
    stream=False,
    duration_ms=1_500,
    first_byte_ms=300,
    bytes_in=1,
    bytes_out=1,
    usage=Usage(prompt=10, completion=5, total=15, cached=4, reasoning=2),
)
"""An answer of a region; `_replace` makes others of it."""

SETTLEMENT = Settlement(
    tenant=PoolKey("ai", "team"),
    pool=PoolKey("ai", "chat"),
    model="gpt",
    request_id="r",
    grant=0,
    draw=0,
    estimate={},
    text_bytes=400,
    used=Used(100, 50),
    sent=True,
    streamed_bytes=0,
)
"""Of a request that asked the ledger; `replace` makes others of it."""
