"""Which request headers a client may send on to Azure.

Azure OpenAI answers 431 to more than ten headers that are not standard. An allow-list of at most ten such names keeps
within that for every client, and lets nothing in that could steer Envoy (`x-envoy-*`) or speak for us (`x-aoai-*`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

STANDARD = (
    "accept",
    "accept-language",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
)
"""Standard HTTP headers (RFC 9110, RFC 9112) that matter to an API call.

Not `accept-encoding`: what is compressed cannot be read for its usage.
"""

CREDENTIALS = ("api-key", "authorization")
"""Read at the gateway, and never sent on."""

NON_STANDARD = (
    "aoai-evals",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "traceparent",
    "tracestate",
    "x-ms-client-request-id",
)
"""Headers with a meaning to Azure OpenAI, to its SDKs or to tracing; ten at most.

Not among them: those that name a deployment (`x-ms-spillover-deployment`), a way around the tenant's list of models.
"""

_PSEUDO = (":authority", ":method", ":path", ":protocol", ":scheme")

ALLOWED = (*_PSEUDO, *STANDARD, *CREDENTIALS, *NON_STANDARD)


def anything_but(names: Iterable[str]) -> str:
    """Return a regular expression that matches every whole text except these names.

    Envoy's `remove_on_match` cannot invert a match, and RE2 has no negative look-ahead; so the complement is spelled
    out along the tree of the names' letters.

    >>> anything_but(["ab"])
    '(?:|[^a].*|a(?:|[^b].*|b.+))'
    """
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _other(tree)


def _other(node: dict[str, Any]) -> str:
    letters = sorted(letter for letter in node if letter)
    if not letters:
        return ".+"
    others = "[^" + "".join(map(re.escape, letters)) + "].*"
    ways = [others, *(re.escape(letter) + _other(node[letter]) for letter in letters)]
    return "(?:" + "|".join(ways if "" in node else ["", *ways]) + ")"
