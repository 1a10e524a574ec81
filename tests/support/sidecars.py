"""The sidecar that tests inject."""

from __future__ import annotations

from aoai_operator.core.names import PoolKey
from aoai_operator.core.sidecar import Sidecar

SIDECAR = Sidecar(
    gateway="default",
    operator_namespace="aoai-system",
    name="aoai-operator",
    image="example/aoai-operator:1",
    port=18080,
    ready_port=18081,
    control_plane_port=18001,
    pool=PoolKey("ai", "chat"),
)
