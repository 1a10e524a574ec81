"""Tokens of Entra ID and of Kubernetes, as proofs of who calls: Envoy verifies them, our Lua finds their tenant.

The issuers' keys come with the filter, so that no Envoy must reach an issuer, nor wait for one. The filter sees no
request but those with a token: what changes of it never touches one with an API key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aoai_operator.core.envoy.config import TYPE, header_matches, skipped, typed
from aoai_operator.core.envoy.snapshot import Json, Resource, content_hash
from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.table import RoutingTable, TokenIssuer

TOKENS = "aoai-tokens"
"""The filter that verifies tokens."""

_PREFIX = "Bearer "
_TOKEN = _PREFIX + r"ey[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"
"""A JSON Web Token as a bearer token: three parts, the first a JSON object in base64url (RFC 7519, 3)."""
_SKEW = 1
"""Seconds for which a token that is over is taken, and one that is to come."""
_CACHED = 1000
"""Tokens whose signature a worker need not verify again. They are looked at for their time all the same."""


def is_token() -> Json:
    """Return the predicate of requests whose `authorization` is a token."""
    return header_matches("authorization", _TOKEN)


def tokens_filter(tables: Iterable[RoutingTable], known: Mapping[str, SigningKeys]) -> Resource:
    """Return the filter with the issuers of all pools; a pool's virtual host says which of them it takes."""
    accepted = sorted({table.issuers for table in tables if table.issuers}, key=_requirement)
    issuers = sorted({issuer for each in accepted for issuer in each if _keys(issuer, known)}, key=_name)
    body = typed(
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={_name(issuer): _provider(issuer, known[issuer.url]) for issuer in issuers},
        requirement_map={_requirement(each): _required(each, known) for each in accepted},
    )
    return Resource(TOKENS, {"name": TOKENS, "typed_config": skipped(TOKENS, body, where={"not_matcher": is_token()})})


def accepted_tokens(table: RoutingTable) -> Json | None:
    """Return whose tokens a pool takes, as the virtual host's configuration of the filter; None: nobody's."""
    if not table.issuers:
        return None
    wanted = typed("filters.http.jwt_authn.v3.PerRouteConfig", requirement_name=_requirement(table.issuers))
    return {"@type": TYPE + "envoy.config.route.v3.FilterConfig", "config": wanted}


def _provider(issuer: TokenIssuer, keys: SigningKeys) -> Json:
    return {
        "issuer": keys.issuer,
        "audiences": [issuer.audience],
        "local_jwks": {"inline_string": keys.jwks},
        "from_headers": [{"name": "authorization", "value_prefix": _PREFIX}],
        "payload_in_metadata": issuer.kind,
        "require_expiration": True,
        "clock_skew_seconds": _SKEW,
        "jwt_cache_config": {"jwt_cache_size": _CACHED},
    }


def _required(issuers: tuple[TokenIssuer, ...], known: Mapping[str, SigningKeys]) -> Json:
    any_of: list[Json] = [{"provider_name": _name(issuer)} for issuer in issuers if _keys(issuer, known)]
    if len(any_of) > 1:
        return {"requires_any": {"requirements": any_of}}
    # Without any keys nothing can be verified, and our Lua finds no tenant.
    return any_of[0] if any_of else {"allow_missing_or_failed": {}}


def _keys(issuer: TokenIssuer, known: Mapping[str, SigningKeys]) -> str:
    return known[issuer.url].jwks if issuer.url in known else ""


def _name(issuer: TokenIssuer) -> str:
    return content_hash(issuer.model_dump(mode="json"))[:16]


def _requirement(issuers: tuple[TokenIssuer, ...]) -> str:
    return content_hash([issuer.model_dump(mode="json") for issuer in issuers])[:16]
