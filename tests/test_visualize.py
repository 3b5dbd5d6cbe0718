"""Pictures: what each color means, and that no caption breaks them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from textseg.visualize.explanation import HEAT, explanation, heat
from textseg.visualize.explanation import _reading_order as reading_order
from textseg.visualize.overlay import (
    FALSE_ALARM,
    HIT,
    MISS,
    PREDICTION,
    TRUTH,
    outcome,
    overlay,
    overlay_sheet,
    painted,
    tp_fp_fn,
)
from textseg.visualize.sheet import panel_boxes

# Severity 1 of each kind: Machado, Oliveira and Fernandes 2009, linear RGB.
VISION = {
    "full": np.eye(3),
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def masks(side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    truth, pred = np.zeros((side, side), np.uint8), np.zeros((side, side), bool)
    truth[10:40, 10:40] = 1
    pred[20:50, 20:50] = True
    return truth, pred


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def contains(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=-1).any())


def lab(color: tuple[int, int, int], vision: str) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB color as somebody with this vision sees it."""
    value = np.array(color) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = (np.array(VISION[vision]) @ linear).clip(0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_a_large_picture_is_reduced_and_a_lesion_of_one_pixel_stays() -> None:
    pred = np.zeros((40, 9001), bool)
    pred[7, 6543] = True
    page = overlay(gray(40, 9001), None, pred, caption="a long strip")
    assert page.shape[1] < 3 * 2048
    assert contains(page, PREDICTION)
    page = overlay(gray(9001, 40), None, pred.T, caption="a tall strip")
    assert page.shape[0] < 2048 + 200
    assert contains(page, PREDICTION)


def test_agreement_colors_partition_the_two_masks() -> None:
    truth, pred = masks()
    colors = tp_fp_fn(truth, pred)
    assert (colors.shape, colors.dtype) == ((64, 64, 3), np.uint8)
    counts = {c: int((colors == c).all(axis=-1).sum()) for c in (HIT, FALSE_ALARM, MISS)}
    assert counts == {HIT: 400, FALSE_ALARM: 500, MISS: 500}
    assert int((colors == 0).all(axis=-1).sum()) == 64 * 64 - 1400


@pytest.mark.parametrize("vision", list(VISION))
def test_agreement_colors_differ_for_color_blind_readers(vision: str) -> None:
    for one, two in combinations((HIT, FALSE_ALARM, MISS), 2):
        assert np.linalg.norm(lab(one, vision) - lab(two, vision)) > 40


@pytest.mark.parametrize(
    ("size", "factor"), [((64, 64), 4), ((224, 200), 2), ((256, 300), 1), ((300, 7), 1)]
)
def test_panels_show_the_images_own_pixels_enlarged_by_a_whole_factor(
    size: tuple[int, int], factor: int
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    picture = overlay(image, None, np.zeros(size), caption="")
    expected = np.kron(image, np.ones((factor, factor, 1), np.uint8))
    tall, wide = expected.shape[:2]
    rows = [
        top
        for top in range(picture.shape[0] - tall + 1)
        for left in [int(np.argmin((picture[top] == 255).all(axis=-1)))]
        if np.array_equal(picture[top : top + tall, left : left + wide], expected)
    ]
    assert len(rows) == 1


def test_a_picture_with_a_truth_shows_all_three_kinds_of_pixels() -> None:
    truth, pred = masks()
    picture = overlay(gray(64, 64), truth, pred, caption="two lesions")
    assert picture.dtype == np.uint8
    assert all(contains(picture, c) for c in (HIT, FALSE_ALARM, MISS, TRUTH, PREDICTION))


def test_a_picture_without_a_truth_makes_no_claim_about_agreement() -> None:
    picture = overlay(gray(64, 64), None, masks()[1], caption="two lesions")
    assert contains(picture, PREDICTION)
    assert not any(contains(picture, c) for c in (HIT, FALSE_ALARM, MISS, TRUTH))


def test_a_mask_is_a_quarter_of_its_color_over_the_tissue_within_a_solid_contour() -> None:
    """Against float arithmetic; the contour is what two steps of a cross do not leave inside."""
    picture = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), bool)
    mask[5:30, 10:45] = mask[0:8, 0:9] = True
    wanted = picture.astype(np.float64)
    wanted[mask] = np.rint(0.75 * wanted[mask] + 0.25 * np.array(PREDICTION))
    inside = np.array(
        [
            [
                all(
                    0 <= y + dy < 40 and 0 <= x + dx < 50 and mask[y + dy, x + dx]
                    for dy in range(-2, 3)
                    for dx in range(-2, 3)
                    if abs(dy) + abs(dx) <= 2
                )
                for x in range(50)
            ]
            for y in range(40)
        ]
    )
    wanted[mask & ~inside] = PREDICTION
    assert np.array_equal(painted(picture, mask, PREDICTION), wanted.astype(np.uint8))


