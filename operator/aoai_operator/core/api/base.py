"""What the fields of our resources are made of: the model base, names, durations, sizes and CEL rules.

The models are the only source of the CRDs. So a type here says three things at once: what Python sees, how YAML
spells it, and which structural schema the API server enforces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from aoai_operator.core.frugal import Frugal

GROUP = "aoai.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_MAP_KEYS = "x-kubernetes-list-map-keys"
INT_OR_STRING = "x-kubernetes-int-or-string"

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
MODEL_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
OBJECT_ID = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_KIBI, _MEBI = 1024, 1024 * 1024
# Every text that matches is at most 256Mi, so that no CEL rule must read the number out of it.
_SIZE = "^([1-9][0-9]{0,7}|[1-9][0-9]{0,4}Ki|([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-6])Mi)$"


def camel_case(name: str) -> str:
    """Return the name of a field as YAML spells it: `per_try_timeout` -> `perTryTimeout`, `from_` -> `from`."""
    head, *tail = name.rstrip("_").split("_")
    return head + "".join(word.capitalize() for word in tail)


class Model(Frugal):
    """A frozen part of a resource. Unknown fields are errors, and YAML types are never coerced."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=camel_case,
        validate_by_alias=True,
        validate_by_name=True,
    )


def rule(cel: str, message: str, *, field_path: str | None = None, reason: str = "FieldValueInvalid") -> dict[str, str]:
    """Return one CEL validation rule of a structural schema.

    `cel` uses plain CEL only, no extension function of Kubernetes, so that the same text is evaluated offline.
    `field_path` is relative to where the rule stands, and begins with a dot.
    """
    made = {"rule": cel, "message": message, "reason": reason}
    if field_path is not None:
        made["fieldPath"] = field_path
    return made


def rules(*made: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema extension that carries the rules."""
    return {VALIDATIONS: [dict(one) for one in made]}


def list_map(*keys: str) -> dict[str, Any]:
    """Return the schema extension of a list whose items are told apart by these fields: no two are equal."""
    return {LIST_TYPE: "map", LIST_MAP_KEYS: list(keys)}


LIST_SET: dict[str, Any] = {LIST_TYPE: "set"}
LIST_ATOMIC: dict[str, Any] = {LIST_TYPE: "atomic"}


def parse_duration(text: str) -> timedelta:
    """Return the length of a duration such as `1m30s`, `1.5s` or `250ms`.

    Raises ValueError when `text` is not one, or is too long to count.
    """
    if len(text) > 16 or re.fullmatch(DURATION.strip("^$"), text, re.ASCII) is None:
        raise ValueError("not a duration")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    try:
        return timedelta(milliseconds=sum(float(number) * _MILLISECONDS[unit] for number, unit in parts))
    except OverflowError as error:
        raise ValueError("too long a duration") from error


def format_duration(value: timedelta) -> str:
    """Return a duration as YAML spells it, in whole seconds where it has no fraction: `90s`, `250ms`."""
    whole = milliseconds(value)
    return f"{whole // 1000}s" if whole % 1000 == 0 else f"{whole}ms"


def milliseconds(value: timedelta) -> int:
    """Return the duration in whole milliseconds, rounded down."""
    return value // timedelta(milliseconds=1)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `32Mi`, `512Ki` or `1000`. Raises ValueError when it is not one."""
    if re.fullmatch(_SIZE.strip("^$"), text, re.ASCII) is None:
        raise ValueError("not a size")
    if text.endswith("Ki"):
        return int(text[:-2]) * _KIBI
    return int(text[:-2]) * _MEBI if text.endswith("Mi") else int(text)


def _format_size(value: int) -> int | str:
    return f"{value // _MEBI}Mi" if value % _MEBI == 0 else value


@dataclass(frozen=True, slots=True)
class Between:
    """Makes a `timedelta` field of a duration text, within inclusive bounds that a CEL rule enforces."""

    low: str
    high: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(format_duration)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        bounds = f"duration(self) >= duration('{self.low}') && duration(self) <= duration('{self.high}')"
        return {
            "type": "string",
            "minLength": 2,
            "maxLength": 16,
            "pattern": DURATION,
            **rules(rule(bounds, f"must be from {self.low} to {self.high}")),
        }

    def _read(self, value: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("duration", "must be a duration in text")
        try:
            return parse_duration(value)
        except ValueError:
            raise PydanticCustomError("duration", "must be a duration") from None


@dataclass(frozen=True, slots=True)
class _Size:
    """Makes an `int` field, in bytes, of a number or of a text such as `32Mi`; at most 256Mi."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(_format_size)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {INT_OR_STRING: True, "minimum": 1, "maximum": 256 * _MEBI, "maxLength": 16, "pattern": _SIZE}

    def _read(self, value: Any) -> int:
        wrong = PydanticCustomError("size", "must be a size from 1 byte to 256Mi")
        if isinstance(value, str):
            try:
                return parse_size(value)
            except ValueError:
                raise wrong from None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 256 * _MEBI:
            raise wrong
        return value


Size = Annotated[int, _Size()]


# Every text that matches is below 1e15, so that no CEL rule must read the number out of it.
_COUNT = "^([1-9][0-9]{0,14}|[1-9][0-9]{0,11}k|[1-9][0-9]{0,8}M|[1-9][0-9]{0,5}G)$"
_MOST = 10**15
_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9}


def parse_count(text: str) -> int:
    """Return the number that a text such as `500M`, `60k` or `1000` says. Raises ValueError when it is not one."""
    if re.fullmatch(_COUNT.strip("^$"), text, re.ASCII) is None:
        raise ValueError("not a count")
    return int(text.rstrip("kMG")) * _SUFFIXES.get(text[-1], 1)


@dataclass(frozen=True, slots=True)
class _Count:
    """Makes an `int` field of a number or of a text such as `500M`; at most 1e15."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(int)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {INT_OR_STRING: True, "minimum": 1, "maximum": _MOST, "maxLength": 16, "pattern": _COUNT}

    def _read(self, value: Any) -> int:
        wrong = PydanticCustomError("count", "must be a count from 1 to 1000000G")
        if isinstance(value, str):
            try:
                value = parse_count(value)
            except ValueError:
                raise wrong from None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise wrong
        return value


Count = Annotated[int, _Count()]
Label = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{LABEL}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=64, pattern=f"^{MODEL_NAME}$")]
ResourceName = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{SUBDOMAIN}$")]
Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$")]


REQUESTED_AT = "reconcile.aoai.dev/requestedAt"
"""The annotation by which a user asks for a new look, as in Flux."""


class ObjectMeta(Model):
    """The part of `metadata` that we read. Everything else that Kubernetes or a user writes there is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: ResourceName
    namespace: Label = "default"
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    annotations: dict[str, str] = Field(default={})

    @property
    def requested_at(self) -> str:
        """What the annotation reconcile.aoai.dev/requestedAt says; at most 64 characters of it."""
        return self.annotations.get(REQUESTED_AT, "")[:64]


SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$")]


class SecretKeyRef(Model):
    """One value of a Secret in the namespace of the resource that refers to it."""

    name: SecretName = Field(description="Name of the Secret, in the namespace of this resource. Required.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")] = Field(
        default="api-key", description="Key of the Secret's data whose value is the API key. Default api-key."
    )


ObjectId = Annotated[str, Field(min_length=36, max_length=36, pattern=OBJECT_ID)]
"""An id of Entra ID: a GUID."""


class ApiKey(Model):
    """An API key, by reference; no resource ever holds the key itself."""

    secret_ref: SecretKeyRef = Field(description="Where the API key is. Required.")
