"""The access log's lines: what they mean, and that nothing they hold can break the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.accesslog import Answer, Attempt, Usage, operation, parse_line, parse_usage, retry_after_ms

ANSWERED = "\t".join(  # noqa: FLY002 - a field a line reads better
    (
        "answer",
        "ai/chat|8|deployment|gpt-4o|0a1b2c3d",
        "ai/search",
        "/openai/deployments/gpt-4o-east/chat/completions",
        "east",
        "gpt-4o-east",
        "eastus",
        "200",
        "-",
        "via_upstream",
        "2",
        "120",
        "35",
        "2048",
        "900",
        "application/json",
        "6f1d",
        "7:2:30:0:100",
        '{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4}}',
    )
)


def test_an_answer_line_tells_who_asked_what_of_whom() -> None:
    assert parse_line(ANSWERED) == Answer(
        request_id="6f1d",
        pool="ai/chat",
        tenant="ai/search",
        model="gpt-4o",
        operation="chat/completions",
        endpoint="east",
        deployment="gpt-4o-east",
        region="eastus",
        status=200,
        flags="",
        details="via_upstream",
        attempts=2,
        stream=False,
        duration_ms=120,
        first_byte_ms=35,
        bytes_in=2048,
        bytes_out=900,
        usage=Usage(prompt=11, completion=7, total=18, cached=4),
        quota="7:2:30:0:100",
    )


def test_a_refusal_of_ours_names_no_model_and_no_endpoint() -> None:
    line = ANSWERED.replace("via_upstream", "lua_response").replace("\t200\t", "\t404\t")
    answer = parse_line(line)
    assert isinstance(answer, Answer)
    assert (answer.model, answer.endpoint, answer.status) == ("", "", 404)


def test_an_anonymous_caller_has_no_tenant() -> None:
    answer = parse_line(ANSWERED.replace("ai/search", "anonymous"))
    assert isinstance(answer, Answer)
    assert not answer.tenant


def test_an_attempt_line_tells_the_wait() -> None:
    line = "attempt\tai/chat|0|any|gpt-4o|0a1b2c3d\teast\tgpt-4o-east\teastus\t429\t-\t1500\t2"
    assert parse_line(line) == Attempt(
        pool="ai/chat",
        model="gpt-4o",
        endpoint="east",
        deployment="gpt-4o-east",
        region="eastus",
        status=429,
        flags="",
        retry_after_ms=1500,
    )


@pytest.mark.parametrize("line", ["", "answer", "attempt\tx", "other\tx", ANSWERED[:60], "answer" + "\t-" * 16])
def test_a_cut_or_foreign_line_is_nothing(line: str) -> None:
    assert parse_line(line) is None


@given(st.text() | st.lists(st.text(), max_size=20).map(lambda f: "\t".join(["answer", *f])))
def test_no_line_breaks_the_reader(line: str) -> None:
    parse_line(line)


@pytest.mark.parametrize(
    ("milliseconds", "seconds", "expected"),
    [
        ("1500", "2", 1500),
        ("", "2", 2000),
        ("-1", "3", 3000),
        ("0", "0", None),
        ("soon", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("nan", "inf", None),
        ("", "86400", 86_400_000),
    ],
)
def test_the_wait_is_the_milliseconds_else_the_seconds(milliseconds: str, seconds: str, expected: int | None) -> None:
    assert retry_after_ms(milliseconds, seconds) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"prompt_tokens":3,"total_tokens":3}', Usage(3, 0, 3)),
        (
            '{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":9,"total_tokens":14}',
            Usage(5, 9, 14, cached=2),
        ),
        ('{"output_tokens":9,"output_tokens_details":{"reasoning_tokens":6}}', Usage(0, 9, 9, reasoning=6)),
        ('{"prompt_tokens":-1}', None),
        ('{"prompt_tokens":true}', None),
        ('{"prompt_tokens":1' + "0" * 400 + "}", None),
        ('{"prompt_tokens":"3"}', None),
        ("{}", None),
        ("{", None),
        ('{"prompt_tokens":3} {}', None),
        ('{"prompt_tokens":3,"prompt_tokens_details":[],"completion_tokens_details":"x"}', Usage(3, 0, 3)),
        ('{"prompt_tokens":' + "[" * 2_000, None),
        ("null", None),
        ("-", None),
    ],
)
def test_usage_in_both_forms(text: str, expected: Usage | None) -> None:
    assert parse_usage(text) == expected


@given(st.text())
def test_no_usage_breaks_the_reader(text: str) -> None:
    parse_usage(text)
    parse_usage("{" + text + "}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/openai/deployments/gpt-4o/chat/completions", "chat/completions"),
        ("/openai/v1/responses", "responses"),
        ("/ai/chat/openai/v1/embeddings", "embeddings"),
        ("/openai/v1/responses/resp_1", "other"),
        ("/nowhere", "other"),
        ("/openai/deployments/gpt-4o", "other"),
    ],
)
def test_operations_are_bounded(path: str, expected: str) -> None:
    assert operation(path) == expected
