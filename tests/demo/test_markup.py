"""What the page shows: texts as texts, pictures with words for them, masks to take along."""

from __future__ import annotations

import base64
import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datamodules.scan_files import scan_values, write_nifti
from textseg.demo import drawing, markup
from textseg.demo.networks import Networks, Question
from textseg.demo.opening import Opener
from textseg.demo.session import Session
from textseg.errors import UserError
from textseg.metrics.scores import dice_from_counts
from textseg.visualize.explanation import heat

EVIL = "<img src=x onerror=alert(1)> left \x1b[2J\"' ${1} {{2}}"


class Parts(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def content(address: str) -> bytes:
    return base64.b64decode(address.partition("base64,")[2])


@pytest.fixture
def found(networks: Networks, opener: Opener) -> Session:
    session = Session()
    session.take_phantom(opener)
    session.segment(networks, [Question(0, "left lesion"), Question(0, EVIL)])
    return session


def test_a_text_is_never_markup(found: Session) -> None:
    html = markup.view(found) + markup.status_box([EVIL]) + markup.error_box(UserError(EVIL, EVIL))
    parts = Parts(html)
    assert {tag for tag, _ in parts.tags} <= {
        *("div", "figure", "figcaption", "b", "img", "p", "span", "section", "h3", "h4", "a"),
        "strong",
    }
    assert not [attributes for _, attributes in parts.tags if "onerror" in attributes]
    assert "\x1b" not in html
    assert "<img src=x onerror=alert(1)> left" in parts.text


def test_every_picture_is_data_and_says_what_it_shows(found: Session) -> None:
    images = Parts(markup.view(found)).all("img")
    assert len(images) == 5
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    alts = [image["alt"] for image in images]
    assert len(set(alts)) == 5
    assert "phantom 0" in alts[0]
    assert "left lesion" in alts[1]
    assert "mm" in alts[1]
    assert all(
        attributes.get("aria-label") for attributes in Parts(markup.view(found)).all("section")
    )


def test_masks_and_table_can_be_taken_along(found: Session) -> None:
    links = {link["download"]: link["href"] for link in Parts(markup.view(found)).all("a")}
    assert list(links) == ["phantom_0_mask_A.png", "phantom_0_mask_B.png", "phantom_0_found.csv"]
    for name, finding in zip(list(links)[:2], found.findings, strict=True):
        mask = np.asarray(Image.open(io.BytesIO(content(links[name]))))
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask > 0, finding.mask)
    rows = list(csv.DictReader(io.StringIO(content(links["phantom_0_found.csv"]).decode())))
    assert [int(row["area_pixels"]) for row in rows] == [f.mask.sum() for f in found.findings]


def test_areas_and_the_overlap_of_two_masks_are_said(found: Session) -> None:
    text = Parts(markup.view(found)).text
    one, other = (finding.mask for finding in found.findings)
    assert found.source is not None
    assert found.source.spacing is not None
    area = one.sum() * found.source.spacing[0] * found.source.spacing[1]
    assert f"{one.sum():,} pixels, {area:,.1f} mm" in text
    both = np.logical_and(one, other).sum()
    dice = dice_from_counts(both, one.sum(), other.sum())
    assert f"{both:,} pixels (Dice {float(dice):.2f})" in text


def test_where_the_size_of_a_pixel_is_unknown_that_is_said(
    networks: Networks, opener: Opener
) -> None:
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(opener.folder / "x.png")
    session = Session()
    assert markup.view(session) == markup.EMPTY
    assert markup.opened_lines(session) == []
    session.open(opener, [opener.folder / "x.png"], None)
    assert len(Parts(markup.view(session)).all("img")) == 1
    said = " ".join(markup.opened_lines(session))
    assert "8 x 9" in said
    assert "does not tell" in said
    assert "every value is 7" in said
    session.segment(networks, [Question(0, "left lesion")])
    assert "unknown" in Parts(markup.view(session)).text


def test_a_slice_and_its_window_are_said(networks: Networks, opener: Opener) -> None:
    file: Path = write_nifti(opener.folder / "p1.nii.gz", scan_values())
    session = Session()
    session.open(opener, [file], None)
    session.look(networks, 4, "lung")
    said = markup.opened_lines(session)[0]
    assert "slice 4 of 0 to 5" in said
    assert "center -600, width 1500" in said
    session.segment(networks, [Question(0, "left lesion")])
    links = Parts(markup.view(session)).all("a")
    assert [link["download"] for link in links] == ["p1_slice4_mask.png", "p1_slice4_found.csv"]


def test_maps_have_their_names_and_the_word(networks: Networks, found: Session) -> None:
    assert found.source is not None
    maps = found.explain(networks, 0, "left")
    parts = Parts(markup.explanation(found.source.picture(0), maps, "left lesion", "left"))
    assert [image["alt"] for image in parts.all("img")] == [
        "stage1 attention, the word left",
        "saliency, the word left",
    ]
    assert "all words" in markup.explanation(found.source.picture(0), maps, "left lesion", None)


# --- pictures


@pytest.mark.parametrize(
    ("size", "shown"),
    [((128, 100), (512, 400)), ((600, 900), (600, 900)), ((3000, 1500), (1024, 512))],
)
def test_pictures_are_shown_at_a_size_that_a_screen_has(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    mask = np.zeros(size, bool)
    mask[40, 50] = True
    for panel in (
        drawing.panel(picture),
        drawing.mask_panel(picture, mask, 1),
        drawing.probability_panel(picture, mask.astype(np.float32)),
    ):
        assert panel.shape == (*shown, 3)
    marked = drawing.mask_panel(picture, mask, 1).any(axis=2)
    assert marked.any(), "a single pixel is still seen"
    rows, columns = np.argwhere(marked).mean(axis=0) / shown * size
    assert abs(rows - 40.5) < 3
    assert abs(columns - 50.5) < 3


def test_a_probability_has_the_color_of_its_value() -> None:
    picture = np.zeros((512, 512, 3), np.uint8)
    panel = drawing.probability_panel(picture, np.full((64, 64), 0.7, np.float32))
    wanted = (0.78 * heat(np.array(0.7)).astype(float)).round()
    np.testing.assert_array_equal(np.unique(panel.reshape(-1, 3), axis=0), [wanted])
