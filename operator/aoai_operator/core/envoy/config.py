"""Small builders for the shapes that Envoy's configuration repeats."""

from __future__ import annotations

from aoai_operator.core.envoy.snapshot import Json

TYPE = "type.googleapis.com/"
EXTENSIONS = TYPE + "envoy.extensions."
HTTP_FILTERS = EXTENSIONS + "filters.http."

ADS: Json = {"ads": {}, "resource_api_version": "V3"}


def typed(type_name: str, **fields: object) -> Json:
    """Return a `typed_config` of an extension, by its name below "envoy.extensions."."""
    return {"@type": EXTENSIONS + type_name, **fields}


def extension(name: str, type_name: str, **fields: object) -> Json:
    """Return a named extension: `{name, typed_config}`."""
    return {"name": name, "typed_config": typed(type_name, **fields)}


def duration(milliseconds: int) -> str:
    """Return a protobuf Duration's JSON form.

    >>> duration(1500), duration(60000)
    ('1.500s', '60s')
    """
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds}.{rest:03d}s" if rest else f"{seconds}s"


def set_header(name: str, value: str) -> Json:
    """Return a HeaderValueOption-like mutation that overwrites or adds a header."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
