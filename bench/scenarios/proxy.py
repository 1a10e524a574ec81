"""Requests a second of the whole chain against bare Envoy: prompts of three sizes, both surfaces."""

from __future__ import annotations

from dataclasses import asdict

from bench.chain import our_chain
from bench.paired import COLUMNS, Case, measure
from bench.payloads import Request
from bench.report import Outcome, Table, Target
from bench.site import Site

BOUNDS = {2: 0.5, 29: 0.5, 180: 0.4}
"""The least ratio asked for, by KB of prompt."""


def run(site: Site) -> Outcome:
    """Measure each size on the v1 surface (model in the body) and on Azure's (model in the path)."""
    cases = [
        Case(
            name=f"{kilobytes} KB, {'model in path' if azure_path else 'v1, model in body'}",
            factory=our_chain,
            request=Request(kilobytes=kilobytes, azure_path=azure_path),
        )
        for azure_path in (False, True)
        for kilobytes in BOUNDS
    ]
    cases += [
        Case(
            name=f"2 KB, {surface}, renamed per region",
            factory=our_chain,
            request=Request(azure_path=azure_path),
            renamed=True,
        )
        for surface, azure_path in (("v1", False), ("path", True))
    ]
    results = [measure(site, case) for case in cases]
    targets = [
        Target(f"requests/s to bare, {result.case}", result.ratio, BOUNDS[case.request.kilobytes])
        for case, result in zip(cases, results, strict=True)
        if not case.renamed
    ]
    return Outcome(
        "proxy",
        tables=(Table("Requests, CPU against bare Envoy", COLUMNS, tuple(result.row() for result in results)),),
        targets=tuple(targets),
        notes=(
            "ratio = bare's CPU a request / the gateway's, both at once on one core; 1 is as fast as bare Envoy",
            "helpers: the operator's own Python (access log, probes), on the other core",
        ),
        raw={"paired": [asdict(result) for result in results]},
    )