def test_tissue_under_a_mask_stays_visible() -> None:
    image = np.random.default_rng(1).integers(60, 200, (256, 256, 3), dtype=np.uint8)
    everywhere = np.ones((256, 256), bool)
    picture = overlay(image, None, everywhere, caption="")
    panel = picture[:, picture.shape[1] // 2 + 20 : -40].astype(float)
    inside = panel[panel.shape[0] // 2 - 40 : panel.shape[0] // 2 + 40]
    assert inside.std(axis=(0, 1)).min() > 20


def test_a_longer_caption_makes_a_taller_picture_and_no_wider_one() -> None:
    truth, pred = masks()
    short = overlay(gray(64, 64), truth, pred, caption="left lung")
    long = overlay(gray(64, 64), truth, pred, caption="upper left lung, " * 60)
    assert long.shape[0] > short.shape[0] + 5 * 14
    assert long.shape[1] == short.shape[1]


def test_no_letter_touches_the_edge_of_the_picture() -> None:
    truth, pred = masks()
    for caption in ("W" * 400, "upper left lung, " * 60):
        picture = overlay(gray(64, 64), truth, pred, caption=caption, title=["W" * 200])
        for edge in (picture[:6], picture[-6:], picture[:, :6], picture[:, -6:]):
            assert (edge == 255).all()


@pytest.mark.parametrize(
    "caption",
    [
        "",
        " ",
        "Läsion \u2013 \u201clinks\u201d",
        "左肺下叶感染",
        "\x00\n\t\r",
        "\ud800 lone",
        "🙂 é",
        "infiltrat\u0301",
    ],
)
def test_no_caption_breaks_the_picture(caption: str) -> None:
    truth, pred = masks(32)
    picture = overlay(gray(32, 32), truth, pred, caption=caption, title=[caption])
    assert picture.ndim == 3


def test_accents_are_dropped_rather_than_drawn_as_boxes() -> None:
    _, pred = masks(64)
    captions = ("Läsion \u2013 é", "Lasion - e")
    one, two = (overlay(gray(64, 64), None, pred, caption=c) for c in captions)
    np.testing.assert_array_equal(one, two)


def test_empty_masks_leave_the_panels_unpainted() -> None:
    nothing = np.zeros((64, 64), bool)
    picture = overlay(gray(64, 64), nothing, nothing, caption="healthy")
    assert not any(contains(picture, c) for c in (TRUTH, PREDICTION))


@pytest.mark.parametrize(
    ("truth", "pred", "said"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], "Dice 0.667"),
        ([1, 1, 0, 0], [0, 0, 0, 0], "Dice 0.000, nothing outlined"),
        ([0, 0, 0, 0], [1, 0, 0, 0], "Dice 0.000, nothing to find"),
        ([0, 0, 0, 0], [0, 0, 0, 0], "Dice 1.000, nothing to find, nothing outlined"),
        (None, [0, 0, 0, 0], "nothing outlined"),
        (None, [1, 0, 0, 0], ""),
    ],
)
def test_a_picture_says_its_dice_and_what_is_empty(
    truth: list[int] | None, pred: list[int], said: str
) -> None:
    true = None if truth is None else np.array(truth).reshape(2, 2)
    found = np.array(pred).reshape(2, 2)
    assert outcome(true, found) == said
    image = gray(2, 2)
    plain = overlay(image, None, np.ones((2, 2)), caption="x").shape[0]
    taller = overlay(image, true, found, caption="x").shape[0] > plain
    assert taller == (truth is not None or said != "")


def test_a_saved_sheet_tells_where_its_panels_are(tmp_path: Path) -> None:
    truth, pred = masks()
    image = np.random.default_rng(2).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    sheet = overlay_sheet(image, truth, pred, caption="two lesions", title=["a", "b"])
    sheet.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        boxes = panel_boxes(stored)
        assert np.array_equal(
            np.asarray(stored), overlay(image, truth, pred, caption="two lesions", title=["a", "b"])
        )
        assert list(boxes) == ["image", "truth", "prediction", "agreement"]
        left, top, width, height = boxes["image"]
        part = np.asarray(stored.crop((left, top, left + width, top + height)))
    assert np.array_equal(part, np.kron(image, np.ones((4, 4, 1), np.uint8)))


@pytest.mark.parametrize("text", ["", "[1]", '{"image": [0, 0, 9, 9]}', '{"image": 3}', "{"])
def test_a_file_that_does_not_tell_its_panels_has_none(tmp_path: Path, text: str) -> None:
    about = PngInfo()
    about.add_text("panels", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=about)
    with Image.open(tmp_path / "a.png") as stored:
        assert panel_boxes(stored) == {}


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    truth, pred = masks()
    with pytest.raises(ValueError, match=r"truth is \(64, 64\), but \(32, 48\)"):
        overlay(gray(32, 48), truth, np.zeros((32, 48)), caption="")
    with pytest.raises(ValueError, match="pred is"):
        tp_fp_fn(truth, pred[:5])


# --- explanations


def bowl(side: int = 32) -> np.ndarray:
    """Low in the upper left corner, high in the lower right one."""
    return np.add.outer(np.arange(side), np.arange(side)) / (2 * side - 2)


