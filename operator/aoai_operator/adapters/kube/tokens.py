"""Who a service-account token belongs to, by TokenReview."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from aoai_operator.adapters.kube.resources import TOKEN_REVIEWS
from aoai_operator.adapters.kube.strangers import Strangers
from aoai_operator.ports import KubeApi, KubeError, ReviewError

_KEPT, _BAD_KEPT = 60.0, 10.0
_MOST, _MOST_BAD = 10_000, 1_000
_AGAIN = 4
_PREFIX = "system:serviceaccount:"


class TokenReviews:
    """Implements `TokenReviewer`. A verdict is kept for a while, by the token's hash: the token itself is not kept.

    A token that was good before is judged again without regard to what strangers show.
    """

    def __init__(
        self, api: KubeApi, *, audience: str, kept: float = _KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the API server, the audience that a token must be meant for, and how many seconds a good one is kept."""
        self._api = api
        self._audience = audience
        self._kept = kept
        self._clock = clock
        self._good: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._again = asyncio.Semaphore(_AGAIN)
        self._strangers = Strangers(clock)

    async def __call__(self, token: str, caller: str, /) -> str | None:
        """Return "system:serviceaccount:<namespace>:<name>"; None if the token is not good for us.

        Raises:
            ReviewError: the API server does not answer, or does not let us ask; or it is asked too much already.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if (user := self._known(digest)) is not None:
            return user
        if self._clock() - self._bad.get(digest, -_BAD_KEPT) < _BAD_KEPT:
            return None
        if digest not in self._good:
            return self._keep(digest, await self._strangers.judge(caller, lambda: self._review(token)))
        async with self._again:
            # Whoever waited before us may have asked.
            return self._known(digest) or self._keep(digest, await self._review(token))

    def _known(self, digest: bytes) -> str | None:
        at, user = self._good.get(digest, (0.0, None))
        return user if user is not None and self._clock() - at < self._kept else None

    def _keep(self, digest: bytes, user: str | None) -> str | None:
        self._good.pop(digest, None)
        if user is None:
            self._bad[digest] = self._clock()
        else:
            self._good[digest] = self._clock(), user
        while len(self._good) > _MOST:
            self._good.popitem(last=False)
        while len(self._bad) > _MOST_BAD:
            self._bad.popitem(last=False)
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
