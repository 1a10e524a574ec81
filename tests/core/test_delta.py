"""The rules of delta xDS, one stream at a time."""

from __future__ import annotations

import pytest

from aoai_operator.core.envoy.delta import Acked, Nacked, Outcome, named_in
from aoai_operator.core.envoy.packed import Reference, references
from aoai_operator.core.envoy.snapshot import TypeUrl
from support.delta import C, Client, E, L, R, S, X


def test_the_first_request_without_names_is_a_wildcard() -> None:
    client = Client("CLUSTER a 1", "CLUSTER b 1")
    client.ask(C)
    assert client.got() == ["CLUSTER: a=1, b=1"]


def test_a_star_is_a_wildcard_until_it_is_taken_back() -> None:
    client = Client("CLUSTER a 1", "CLUSTER b 1")
    client.ask(C, "*", "a")
    assert client.all() == ["CLUSTER: a=1, b=1"]
    client.ask(C, unsubscribe=("*",))
    client.publish("CLUSTER a 2", "CLUSTER b 2", "CLUSTER c 1")
    assert client.all() == ["CLUSTER: a=2"]


def test_a_star_may_come_later() -> None:
    client = Client("CLUSTER a 1", "CLUSTER b 1")
    client.ask(C, "a")
    assert client.all() == ["CLUSTER: a=1"]
    client.ask(C, "*")
    assert client.all() == ["CLUSTER: b=1"]


@pytest.mark.parametrize("url", [E, S, R, X])
def test_other_types_have_no_wildcard(url: TypeUrl) -> None:
    client = Client(f"{url.name} a 1")
    client.ask(url)
    assert client.got() == []


def test_an_empty_wildcard_is_answered_once_so_that_nobody_waits() -> None:
    client = Client()
    client.ask(C)
    assert client.all() == ["CLUSTER: "]
    assert client.all() == []


def test_names_are_subscribed_and_unsubscribed() -> None:
    client = Client("ENDPOINT a 1", "ENDPOINT b 1")
    client.ask(E, "a")
    assert client.all() == ["ENDPOINT: a=1"]
    client.ask(E, "b", unsubscribe=("a",))
    assert client.all() == ["ENDPOINT: b=1"]
    client.publish("ENDPOINT a 2", "ENDPOINT b 1")
    assert client.all() == []


def test_what_is_asked_for_again_is_sent_again() -> None:
    client = Client("ENDPOINT a 1")
    client.ask(E, "a")
    assert client.all() == ["ENDPOINT: a=1"]
    client.ask(E, "a")
    assert client.all() == ["ENDPOINT: a=1"]


def test_what_does_not_exist_is_told_at_once_and_sent_when_it_does() -> None:
    client = Client()
    client.ask(E, "a")
    assert client.all() == ["ENDPOINT: -a"]
    assert client.all() == []
    client.publish("ENDPOINT a 1")
    assert client.all() == ["ENDPOINT: a=1"]


def test_a_name_unsubscribed_under_a_wildcard_is_answered() -> None:
    client = Client("CLUSTER a 1")
    client.ask(C, "*", "a", "b")
    assert client.all() == ["CLUSTER: a=1, -b"]
    client.ask(C, unsubscribe=("a", "b"))
    assert client.all() == ["CLUSTER: a=1, -b"]


def test_a_reconnect_is_sent_only_what_differs() -> None:
    client = Client("CLUSTER a 1", "CLUSTER b 2", "ENDPOINT a 1", "ENDPOINT b 1")
    outcomes = client.ask(C, initial_versions={"a": "1", "b": "1", "c": "1"})
    assert outcomes == [Acked(C, {"a": "1", "b": "1", "c": "1"})]
    client.ask(E, "a", "b", initial_versions={"a": "1", "b": "1"})
    assert client.all() == ["CLUSTER: b=2", "ENDPOINT: b=1", "CLUSTER: -c"]


def test_a_reconnect_that_has_everything_is_sent_nothing() -> None:
    client = Client("CLUSTER a 1", "ENDPOINT a 1", "LISTENER l 1", "ROUTE l 1")
    client.ask(C, initial_versions={"a": "1"})
    client.ask(E, "a", initial_versions={"a": "1"})
    client.ask(L, initial_versions={"l": "1"})
    assert not client.stream.settled(client.now)
    client.ask(R, "l", initial_versions={"l": "1"})
    assert client.got() == []
    assert client.stream.settled(client.now)


