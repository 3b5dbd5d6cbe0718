from __future__ import annotations

import random

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
from datamodules.captions.modes import normalize
from tests.datamodules.template_captions import (
    ALL,
    BOTH,
    NOTHING,
    ONE,
    TWO,
    UNREPAIRABLE,
    exchanged,
)

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
            assert read_template(swapped) == exchanged(reading)


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
