"""Signatures of routing tables: what the operator wrote is told from what anybody else did. Pure.

Whoever may write ConfigMaps can make one that looks like ours. What they cannot is sign it: the key lies in a Secret of
the operator's own namespace. A signature is an HMAC-SHA256 (RFC 2104) of the table's text together with the pool that
it is for, so a table that was signed is nothing in another namespace, under another name, or for another uid.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping

from aoai_operator.core.names import PoolKey
from aoai_operator.core.secret import SecretValue

KEY_BYTES = 32
"""Length of a key: as long as what SHA-256 gives, which RFC 2104 recommends."""
_ENTRY = "key"
_WHAT = "aoai.dev routing table"
"""Is in every signed text, so that a signature by this key says that it is of a routing table."""


def signature(text: str, *, pool: PoolKey, uid: str, key: SecretValue) -> str:
    """Return the signature of a table's text, as the table of one pool, in hexadecimal digits."""
    # As JSON, no two of these can be written as the same text.
    signed = json.dumps([_WHAT, pool.namespace, pool.name, uid, text])
    return hmac.digest(bytes.fromhex(key.reveal()), signed.encode(), hashlib.sha256).hex()


def is_signed(text: str, told: str, *, pool: PoolKey, uid: str, key: SecretValue) -> bool:
    """Tell whether a signature that somebody `told` is that of a text, as the table of one pool."""
    return hmac.compare_digest(signature(text, pool=pool, uid=uid, key=key).encode(), told.encode(errors="replace"))


def key_of(drawn: bytes) -> SecretValue:
    """Return the key that is made of random bytes, as many as KEY_BYTES."""
    return SecretValue(drawn.hex())


def key_data(key: SecretValue) -> Mapping[str, bytes]:
    """Return what the Secret with a key holds.

    These are the bare bytes. As text, whoever may make a pool beside it could have it sent to a host of their own, as a
    credential; bytes like these no HTTP header may carry, and such a credential is refused.
    """
    return {_ENTRY: bytes.fromhex(key.reveal())}


def key_in(data: Mapping[str, bytes]) -> SecretValue | None:
    """Return the key that a Secret holds; None: none that could be used."""
    drawn = data.get(_ENTRY, b"")
    return key_of(drawn) if len(drawn) == KEY_BYTES else None
