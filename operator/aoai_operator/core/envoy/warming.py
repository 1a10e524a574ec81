"""Whether a proxy has warmed its resources of one type: Envoy uses none before it knows all that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from aoai_operator.core.envoy.delta import Subscription
from aoai_operator.core.envoy.generations import Doubts
from aoai_operator.core.envoy.packed import PackedResource, Reference
from aoai_operator.core.envoy.snapshot import TypeUrl


class Warming:
    """Remembers what was found warm, and by which answers, and looks again only at what may have changed."""

    def __init__(self) -> None:
        self._doubts = Doubts()
        # By what they refer to: the names of those that were found warm.
        self._warm: dict[TypeUrl, dict[str, tuple[str, ...]]] = {}

    def doubt(self, names: Iterable[str]) -> None:
        """Look again at these: they were sent, or answered."""
        self._doubts.add(names)

    def doubt_all(self) -> None:
        """Look at everything again."""
        self._doubts.add_all()
        self._warm.clear()

    def doubt_referring(self, url: TypeUrl, names: Iterable[str]) -> None:
        """Look again at what refers to these: they were sent, or the proxy wants them no more."""
        warm = self._warm.get(url)
        if warm:
            for name in names:
                self._doubts.add(warm.pop(name, ()))

    def done(
        self,
        current: Mapping[str, PackedResource],
        subscription: Subscription,
        answered: Callable[[Reference], bool],
    ) -> bool:
        """Tell whether the proxy was answered all that its accepted resources made it ask for."""
        names = self._doubts.about(current)
        if names is None:
            self._warm.clear()
            names = self._doubts.keep(current)
        while names:
            name = names.pop()
            resource = current.get(name)
            if resource is None or name not in subscription.held or name in subscription.rejected:
                continue
            if not all(map(answered, resource.references)):
                names.add(name)
                return False
            for url, reference in resource.references:
                warm = self._warm.setdefault(url, {})
                warm[reference] = tuple({*warm.get(reference, ()), name})
        return True
