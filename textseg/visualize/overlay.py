"""Pictures of a prediction beside its truth, and of what a network looked at.

Drawn with numpy and PIL alone. Hits are blue, false alarms orange, misses magenta: chosen to stay
apart for readers who do not tell red from green, or blue from yellow. Heat goes from dark violet to
pale yellow: every step is lighter than the last to all of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from textseg.explain import word_spans
from textseg.preprocess import Bytes, Size, resize_image, resize_mask

Color = tuple[int, int, int]
Mask = NDArray[np.bool_]

HIT: Color = (40, 140, 255)
FALSE_ALARM: Color = (255, 170, 20)
MISS: Color = (250, 60, 130)
TRUTH: Color = (250, 230, 70)
PREDICTION: Color = (70, 220, 230)
HEAT: tuple[Color, ...] = (  # low to high, evenly spaced
    *((22, 11, 57), (72, 20, 104), (126, 37, 111), (180, 54, 99)),
    *((222, 85, 66), (244, 134, 34), (248, 192, 60), (250, 250, 170)),
)

_INK: Color = (35, 35, 40)
_FAINT: Color = (110, 110, 118)
_PAPER: Color = (255, 255, 255)
_MARKER: Color = (255, 226, 120)  # behind a word
_LEAST_HEIGHT = 256  # of a panel, pixels
_LEAST_WIDTH = 480  # of the whole row, so that a caption has room under a narrow image
_MAP_SIDE = 320  # the longer side of a panel of an explanation, pixels
_MOST_COLUMNS = 5
_DASHES_AND_QUOTES = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2018\u2019\u201c\u201d", "-----''\"\""
)
_LEGEND = ((HIT, "found (TP)"), (FALSE_ALARM, "false alarm (FP)"), (MISS, "missed (FN)"))


def tp_fp_fn(truth: NDArray[Any], pred: NDArray[Any]) -> Bytes:
    """Agreement of two masks as colors on black: two [H, W], nonzero is foreground -> [H, W, 3].

    HIT where both are foreground, FALSE_ALARM where only the prediction is, MISS where only the
    truth is.
    """
    truth, pred = np.asarray(truth, dtype=bool), np.asarray(pred, dtype=bool)
    _check_size("pred", pred, truth.shape)
    colors = np.zeros((*truth.shape, 3), dtype=np.uint8)
    colors[truth & pred] = HIT
    colors[pred & ~truth] = FALSE_ALARM
    colors[truth & ~pred] = MISS
    return colors


def overlay(
    image: NDArray[Any],
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    *,
    caption: str,
    title: Sequence[str] = (),
) -> Bytes:
    """Image | truth | prediction | agreement, with title lines above and the caption below.

    Panels have the image's own pixels, enlarged by a whole factor to 256 pixels of height or more.
    Without a truth only image | prediction.

    Args:
        image: [H, W, 3] uint8, or [3, H, W] float in [0, 1].
        truth: [H, W], nonzero is foreground; None where there is none.
        pred: [H, W], nonzero is foreground.
        caption: of any length and script. It is wrapped; PIL's built-in font is all but ASCII, so
            letters lose their accents and what remains unknown is drawn as an empty box.
        title: lines above the panels.

    Returns:
        [.., .., 3] uint8.

    Raises:
        ValueError: image, truth and pred differ in size.
    """
    picture = _as_bytes(image)
    size = picture.shape[:2]
    masks = {"pred": np.asarray(pred, dtype=bool)}
    if truth is not None:
        masks["truth"] = np.asarray(truth, dtype=bool)
    for name, mask in masks.items():
        _check_size(name, mask, size)
    factor = max(1, -(-_LEAST_HEIGHT // size[0]))
    masks = {name: _enlarge(mask, factor) for name, mask in masks.items()}
    panels = _panels(_enlarge(picture, factor), masks["pred"], masks.get("truth"))
    return _page(panels, caption, title, legend=truth is not None)


def heat(values: NDArray[Any]) -> Bytes:
    """Values in [0, 1] as colors: [...] -> [..., 3]."""
    places = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, places, channel) for channel in np.array(HEAT).T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def explanation(
    image: NDArray[Any],
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    *,
    caption: str,
    word: str | None = None,
    title: Sequence[str] = (),
) -> Bytes:
    """The image with its outlines, then every map as heat over the image, the caption below.

    All panels have one size, 320 pixels on the longer side, and the prediction's outline.

    Args:
        image: [H, W, 3] uint8, or [3, H, W] float in [0, 1].
        truth: [H, W], nonzero is foreground; None where there is none.
        pred: [H, W], nonzero is foreground.
        maps: by name, ``<where>.<kind>`` or ``<kind>``; [h, w] in [0, 1] of any size.
        caption: of any length and script, as for `overlay`.
        word: the word or phrase of the caption to mark.
        title: lines above the panels.

    Returns:
        [.., .., 3] uint8.
    """
    picture = _as_bytes(image)
    scale = _MAP_SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
    picture = resize_image(picture, size)
    outlines = [(PREDICTION, "prediction", _resized(pred, size))]
    if truth is not None:
        outlines.insert(0, (TRUTH, "truth", _resized(truth, size)))
    panels = [("image", _outlined(picture, outlines))]
    for name in _reading_order(maps):
        panels.append((name, _outlined(_warmed(picture, maps[name]), outlines[-1:])))

    sheet, gap = _sheet_for(panels, _columns(len(panels)), title)
    for first in range(0, len(panels), _columns(len(panels))):
        sheet.panels(panels[first : first + _columns(len(panels))], gap)
        sheet.space()
    sheet.legend([(color, f"{name} (outline)") for color, name, _ in outlines])
    sheet.scale("low", "high", "each map on its own scale, from its least to its greatest value")
    sheet.space()
    sheet.text(caption or "(empty caption)", word=word)
    return sheet.joined(margin=sheet.size)


def _reading_order(maps: Mapping[str, NDArray[Any]]) -> list[str]:
    """Maps of one kind together; what stands for the whole network after the first kind.

    With the image before them, stage i of each kind then stands in one column.
    """
    kinds: dict[str, list[str]] = {}
    whole = [name for name in maps if "." not in name]
    for name in maps:
        if "." in name:
            kinds.setdefault(name.rpartition(".")[2], []).append(name)
    groups = list(kinds.values())
    return list(chain(*groups[:1], whole, *groups[1:]))


def _columns(panels: int) -> int:
    """Columns of rows that are as even as can be."""
    rows = -(-panels // _MOST_COLUMNS)
    return -(-panels // rows)


def _resized(mask: NDArray[Any], size: Size) -> Mask:
    return resize_mask(np.asarray(mask, dtype=bool).astype(np.uint8), size) > 0


def _warmed(picture: Bytes, values: NDArray[Any]) -> Bytes:
    """Heat over the dimmed gray of the picture, so that only the map can be bright."""
    height, width = picture.shape[:2]
    plane = Image.fromarray(np.asarray(values, dtype=np.float32))
    resized = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    gray = picture.mean(axis=-1, keepdims=True)
    return (0.22 * gray + 0.78 * heat(resized)).round().astype(np.uint8)


def _outlined(picture: Bytes, outlines: Sequence[tuple[Color, str, Mask]]) -> Bytes:
    for color, _, mask in outlines:
        colors = np.broadcast_to(np.array(color), picture.shape)
        picture = _blend(picture, colors, _rim(mask, _rim_width(picture)), 1.0)
    return picture


def _panels(picture: Bytes, pred: Mask, truth: Mask | None) -> list[tuple[str, Bytes]]:
    """Name and picture of each panel, from left to right."""
    predicted = ("prediction", _paint(picture, pred, PREDICTION))
    if truth is None:
        return [("image", picture), predicted]
    return [
        ("image", picture),
        ("truth", _paint(picture, truth, TRUTH)),
        predicted,
        ("agreement", _agreement(picture, truth, pred)),
    ]


def _check_size(name: str, mask: NDArray[Any], size: tuple[int, ...]) -> None:
    if mask.shape != size:
        raise ValueError(f"{name} is {mask.shape}, but {size} is expected; resize the logits first")


def _as_bytes(image: NDArray[Any]) -> Bytes:
    """[H, W, 3] uint8 as it is; [3, H, W] floats in [0, 1] scaled and transposed."""
    values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    return (values.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def _enlarge(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Every pixel as factor x factor equal ones."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def _rim(mask: Mask, width: int) -> Mask:
    """The mask's pixels within `width` steps of its outside or of the picture's edge."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _blend(picture: Bytes, colors: NDArray[Any], where: Mask, share: float) -> Bytes:
    """`share` of the colors over the picture where asked: all [H, W, 3] but the mask [H, W]."""
    mixed = picture * (1 - share) + colors * share
    return np.where(where[..., None], mixed.round(), picture).astype(np.uint8)


