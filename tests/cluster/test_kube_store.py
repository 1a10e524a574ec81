"""The store on the real API server."""

from __future__ import annotations

import pytest

from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.resources import CONFIG_MAPS
from aoai_operator.adapters.kube.store import ObjectStore, Unavailable, whole
from aoai_operator.core.names import PoolKey
from support.cluster.control_plane import ControlPlane
from support.kube import config_map

LABELS = {"aoai.dev/pool": "chat"}


async def test_it_holds_what_the_server_has(plane: ControlPlane, namespace: str) -> None:
    one, two = PoolKey(namespace, "one"), PoolKey(namespace, "two")
    async with Kube.connected(plane.kubeconfig) as api:
        store = ObjectStore(api, CONFIG_MAPS, keep=whole, namespaces=(namespace,), labels="aoai.dev/pool")
        await api.apply(CONFIG_MAPS, config_map("one", namespace, labels=LABELS, a="1"))
        await api.apply(CONFIG_MAPS, config_map("foreign", namespace, a="1"))
        assert (await store.refresh()).changed == {one}
        await api.apply(CONFIG_MAPS, config_map("one", namespace, labels=LABELS, a="2"))
        await api.apply(CONFIG_MAPS, config_map("two", namespace, labels=LABELS, a="1"))
        store.wake(one)
        store.wake(two)
        assert (await store.refresh()).changed == {one, two}
        assert store.objects[one]["data"] == {"a": "2"}
        await api.apply(CONFIG_MAPS, config_map("one", namespace, labels=LABELS, a="2"))
        store.wake(one)
        assert not await store.refresh(), "an apply that changes nothing is no change"
        await api.delete(CONFIG_MAPS, one)
        store.wake(one)
        assert (await store.refresh()).removed == {one}
        await api.delete(CONFIG_MAPS, two)
        await api.apply(CONFIG_MAPS, config_map("two", namespace, labels=LABELS, a="1"))
        store.wake(None)
        assert (await store.refresh()).changed == {two}, "made anew is changed"


async def test_what_it_holds_outlives_an_api_server_that_is_away(plane: ControlPlane, namespace: str) -> None:
    one = PoolKey(namespace, "one")
    async with Kube.connected(plane.kubeconfig) as api:
        store = ObjectStore(api, CONFIG_MAPS, keep=whole, namespaces=(namespace,), labels="aoai.dev/pool", resync=0)
        await api.apply(CONFIG_MAPS, config_map("one", namespace, labels=LABELS, a="1"))
        await store.refresh()
        await plane.apiserver.kill()
        with pytest.raises(Unavailable, match="configmaps: the API server cannot be reached"):
            await store.refresh()
        assert store.objects[one]["data"] == {"a": "1"}
        await plane.apiserver.start()
        assert not await store.refresh()