@pytest.mark.parametrize("vision", list(VISION))
def test_more_heat_is_lighter_to_every_reader_in_nearly_even_steps(vision: str) -> None:
    lightness = [lab(tuple(color), vision)[0] for color in heat(np.linspace(0, 1, 9))]
    steps = np.diff(lightness)
    assert steps.min() > 4
    assert lightness[-1] - lightness[0] > 75


def test_heat_takes_the_ends_of_its_scale_and_mixes_in_between() -> None:
    colors = heat(np.array([[0.0, 1.0], [0.5 / 7, 1 / 7]]))
    assert colors[0].tolist() == [list(HEAT[0]), list(HEAT[-1])]
    assert np.abs(colors[1, 0] - np.mean(HEAT[:2], axis=0)).max() <= 0.5
    assert colors[1, 1].tolist() == list(HEAT[1])


def page(maps: dict[str, np.ndarray], **settings: Any) -> np.ndarray:
    values: dict[str, Any] = {"truth": None, "caption": "lesion on the left", **settings}
    truth = values.pop("truth")
    return explanation(gray(64, 64), truth, np.zeros((64, 64)), maps, **values)


def test_a_map_is_brightest_where_it_is_highest() -> None:
    blank, hot = (page({"stage1.gate": m}).astype(float) for m in (np.zeros((8, 8)), bowl(8)))
    changed = np.abs(hot - blank).sum(-1)
    rows, columns = np.nonzero(changed > 0.5 * changed.max())
    half = page({"stage1.gate": bowl(8)}).shape[1] / 2
    left, right = half + 4, 2 * half - 14
    assert columns.min() > left, "the image's own panel is as it was"
    assert columns.mean() > (left + right) / 2 + 30
    quarter = rows.min() + np.ptp(rows) * 0.5
    assert rows.mean() > quarter


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 2), (5, 2, 3), (9, 2, 5), (11, 3, 4)]
)
def test_panels_wrap_into_even_rows_of_five_at_most(count: int, rows: int, columns: int) -> None:
    one = page({"a": bowl()})
    many = page({f"stage{i}.gate": bowl() for i in range(count)})
    panel, gap = 320, 5
    assert many.shape[1] - one.shape[1] == (columns - 2) * (panel + gap)
    extra = (many.shape[0] - one.shape[0]) / max(1, rows - 1)
    assert extra == 0 if rows == 1 else panel < extra < panel + 40


def test_maps_of_one_kind_stand_together_with_the_networks_own_after_the_first() -> None:
    names = [f"stage{i}.{kind}" for i in (1, 2) for kind in ("attention", "gate")]
    order = reading_order(dict.fromkeys([*names, "saliency"], bowl()))
    assert order == ["stage1.attention", "stage2.attention", "saliency", "stage1.gate", names[3]]
    assert reading_order({"saliency": bowl()}) == ["saliency"]


@pytest.mark.parametrize("size", [(50, 120), (700, 500), (7, 3000)])
def test_images_of_any_size_give_panels_of_one_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    truth = np.zeros(size, np.uint8)
    truth[1:4] = 1
    drawn = explanation(image, truth, truth, {"saliency": bowl()}, caption="", word=None)
    assert drawn.shape[1] <= 2 * 320 + 60
    assert drawn.shape[0] < 320 + 250


def test_outlines_are_the_predictions_and_where_known_the_truths() -> None:
    truth, pred = masks()
    with_truth = explanation(gray(64, 64), truth, pred, {"a": bowl()}, caption="")
    without = explanation(gray(64, 64), None, pred, {"a": bowl()}, caption="")
    assert contains(with_truth, TRUTH)
    assert contains(with_truth, PREDICTION)
    assert contains(without, PREDICTION)
    assert not contains(without, TRUTH)


def marked_width(caption: str, word: str | None) -> int:
    """Pixels of the marker's color."""
    return int((page({"a": bowl()}, caption=caption, word=word) == (255, 226, 120)).all(-1).sum())


def test_the_explained_word_is_marked_wherever_it_stands_whole() -> None:
    assert marked_width("lesion on the left", None) == 0
    assert marked_width("lesion on the left", "lef") == 0
    once = marked_width("lesion on the left", "LEFT")
    assert once > 100
    assert marked_width("lesion on the left, left", "left") == pytest.approx(2 * once, rel=0.2)
    wrapped = "left " * 200
    assert marked_width(wrapped, "left") == pytest.approx(200 * once, rel=0.2)
    assert marked_width("un\u0301 \u2013 upper  left", "upper left") > once


@pytest.mark.parametrize("caption", ["", "W" * 400, "\ud800 lone", "左肺下叶感染", "\x00\n"])
def test_no_caption_breaks_an_explanation(caption: str) -> None:
    drawn = page({"a": bowl()}, caption=caption, word="left", title=[caption])
    for edge in (drawn[:6], drawn[-6:], drawn[:, :6], drawn[:, -6:]):
        assert (edge == 255).all()
