"""Signatures of routing tables: each says one text of one pool, by one key."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aoai_operator.core.names import PoolKey
from aoai_operator.core.signing import KEY_BYTES, is_signed, key_data, key_in, key_of, signature
from support.tables import CHAT

KEY = key_of(bytes(range(KEY_BYTES)))
_parts = st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=30))


def signed(parts: tuple[str, str, str, str]) -> str:
    namespace, name, uid, text = parts
    return signature(text, pool=PoolKey(namespace, name), uid=uid, key=KEY)


def test_it_is_the_hmac_of_all_that_it_speaks_of() -> None:
    wanted = json.dumps(["aoai.dev routing table", "ai", "chat", "6a1c", "a: 1\n"]).encode()
    assert (
        signature("a: 1\n", pool=CHAT, uid="6a1c", key=KEY)
        == hmac.new(bytes(range(KEY_BYTES)), wanted, hashlib.sha256).hexdigest()
    )


@given(_parts, _parts)
def test_no_two_have_one_signature(one: tuple[str, str, str, str], other: tuple[str, str, str, str]) -> None:
    assume(one != other)
    assert signed(one) != signed(other)


@given(_parts, st.text(max_size=70))
def test_only_the_signature_itself_holds(parts: tuple[str, str, str, str], told: str) -> None:
    namespace, name, uid, text = parts
    pool = PoolKey(namespace, name)
    assert is_signed(text, signed(parts), pool=pool, uid=uid, key=KEY)
    assert not is_signed(text, told, pool=pool, uid=uid, key=KEY)
    assert not is_signed(text, signed(parts), pool=pool, uid=uid, key=key_of(b"x" * KEY_BYTES))


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_a_key_is_kept_as_bare_bytes_and_never_shown(drawn: bytes) -> None:
    key = key_of(drawn)
    assert key_in(key_data(key)) == key
    assert drawn.hex() not in f"{key} {key!r}"


@pytest.mark.parametrize("data", [{}, {"key": b""}, {"key": b"k" * 31}, {"key": b"k" * 33}, {"other": b"k" * 32}])
def test_what_is_no_key(data: dict[str, bytes]) -> None:
    assert key_in(data) is None
