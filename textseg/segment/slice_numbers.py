"""Which slices of a volume are meant."""

from __future__ import annotations

from pathlib import Path

from textseg.errors import UserError

ALL = "all"


def chosen_slices(written: str, count: int | None, file: Path | None = None) -> list[int]:
    """Read slices as they are typed: "all", or numbers and ranges such as "12,40-60".

    Args:
        written: ranges hold both of their ends.
        count: slices of the volume, which are 0 to count - 1; None only checks the form.
        file: the volume, for messages.

    Returns:
        the numbers, rising, each once; none without a count.

    Raises:
        UserError: the form is another, or the volume has no such slice.
    """
    how = "give all, or numbers and ranges such as 12,40-60; they count from 0 at the feet"
    if written.strip().casefold() == ALL:
        return list(range(count or 0))
    numbers: set[int] = set()
    for part in written.replace(" ", "").strip("[]").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"slices={written!r}: {part!r} is no number and no range", how)
        low, high = int(first), int(last or first)
        if high < low or (count is not None and high >= count):
            has = "" if count is None else f", and {file} has the slices 0-{count - 1}"
            raise UserError(f"slices={written!r}: there is no {part!r}{has}", how)
        numbers.update(range(low, high + 1) if count is not None else ())
    return sorted(numbers)
