"""The one exception for mistakes a user can mend, and checks of settings that raise it."""

from __future__ import annotations

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


def check_seed(seed: int) -> None:
    """Check that numpy accepts a seed.

    Raises:
        UserError: it is negative.
    """
    if seed < 0:
        raise UserError(f"seed={seed} is negative", "give 0 or more")
