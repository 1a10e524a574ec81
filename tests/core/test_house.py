"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import operator
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import aoai_operator.core.envoy

ROOT = Path(__file__).parents[2]
CORE = ROOT / "operator" / "aoai_operator" / "core"
MODULES = sorted(path for path in CORE.rglob("*.py") if path.read_text(encoding="utf-8").strip())


def test_operator_is_the_standard_library() -> None:
    """`operator/` is a source root; with an `__init__.py` it would be the module that everything imports."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert str(operator.__file__).startswith(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_public_things_say_what_they_mean(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert [name for name, node in _public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_a_file_can_be_read_at_one_sitting(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 420


def test_the_map_of_translate_names_files_that_exist() -> None:
    named = re.findall(r"^- (\w+\.py) ", str(aoai_operator.core.envoy.__doc__), re.MULTILINE)
    assert len(named) > 5
    assert [name for name in named if not (CORE / "envoy" / name).exists()] == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(tree: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[str, Definition]]:
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield f"{owner}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{node.name}.")
