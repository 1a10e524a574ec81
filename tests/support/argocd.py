"""Argo CD's health script of examples/argocd, in a real Lua."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa import lua51

ARGOCD = Path(__file__).parents[2] / "examples" / "argocd"


def health(resource: dict[str, Any]) -> tuple[str, str]:
    """Return what Argo CD would say of a resource. Its Lua is gopher-lua, a 5.1."""
    lua = lua51.LuaRuntime()
    script = (ARGOCD / "health.lua").read_text(encoding="utf-8")
    run = lua.execute(f"return function(obj)\n{script}\nend")
    answer = run(_table(lua, resource))
    return answer["status"], answer["message"]


def _table(lua: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return lua.table_from({key: _table(lua, item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return lua.table_from([_table(lua, item) for item in value])
    return value
