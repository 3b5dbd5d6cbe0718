"""A visitor's session: what is asked of a picture, what is found, and whose it is."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import textseg
from tests.datamodules.scan_files import SPACING, scan_values, write_nifti
from tests.demo.place_network import BRIGHT, SIZE, write_checkpoint
from textseg.demo.networks import MOST_LETTERS, Networks, Question
from textseg.demo.opening import Opener
from textseg.demo.session import Session, Sessions, questions_of, words_of
from textseg.demo.table import COLUMNS, area_mm2, table_of
from textseg.errors import UserError

LEFT, RIGHT = Question(0, "lesion in the left"), Question(0, "lesion in the right")


def picture_of(opener: Opener, seed: int = 0) -> Path:
    """A random picture of the network's own size, so that nothing is resized."""
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(opener.folder / "x.png")
    return opener.folder / "x.png"


def test_two_expressions_give_the_masks_that_their_words_name(
    networks: Networks, opener: Opener
) -> None:
    session = Session()
    pixels = session.open(opener, [picture_of(opener)], None).picture(0)
    left, right = session.segment(networks, [LEFT, RIGHT])
    bright = pixels.mean(axis=2) / 255 > BRIGHT
    half = np.arange(SIZE) < SIZE / 2
    np.testing.assert_array_equal(left.mask, bright & half)
    np.testing.assert_array_equal(right.mask, bright & ~half)
    assert left.unknown == 0
    assert left.notes == ()
    assert left.threshold == 0.5


def test_without_a_picture_or_with_no_words_or_too_many_it_is_said(
    networks: Networks, opener: Opener
) -> None:
    session = Session()
    with pytest.raises(UserError, match="no picture"):
        session.segment(networks, [LEFT])
    session.open(opener, [picture_of(opener)], None)
    with pytest.raises(UserError, match="no mask"):
        session.explain(networks, 0, None)
    for text in ("", "x" * (MOST_LETTERS + 1)):
        with pytest.raises(UserError):
            session.segment(networks, [LEFT, Question(0, text)])
        assert session.findings == [], "no half of an answer"
    with pytest.raises(UserError, match="network=7"):
        session.segment(networks, [Question(7, "lesion")])


def test_unknown_words_and_a_text_that_is_cut_are_said(networks: Networks, opener: Opener) -> None:
    session = Session()
    session.open(opener, [picture_of(opener)], None)
    [odd] = session.segment(networks, [Question(0, "small \N{SNOWMAN}")])
    assert odd.unknown == pytest.approx(0.5)
    assert "50%" in odd.notes[0]
    [long] = session.segment(networks, [Question(0, "small lesion " * 20)])
    assert len(long.notes) == 1


def test_another_slice_or_window_is_asked_the_same_and_a_bad_one_changes_nothing(
    networks: Networks, opener: Opener
) -> None:
    file = write_nifti(opener.folder / "p1.nii", scan_values())
    session = Session()
    opened = session.open(opener, [file], None)
    assert session.z == opened.slices // 2
    session.look(networks, 1)
    assert session.findings == []
    session.segment(networks, [LEFT])
    session.look(networks, 2, "abdomen")
    assert session.z == 2
    assert session.source is not None
    [found] = session.findings
    wanted = networks.find(session.source.picture(2), LEFT)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    for z, window in ((99, None), (-1, None), (3, "none"), (3, "9000,1")):
        with pytest.raises(UserError):
            session.look(networks, z, window)
        assert session.z == 2
        assert session.findings == [found]
        assert session.source.center_width == (40, 400)
    session.look(networks, 2, "")
    assert session.source.center_width == opened.center_width


