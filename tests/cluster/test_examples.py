"""The examples on the real API server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.name not in {"argocd", "flux"})


def documents_of(folder: Path) -> list[Json]:
    return [d for f in sorted(folder.glob("*.yaml")) for d in yaml.safe_load_all(f.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda p: p.name)
async def test_is_accepted_and_changes_nothing_when_applied_again(plane: ControlPlane, folder: Path) -> None:
    await plane.apply(ROOT / "crds")
    await plane.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    documents = documents_of(folder)
    for namespace in {d["metadata"].get("namespace", "ai") for d in documents}:
        namespaced = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await plane.apply(namespaced)
    apply = ("apply", "--server-side", "--validate=strict", "--warnings-as-errors", "-f", str(folder))
    first = await plane.kubectl(*apply)
    assert len(first.splitlines()) == len(documents)
    await plane.kubectl(*apply)
    assert await plane.kubectl("diff", "--server-side", "-f", str(folder)) == ""
    # The namespaces stay: other examples use them, and one that is being deleted takes nothing new.
    kept = [d for d in documents if d["kind"] != "Namespace"]
    await plane.kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(kept))
