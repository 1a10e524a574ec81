"""The rules of a schema that go beyond one value: CEL rules, and lists whose items must differ.

The API server enforces them at `kubectl apply`. Here the very same texts are evaluated without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from aoai_operator.core.api.base import LIST_MAP_KEYS, LIST_TYPE, VALIDATIONS
from aoai_operator.core.api.fault import FieldFault, Path


def violations(schema: Mapping[str, Any], value: Any, path: Path = ()) -> Iterator[FieldFault]:
    """Yield what breaks a rule in `value`, which has the shape of `schema` and all defaults filled in."""
    for rule in schema.get(VALIDATIONS, ()):
        if not _holds(rule["rule"], value):
            steps = tuple(step for step in rule.get("fieldPath", "").split(".") if step)
            yield FieldFault.at((*path, *steps), rule["message"])
    if isinstance(value, list):
        yield from _repeated(schema, value, path)
        for index, item in enumerate(value):
            yield from violations(schema["items"], item, (*path, index))
    elif isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name in value:
                yield from violations(field, value[name], (*path, name))


def _repeated(schema: Mapping[str, Any], items: Sequence[Any], path: Path) -> Iterator[FieldFault]:
    """Yield each item of a list set or list map that is told apart from none before it."""
    kind, keys = schema.get(LIST_TYPE), schema.get(LIST_MAP_KEYS, ())
    if kind not in ("set", "map"):
        return
    seen: dict[Any, int] = {}
    for index, item in enumerate(items):
        identity = item if kind == "set" else tuple(item.get(key) for key in keys)
        first = seen.setdefault(identity, index)
        if first != index:
            named = f" with the same {' and '.join(keys)}" if keys else ""
            first_place = FieldFault.at((*path, first), "").field
            yield FieldFault.at(
                (*path, index), f"is given twice{named}; the first is {first_place}", "remove or rename one of them"
            )


def _holds(text: str, value: Any) -> bool:
    """Tell whether a rule is true of a value. A rule that cannot be evaluated is broken, as on the API server."""
    try:
        return _program(text).eval(data={"self": value}).value() is True
    except RuntimeError:
        return False


@lru_cache
def _program(text: str) -> Any:
    return _environment().compile(text)


@lru_cache
def _environment() -> Any:
    return cel.NewEnv(variables={"self": cel.Type.DYN})
