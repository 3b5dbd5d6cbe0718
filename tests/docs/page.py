"""The blocks of a page of docs/, so that a test does what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_run import ROOT


@dataclass(frozen=True)
class Page:
    """A page's text and its blocks: (name in the comment above, language, content)."""

    text: str
    blocks: tuple[tuple[str, str, str], ...]

    @property
    def tested(self) -> dict[str, str]:
        """Blocks under a `<!-- tested: NAME -->`, by name, in the page's order."""
        return {name: content for name, _, content in self.blocks if name}

    def named(self, language: str) -> list[str]:
        """Names of the blocks in a language; "" for one that no test names."""
        return [name for name, kind, _ in self.blocks if kind == language]

    def command(self, name: str, replaced: Mapping[str, str | Path] | None = None) -> list[str]:
        """The arguments of a command of the page, words such as RUN replaced."""
        content = self.tested[name]
        for word, value in (replaced or {}).items():
            content = content.replace(word, str(value))
        program, *arguments = shlex.split(content)
        assert program == "textseg"
        return arguments


def read_page(name: str) -> Page:
    """A page of docs/."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:<!-- tested: ([^\n]+?) -->\n)?```(\w*)\n(.*?)```", text, re.DOTALL)
    return Page(text, tuple(blocks))
