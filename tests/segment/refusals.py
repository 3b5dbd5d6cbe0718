"""What an error says."""

from __future__ import annotations

import pytest

from textseg.errors import UserError


def message(error: pytest.ExceptionInfo[UserError]) -> tuple[str, str]:
    cause, _, remedy = str(error.value).partition("\n")
    assert remedy
    return cause, remedy
