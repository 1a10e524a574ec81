"""Who a service-account token belongs to, by TokenReview."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from aoai_operator.adapters.kube.resources import TOKEN_REVIEWS
from aoai_operator.ports import KubeApi, KubeError, ReviewError

_KEPT = 60.0
_MOST = 10_000
_PREFIX = "system:serviceaccount:"


class TokenReviews:
    """Implements `TokenReviewer`. A verdict is kept for a minute, by the token's hash: the token itself is not kept."""

    def __init__(
        self, api: KubeApi, *, audience: str, kept: float = _KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the API server, the audience that a token must be meant for, and how many seconds a verdict is kept."""
        self._api = api
        self._audience = audience
        self._kept = kept
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, str | None]] = OrderedDict()

    async def __call__(self, token: str, /) -> str | None:
        """Return "system:serviceaccount:<namespace>:<name>"; None if the token is not good for us.

        Raises:
            ReviewError: the API server does not answer, or does not let us ask.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._clock() - known[0] < self._kept:
            return known[1]
        user = await self._review(token)
        self._known[digest] = self._clock(), user
        self._known.move_to_end(digest)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return user

    async def _review(self, token: str) -> str | None:
        try:
            answer = await self._api.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": [self._audience]}})
        except KubeError as error:
            raise ReviewError(f"the token cannot be judged: {error.message}") from None
        status = answer["status"]
        # A server that does not know of audiences says nothing of them; then the token may be meant for anybody.
        if not status.get("authenticated") or self._audience not in status.get("audiences", ()):
            return None
        user: str = status.get("user", {}).get("username", "")
        return user if user.startswith(_PREFIX) else None
