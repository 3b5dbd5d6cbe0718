"""jsonargparse's messages as one line of cause and one of remedy."""

from __future__ import annotations

from typing import Any

from textseg.errors import UserError


def explain(message: str, parser: Any) -> UserError:
    return UserError(message)
