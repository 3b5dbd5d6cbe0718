"""Panels, paragraphs and legends drawn from top to bottom with PIL, joined to one picture."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from textseg.output import write_picture
from textseg.preprocess import Bytes, word_spans

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, width, height

INK: Color = (35, 35, 40)
FAINT: Color = (110, 110, 118)
_PAPER: Color = (255, 255, 255)
_MARKER: Color = (255, 226, 120)  # behind a word
_MIN_WIDTH = 480  # of the whole row, pixels: room for a caption under a narrow image
_MAX_COLUMNS = 5
_BOXES = "panels"  # the name of a PNG's text
_ASCII_MARKS = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2018\u2019\u201c\u201d", "-----''\"\""
)


class Sheet:
    """Strips of one width, drawn from top to bottom and joined at the end.

    Args:
        width: of all strips, pixels.
        size: of the text, pixels.

    Attributes:
        boxes: where in the joined picture each panel is, by its name.
    """

    def __init__(self, width: int, size: int) -> None:
        self.width = width
        self.size = size
        self.font: Any = ImageFont.load_default(size=size)
        self.strips: list[Bytes] = []
        self.boxes: dict[str, Box] = {}

    def _blank(self, height: int) -> Image.Image:
        return Image.new("RGB", (self.width, height), _PAPER)

    def space(self) -> None:
        """An empty strip of half a line."""
        self.strips.append(np.asarray(self._blank(self.size // 2)))

    def text(self, text: str, color: Color = INK, word: str | None = None) -> None:
        """A paragraph, as tall as it needs to be; `word` stands on a colored ground."""
        lines = _wrap(text, self.font, self.width)
        step = round(self.size * 1.4)
        strip = self._blank(step * len(lines))
        draw = ImageDraw.Draw(strip)
        for number, spans in enumerate(_spans_by_line(lines, _drawable(text), word)):
            top, line = number * step, lines[number]
            for start, end in spans:
                left, right = (self.font.getlength(line[:n]) for n in (start, end))
                draw.rectangle((left - 2, top, right + 1, top + step - 2), fill=_MARKER)
            draw.text((0, top), line, fill=color, font=self.font)
        self.strips.append(np.asarray(strip))

    def panels(self, panels: Sequence[tuple[str, Bytes]]) -> None:
        """Pictures side by side under their names."""
        top = round(self.size * 1.5)
        strip = self._blank(top + panels[0][1].shape[0])
        left, above = 0, sum(one.shape[0] for one in self.strips) + self.size  # of the margin
        for name, panel in panels:
            ImageDraw.Draw(strip).text((left, 0), name, fill=FAINT, font=self.font)
            strip.paste(Image.fromarray(panel), (left, top))
            self.boxes[name] = (left + self.size, above + top, panel.shape[1], panel.shape[0])
            left += panel.shape[1] + _gap(panel.shape[0])
        self.strips.append(np.asarray(strip))

    def legend(self, entries: Sequence[tuple[Color, str]]) -> None:
        """A colored square and a word for each entry."""
        strip = self._blank(round(self.size * 1.4))
        draw, left, side, top = ImageDraw.Draw(strip), 0, round(self.size * 0.8), self.size // 4
        for color, name in entries:
            draw.rectangle((left, top, left + side, top + side), fill=color)
            left += side + self.size // 2
            draw.text((left, 0), name, fill=FAINT, font=self.font)
            left += round(self.font.getlength(name)) + self.size
        self.strips.append(np.asarray(strip))

    def scale(self, colormap: Callable[[NDArray[Any]], Bytes], note: str) -> None:
        """The bar of a colormap from low to high, and a note."""
        strip = self._blank(round(self.size * 1.4))
        draw, top, side = ImageDraw.Draw(strip), self.size // 4, round(self.size * 0.8)
        bar = colormap(np.tile(np.linspace(0, 1, 8 * self.size), (side, 1)))
        draw.text((0, 0), "low", fill=FAINT, font=self.font)
        left = round(self.font.getlength("low")) + self.size // 2
        strip.paste(Image.fromarray(bar), (left, top))
        left += bar.shape[1] + self.size // 2
        draw.text((left, 0), "high", fill=FAINT, font=self.font)
        self.strips.append(np.asarray(strip))
        self.text(note, FAINT)

    def joined(self) -> Bytes:
        """All strips as one picture [.., .., 3], a white margin around."""
        margin = (self.size, self.size)
        return np.pad(np.concatenate(self.strips), (margin, margin, (0, 0)), constant_values=255)

    def save(self, path: Path) -> None:
        """Write a PNG that also tells `boxes`, for `panel_boxes`."""
        about = PngInfo()
        about.add_text(_BOXES, json.dumps(self.boxes))
        write_picture(path, self.joined(), pnginfo=about)


def panel_boxes(image: Image.Image) -> dict[str, Box]:
    """Read where the panels of a PNG are that `Sheet.save` wrote; of another file none."""
    try:
        boxes = json.loads(image.info.get(_BOXES, "{}"))
        found = {
            str(name): (int(a), int(b), int(c), int(d)) for name, (a, b, c, d) in boxes.items()
        }
    except (TypeError, ValueError, AttributeError, RecursionError):
        return {}
    width, height = image.size
    inside = (
        x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
        for x, y, w, h in found.values()
    )
    return found if all(inside) else {}


def sheet_for(panels: Sequence[tuple[str, Bytes]], columns: int, title: Sequence[str]) -> Sheet:
    """A sheet as wide as `columns` panels, begun with the title lines."""
    height, width = panels[0][1].shape[:2]
    gap = _gap(height)
    size = int(np.clip(height // 18, 14, 26))
    sheet = Sheet(max(_MIN_WIDTH, columns * (width + gap) - gap), size)
    for line in title:
        sheet.text(line)
    if title:
        sheet.space()
    return sheet


def _gap(height: int) -> int:
    """Pixels between panels of a height."""
    return max(4, height // 64)


def even_columns(panels: int) -> int:
    """Columns of rows that are as even as can be."""
    rows = -(-panels // _MAX_COLUMNS)
    return -(-panels // rows)


def _drawable(text: str) -> str:
    """One line the built-in font can draw most of: no accents, no control characters."""
    letters = unicodedata.normalize("NFKD", text).translate(_ASCII_MARKS)
    kept = (c if c.isprintable() else " " for c in letters if not unicodedata.combining(c))
    return " ".join("".join(kept).split())


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Lines no wider than `width` pixels; a word wider than that is cut."""
    lines = [""]
    for word in _drawable(text).split(" "):
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        elif font.getlength(word) <= width:
            lines.append(word)
        else:
            lines.append("")
            for letter in word:
                if lines[-1] and font.getlength(lines[-1] + letter) > width:
                    lines.append("")
                lines[-1] += letter
    return [line for line in lines if line]


def _spans_by_line(
    lines: Sequence[str], text: str, word: str | None
) -> list[list[tuple[int, int]]]:
    """Where `word` stands in each of the lines that `text` was wrapped to."""
    spans = word_spans(text, _drawable(word)) if word else []
    result, start = [], 0
    for line in lines:
        start = text.index(line, start)
        end = start + len(line)
        inside = [(max(a, start) - start, min(b, end) - start) for a, b in spans]
        result.append([(a, b) for a, b in inside if a < b])
        start = end
    return result
