from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from datamodules.captions.lvit_template import (
    COUNTS,
    Reading,
    Template,
    is_template_kind,
    keeps_template,
    mirrored,
    read_template,
    repaired,
)
from datamodules.captions.modes import normalize, swap_sides
from textseg.tables import match_key, read_captions, read_rows

ONE = "Unilateral pulmonary infection, one infected area"
TWO = "Unilateral pulmonary infection, two infected areas"
BOTH = "Bilateral pulmonary infection, two infected areas"
NOTHING = "No pulmonary infection, zero infected areas."
ALL = ("upper", "middle", "lower")

# What is lacking, or written where something else should be: no repair is made up for these rows.
UNREPAIRABLE = {
    f"{BOTH}, all left lung and right lung.": 13,
    f"{BOTH}, left lung and right lung.": 3,
    f"{BOTH}, lower left lung and right lung.": 2,
    f"{ONE}, left and right lung.": 1,
    f"{ONE}, right right lung.": 1,
    f"{BOTH}, right left lung and upper middle right lung.": 1,
    f"{ONE}, middle right left lung.": 1,
    f"{ONE}, all left and upper middle left right lung.": 1,
    f"{ONE}s, lower and right lung.": 1,
    "Unilateral pulmonary infection, two infected area, upper lower and right lung.": 1,
    "Bilateral pulmonary infection, three infected areas, all left lung and upper lower lung.": 1,
    "Bilateral pulmonary infection, three infected areas, lower left lung and upper lower lung.": 1,
    f"{BOTH}, all left lung and all lung.": 1,
    f"{BOTH}, all left lung and middle lower lung.": 1,
    "Bilateral pulmonary infection,two infected areas,all left and lower all lung.": 1,
    f"{BOTH}, all lung and middle lower right lung.": 1,
    f"{BOTH}, upper lower lung and all right lung.": 1,
    f"{BOTH}, upper lung and middle lower right lung.": 1,
    f"{BOTH}, all eft lung and all right lung.(wait": 1,
}


# --- the wording


@pytest.mark.parametrize(
    ("text", "templates"),
    [
        (f"{BOTH}, all left lung and upper middle right lung.", ["qata"]),
        (f"{BOTH}, all left lung and upper right lung.", ["qata", "mosmed"]),
        (f"{ONE}, lower right lung.", ["qata"]),
        (f"{ONE}s, lower right lung.", ["qata", "mosmed"]),
        ("Unilateral pulmonary infection, nine infected areas, all left lung.", ["mosmed"]),
        (NOTHING, ["mosmed"]),
        # Said wrongly, but worded by the template.
        (f"{ONE}, all left lung and all right lung.", ["qata"]),
        (f"{TWO}, middle upper left lung.", ["qata"]),
        # Not worded by it.
        (f"{BOTH}, all left lung and all right lung..", []),
        (f"{BOTH}, all left lung and all right lung. ", []),
        (f"{BOTH}, all left lung and all right lung", []),
        (f"{BOTH},all left lung and all right lung.", []),
        (f"{BOTH}, all  left lung and all right lung.", []),
        (f"{BOTH}, all right lung and all left lung.", []),
        (f"{BOTH}, all left and all right lung.", []),
        (f"{BOTH.lower()}, all left lung and all right lung.", []),
        (f"{TWO}, left lung and upper right lung.", []),
        ("Bilateral pulmonary infection, ten infected areas, all left lung.", []),
        ("", []),
    ],
)
def test_the_template_is_kept_to_the_letter(text: str, templates: list[Template]) -> None:
    names: tuple[Template, ...] = ("qata", "mosmed")
    assert [name for name in names if keeps_template(text, name)] == templates


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{ONE}, lower lift lung", True),
        ("No evidence of  PULMONARY\tinfection", True),
        ("a lesion in the left lung", False),
        ("", False),
    ],
)
def test_the_kind_is_told_by_the_pulmonary_infection(text: str, kind: bool) -> None:
    assert is_template_kind(text) is kind


