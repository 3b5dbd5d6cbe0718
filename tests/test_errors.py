"""Checks of settings: what passes, and what a refusal names."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from textseg.errors import UserError, check_choice


@pytest.mark.parametrize("choices", [Literal["a", "b"], ("a", "b"), ["a", "b"], {"a": 1, "b": 2}])
def test_a_value_outside_a_literal_or_a_sequence_is_refused_with_its_choices(choices: Any) -> None:
    check_choice("mode", "b", choices)
    with pytest.raises(UserError) as caught:
        check_choice("mode", "c", choices)
    cause, remedy = str(caught.value).splitlines()
    assert "mode='c'" in cause
    assert "['a', 'b']" in remedy
