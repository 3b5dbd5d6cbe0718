"""The parts of the page that show something, as HTML that asks for no other file.

Pictures and downloads are in it as data. Every text is escaped.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.demo.drawing import (
    map_panel,
    mask_file,
    mask_panel,
    panel,
    png,
    probability_panel,
)
from textseg.demo.networks import Finding
from textseg.demo.opening import Source
from textseg.demo.session import Session
from textseg.demo.table import area_mm2, area_pixels, table_of
from textseg.errors import UserError, printable
from textseg.metrics.scores import dice_from_counts
from textseg.preprocess import Bytes

LETTERS = ("A", "B")  # of the first and the second finding
EMPTY = '<p class="empty">Open a picture or take a phantom: it is shown here.</p>'


def scale(low: str, high: str) -> str:
    """The colors of heat between two ends."""
    said = f"Colors from dark violet, {low}, to pale yellow, {high}"
    return (
        f'<p class="scale"><span aria-hidden="true">{low}</span><span class="bar" role="img" '
        f'aria-label="{said}"></span><span aria-hidden="true">{high}</span></p>'
    )


def text_of(value: object) -> str:
    """Any text as HTML that is nothing but text."""
    return html.escape(printable(str(value)))


def error_box(error: UserError) -> str:
    """The two lines of a user's error, which a screen reader says at once."""
    cause, _, remedy = str(error).partition("\n")
    remedy = f"<span>{text_of(remedy)}</span>" if remedy else ""
    return f'<div class="refusal" role="alert"><strong>{text_of(cause)}</strong>{remedy}</div>'


def status_box(lines: Sequence[str]) -> str:
    """Lines that a screen reader says when it has time."""
    items = "".join(f"<p>{text_of(line)}</p>" for line in lines)
    return f'<div class="status" role="status">{items}</div>'


def opened_lines(session: Session) -> list[str]:
    """What is open, in words."""
    source = session.source
    if source is None:
        return []
    height, width = source.picture(session.z).shape[:2]
    lines = [f"Open: {source.name}, {height} x {width} pixels{_of_volume(session)}."]
    if source.spacing is None:
        lines.append("The file does not tell the size of a pixel: areas are in pixels alone.")
    lines += [f"The picture is {what}." for what in source.oddities_of(session.z).values()]
    lines += source.notes
    if source.expressions:
        lines.append(f"It shows: {'; '.join(source.expressions)}.")
    return lines


def _of_volume(session: Session) -> str:
    source = session.source
    assert source is not None
    if source.volume is None:
        return ""
    window = f", window {source.volume.window}" if source.volume.window else ""
    return f", slice {session.z} of 0 to {source.slices - 1}{window}"


def area_text(finding: Finding, source: Source) -> str:
    """The area of a mask in words."""
    area = area_mm2(finding, source)
    pixels = f"{area_pixels(finding):,} pixels"
    return f"{pixels}, mm\u00b2 unknown" if area is None else f"{pixels}, {area:,.1f} mm\u00b2"


def view(session: Session) -> str:
    """The picture, and what was found in it."""
    source = session.source
    if source is None:
        return EMPTY
    picture, findings = source.picture(session.z), session.findings
    place = f", slice {session.z}" if source.volume is not None else ""
    figures = [figure("Picture", source.name + place, panel(picture), f"{source.name}{place}")]
    probabilities = []
    for number, finding in enumerate(findings):
        name = f"{LETTERS[number]} " if len(findings) > 1 else ""
        said, area = finding.question.text or "(no words)", area_text(finding, source)
        shown = mask_panel(picture, finding.mask, number)
        alt = f"Mask of {said} in {source.name}{place}: {area}"
        figures.append(figure(f"{name}Mask", said, shown, alt, kind=f"of-{number}"))
        shown = probability_panel(picture, finding.probs)
        alt = f"Probability of {said}: at most {finding.probs.max():.2f}"
        probabilities.append(
            figure(
                f"{name}Probability", said, shown, alt, below=scale("0", "1"), kind=f"of-{number}"
            )
        )
    if len(findings) < 2:
        panels = "".join([*figures, *probabilities])
        return f'<div class="panels three">{panels}</div>{found(session)}'
    panels = "".join([*figures, found(session), *probabilities])
    return f'<div class="panels three">{panels}</div>'


