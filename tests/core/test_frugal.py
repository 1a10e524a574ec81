"""Models of which there are many share what pydantic notes of each; nobody sees it."""

from __future__ import annotations

import pytest
from pydantic import ConfigDict, ValidationError

from aoai_operator.core.frugal import Frugal


class Part(Frugal):
    model_config = ConfigDict(frozen=True)

    name: str = "a"
    size: int = 0


def test_equal_sets_are_one() -> None:
    one, two = Part(name="x"), Part.model_validate({"name": "y"})
    assert one.model_fields_set is two.model_fields_set
    assert Part(name="x", size=1).model_fields_set == {"name", "size"}
    assert Part().model_fields_set == set()


def test_a_copy_that_differs_leaves_the_others_as_they_are() -> None:
    one, other = Part(name="x"), Part(name="y")
    copied = one.model_copy(update={"size": 3})
    assert copied.model_fields_set == {"name", "size"}
    assert one.model_fields_set == other.model_fields_set == {"name"}
    assert other.model_dump(exclude_unset=True) == {"name": "y"}
    assert Part(name="z").model_fields_set == {"name"}


def test_a_field_cannot_be_assigned_to() -> None:
    one = Part(name="x")
    with pytest.raises(ValidationError, match="frozen"):
        one.size = 3
    assert Part(name="y").model_fields_set == {"name"}