def test_one_response_a_type_is_under_way_and_what_is_out_of_date_is_skipped() -> None:
    client = Client("ENDPOINT a 1")
    client.ask(E, "a")
    assert client.got() == ["ENDPOINT: a=1"]
    client.publish("ENDPOINT a 2")
    assert client.got() == []
    client.publish("ENDPOINT a 3")
    assert client.ack(E) == [Acked(E, {"a": "1"})]
    assert client.got() == ["ENDPOINT: a=3"]


def test_a_stale_nonce_is_ignored() -> None:
    client = Client("ENDPOINT a 1")
    client.ask(E, "a")
    client.got()
    assert client.ask(E, nonce="none of ours") == []
    assert client.ask(E, nonce="none of ours", error="no") == []
    assert not client.stream.settled(client.now)


def test_a_refused_version_is_not_sent_again_and_its_successor_is() -> None:
    client = Client("ENDPOINT a 1")
    client.ask(E, "a")
    client.got()
    assert client.nack(E, "bad a") == [Nacked(E, {"a": "1"}, "bad a")]
    assert client.all() == []
    client.publish("ENDPOINT a 2")
    assert client.all() == ["ENDPOINT: a=2"]


def test_going_back_to_the_version_before_the_refused_one_is_sent() -> None:
    client = Client("ENDPOINT a 1")
    client.ask(E, "a")
    client.all()
    client.publish("ENDPOINT a 2")
    client.got()
    client.nack(E)
    client.publish("ENDPOINT a 1")
    assert client.all() == ["ENDPOINT: a=1"]


def test_a_refusal_that_names_the_bad_one_concerns_that_only_and_the_others_are_sent_again() -> None:
    client = Client("ENDPOINT a 1", "ENDPOINT b 1", "ENDPOINT c 1")
    client.ask(E, "a", "b", "c")
    client.got()
    assert client.nack(E, "Error adding endpoints b: bad") == [Nacked(E, {"b": "1"}, "Error adding endpoints b: bad")]
    assert client.all() == ["ENDPOINT: a=1, c=1"]


def test_a_refusal_that_names_nobody_is_narrowed_down() -> None:
    client = Client(*(f"ENDPOINT {name} 1" for name in "abcd"))
    client.ask(E, *"abcd")
    bad: list[Outcome] = []
    sent = []
    while got := client.got():
        sent += got
        bad += client.nack(E) if "c=1" in got[0] else client.ack(E)
    assert sent == [
        "ENDPOINT: a=1, b=1, c=1, d=1",
        "ENDPOINT: a=1, b=1",
        "ENDPOINT: c=1, d=1",
        "ENDPOINT: c=1",
        "ENDPOINT: d=1",
    ]
    assert bad == [Acked(E, {"a": "1", "b": "1"}), Nacked(E, {"c": "1"}, "no"), Acked(E, {"d": "1"})]


def test_a_suspect_that_is_gone_or_unwanted_is_not_sent() -> None:
    client = Client("ENDPOINT a 1", "ENDPOINT b 1", "ENDPOINT c 1")
    client.ask(E, "a", "b", "c")
    client.got()
    client.ack(E, "no", unsubscribe=("c",))
    client.publish("ENDPOINT b 2")
    assert client.all() == ["ENDPOINT: b=2", "ENDPOINT: -a"]


def test_routes_wait_until_the_new_cluster_has_its_endpoints() -> None:
    client = Client("CLUSTER a 1", "ENDPOINT a 1", "LISTENER l 1", "ROUTE l 1")
    for url, names in ((C, ()), (E, ("a",)), (L, ()), (R, ("l",))):
        client.ask(url, *names)
    assert client.all() == ["CLUSTER: a=1", "ENDPOINT: a=1", "LISTENER: l=1", "ROUTE: l=1"]
    client.publish("CLUSTER a 1", "CLUSTER b 1", "ENDPOINT a 1", "ENDPOINT b 1", "LISTENER l 1", "ROUTE l 2")
    assert client.got() == ["CLUSTER: b=1"]
    client.ack(C)
    assert client.got() == []
    assert client.stream.holding_back
    client.ask(E, "b")
    assert client.got() == ["ENDPOINT: b=1"]
    client.ack(E)
    assert client.got() == ["ROUTE: l=2"]
    assert not client.stream.holding_back


def test_routes_do_not_wait_forever() -> None:
    client = Client("CLUSTER a 1", "ROUTE r 1")
    client.ask(C)
    client.ask(R, "r")
    assert client.all() == ["CLUSTER: a=1"]
    client.stream.stop_waiting()
    assert client.all() == ["ROUTE: r=1"]


