"""A key that cannot be read: which of the ways to get it wrong, and how to mend it."""

from __future__ import annotations

import pytest

from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import Unreadable, read_key
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue

SECRETS = {
    SecretRef("ai", "azure", "apikey"): SecretValue("key-of-azure"),
    SecretRef("ai", "azure", "other"): SecretValue("key-of-other"),
    SecretRef("default", "stray", "api-key"): SecretValue("key-of-stray"),
    SecretRef("theirs", "private", "api-key"): SecretValue("key-of-theirs"),
}


@pytest.mark.parametrize(
    ("name", "message", "mend"),
    [
        (
            "azure",
            "the Secret ai/azure has no entry api-key",
            "it has apikey, other: name one of them in secretRef.key, or add the entry",
        ),
        (
            "stray",
            "there is no Secret ai/stray, or it is empty",
            "there is one in the namespace default: give it metadata.namespace: ai",
        ),
        # What another namespace has is not told.
        ("private", "there is no Secret ai/private, or it is empty", "create it, or name another in secretRef"),
    ],
)
def test_a_missing_key_is_told_apart(name: str, message: str, mend: str) -> None:
    found = read_key(SECRETS, SecretRef("ai", name, "api-key"))
    assert found == Unreadable(ConditionReason.SECRET_NOT_FOUND, message, mend)
