"""The allow-list of request headers, as a regular expression of everything else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.envoy.headers import ALLOWED, NON_STANDARD, anything_but

NAMES = st.text(st.sampled_from("abc-_.:x0"), min_size=1, max_size=6)


@given(st.lists(NAMES, max_size=8), NAMES | st.text(min_size=1))
def test_it_matches_all_but_the_names(names: list[str], other: str) -> None:
    expression = re.compile(anything_but(names), re.DOTALL)
    for name in names:
        assert not expression.fullmatch(name)
    assert bool(expression.fullmatch(other)) == (other not in names)


def test_what_must_not_pass_does_not() -> None:
    expression = re.compile(anything_but(ALLOWED))
    for name in (
        "x-aoai-tenant",
        "x-envoy-max-retries",
        "x-forwarded-for",
        "cookie",
        "x-stainless-os",
        "x-request-id",
        "x-ms-spillover-deployment",
        "x-ms-oai-image-generation-deployment",
    ):
        assert expression.fullmatch(name)
    for name in (":path", "content-type", "api-key", "authorization", "openai-beta"):
        assert not expression.fullmatch(name)


def test_azure_s_bound_of_ten_is_kept() -> None:
    assert len(NON_STANDARD) <= 10
