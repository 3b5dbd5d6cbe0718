"""The captions that LViT published: what is read, repaired and mirrored of every one of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from datamodules.captions.lvit_template import (
    COUNTS,
    Reading,
    Template,
    keeps_template,
    read_template,
    repaired,
)
from datamodules.captions.modes import swap_sides
from tests.datamodules.template_captions import ALL, BOTH, ONE, UNREPAIRABLE, exchanged
from textseg.tables import match_key, read_captions, read_rows

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def qata(real_data: Path) -> Counter[str]:
    files = [real_data / "qata_text" / f"{split}.csv" for split in ("train", "test")]
    return Counter(row.text for file in files for row in read_captions(file))


@pytest.fixture(scope="module")
def mosmed(real_data: Path) -> Counter[str]:
    files = sorted((real_data / "mosmed_text").glob("*.csv"))
    return Counter(row.text for file in files for row in read_captions(file))


def read_by_letters(text: str) -> Reading:
    """A second reader: each zone, side and number is told by letters that no other one has."""
    head, _, body = " ".join(text.lower().split()).partition("area")
    extent = {"b": "bilateral", "u": "unilateral", "n": "none"}[head[0]]
    number = re.sub(r".*infection ?, ?", "", head)[:2]
    halves: dict[str, tuple[str, ...]] = {}
    for half in re.split(r"\band", body.partition(",")[2]):
        letters = {"upper": "p|oo|hig", "middle": "d", "lower": "w"}
        zones = tuple(zone for zone, letter in letters.items() if re.search(letter, half))
        halves["left" if "f" in half else "right"] = ALL if "al" in half else zones
    if extent == "unilateral":  # MosMedData+'s empty half
        halves = {side: zones for side, zones in halves.items() if zones}
    count = [word[:2] for word in COUNTS].index(number)
    return Reading(extent, count, {} if extent == "none" else halves)  # type: ignore[arg-type]


def test_all_real_captions_are_read_but_for_a_short_list(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    assert (qata.total(), mosmed.total()) == (9258, 2729)
    assert (len(qata), len(mosmed)) == (395, 115)
    unread = {text: n for text, n in qata.items() if read_template(text) is None}
    for text, n in unread.items():
        print(f"unrepairable, {n} rows: {text}")
    assert unread == UNREPAIRABLE
    assert sum(unread.values()) == 34
    assert all(read_template(text) is not None for text in mosmed)


def test_a_second_reader_reads_the_same_in_every_real_caption(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {**qata, **mosmed}:
        if text not in UNREPAIRABLE:
            assert read_template(text) == read_by_letters(text), text


def test_the_rows_that_break_the_template_are_found_and_repaired(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    found = broken(qata, "qata")
    assert found.total() == 323
    assert broken(Counter(map(str.strip, qata.elements())), "qata").total() == 321
    assert {text: n for text, n in found.items() if repaired(text) is None} == UNREPAIRABLE
    found = broken(mosmed, "mosmed")
    assert found.total() == 501
    empty_half, two_periods = (
        {text: n for text, n in mosmed.items() if slip in text} for slip in (", left lung", "..")
    )
    assert (sum(empty_half.values()), sum(two_periods.values())) == (457, 47)
    assert set(found) == {*empty_half, *two_periods}
    both: tuple[tuple[Counter[str], Template], ...] = ((qata, "qata"), (mosmed, "mosmed"))
    for captions, template in both:
        for text in captions:
            mended = repaired(text)
            if mended is not None:
                assert keeps_template(mended, template)
                assert repaired(mended) == mended
                assert read_by_letters(mended) == read_by_letters(text)


def test_what_the_wording_does_not_ask_is_wrong_in_123_more_rows(qata: Counter[str]) -> None:
    """With agreement of number and of extent and the zones' order, 446 rows would break it."""
    kept = {text: n for text, n in qata.items() if keeps_template(text, "qata")}
    slips = {
        "one infected areas": {t for t in kept if "one infected areas" in t},
        "two infected area": {t for t in kept if "infected area," in t and "one" not in t},
        "order": {t for t in kept if not all(map(_from_the_top, re.split("areas?,|and", t)[1:]))},
        "bilateral, one lung": {t for t in kept if t[0] == "B" and " and " not in t},
        "unilateral, two lungs": {t for t in kept if t[0] == "U" and " and " in t},
    }
    counts = {slip: sum(kept[text] for text in texts) for slip, texts in slips.items()}
    assert counts == {
        "one infected areas": 54,
        "two infected area": 4,
        "order": 32,
        "bilateral, one lung": 20,
        "unilateral, two lungs": 15,
    }
    assert sum(kept[text] for text in set().union(*slips.values())) == 123
    # Of these only the order, and the number after two and more, are mended.
    changed = {text for text in kept if repaired(text) != text}
    assert changed == slips["order"] | slips["two infected area"]