def figure(
    name: str, caption: str, pixels: Bytes, alt: str, *, below: str = "", kind: str = ""
) -> str:
    """One picture under its name."""
    return (
        f'<figure class="{kind}"><figcaption><b>{text_of(name)}</b> {text_of(caption)}'
        f'</figcaption><img src="{data_url(png(pixels), "image/png")}" alt="{text_of(alt)}">{below}'
        "</figure>"
    )


def found(session: Session) -> str:
    """Areas, notes and downloads of what was found; "" before anything was asked."""
    source, findings = session.source, session.findings
    if source is None or not findings:
        return ""
    stem = _file_stem(session)
    rows, links = [], []
    for number, finding in enumerate(findings):
        letter = LETTERS[number] if len(findings) > 1 else ""
        notes = "".join(f'<p class="note">{text_of(note)}</p>' for note in finding.notes)
        rows.append(
            f'<div class="found of-{number}"><h4>{letter} '
            f"{text_of(finding.question.text or '(no words)')}</h4><p><b>"
            f"{text_of(area_text(finding, source))}</b></p><p>{_most(finding)}</p>"
            f"<p>{text_of(finding.network)}</p>{notes}</div>"
        )
        name = "_".join(part for part in (stem, "mask", letter) if part)
        words = f"Mask {letter} (PNG)" if letter else "Mask (PNG)"
        links.append(_download(words, f"{name}.png", mask_file(finding.mask), "image/png"))
    table = table_of(source, session.z, findings).encode()
    links.append(_download("Table (CSV)", f"{stem}_found.csv", table, "text/csv"))
    return (
        f'<section class="findings" aria-label="What was found"><h3>Found</h3>{"".join(rows)}'
        f'{_overlap(findings)}<p class="links">{"".join(links)}</p></section>'
    )


def explanation(
    picture: Bytes, maps: Mapping[str, NDArray[Any]], text: str, word: str | None
) -> str:
    """The maps of a network for a word, or for all words."""
    asked = f"the word {word}" if word else "all words"
    figures = "".join(
        figure("", _map_name(name), map_panel(picture, values), f"{_map_name(name)}, {asked}")
        for name, values in maps.items()
    )
    return (
        f'<h4>{text_of(asked.capitalize())} in "{text_of(text)}"</h4>'
        '<p class="note">Each map is on its own scale, from its least to its greatest value. '
        "Gates and saliency are of the whole expression. A map shows where the network's "
        "attention and gates lie; it is no proof of why a mask is as it is.</p>"
        f'<div class="panels maps">{figures}</div>{scale("least", "most")}'
    )


def data_url(content: bytes, kind: str) -> str:
    """Bytes as an address that is the content itself."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _download(words: str, name: str, content: bytes, kind: str) -> str:
    return f'<a download="{text_of(name)}" href="{data_url(content, kind)}">{text_of(words)}</a>'


def _most(finding: Finding) -> str:
    return (
        f"Highest probability {float(finding.probs.max()):.2f}; outlined above "
        f"{finding.threshold:.2g}."
    )


def _overlap(findings: Sequence[Finding]) -> str:
    if len(findings) < 2:
        return ""
    one, other = (finding.mask for finding in findings)
    both = int(np.count_nonzero(one & other))
    dice = float(dice_from_counts(both, np.count_nonzero(one), np.count_nonzero(other)))
    return f"<p>A and B share {both:,} pixels (Dice {dice:.2f}).</p>"


def _map_name(name: str) -> str:
    """The name of a map as docs/explanations.md has it, with a space for the dot."""
    return name.replace(".", " ")


def _file_stem(session: Session) -> str:
    assert session.source is not None
    stem = re.sub(r"[^\w-]+", "_", session.source.name.partition(".")[0]).strip("_") or "picture"
    return stem if session.source.volume is None else f"{stem}_slice{session.z}"
