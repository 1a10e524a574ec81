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


WITH_MATCHER = EXTENSIONS + "common.matching.v3.ExtensionWithMatcher"
"""The type of a filter that works for some requests only, or differently for each."""


def header_input(header: str, *, name: str = "") -> Json:
    """Return what a matcher looks at: a request header."""
    what = {"@type": TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": header}
    return {"name": name or header, "typed_config": what}


def header_matches(header: str, regex: str) -> Json:
    """Return the predicate of requests that have a header whose whole value matches."""
    value = {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"single_predicate": {"input": header_input(header), "value_match": value}}


def skipped(name: str, config: Json, *, where: Json) -> Json:
    """Return the `typed_config` of a filter that does not see the requests of a predicate."""
    action = extension("skip", "filters.common.matcher.action.v3.SkipFilter")
    matcher = {"predicate": where, "on_match": {"action": action}}
    return {
        "@type": WITH_MATCHER,
        "extension_config": {"name": name, "typed_config": config},
        "xds_matcher": {"matcher_list": {"matchers": [matcher]}},
    }
