"""Simulated regions of Azure OpenAI: limits, latency, accounting and faults, for the demo, tests and the bench.

The way of a request: ``edge`` (sockets, aiohttp) -> ``region`` (a pure state machine; time is passed in), which asks
``routes``, ``prompt``, ``limits``, ``generation``, ``chat``, ``responses_api``, ``others``, ``errors`` and ``headers``,
and counts in ``accounting``. ``simulator`` runs several regions, ``admin`` and ``cli`` steer them. The rules and their
sources are in ``docs/simulator.md``.
"""

from aoai_operator.simulator.accounting import Counts, RequestLog, RequestRecord
from aoai_operator.simulator.arm import Account, AccountDeployment, ArmState
from aoai_operator.simulator.arm_edge import Arm, account_of
from aoai_operator.simulator.entra import Application, EntraState, Federated
from aoai_operator.simulator.entra_edge import Entra
from aoai_operator.simulator.faults import (
    BadHeaders,
    Blackhole,
    CutStream,
    Down,
    Fault,
    Flapping,
    Garbage,
    Reset,
    Slow,
    Stall,
    Status,
    Throttle,
    parse_fault,
)
from aoai_operator.simulator.model import Deployment, Latency, Region
from aoai_operator.simulator.simulator import RunningRegion, Simulator

__all__ = [
    "Account",
    "AccountDeployment",
    "Application",
    "Arm",
    "ArmState",
    "BadHeaders",
    "Blackhole",
    "Counts",
    "CutStream",
    "Deployment",
    "Down",
    "Entra",
    "EntraState",
    "Fault",
    "Federated",
    "Flapping",
    "Garbage",
    "Latency",
    "Region",
    "RequestLog",
    "RequestRecord",
    "Reset",
    "RunningRegion",
    "Simulator",
    "Slow",
    "Stall",
    "Status",
    "Throttle",
    "account_of",
    "parse_fault",
]
