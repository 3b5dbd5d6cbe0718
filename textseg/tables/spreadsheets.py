"""Cells that a spreadsheet shows as they are: a text that begins with = is no formula there."""

from __future__ import annotations

import re
from typing import Any

# What Excel and LibreOffice take for the start of a formula; wide forms in some languages.
_BEGINS = "[=+\\-@\t\r\n＝＋－＠]"  # noqa: RUF001
_RUN = re.compile(f"'*{_BEGINS}")
_WRITTEN = re.compile(f"'+{_BEGINS}")


def spreadsheet_cell(value: Any) -> Any:
    """A cell to write: before a text that would be a formula, or that has such a mark, a '.

    Numbers, and all other texts, stay as they are. `cell_text` takes the mark off again.
    """
    return f"'{value}" if isinstance(value, str) and _RUN.match(value) else value


def cell_text(written: str) -> str:
    """The text that `spreadsheet_cell` made a cell of."""
    return written[1:] if _WRITTEN.match(written) else written
