"""What an audit makes of a single mask and a single caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.audit.file_facts import MaskFacts, inspect_mask
from datamodules.audit.words import CaptionChecks
from datamodules.captions.lvit_template import Template
from datamodules.captions.modes import normalize
from datamodules.records import Record
from textseg.preprocess import read_mask


def words(text: str) -> int:
    return len(text.split()) + 2


# --- masks


def masks_of_all_modes(folder: Path) -> list[Path]:
    generator = np.random.default_rng(3)
    gray = generator.choice(np.array([0, 1, 12, 100, 127, 128, 200, 255], np.uint8), (40, 56))
    gray *= generator.random(gray.shape) < 0.15
    image = Image.fromarray(gray)
    colored = generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    color = Image.fromarray(colored * (gray > 0)[..., None])
    pictures = {mode: image.convert(mode) for mode in ("1", "L", "LA", "RGB", "RGBA")}
    pictures |= {
        "color": color,
        "P": color.convert("P"),
        "I;16": Image.fromarray((gray * 3).astype(np.uint16)),
    }
    for name, picture in pictures.items():
        picture.save(folder / f"{name.replace(';', '')}.png")
    return sorted(folder.iterdir())


def flood(mask: np.ndarray) -> int:
    """Areas whose pixels touch by an edge or a corner, counted by hand."""
    left = set(zip(*map(list, np.nonzero(mask)), strict=True))
    areas = 0
    while left:
        areas += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
    return areas


def test_masks_are_judged_as_training_reads_them(tmp_path: Path) -> None:
    files = masks_of_all_modes(tmp_path)
    assert len(files) == 8
    for path in files:
        mask = read_mask(path)
        seen = inspect_mask(path, (32, 32), count_components=True)
        assert seen.size == mask.shape
        assert seen.area == mask.sum() > 0
        assert seen.center == pytest.approx((np.nonzero(mask)[1] + 0.5).mean() / 56)
        assert seen.components == flood(mask) > 1
        assert bool(seen.unusual_mode) == (path.stem not in ("1", "L", "RGB"))


def test_the_share_that_the_threshold_drops_is_of_all_that_is_not_black(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:2] = 255
    mask[2] = 17
    mask[3, :5] = 127
    Image.fromarray(mask).save(tmp_path / "mask.png")
    seen = inspect_mask(tmp_path / "mask.png", (32, 32), count_components=False)
    assert seen.soft_share == pytest.approx(15 / 35)
    assert seen.other_values == (17, 127)
    assert seen.doubtful


# --- captions


def a_mask(**fields: Any) -> MaskFacts:
    plain = MaskFacts(
        *((64, 64), "", "", (), 0.0),
        **{"area": 9, "center": 0.2, "components": 1, "vanishes": False, "oddities": {}},
    )
    return replace(plain, **fields)


def kinds_of(template: Template | None, text: str, mask: MaskFacts) -> list[str]:
    reader = CaptionChecks(template, count_tokens=words, max_tokens=14, normalized=True)
    reader.read(Record(Path("a.png"), Path("m.png"), text, "a__0", "", 0), "train", mask)
    return [finding.kind for finding in reader.finished()]


COUNT = "caption count against mask"


@pytest.mark.parametrize(
    ("template", "text", "mask", "kinds"),
    [
        # MosMedData+'s formula has no word above nine.
        ("mosmed", "nine infected areas, all left lung", {"components": 12}, []),
        ("mosmed", "eight infected areas, all left lung", {"components": 12}, [COUNT]),
        ("mosmed", "nine infected areas, all left lung", {"components": 8}, [COUNT]),
        ("qata", "one infected area, all right lung", {}, ["caption side against mask"]),
        ("qata", "one infected area, all right lung", {"center": 0.8}, []),
        # Which side is meant is in doubt where the extent is.
        (None, "B one infected area, all right lung", {}, ["extent against lungs"]),
        (None, "the lesion in the right breast", {}, ["named side against mask"]),
        (None, "the lesion in the left breast", {}, []),
        (None, "right_lung", {}, ["named side against mask"]),
        (None, "no_lesion", {"area": 0, "center": None}, []),
        (None, "B one infected area, all lung and all right lung", {}, []),
        (None, "the lesion in the right lobe of the liver", {}, []),
        (None, "right breast, the left part", {}, []),
        (None, "no lesion", {"area": 0, "center": None}, []),
        (None, "a lesion", {"area": 0, "center": None}, ["empty mask, caption names lesions"]),
    ],
)
def test_words_are_compared_with_the_mask(
    template: Template | None, text: str, mask: dict[str, Any], kinds: list[str]
) -> None:
    if "infected" in text:
        extent = "Bilateral" if text.startswith("B ") else "Unilateral"
        text = f"{extent} pulmonary infection, {text.removeprefix('B ')}."
    assert kinds_of(template, text, a_mask(**mask)) == kinds


def test_tokens_are_those_of_the_caption_that_training_reads() -> None:
    """14 words and marks as repaired; the spaces that are mended would be more."""
    text = "the lesion , small , dark , in the left of the liver"
    assert words(text) == 15
    assert words(normalize(text)) == 12
    assert kinds_of(None, text, a_mask()) == []


def test_a_word_that_gives_empty_masks_away_is_found_and_counted() -> None:
    def audited(empty: list[str], others: list[str]) -> tuple[list[str], dict[str, object]]:
        reader = CaptionChecks(None, count_tokens=None, max_tokens=14, normalized=True)
        rows = [(text, {"area": 0, "center": None}) for text in empty]
        rows += [(text, {}) for text in others]
        for number, (text, mask) in enumerate(rows):
            record = Record(Path("a.png"), Path("m.png"), text, f"a__{number}", "", number)
            reader.read(record, "train", a_mask(**mask))
        found = [f for f in reader.finished() if f.kind == "captions tell empty masks"]
        return [f.detail for f in found], reader.facts()

    (detail,), facts = audited(["no mass"] * 9 + ["nothing"], ["a mass"] * 10)
    assert "'a' is in 0% of" in detail
    assert "100% of the others" in detail
    assert detail in facts.values()
    found, facts = audited(["no mass"] * 10, ["no mass"] * 6 + ["a mass"] * 4)
    assert found == []
    assert any("'a' is in 0% of" in str(fact) for fact in facts.values()), "counted all the same"
    found, facts = audited(["no mass"] * 9, ["a mass"] * 10)
    assert found == []
    assert not any("'a' is in" in str(fact) for fact in facts.values()), "too few to tell"
