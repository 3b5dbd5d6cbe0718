"""Checks of settings: what passes, and what a refusal names."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from textseg.errors import UserError, check_at_least, check_choice, check_distinct, refusing


@pytest.mark.parametrize("choices", [Literal["a", "b"], ("a", "b"), ["a", "b"], {"a": 1, "b": 2}])
def test_a_value_outside_a_literal_or_a_sequence_is_refused_with_its_choices(choices: Any) -> None:
    check_choice("mode", "b", choices)
    with pytest.raises(UserError) as caught:
        check_choice("mode", "c", choices)
    cause, remedy = str(caught.value).splitlines()
    assert "mode='c'" in cause
    assert "['a', 'b']" in remedy


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_too_small_or_not_finite_is_refused(value: float) -> None:
    check_at_least("lr", 0.5, 0)
    with pytest.raises(UserError, match=f"lr={value}"):
        check_at_least("lr", value, 0)


def test_a_list_that_gives_one_value_twice_is_refused() -> None:
    check_distinct("strata", ["a", "b"])
    with pytest.raises(UserError, match=r"strata=\['a', 'b', 'a'\] lists 'a' twice"):
        check_distinct("strata", ["a", "b", "a"])


def test_an_error_of_ours_inside_a_library_call_is_not_wrapped_again() -> None:
    with pytest.raises(UserError) as error, refusing(ValueError, "the outer cause", "the outer"):
        raise UserError("the inner cause", "the inner")
    assert str(error.value).splitlines()[0] == "the inner cause"
    with pytest.raises(UserError) as error, refusing(ValueError, "the outer cause", "the outer"):
        raise ValueError("five\nsix")
    assert str(error.value).splitlines()[0] == "the outer cause (five)"
