"""Plain words for what is wrong with one field, without the field's value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from aoai_operator.core.api.auth import AUDIENCE, ISSUER
from aoai_operator.core.api.base import DURATION, LABEL, MODEL_NAME, OBJECT_ID, SUBDOMAIN
from aoai_operator.core.api.endpoint import REGION, URL
from aoai_operator.core.api.quota import CURRENCY, TIME_ZONE

_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a map of fields",
    "model_attributes_type": "a map of fields",
}
_MENDS = {
    "string_type": "quote it",
    "bool_type": "write it without quotes",
    "int_type": "write it without quotes",
    "float_type": "write it without quotes",
}
_LABEL = "must be lower-case letters, digits and hyphens, beginning and ending with a letter or digit"
_PATTERNS = {
    f"^{LABEL}$": _LABEL,
    f"^({LABEL})?$": _LABEL,
    REGION: _LABEL,
    f"^{SUBDOMAIN}$": "must be lower-case letters, digits, hyphens and dots, as in a DNS name",
    f"^{MODEL_NAME}$": "must be letters, digits, dots, underscores and hyphens, beginning with a letter or digit",
    URL: "must be https://host or https://host:port",
    "^[-._a-zA-Z0-9]+$": "must be letters, digits, dots, underscores and hyphens",
    DURATION: "must be a duration",
    TIME_ZONE: "must be the name of a time zone, such as Europe/Berlin",
    OBJECT_ID: "must be an object id of Entra ID: 8-4-4-4-12 hexadecimal digits",
    AUDIENCE: "must be a URI or a name, such as api://aoai",
    ISSUER: "must be empty, or the https:// address of an issuer",
    CURRENCY: "must be three capital letters, such as USD",
}
_FIXED = {
    "duration": ("must be a duration", "write a number with ms, s, m or h, such as 30s"),
    "count": ("must be a whole number from 1 to 1e15", "write a number, or one with k, M or G, such as 500M"),
    "size": ("must be a size from 1 byte to 256Mi", "write bytes, or a number with Ki or Mi, such as 32Mi"),
}
_URL_MEND = "leave out path, query and credentials"


def told(error: ErrorDetails, field: Mapping[str, Any]) -> tuple[str, str]:
    """Return message and mend of one of pydantic's errors, at a field with this schema."""
    kind = error["type"]
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_named(error['input'])}", _type_mend(kind, error["input"])
    if kind in ("enum", "literal_error"):
        return f"must be one of {', '.join(field.get('enum', ()))}", ""
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        return _PATTERNS.get(pattern, f"must match {pattern}"), _URL_MEND if pattern == URL else ""
    if kind == "missing":
        return "required, but missing", _purpose(field)
    return _FIXED.get(kind) or (_bound(kind, error.get("ctx", {})), "")


def _bound(kind: str, context: Mapping[str, Any]) -> str:
    bounds = {
        "greater_than_equal": ("at least", "ge", ""),
        "less_than_equal": ("at most", "le", ""),
        "string_too_short": ("at least", "min_length", "character"),
        "string_too_long": ("at most", "max_length", "character"),
        "too_short": ("at least", "min_length", "item"),
        "too_long": ("at most", "max_length", "item"),
    }
    if kind not in bounds:
        return f"is not valid ({kind})"
    side, key, noun = bounds[kind]
    return f"must have {side} {_counted(context[key], noun)}" if noun else f"must be {side} {context[key]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _named(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a map", type(None): "nothing"}
    return names.get(type(value), "that")


def _type_mend(kind: str, value: Any) -> str:
    scalar = isinstance(value, str) == (kind != "string_type") and isinstance(value, str | int | float)
    return _MENDS.get(kind, "") if scalar else ""


def _purpose(field: Mapping[str, Any]) -> str:
    """Return the first sentence of the field's description: what must be given."""
    first = field.get("description", "").partition(". ")[0].rstrip(".")
    return f"add it: {first[:1].lower()}{first[1:]}" if first else "add it"


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that `word` was probably meant to be; empty when none is near."""
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word[:100].lower(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]}?" if near else ""