# --- reading and repair


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (f"{ONE}, lower right lung.", Reading("unilateral", 1, {"right": ("lower",)})),
        (
            f"{BOTH}, all left lung and lower upper right lung.",
            Reading("bilateral", 2, {"left": ALL, "right": ("upper", "lower")}),
        ),
        (NOTHING, Reading("none", 0, {})),
        ("no  pulmonary infection,zero infected areas", Reading("none", 0, {})),
        (
            "unilateral pulmonary infection , nine infected areas, upper middle lower left lung..",
            Reading("unilateral", 9, {"left": ALL}),
        ),
        # Extent and lungs disagree: both are told as they stand.
        (f"{BOTH}, lower left lung.", Reading("bilateral", 2, {"left": ("lower",)})),
        (
            f"{ONE}, all left lung and all right lung.",
            Reading("unilateral", 1, {"left": ALL, "right": ALL}),
        ),
        # MosMedData+'s empty half, and the mirrored one.
        (f"{TWO}, left lung and upper right lung.", Reading("unilateral", 2, {"right": ALL[:1]})),
        (f"{TWO}, upper left lung and right lung.", Reading("unilateral", 2, {"left": ALL[:1]})),
    ],
)
def test_a_reading_tells_extent_count_and_zones(text: str, reading: Reading) -> None:
    assert read_template(text) == reading


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        # Words dropped that only one word can be, spacing and periods.
        (f"{BOTH}, lower left and lower right lung.", "lower left lung and lower right lung"),
        (f"{BOTH},all left lung and  all right lung", "all left lung and all right lung"),
        (f"{BOTH} ,all left lung and all  right lung. ", "all left lung and all right lung"),
        (f"{BOTH}, all left lung and all right lung..", "all left lung and all right lung"),
        # Joined words.
        (f"{BOTH}, upperlower left lung andupper rightlung.", "upper lower left lung and upper "
         "right lung"),
        (f"{BOTH}, lowerall leflung and lowerright lung.", "all left lung and lower right lung"),
        # Misspelt words.
        *(
            (f"{BOTH}, {wrong} left lung and all right lung.", f"{zone} left lung and all right "
             "lung")
            for zone, wrongs in {
                "upper": "higher uppper uooer upperl",
                "middle": "mmiddle midddle mddle midle midlle midldle middlr iddle",
                "lower": "lowe lowerl ower llower lwoer",
                "all": "al alll aall",
            }.items()
            for wrong in wrongs.split()
        ),
        (f"{BOTH}, lupper ower leff lung and all rught lung.", "upper lower left lung and all "
         "right lung"),
        (f"{BOTH}, all eft ung and rlower ight lung.", "all left lung and lower right lung"),
        (f"{BOTH}, lower ll left lung and all l right lung.", "lower left lung and all right lung"),
        (f"{ONE}, lower lift lung.", "lower left lung"),
        # Said twice, or not from the top.
        (f"{ONE}, upper middle right right lung.", "upper middle right lung"),
        (f"{BOTH}, lower lower left lung and all right lung.", "lower left lung and all right "
         "lung"),
        (f"{BOTH}, middle upper left lung and all lower right lung.", "upper middle left lung and "
         "all right lung"),
        # The count.
        ("Bilateral pulmonary infection, two one infected area, all left lung and all right lung.",
         "all left lung and all right lung"),
        ("Unilateral pulmonary infection, oneinfected area, all left lung.", "all left lung"),
        ("Unilateral pulmonary infection, two infected area, all left lung.", "all left lung"),
        # MosMedData+.
        (f"{TWO}, left lung and all right lung..", "all right lung"),
        (f"{ONE}s, left lung and middle right lung.", "middle right lung"),
    ],
)  # fmt: skip
def test_every_kind_of_slip_is_repaired(written: str, mended: str) -> None:
    text = repaired(written)
    assert text is not None
    heads = {"B": (BOTH,), "U": (ONE, f"{ONE}s", TWO)}[written[0]]
    assert text in {f"{head}, {mended}." for head in heads}
    assert keeps_template(text, "qata")
    assert repaired(text) == text
    assert read_template(text) == read_template(written)


def test_three_may_be_misspelt_or_joined() -> None:
    three = "Bilateral pulmonary infection, three infected areas, all left lung and all right lung."
    assert repaired(three.replace("three", "thrr")) == three
    assert repaired(three.replace("three ", "three")) == three


@pytest.mark.parametrize(
    "text",
    [
        f"{ONE}s, lower left lung.",  # MosMedData+'s own wording
        f"{ONE}, all left lung and all right lung.",  # one area, or two lungs? the words do not say
        f"{BOTH}, lower left lung.",
        f"{BOTH}, upper middle lower left lung and all right lung.",
        NOTHING,
    ],
)
def test_what_is_not_wrongly_worded_stays(text: str) -> None:
    assert repaired(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *UNREPAIRABLE,
        "Unilateral pulmonary infection, two one infected area, all left lung.",
        "Unilateral pulmonary infection, zero infected areas, all left lung.",
        "No pulmonary infection, one infected area.",
        "No pulmonary infection, one infected area, all left lung.",
        "Pulmonary infection, one infected area, all left lung.",
        f"{BOTH}, all left lung and upper left lung.",
        f"{BOTH}, all left lung and 2 upper right lung.",
        f"{BOTH}, all left lung and shadowed right lung.",
        f"{BOTH}, all left lung and (perhaps) all right lung.",
        f"{BOTH}, all left lung (and all right lung).",
        "all left lung and all right lung.",
        "",
    ],
)
def test_what_lacks_words_or_has_others_is_not_read_and_left_alone(text: str) -> None:
    assert read_template(text) is None
    assert repaired(text) is None
    if is_template_kind(text):
        assert normalize(f" {text} ") == f" {text} "