def test_routes_do_not_wait_for_a_refused_cluster() -> None:
    client = Client("CLUSTER a 1", "ROUTE r 1")
    client.ask(C)
    client.ask(R, "r")
    client.got()
    client.nack(C)
    assert client.got() == ["ROUTE: r=1"]
    client.ack(R)
    assert not client.stream.settled(client.now)


def test_an_updated_cluster_is_told_its_endpoints_again() -> None:
    client = Client("CLUSTER a 1", "ENDPOINT a 1")
    client.ask(C)
    client.ask(E, "a")
    client.all()
    client.publish("CLUSTER a 2", "ENDPOINT a 1")
    assert client.got() == ["CLUSTER: a=2", "ENDPOINT: a=1"]


def test_a_cluster_that_changed_while_the_proxy_was_away_is_told_its_endpoints_again() -> None:
    client = Client("CLUSTER a 2", "CLUSTER b 1", "ENDPOINT a 1", "ENDPOINT b 1")
    client.ask(C, initial_versions={"a": "1", "b": "1"})
    # Before the proxy has said that it has endpoints.
    assert client.got() == ["CLUSTER: a=2"]
    client.ask(E, "a", "b", initial_versions={"a": "1", "b": "1"})
    assert client.got() == ["ENDPOINT: a=1"]
    client.ack(C)
    assert not client.stream.settled(client.now)
    client.ack(E)
    assert client.got() == []


def test_removals_come_last_and_what_refers_goes_first() -> None:
    client = Client("CLUSTER a 1", "CLUSTER b 1", "SECRET s 1", "LISTENER l 1", "LISTENER m 1", "ROUTE r 1")
    for url, names in ((C, ()), (S, ("s",)), (L, ()), (R, ("r",))):
        client.ask(url, *names)
    client.ask(E, "a", "b")
    client.ask(R, "l", "m")
    client.all()
    client.publish("CLUSTER a 1", "LISTENER l 1", "ROUTE r 2")
    assert client.all() == ["ROUTE: r=2", "LISTENER: -m", "CLUSTER: -b", "SECRET: -s"]


def test_while_a_route_is_refused_the_clusters_of_its_predecessor_stay() -> None:
    client = Client("CLUSTER a 1", "ENDPOINT a 1", "ROUTE r 1")
    client.ask(C)
    client.ask(E, "a")
    client.ask(R, "r")
    client.all()
    client.publish("ROUTE r 2")
    client.got()
    client.nack(R)
    assert client.all() == []
    client.publish("ROUTE r 3")
    assert client.all() == ["ROUTE: r=3", "CLUSTER: -a", "ENDPOINT: -a"]


def test_it_is_settled_when_all_is_answered_and_accepted() -> None:
    client = Client("CLUSTER a 1", "ENDPOINT a 1", "LISTENER l 1", "ROUTE l 1")
    for url, names in ((C, ()), (E, ("a",)), (L, ()), (R, ("l",))):
        assert not client.stream.settled(client.now)
        client.ask(url, *names)
    client.all()
    assert client.stream.settled(client.now)
    client.publish("CLUSTER a 1", "ENDPOINT a 2", "LISTENER l 1", "ROUTE l 1")
    assert not client.stream.settled(client.now)
    client.got()
    assert not client.stream.settled(client.now)
    client.nack(E)
    assert not client.stream.settled(client.now)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("Error adding/updating cluster(s) ai/chat: bad", ["ai/chat"]),
        ("Error adding/updating cluster(s) ai/chat-2: bad, ai/chat: worse", ["ai/chat", "ai/chat-2"]),
        ("ai/chat/gpt and x.ai/chat are others", []),
    ],
)
def test_whole_names_are_found_in_messages(message: str, named: list[str]) -> None:
    assert named_in(message, ["ai/chat", "ai/chat-2"]) == named


def test_what_a_resource_makes_a_proxy_ask_for() -> None:
    eds = {"name": "c", "eds_cluster_config": {"eds_config": {"ads": {}}}}
    other = {"name": "c", "eds_cluster_config": {"service_name": "other"}}
    listener = {
        "name": "l",
        "filter_chains": [
            {
                "rds": {"route_config_name": "r"},
                "http_filters": [{"name": "lua", "config_discovery": {}}, {"name": "router", "typed_config": {}}],
            }
        ],
    }
    assert references(C, eds) == {Reference(E, "c")}
    assert references(C, other) == {Reference(E, "other")}
    assert references(C, {"name": "static"}) == frozenset()
    assert references(L, listener) == {Reference(R, "r"), Reference(X, "lua")}
    assert references(R, listener) == frozenset()
