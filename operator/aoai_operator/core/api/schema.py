"""From a model to its structural OpenAPI v3 schema, as a CustomResourceDefinition must carry it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from aoai_operator.core.api.base import Model, format_duration

Schema = dict[str, Any]

# `additionalProperties: false` is not allowed beside `properties` in a structural schema: the API server drops or,
# on request, refuses unknown fields by itself. Titles only repeat the names.
_DROPPED = frozenset({"title", "additionalProperties", "$defs"})
"""Of a mapping, with names that users choose, the schema of its values stays."""


class _Generator(GenerateJsonSchema):
    """Writes defaults as users do: the API server holds them against the field's own pattern."""

    def encode_default(self, dft: Any) -> Any:
        """Return a default as YAML spells it."""
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


@lru_cache
def structural(model: type[Model]) -> Schema:
    """Return the schema of a model: no reference, no alternative, defaults inside. Do not change what is returned.

    Source of the rules: Kubernetes, "Extend the API with CustomResourceDefinitions", "Specifying a structural schema".
    """
    made = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    return _node(made, made.get("$defs", {}))


def at_path(schema: Mapping[str, Any], path: tuple[str | int, ...]) -> Mapping[str, Any] | None:
    """Return the schema of the field at `path`, or None when there is no such field."""
    found: Any = schema
    for step in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get("items") if isinstance(step, int) else found.get("properties", {}).get(step)
    return found if isinstance(found, Mapping) else None


def _node(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    node = _resolved(node, definitions)
    made = {key: value for key, value in node.items() if key not in _DROPPED}
    if "default" in made and made["default"] is None:
        del made["default"]
    if "properties" in made:
        made["properties"] = {name: _node(field, definitions) for name, field in made["properties"].items()}
        if "default" in made:
            # An empty object would do, but the API server holds the default itself against the rules, unfilled.
            made["default"] = {name: f["default"] for name, f in made["properties"].items() if "default" in f}
    if isinstance(values := node.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _node(values, definitions)
    if "items" in made:
        made["items"] = _node(made["items"], definitions)
        if made["items"]["type"] != "object":
            made["items"].pop("description", None)
    return made


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Put what a reference points to, or the one alternative to null, in its place; what stands beside it wins."""
    rest = dict(node)
    if "$ref" in rest:
        name = rest.pop("$ref").rpartition("/")[2]
        return {**_resolved(definitions[name], definitions), **rest}
    if "anyOf" in rest:
        (only,) = (one for one in rest.pop("anyOf") if one.get("type") != "null")
        return {**_resolved(only, definitions), **rest}
    return rest