def _rim_width(picture: Bytes) -> int:
    return max(2, min(picture.shape[:2]) // 180)


def _paint(picture: Bytes, mask: Mask, color: Color) -> Bytes:
    """A light fill under a solid contour, so that the tissue inside stays visible."""
    colors = np.broadcast_to(np.array(color), picture.shape)
    filled = _blend(picture, colors, mask, 0.25)
    return _blend(filled, colors, _rim(mask, _rim_width(picture)), 1.0)


def _agreement(picture: Bytes, truth: Mask, pred: Mask) -> Bytes:
    """TP, FP and FN over a dimmed image, each region with a solid contour."""
    colors = tp_fp_fn(truth, pred)
    dimmed = (picture * 0.75).astype(np.uint8)
    painted = _blend(dimmed, colors, truth | pred, 0.5)
    for region in (truth & pred, pred & ~truth, truth & ~pred):
        painted = _blend(painted, colors, _rim(region, _rim_width(picture)), 0.9)
    return painted


def _clean(text: str) -> str:
    """One line the built-in font can draw most of: no accents, no control characters."""
    letters = unicodedata.normalize("NFKD", text).translate(_DASHES_AND_QUOTES)
    kept = (c if c.isprintable() else " " for c in letters if not unicodedata.combining(c))
    return " ".join("".join(kept).split())


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Lines no wider than `width` pixels; a word wider than that is cut."""
    lines = [""]
    for word in _clean(text).split(" "):
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


class _Sheet:
    """Strips of one width, drawn from top to bottom and joined at the end."""

    def __init__(self, width: int, size: int) -> None:
        self.width = width
        self.size = size
        self.font: Any = ImageFont.load_default(size=size)
        self.strips: list[Bytes] = []

    def _blank(self, height: int) -> Image.Image:
        return Image.new("RGB", (self.width, height), _PAPER)

    def space(self) -> None:
        self.strips.append(np.asarray(self._blank(self.size // 2)))

    def text(self, text: str, color: Color = _INK, word: str | None = None) -> None:
        """A paragraph, as tall as it needs to be; `word` stands on a colored ground."""
        lines = _wrap(text, self.font, self.width)
        step = round(self.size * 1.4)
        strip = self._blank(step * len(lines))
        draw = ImageDraw.Draw(strip)
        for number, spans in enumerate(_spans_by_line(lines, _clean(text), word)):
            top, line = number * step, lines[number]
            for start, end in spans:
                left, right = (self.font.getlength(line[:n]) for n in (start, end))
                draw.rectangle((left - 2, top, right + 1, top + step - 2), fill=_MARKER)
            draw.text((0, top), line, fill=color, font=self.font)
        self.strips.append(np.asarray(strip))

    def panels(self, panels: Sequence[tuple[str, Bytes]], gap: int) -> None:
        """Pictures side by side under their names."""
        top = round(self.size * 1.5)
        strip = self._blank(top + panels[0][1].shape[0])
        left = 0
        for name, panel in panels:
            ImageDraw.Draw(strip).text((left, 0), name, fill=_FAINT, font=self.font)
            strip.paste(Image.fromarray(panel), (left, top))
            left += panel.shape[1] + gap
        self.strips.append(np.asarray(strip))

    def legend(self, entries: Sequence[tuple[Color, str]]) -> None:
        """A colored square and a word for each entry."""
        strip = self._blank(round(self.size * 1.4))
        draw, left, side, top = ImageDraw.Draw(strip), 0, round(self.size * 0.8), self.size // 4
        for color, name in entries:
            draw.rectangle((left, top, left + side, top + side), fill=color)
            left += side + self.size // 2
            draw.text((left, 0), name, fill=_FAINT, font=self.font)
            left += round(self.font.getlength(name)) + self.size
        self.strips.append(np.asarray(strip))

    def scale(self, low: str, high: str, note: str) -> None:
        """The bar of heat between two words, and a note."""
        strip = self._blank(round(self.size * 1.4))
        draw, top, side = ImageDraw.Draw(strip), self.size // 4, round(self.size * 0.8)
        bar = heat(np.tile(np.linspace(0, 1, 8 * self.size), (side, 1)))
        draw.text((0, 0), low, fill=_FAINT, font=self.font)
        left = round(self.font.getlength(low)) + self.size // 2
        strip.paste(Image.fromarray(bar), (left, top))
        left += bar.shape[1] + self.size // 2
        draw.text((left, 0), high, fill=_FAINT, font=self.font)
        self.strips.append(np.asarray(strip))
        self.text(note, _FAINT)

    def joined(self, margin: int) -> Bytes:
        page = np.concatenate(self.strips)
        return np.pad(page, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)


def _spans_by_line(
    lines: Sequence[str], text: str, word: str | None
) -> list[list[tuple[int, int]]]:
    """Where `word` stands in each of the lines that `text` was wrapped to."""
    spans = word_spans(text, _clean(word)) if word else []
    result, start = [], 0
    for line in lines:
        start = text.index(line, start)
        end = start + len(line)
        inside = [(max(a, start) - start, min(b, end) - start) for a, b in spans]
        result.append([(a, b) for a, b in inside if a < b])
        start = end
    return result


def _sheet_for(
    panels: Sequence[tuple[str, Bytes]], columns: int, title: Sequence[str]
) -> tuple[_Sheet, int]:
    """A sheet as wide as `columns` panels, begun with the title lines, and the gap of panels."""
    height, width = panels[0][1].shape[:2]
    gap = max(4, height // 64)
    size = int(np.clip(height // 18, 14, 26))
    sheet = _Sheet(max(_LEAST_WIDTH, columns * (width + gap) - gap), size)
    for line in title:
        sheet.text(line)
    if title:
        sheet.space()
    return sheet, gap


def _page(
    panels: Sequence[tuple[str, Bytes]], caption: str, title: Sequence[str], *, legend: bool
) -> Bytes:
    """Title lines, panels, legend, caption."""
    sheet, gap = _sheet_for(panels, len(panels), title)
    sheet.panels(panels, gap)
    sheet.space()
    if legend:
        sheet.legend(_LEGEND)
        sheet.space()
    sheet.text(caption)
    return sheet.joined(margin=sheet.size)
