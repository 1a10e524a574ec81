"""Lanes of tenants with endpoints of their own, as Envoy has them."""

from __future__ import annotations

import re


def lane_in(config_dump: str) -> str:
    """Return the first lane that a route of Envoy's matches."""
    found = re.search(r'"x-aoai-lane",\s*"string_match":\s*{\s*"exact":\s*"(\w+)"', config_dump)
    assert found
    return found[1]
