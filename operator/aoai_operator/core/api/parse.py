"""parse(): a resource as YAML or the API server gives it, to its model or to all that is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from aoai_operator.core.api.base import API_VERSION, Model
from aoai_operator.core.api.fault import FieldFault, Path
from aoai_operator.core.api.pool import MODEL_REFERENCE_RULES, AOAIBackendPool
from aoai_operator.core.api.rules import violations
from aoai_operator.core.api.schema import at_path, structural
from aoai_operator.core.api.tenant import TenantQuota
from aoai_operator.core.api.unknown_models import unknown_models
from aoai_operator.core.api.wording import nearest, told

KINDS: Mapping[str, type[AOAIBackendPool] | type[TenantQuota]] = {
    AOAIBackendPool.KIND: AOAIBackendPool,
    TenantQuota.KIND: TenantQuota,
}
_MAX_DEPTH = 50
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Invalid:
    """A resource that cannot be used. Kind, namespace and name are empty where they cannot be told."""

    kind: str
    namespace: str
    name: str
    faults: tuple[FieldFault, ...]


Parsed = AOAIBackendPool | TenantQuota


def parse(raw: object) -> Parsed | Invalid:
    """Return the resource, or every fault that was found in it.

    A missing namespace is "default". `status` is ignored. Nulls count as absent, as on the API server. Rules between
    fields (CEL) are looked at only when each field is right by itself.
    """
    faults: list[FieldFault] = []
    clean = _json(raw, (), faults)
    if not isinstance(clean, dict):
        return Invalid("", "", "", tuple(faults) or (FieldFault("", "a resource must be a map of fields"),))
    kind, namespace, name = _identity(clean)
    model = KINDS.get(kind)
    if model is None:
        mend = nearest(str(clean.get("kind", "")), KINDS)
        faults.append(FieldFault("kind", f"must be one of {', '.join(KINDS)}", mend))
        return Invalid("", namespace, name, tuple(faults))
    if clean.get("apiVersion") != API_VERSION:
        faults.append(FieldFault("apiVersion", f"must be {API_VERSION}", f"write apiVersion: {API_VERSION}"))
    faults += [FieldFault.at((key,), "unknown field", nearest(key, _TOP)) for key in clean if key not in _TOP]
    found = _validated(model, clean, faults)
    if found is not None and not faults:
        return found
    return Invalid(kind, namespace, name, tuple(faults))


def _validated(
    model: type[AOAIBackendPool] | type[TenantQuota], clean: Mapping[str, Any], faults: list[FieldFault]
) -> Parsed | None:
    """Return the model, or None; adds what is wrong to `faults`."""
    body = {key: clean[key] for key in ("metadata", "spec") if key in clean}
    try:
        # As JSON: strict about types, yet lists become tuples and words become enums.
        found = model.model_validate_json(json.dumps(body), by_alias=True, by_name=False)
    except ValidationError as error:
        faults += _told(error, model, body)
        return None
    dumped = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    broken = list(violations(structural(model), dumped))
    if isinstance(found, AOAIBackendPool) and (unknown := list(unknown_models(found.spec))):
        broken = [fault for fault in broken if fault.message not in MODEL_REFERENCE_RULES] + unknown
    faults += broken
    return found


def _told(error: ValidationError, model: type[Model], body: Mapping[str, Any]) -> list[FieldFault]:
    schema = structural(model)
    made = []
    for one in error.errors(include_url=False):
        path: Path = one["loc"]
        if one["type"] == "too_short" and _value(body, path):
            continue  # its items are wrong, and are told one by one
        parent = at_path(schema, path[:-1]) or {}
        if one["type"] == "extra_forbidden":
            fields = parent.get("properties", {})
            mend = nearest(str(path[-1]), fields) or f"remove it; the fields here are {', '.join(fields)}"
            made.append(FieldFault.at(path, "unknown field", mend))
            continue
        field = at_path(schema, path) or {}
        message, mend = told(one, field)
        if "enum" in field and not mend:
            mend = nearest(str(_value(body, path)), field["enum"])
        made.append(FieldFault.at(path, message, mend))
    return made


def _value(body: Any, path: Path) -> Any:
    for step in path:
        try:
            body = body[step]
        except (KeyError, IndexError, TypeError):
            return ""
    return body


def _identity(clean: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = clean.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, namespace, name = clean.get("kind"), metadata.get("namespace", "default"), metadata.get("name")
    return (
        kind if isinstance(kind, str) else "",
        namespace if isinstance(namespace, str) else "",
        name if isinstance(name, str) else "",
    )


def _json(raw: object, path: Path, faults: list[FieldFault]) -> Any:
    """Return `raw` as plain JSON data without nulls in maps; what JSON cannot hold becomes a fault and is left out."""
    if len(path) > _MAX_DEPTH:
        faults.append(FieldFault.at(path[:6], f"is nested deeper than {_MAX_DEPTH} levels"))
        return None
    if isinstance(raw, Mapping):
        return _json_map(raw, path, faults)
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes | bytearray):
        return [_json(item, (*path, index), faults) for index, item in enumerate(raw)]
    if raw is None or isinstance(raw, bool | int) or (isinstance(raw, float) and math.isfinite(raw)):
        return raw
    if isinstance(raw, str) and _is_unicode(raw):
        return str(raw)
    faults.append(FieldFault.at(path, "is not a valid value", "write a text in quotes"))
    return None


def _json_map(raw: Mapping[Any, Any], path: Path, faults: list[FieldFault]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in raw.items():
        if not isinstance(key, str) or not _is_unicode(key):
            faults.append(FieldFault.at(path, "has a field whose name is not a text", "quote the name"))
            continue
        clean = _json(value, (*path, key), faults)
        if clean is not None:
            made[key] = clean
    return made


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
