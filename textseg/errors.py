"""The one exception for mistakes a user can mend, and checks of settings that raise it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

Kind = TypeVar("Kind", bound=BaseException)
LARGEST_SEED = 2**63 - 1  # of torch.Generator
# Control characters, those that turn the direction of writing, and halves of characters.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters are written as \\x1b.

    Line breaks and tabs stay.
    """
    return _UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(ValueError):
    """A wrong file, value or setting: one line of cause and one of remedy.

    The command line prints both without a traceback and exits with status 2; from Python it is a
    ``ValueError``.

    Args:
        cause: what is wrong, naming the file or field and the value found there.
        remedy: what the user can do about it.

    Attributes:
        status: with which the command line exits.
    """

    status = 2

    def __init__(self, cause: str, remedy: str = "") -> None:
        if remedy:  # without, the text may be both lines, of an error that was pickled
            cause, remedy = (printable(text).replace("\n", "\\n") for text in (cause, remedy))
        super().__init__(f"{cause}\n{remedy}" if remedy else printable(cause))


class PartialError(UserError):
    """Some of many inputs failed, and the results of the others were written.

    The command line says what was found in the others, prints it as any mistake of a user, and
    exits with status 1.

    Args:
        cause: what failed, and why.
        remedy: where the reasons are.
        written: what the function would have returned without a failure.
    """

    status = 1

    def __init__(self, cause: str, remedy: str, written: Path) -> None:
        super().__init__(cause, remedy)
        self.written = written


class NotFiniteError(UserError):
    """A loss, a gradient, weights or logits became NaN or infinite; the command exits with 3."""

    status = 3


class TableError(UserError):
    """A mistake in a table, found by a reader that could go on without the cell, row or column.

    Args:
        cause: what is wrong, naming the file and row.
        remedy: what the user can do about it.
        kind: what an audit calls it; "" where the audit's other checks find it by themselves.
        where: the file's name and the row.
        detail: the cause without file and row.
    """

    def __init__(
        self, cause: str, remedy: str = "", *, kind: str = "", where: str = "", detail: str = ""
    ) -> None:
        super().__init__(cause, remedy)
        self.kind = kind
        self.where = where
        self.detail = detail or cause
        self.remedy = remedy


Report = Callable[[UserError], None]
"""What a reader tells each mistake to; where it returns, reading goes on without the mistaken."""


def raise_error(error: UserError) -> None:
    """Raise an error: the `Report` of whoever wants no more than the first mistake.

    Raises:
        UserError: always.
    """
    raise error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def reason_of(error: UserError) -> str:
    """The cause of a user's error without its remedy: why a file was left out."""
    return str(error).partition("\n")[0]


@contextmanager
def refusing(
    kinds: type[Exception] | tuple[type[Exception], ...], cause: str, remedy: str
) -> Iterator[None]:
    """Raise a UserError for exceptions of some kinds, whose first line ends the cause in brackets.

    A UserError that the block raises stays as it is, although it is a ValueError.

    Raises:
        UserError: the block raised one of `kinds`.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{cause} ({first_line(error)})", remedy) from error


def wrapped_error(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """The error of a kind that a library hid behind one of its own; None if there is none."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


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


def check_choices(
    name: str, values: Sequence[Any], choices: Sequence[Any], *, least: int = 0
) -> None:
    """Check that a setting lists only its choices, and none of them twice.

    Args:
        name: of the setting.
        values: what was given.
        choices: the values that may be listed.
        least: how many must be.

    Raises:
        UserError: another value is listed, one twice, or too few are.
    """
    if not least <= len(values) == len(set(values) & set(choices)):
        raise UserError(
            f"{name}={list(values)} has other values than {list(choices)}, one twice, or too few",
            f"give each value once, for example {list(choices[-2:])}",
        )


def check_distinct(name: str, values: Sequence[Hashable]) -> None:
    """Check that a setting lists nothing twice, which would be a slip for something else.

    Args:
        name: of the setting.
        values: what was given.

    Raises:
        UserError: a value is listed twice.
    """
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise UserError(
            f"{name}={list(values)} lists {twice[0]!r} twice", "give each once, or what was meant"
        )


def check_at_least(name: str, value: float, least: float, remedy: str = "") -> None:
    """Check that a number is not too small, and finite.

    Args:
        name: of the setting.
        value: what was given.
        least: the smallest value that is allowed.
        remedy: by default to give `least` or more.

    Raises:
        UserError: it is below `least`, infinite or not a number.
    """
    if not math.isfinite(value):
        raise UserError(f"{name}={value} is not finite", remedy or f"give {least} or more")
    if value < least:
        raise UserError(f"{name}={value} is below {least}", remedy or f"give {least} or more")


def check_probability(name: str, value: float) -> None:
    """Check that a setting is a number in [0, 1].

    Raises:
        UserError: it is not.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value} is no probability", "give a number from 0 to 1")


def check_seed(seed: int) -> None:
    """Check that numpy and torch accept a seed.

    Raises:
        UserError: it is negative, or larger than they take.
    """
    check_at_least("seed", seed, 0)
    if seed > LARGEST_SEED:
        raise UserError(f"seed={seed} is above {LARGEST_SEED}", "give a smaller number")