def _from_the_top(half: str) -> bool:
    zones = half.split()[:-2]
    return zones == ["all"] or ("all" not in zones and zones == sorted(set(zones), key=ALL.index))


def broken(captions: Counter[str], template: Template) -> Counter[str]:
    return Counter({t: n for t, n in captions.items() if not keeps_template(t, template)})


def test_sgsegs_rewording_names_the_same_zones_but_where_it_misread_a_word(
    real_data: Path,
) -> None:
    """Somebody else's reading of all rows; it takes "lowerl" for upper and drops "mmiddle"."""
    folder = real_data / "qata_text"
    reworded = {
        match_key(Path(row["image_path"]).name): row["caption"]
        for row in read_rows(folder / "sgseg_annotation.json")
    }
    differ: Counter[str] = Counter()
    for row in read_captions(folder / "train.csv") + read_captions(folder / "test.csv"):
        reading, other = read_template(row.text), read_template(reworded[match_key(row.name)])
        assert other is not None
        if reading is not None and reading.zones != other.zones:
            differ[row.text] += 1
    assert differ.total() == 18
    misread = re.compile(r"\b(lowerl|loweer|llower|midlle|middlel|mmiddle)\b")
    assert all(misread.search(text) for text in differ)


def test_real_captions_swap_and_swap_back_but_for_four(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {**qata, **mosmed}:
        swapped = swap_sides(text)
        if swapped is not None:
            assert swap_sides(swapped) == text
            if text not in UNREPAIRABLE:
                assert read_by_letters(swapped) == exchanged(read_by_letters(text)), text
    # A typos side of a single lung has no partner; "(wait" is no word of the template.
    assert {text: n for text, n in qata.items() if swap_sides(text) is None} == {
        f"{BOTH}, all eft lung and all right lung.(wait": 1,
        f"{ONE}, lower lift lung.": 1,
        f"{ONE}, middle lower leflung.": 1,
        f"{ONE}s, lower rught lung.": 1,
    }
    assert not any(swap_sides(text) is None for text in mosmed)


def test_an_unrepairable_real_caption_exchanges_every_side_it_names(qata: Counter[str]) -> None:
    for text in UNREPAIRABLE:
        swapped = swap_sides(text)
        if swapped is not None:
            named = [_named(sentence) for sentence in (text, swapped)]
            other = {"left": "right", "right": "left"}
            exchanged = Counter((zone, other[side]) for zone, side in named[0].elements())
            assert exchanged == named[1], text


def _named(text: str) -> Counter[tuple[str, str]]:
    """Each side word with the zones before it, up to the last "and" or comma."""
    found: Counter[tuple[str, str]] = Counter()
    for half in re.split(r"\band\b|,", text):
        words = half.strip(" .").split()
        zones = " ".join(word for word in words if word in ("all", *ALL))
        found.update((zones, word) for word in words if word in ("left", "right"))
    return found


def test_every_repaired_real_caption_swaps_into_a_repaired_one(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {repaired(text) for text in {**qata, **mosmed}} - {None}:
        assert text is not None
        swapped = swap_sides(text)
        assert swapped is not None
        assert repaired(swapped) == swapped
        assert swap_sides(swapped) == text
