"""What is reserved for a request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.quota.estimate import Distribution, Request, Reservation, TokensPerByte, guess

CONTEXT = 128_000
EXPECTED, STRICT = Reservation.EXPECTED, Reservation.STRICT


def estimated(
    request: Request,
    *,
    answers: Distribution | None = None,
    reservation: Reservation = EXPECTED,
    context: int = CONTEXT,
) -> int:
    learned = answers or Distribution()
    used = guess(TokensPerByte(), learned, reservation=reservation, context=context).of(request)
    return used.prompt + used.output


def of(*lengths: int) -> Distribution:
    made = Distribution()
    for length in lengths:
        made.learn(length)
    return made


def test_nothing_learned_is_a_quarter_of_the_bytes_and_the_whole_cap() -> None:
    assert estimated(Request(4_000, cap=500)) == 1_000 + 500
    assert estimated(Request(4_000, cap=500, answers=3)) == 1_000 + 3 * 500
    assert estimated(Request(4_000)) == 1_000 + 1_000
    assert estimated(Request(4_000, cap=10**6)) == 1_000 + CONTEXT
    assert estimated(Request(400, cap=0, images=2)) == 100 + 2 * 765


def test_answers_are_expected_to_be_as_long_as_most_were() -> None:
    learned = of(*[100] * 96, *[4_000] * 4)
    assert 100 <= estimated(Request(0, cap=4_096), answers=learned) <= 119
    assert estimated(Request(0, cap=50), answers=learned) == 50
    assert estimated(Request(0, cap=4_096), answers=of(*[100] * 94, *[4_000] * 6)) >= 4_000


def test_strict_takes_the_most_that_there_can_be() -> None:
    learned = of(*[10] * 1_000)
    assert estimated(Request(4_000, cap=500), answers=learned, reservation=STRICT) == 4_000 + 500
    assert estimated(Request(10**7, answers=2), reservation=STRICT) == 3 * CONTEXT


def test_a_prompt_is_never_more_than_the_context() -> None:
    assert estimated(Request(10**7, cap=0)) == CONTEXT


def test_what_prompts_are_is_learned_and_forgotten() -> None:
    prompts = TokensPerByte()
    for _ in range(100):
        prompts.learn(10_000, 6_000)
    assert 0.59 < prompts.per_byte <= 0.6
    for _ in range(10_000):
        prompts.learn(10_000, 1_000)
    assert 0.1 <= prompts.per_byte < 0.12


def test_a_prompt_of_images_teaches_no_more_than_a_token_a_byte() -> None:
    prompts = TokensPerByte()
    for _ in range(1_000):
        prompts.learn(100, 85_000)
    assert prompts.per_byte <= 1


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=200))
def test_a_quantile_is_at_most_a_fifth_too_long(lengths: list[int]) -> None:
    found = of(*lengths).quantile(1.0)
    assert found is not None
    longest = max(1, *lengths)
    assert longest <= found <= longest * 1.19 + 1


@given(
    st.builds(
        Request,
        st.integers(0, 10**8),
        st.none() | st.integers(0, 10**6),
        st.integers(1, 128),
        st.integers(0, 50),
    ),
    st.lists(st.integers(0, 200_000), max_size=20),
    st.integers(1, 10**6),
)
def test_what_is_expected_is_never_more_than_what_can_be(request: Request, lengths: list[int], context: int) -> None:
    expected, strict = (
        estimated(request, answers=of(*lengths), reservation=mode, context=context) for mode in (EXPECTED, STRICT)
    )
    assert 0 <= expected <= strict
