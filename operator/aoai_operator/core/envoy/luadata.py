"""Data as Lua source: what the filters know travels inside them, parsed once when Envoy loads the filter.

A table in route metadata would be copied for every request; a table in the source costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import TypeAlias

LuaValue: TypeAlias = "str | int | bool | Mapping[str, LuaValue] | list[LuaValue]"


def source(*names: str) -> str:
    """Return the package's Lua files of these names, one after the other."""
    return "\n".join(files(__package__).joinpath("lua", name).read_text("utf-8") for name in names)


def text(value: str) -> str:
    """Return a Lua string literal; every byte but letters, digits and plain marks is escaped, so nothing can break out.

    >>> text('a"b')
    '"a\\\\034b"'
    """
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./:@ "
    encoded = value.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03d}" for b in encoded) + '"'


def literal(value: LuaValue) -> str:
    """Return a Lua expression for a string, integer, boolean, list, or table with string keys (sorted)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return "{" + ", ".join(literal(v) for v in value) + "}"
    return "{" + ", ".join(f"[{text(k)}] = {literal(value[k])}" for k in sorted(value)) + "}"


def assignment(name: str, items: Iterable[tuple[str, LuaValue]]) -> str:
    """Return `local NAME = {...}` with one entry a line, sorted by key."""
    lines = [f"  [{text(k)}] = {literal(v)}," for k, v in sorted(items, key=lambda item: item[0])]
    return "\n".join([f"local {name} = {{", *lines, "}"])