def test_spoiled_captions_read_as_what_they_were_and_mirror_back() -> None:
    """Captions put together here, then misspelled or joined, and spaced, at random."""
    draw = random.Random(0)
    for _ in range(1000):
        text, reading = _composed(draw)
        spoiled = _spoiled(text, draw)
        assert read_template(spoiled) == reading, spoiled
        assert repaired(spoiled) == text
        swapped = mirrored(spoiled)
        if "leff" in spoiled and reading.extent == "unilateral":
            assert swapped is None
        else:
            assert swapped is not None
            assert mirrored(swapped) == spoiled
            assert read_template(swapped) == _exchanged(reading)


def _composed(draw: random.Random) -> tuple[str, Reading]:
    sides = draw.choice([["left", "right"], ["left"], ["right"]])
    words = {
        side: draw.choice(["all", "upper", "middle", "lower", "upper lower", "middle lower"])
        for side in sides
    }
    count = draw.randint(len(sides), 6)
    areas = "area" if count == 1 else "areas"
    text = (
        f"{'Bilateral' if len(sides) == 2 else 'Unilateral'} pulmonary infection, {COUNTS[count]} "
        f"infected {areas}, {' and '.join(f'{words[side]} {side} lung' for side in sides)}."
    )
    zones = {side: ALL if words[side] == "all" else tuple(words[side].split()) for side in sides}
    return text, Reading("bilateral" if len(sides) == 2 else "unilateral", count, zones)


def _spoiled(text: str, draw: random.Random) -> str:
    words = [
        *(("upper", "uppper"), ("middle", "mddle"), ("lower", "lowerl"), ("all ", "alll ")),
        *((" left", "left"), (" right", "right"), (" lung", "lung"), ("and ", "and")),
        *((" lung and", " and"), ("left", "leff"), (" infected", "infected")),
        *(("lower", "lower lower"), ("lung.", "ung.")),
    ]
    marks = [(", ", ","), (", ", " ,  "), (".", ""), (".", ".. "), (" pul", "  pul")]
    for old, new in (draw.choice(words), draw.choice(marks)):
        text = text.replace(old, new, 1)
    return text


def _exchanged(reading: Reading) -> Reading:
    other = {"left": "right", "right": "left"}
    return reading._replace(zones={other[side]: zones for side, zones in reading.zones.items()})


# --- the real captions


@pytest.fixture(scope="module")
def qata(real_data: Path) -> Counter[str]:
    files = [real_data / "qata_text" / f"{split}.csv" for split in ("train", "test")]
    return Counter(row.text for file in files for row in read_captions(file))


@pytest.fixture(scope="module")
def mosmed(real_data: Path) -> Counter[str]:
    files = sorted((real_data / "mosmed_text").glob("*.csv"))
    return Counter(row.text for file in files for row in read_captions(file))


def rows(captions: Counter[str], *, broken: Template) -> Counter[str]:
    return Counter({t: n for t, n in captions.items() if not keeps_template(t, broken)})


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


@pytest.mark.real_data
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


@pytest.mark.real_data
def test_a_second_reader_reads_the_same_in_every_real_caption(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {**qata, **mosmed}:
        if text not in UNREPAIRABLE:
            assert read_template(text) == read_by_letters(text), text


@pytest.mark.real_data
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


@pytest.mark.real_data
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


@pytest.mark.real_data
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


@pytest.mark.real_data
def test_real_captions_swap_and_swap_back_but_for_four(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {**qata, **mosmed}:
        swapped = swap_sides(text)
        if swapped is not None:
            assert swap_sides(swapped) == text
            if text not in UNREPAIRABLE:
                assert read_by_letters(swapped) == _exchanged(read_by_letters(text)), text
    # A typos side of a single lung has no partner; "(wait" is no word of the template.
    assert {text: n for text, n in qata.items() if swap_sides(text) is None} == {
        f"{BOTH}, all eft lung and all right lung.(wait": 1,
        f"{ONE}, lower lift lung.": 1,
        f"{ONE}, middle lower leflung.": 1,
        f"{ONE}s, lower rught lung.": 1,
    }
    assert not any(swap_sides(text) is None for text in mosmed)


@pytest.mark.real_data
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


@pytest.mark.real_data
def test_every_repaired_real_caption_swaps_into_a_repaired_one(
    qata: Counter[str], mosmed: Counter[str]
) -> None:
    for text in {repaired(text) for text in {**qata, **mosmed}} - {None}:
        assert text is not None
        swapped = swap_sides(text)
        assert swapped is not None
        assert repaired(swapped) == swapped
        assert swap_sides(swapped) == text
