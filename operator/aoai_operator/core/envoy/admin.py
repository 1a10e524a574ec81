"""What we ask of Envoy's admin interface when it is to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAIL_HEALTH_CHECKS = "/healthcheck/fail"
"""Answers ask clients to close their connections, and /ready says 503."""
DRAIN = "/drain_listeners?graceful&skip_exit"
"""The same, and after --drain-time-s nothing new is accepted; until then it is."""
IN_FLIGHT = r"/stats?filter=^http\..*\.downstream_rq_active$&format=json"


def requests_in_flight(stats: Mapping[str, Any]) -> int:
    """Return the requests under way, by the answer to IN_FLIGHT; those of the admin interface do not count."""
    return sum(s["value"] for s in stats["stats"] if "name" in s and not s["name"].startswith("http.admin."))