def test_the_table_has_the_areas_of_every_finding_and_no_formula(
    networks: Networks, opener: Opener
) -> None:
    session = Session()
    source = session.open(opener, [write_nifti(opener.folder / "=p1.nii", scan_values())], None)
    session.look(networks, 2, "abdomen")
    assert session.source is not None
    findings = session.segment(networks, [LEFT, Question(0, "=upper lesion")])
    rows = list(csv.DictReader(io.StringIO(table_of(session.source, session.z, findings))))
    assert tuple(rows[0]) == COLUMNS
    for row, finding in zip(rows, findings, strict=True):
        area = int(row["area_pixels"])
        assert area == finding.mask.sum()
        mm2 = area_mm2(finding, source)
        assert mm2 == pytest.approx(area * SPACING[0] * SPACING[1], rel=1e-5)
        assert float(row["area_mm2"]) == pytest.approx(mm2, abs=0.01)
        assert (row["slice"], row["window"]) == ("2", "center 40, width 400")
    assert [rows[1]["image"][0], rows[1]["text"][0]] == ["'", "'"]
    plain = session.open(opener, [picture_of(opener)], None)
    [row] = csv.DictReader(
        io.StringIO(table_of(plain, session.z, session.segment(networks, [LEFT])))
    )
    assert (row["area_mm2"], row["slice"]) == ("", "")


def test_a_word_is_explained_at_the_pictures_place(networks: Networks, opener: Opener) -> None:
    session = Session()
    pixels = session.open(opener, [picture_of(opener)], None).picture(0)
    session.segment(networks, [LEFT])
    maps = session.explain(networks, 0, "left")
    assert list(maps) == ["stage1.attention", "saliency"]
    gray = pixels.mean(axis=2)
    wanted = (gray - gray.min()) / (gray.max() - gray.min())
    np.testing.assert_allclose(maps["stage1.attention"], wanted, atol=1e-5)
    with pytest.raises(UserError, match="right"):
        session.explain(networks, 0, "right")


def test_several_networks_can_be_chosen_and_so_can_their_mean(
    checkpoint: str, opener: Opener, tmp_path: Path
) -> None:
    several = Networks([checkpoint, write_checkpoint(tmp_path / "other")], textseg.load)
    assert len(set(several.names)) == 3
    session = Session()
    session.open(opener, [picture_of(opener)], None)
    one, other, mean = session.segment(several, [Question(n, "left lesion") for n in range(3)])
    np.testing.assert_allclose(mean.probs, (one.probs + other.probs) / 2, atol=1e-6)
    assert mean.network == several.names[2]
    with pytest.raises(UserError, match="ensemble of 2"):
        session.explain(several, 2, None)


def test_visitors_have_a_picture_of_their_own_until_they_leave(opener: Opener) -> None:
    sessions = Sessions(most=2)
    sessions.of("a").open(opener, [picture_of(opener, 1)], None)
    sessions.of("b").open(opener, [picture_of(opener, 2)], None)
    one, other = sessions.of("a").source, sessions.of("b").source
    assert one is not None
    assert other is not None
    assert (one.picture(0) != other.picture(0)).any()
    sessions.of("a")
    sessions.of("c")  # one too many: b rested longest
    assert sessions.of("a").source is one
    assert sessions.of("b").source is None
    sessions.close("a")
    sessions.close("nobody")
    assert sessions.of("a").source is None
    assert len(sessions) == 2


def test_each_phantom_is_another_one(opener: Opener) -> None:
    session = Session()
    names = [session.take_phantom(opener).name for _ in range(3)]
    assert names == ["phantom 0", "phantom 1", "phantom 2"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((" left ", 0, "", 0), [(0, "left")]),
        (("left", 0, "left", 0), [(0, "left")]),
        (("left", 0, "right", 0), [(0, "left"), (0, "right")]),
        (("left", 0, "", 1), [(0, "left"), (1, "left")]),
        (("left", 1, "right", 2), [(1, "left"), (2, "right")]),
    ],
)
def test_a_second_question_is_asked_where_its_text_or_network_is_another(
    given: tuple[str, int, str, int], asked: list[tuple[int, str]]
) -> None:
    assert questions_of(*given) == [Question(*one) for one in asked]


def test_the_words_of_an_expression_are_listed_once() -> None:
    text = "The left, well-defined lesion in the LEFT lobe (2 cm)."
    assert words_of(text) == ["The", "left", "well-defined", "lesion", "in", "lobe", "2", "cm"]
    assert words_of("") == []
