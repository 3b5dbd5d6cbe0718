"""The one exception for mistakes a user can mend, and checks of settings that raise it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args


class UserError(ValueError):
    """A wrong file, value or setting: one line of cause and one of remedy.

    The command line prints both without a traceback and exits with status 2; from Python it is a
    ``ValueError``.

    Args:
        cause: what is wrong, naming the file or field and the value found there.
        remedy: what the user can do about it.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}\n{remedy}" if remedy else cause)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Check that a setting is one of its choices.

    Args:
        name: of the setting.
        value: what was given.
        choices: a ``Literal`` type, or the values themselves.

    Raises:
        UserError: `value` is none of them.
    """
    known = list(get_args(choices) or choices)
    if value not in known:
        raise UserError(f"{name}={value!r} is unknown", f"choose one of {known}")


def check_choices(name: str, values: Sequence[Any], choices: Sequence[Any]) -> None:
    """Check that a setting lists only its choices, and none of them twice.

    Args:
        name: of the setting.
        values: what was given; none at all is allowed.
        choices: the values that may be listed.

    Raises:
        UserError: another value is listed, or one twice.
    """
    if not set(values) <= set(choices) or len(set(values)) < len(values):
        raise UserError(
            f"{name}={list(values)} has other values than {list(choices)}, or one twice",
            f"give each value once, for example {list(choices[-2:])}",
        )


def check_seed(seed: int) -> None:
    """Check that numpy accepts a seed.

    Raises:
        UserError: it is negative.
    """
    if seed < 0:
        raise UserError(f"seed={seed} is negative", "give 0 or more")
