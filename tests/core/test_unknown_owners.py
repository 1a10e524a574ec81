"""Pools of which a replica knows neither what they are nor that they are gone: a proxy keeps what it has of them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import owner_of
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import World
from support.delta import C, Client, E, L, R
from support.strategies import worlds


def reconnected(client: Client) -> Client:
    """Have a proxy come that has all of two pools, and what they share."""
    pools = {"ai/chat/gpt-4o": "1", "ai/other/gpt-4o": "1"}
    client.ask(C, initial_versions=pools)
    client.ask(L, initial_versions={"default": "1"})
    client.ask(E, *pools, initial_versions=pools)
    client.ask(R, "default", "ai/chat", "ai/other", initial_versions={"default": "1", "ai/chat": "1", "ai/other": "1"})
    return client


OTHER = ("LISTENER default 1", "CLUSTER ai/other/gpt-4o 1", "ENDPOINT ai/other/gpt-4o 1", "ROUTE ai/other 1")
CHAT = ("CLUSTER ai/chat/gpt-4o 1", "ENDPOINT ai/chat/gpt-4o 2", "ROUTE ai/chat 1")


def test_of_a_pool_that_is_not_known_a_proxy_keeps_what_it_has() -> None:
    client = reconnected(Client())
    client.publish(*OTHER, "ROUTE default 2", unknown=frozenset({"ai/chat"}))
    assert client.all() == ["ROUTE: default=2"]
    assert client.stream.settled(client.now)
    client.publish(*OTHER, *CHAT, "ROUTE default 3")
    assert client.all() == ["ENDPOINT: ai/chat/gpt-4o=2", "ROUTE: default=3"]


def test_once_it_is_known_to_be_gone_it_is_removed() -> None:
    client = reconnected(Client())
    client.publish(*OTHER, "ROUTE default 1", unknown=frozenset({"ai/chat"}))
    assert client.all() == []
    client.publish(*OTHER, "ROUTE default 1")
    assert client.all() == ["ROUTE: -ai/chat", "CLUSTER: -ai/chat/gpt-4o", "ENDPOINT: -ai/chat/gpt-4o"]


def test_what_pools_share_stays_too_while_it_is_not_known_and_the_rest_goes_on() -> None:
    client = reconnected(Client())
    changed = (
        "LISTENER default 1",
        "CLUSTER ai/other/gpt-4o 1",
        "ENDPOINT ai/other/gpt-4o 2",
        "ROUTE ai/other 2",
        "ROUTE default 2",
    )
    client.publish(*changed, unknown=frozenset({"ai/chat", None}))
    assert client.all() == ["ENDPOINT: ai/other/gpt-4o=2", "ROUTE: ai/other=2"]
    client.publish(*changed, *CHAT)
    assert client.all() == ["ENDPOINT: ai/chat/gpt-4o=2", "ROUTE: default=2"]


def test_a_proxy_that_has_nothing_is_told_what_is_known() -> None:
    client = Client()
    client.publish(*OTHER, "ROUTE default 2", unknown=frozenset({"ai/chat", None}))
    client.ask(C)
    client.ask(E, "ai/other/gpt-4o")
    client.ask(R, "default", "ai/chat")
    assert client.all() == ["CLUSTER: ai/other/gpt-4o=1", "ENDPOINT: ai/other/gpt-4o=1", "ROUTE: default=2, -ai/chat"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=30)
@given(worlds())
def test_whose_a_resource_is_follows_from_its_name(world: World) -> None:
    tables = compile_world(world).tables.values()
    for gateway in {table.gateway for table in tables}:
        made = translate(
            tuple(tables), world.secrets, Overrides(), GatewaySettings(gateway, "127.0.0.1", 8080, tls_port=8443)
        )
        for named in made.resources.values():
            for resource in named.values():
                shared = resource.owner is None and resource.name == f"{gateway}/healthz"
                assert shared or owner_of(resource.name) == resource.owner


def test_a_pool_whose_newest_is_refused_stays_as_it_was_before_the_stream() -> None:
    held = {"ns/a/m": "good", "ns/b/m": "1", "ns/ab/m": "1"}
    client = Client("CLUSTER ns/a/m bad", "CLUSTER ns/b/m 1", "CLUSTER ns/new/m bad")
    client.ask(C, initial_versions=held)
    assert client.got() == ["CLUSTER: ns/a/m=bad, ns/new/m=bad"]
    client.nack(C, "cluster(s) ns/a/m: bad, ns/new/m: bad")
    client.publish("CLUSTER ns/b/m 1", unknown=frozenset({"ns/a", "ns/new"}))
    assert client.all() == ["CLUSTER: -ns/ab/m, -ns/new/m"]
    client.publish("CLUSTER ns/b/m 1")
    assert client.all() == ["CLUSTER: -ns/a/m"]
