"""What others say about our resources must not carry our secrets."""

from __future__ import annotations

import re

import pytest

from aoai_operator.core.secret import SecretValue, redacted, undumped

_DUMP = 'goo.gle/debugonly  \nname: "default"\nkey: "s3cret"\n'


def test_secrets_are_taken_out_the_longest_first() -> None:
    values = [SecretValue("abc"), SecretValue("abcdef"), SecretValue("")]
    assert redacted("abcdef and abc", values) == "[redacted] and [redacted]"


@pytest.mark.parametrize("levels", range(4))
def test_a_secret_is_found_however_often_it_was_quoted(levels: int) -> None:
    secret = r"""a"b\c\\d'e.f"""
    text = f"duplicate key: {secret}!"
    for _ in range(levels):
        text = re.sub(r"""(["'\\])""", r"\\\1", text)
    assert redacted(text, [SecretValue(secret)]) == "duplicate key: [redacted]!"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("route: unknown cluster 'x'", "route: unknown cluster 'x'"),
        (f"rejected: {_DUMP}: field is required", "rejected: field is required"),
        (f"rejected: {_DUMP}: field is required".replace("\n", "\\n"), "rejected: field is required"),
        (f"{_DUMP}more...(truncated)", "it breaks a constraint; the reason is in Envoy's own log line"),
        (f"cluster(s) a: {_DUMP}: bad", "cluster(s) a: bad"),
    ],
)
def test_a_dumped_resource_is_taken_out(text: str, told: str) -> None:
    assert undumped(text) == told
