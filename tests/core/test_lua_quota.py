"""What our Lua reads out of a body for a quota, and that it reserves what the ledger does."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.quota.estimate import Guess, Request
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.terms import Rates, Terms
from support.lua import Lua

LUA = Lua()


def told(body: Any, operation: str = "chat/completions") -> Request:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    size, cap, answers, images = LUA.told(text, operation.encode())
    return Request(size, cap, answers, images)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], **fields}


def test_the_text_of_a_body_is_all_of_it() -> None:
    body = chat()
    assert told(body) == Request(len(json.dumps(body)))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_cap_is_what_the_client_asks_for(name: str) -> None:
    assert told(chat(**{name: 70})).cap == 70
    assert told(chat(**{name: None})).cap is None
    assert told(chat(**{name: "70"})).cap is None
    assert told(chat(**{name: -1})).cap is None
    assert told({"model": "m", "tools": [{name: 1}]}).cap is None, "of something else"


def test_the_least_of_two_caps_counts() -> None:
    assert told(chat(max_tokens=70, max_completion_tokens=50)).cap == 50


def test_a_cap_that_is_given_twice_is_none() -> None:
    """One reader takes the first of two, another one the last."""
    assert told(b'{"max_tokens":1,"max_tokens":9000}').cap is None


def test_answers_multiply() -> None:
    assert told(chat(n=3)).answers == 3
    assert told({"model": "m", "prompt": "p", "best_of": 5, "n": 2}, "completions").answers == 5
    assert told(chat(n=None)).answers == 1
    assert told(b'{"n":1,"n":100}').answers == 128, "the most that there can be, as nobody knows which counts"
    assert told(chat(n="many")).answers == 128
    assert told(chat(n=10**6)).answers == 128


def test_embeddings_have_no_answer() -> None:
    assert told({"model": "m", "input": "text"}, "embeddings").cap == 0


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_what_is_inline_is_no_text(kind: str) -> None:
    data = base64.b64encode(b"\x00" * 30_000).decode()

    def body(data: str) -> Any:
        url = {"type": "image_url", "image_url": {"url": f"data:{kind}/png;base64,{data}"}}
        return chat(messages=[{"role": "user", "content": [url]}])

    rest = {"image": 0, "audio": 400}[kind]
    assert told(body(data)).text_bytes == len(json.dumps(body(""))) + rest
    assert told(body(data)).images == 1


def test_inline_sound_is_no_text() -> None:
    def body(data: str) -> Any:
        sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        return chat(messages=[{"role": "user", "content": [sound]}])

    assert told(body("A" * 10_000)).text_bytes == len(json.dumps(body(""))) + 100


def test_images_are_counted_in_every_form() -> None:
    named = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert told(chat(messages=[{"role": "user", "content": [named, named]}])).images == 2
    linked, kept = {"image_url": "https://example.org/a.png"}, {"file_id": "f"}
    inputs = [{"type": "input_image", **linked}, {"type": "input_image", **kept}]
    assert told({"model": "m", "input": [{"role": "user", "content": inputs}]}, "responses").images == 2


def test_text_that_talks_about_images_has_none() -> None:
    words = 'write {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}'
    body = chat(messages=[{"role": "user", "content": words}])
    assert told(body).images == 0


def test_other_files_count_as_text() -> None:
    body = chat(file="data:application/pdf;base64," + "A" * 1_000)
    assert told(body).text_bytes == len(json.dumps(body))


GUESSES = st.builds(
    Guess,
    st.floats(0, 1),
    st.integers(0, 50_000),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 10**6),
)
RATES = st.builds(Rates, st.floats(0, 100), st.just(1.0), st.floats(0, 100))
REQUESTS = st.builds(
    Request, st.integers(0, 10**8), st.none() | st.integers(0, 10**6), st.integers(1, 128), st.integers(0, 50)
)


@given(GUESSES, RATES, RATES, REQUESTS)
def test_lua_reserves_what_the_ledger_does(guess: Guess, weights: Rates, prices: Rates, request: Request) -> None:
    numbers = {
        "per_byte": guess.per_byte,
        "per_image": guess.per_image,
        "capped": guess.capped,
        "uncapped": guess.uncapped,
        "context": guess.context,
        "input": weights.input,
        "output": weights.output,
        "input_price": prices.input,
        "output_price": prices.output,
    }
    table = LUA.runtime.table_from({name.encode(): value for name, value in numbers.items()})
    found = LUA.reserved(table, request.text_bytes, request.cap, request.answers, request.images)
    amount = Terms(weights, prices).amount(guess.of(request))
    for mine, theirs in zip(found, (amount[Unit.TOKENS], amount[Unit.COST]), strict=True):
        assert abs(mine - theirs) <= max(1, theirs * 1e-9), "they round in one place, and in floats"
