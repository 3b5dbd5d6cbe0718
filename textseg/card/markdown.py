"""Blocks of a report as Markdown; pictures are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textseg.metrics.text import escape_markdown, markdown_rows
from textseg.report.blocks import Block, Caution, Facts, Group, Table, Text


def paragraphs(blocks: Iterable[Block]) -> Iterator[str]:
    """Each block as one or several paragraphs."""
    for block in blocks:
        if isinstance(block, Table):
            yield f"**{escape_markdown(block.caption)}**"
            rows = ([cell.text for cell in row] for row in block.rows)
            yield "\n".join(markdown_rows(block.head, rows))
        elif isinstance(block, Facts):
            yield "\n".join(f"* {k}: {escape_markdown(v)}" for k, v in block.pairs)
        elif isinstance(block, Caution):
            yield f"> Caution: {escape_markdown(block.text)}"
        elif isinstance(block, Text):
            yield escape_markdown(block.text)
        elif isinstance(block, Group):
            yield f"### {escape_markdown(block.title)}"
            yield from paragraphs(block.blocks)
