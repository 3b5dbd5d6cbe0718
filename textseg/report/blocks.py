"""Blocks that a page is made of, as plain values; `page.html` renders each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Union


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the number behind it in full precision where it is one."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming the row; `caption` says what is in the table."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Facts:
    """Pairs of name and value, as a list."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Caution:
    """A warning that a reader needs before believing a number."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture within the page: a data URI, its size in pixels, what it shows in words."""

    uri: str
    width: int
    height: int
    alt: str = ""
    caption: str = ""
    plot: bool = False


Layout = Literal["below", "beside", "panels"]


@dataclass(frozen=True)
class CaseCard:
    """One case: its caption, its numbers, and its pictures.

    `layout` is below, one under the other; beside, two in a row where there is room; or panels,
    several small ones in a row.
    """

    title: str
    caption: str
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[Picture]
    layout: Layout = "below"


@dataclass(frozen=True)
class Group:
    """Blocks under a heading of their own; `closed` ones open at a click."""

    title: str
    blocks: Sequence[Block]
    closed: bool = False


Block = Union[Table, Facts, Text, Caution, Picture, CaseCard, Group]  # noqa: UP007  Python 3.10


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in the table of contents."""

    id: str
    title: str
    blocks: Sequence[Block]
