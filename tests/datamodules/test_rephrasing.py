"""Training's other wordings: true, unlike the probe's, known to the vocabulary."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules import QaTaCov19DataModule, RefHLSegDataModule
from datamodules.captions import rephrasing
from datamodules.captions.expressions import WORDS
from datamodules.captions.modes import key, normalize, swap_sides
from datamodules.captions.paraphrases import paraphrased
from datamodules.captions.rephrasing import rephrasings
from datamodules.dataset import drawn
from datamodules.duke_breast_mri.captions import compose
from datamodules.duke_breast_mri.sheets import Findings
from datamodules.refhl_seg.phantoms import draw_phantom
from tests.datamodules.contract import batches, refused
from tests.expressions import all_expressions, with_expressions
from tests.tiny_run import write_refhl
from textseg.batch import EMPTY_CAPTION_ID, stable_id
from textseg.encoders.vocabulary import build_tokenizer, words_of

COUNTS = ("zero", "one", "two", "three", "four", "five", "six")
ZONES = ("upper", "middle", "lower")
SETS = [z for n in (1, 2, 3) for z in itertools.combinations(ZONES, n)]


def template(count: int, lungs: dict[str, tuple[str, ...]]) -> str:
    extent = "Bilateral" if len(lungs) == 2 else "Unilateral"
    halves = [f"{'all' if len(z) == 3 else ' '.join(z)} {side} lung" for side, z in lungs.items()]
    noun = "area" if count == 1 else "areas"
    return f"{extent} pulmonary infection, {COUNTS[count]} infected {noun}, {' and '.join(halves)}."


def captions() -> dict[str, tuple[int, dict[str, tuple[str, ...]]]]:
    lungs = [{"left": z} for z in SETS] + [{"right": z} for z in SETS]
    lungs += [{"left": a, "right": b} for a in SETS for b in SETS]
    return {template(n, named): (n, named) for n in (1, 2, 6) for named in lungs}


def zones_named(wording: str) -> dict[str, tuple[str, ...]]:
    """Zones before each side, read off the words alone."""
    found, zones = {}, []
    for word in re.findall("[a-z]+", wording.lower()):
        if word in ZONES:
            zones.append(word)
        elif word == "entire":
            zones += ZONES
        elif word in ("left", "right"):
            found[word], zones = tuple(zones), []
    return found


def test_every_wording_of_the_template_names_its_zones_and_its_number() -> None:
    for caption, (count, lungs) in captions().items():
        wordings = rephrasings(caption)
        assert len(set(wordings)) == 3
        for wording in wordings:
            assert zones_named(wording) == lungs, wording
            numbers = [word for word in words_of(wording) if word in COUNTS]
            assert numbers == [COUNTS[count]], wording
            assert len(words_of(wording)) <= len(words_of(caption)) + 4, "nothing would be cut"


@pytest.mark.parametrize(
    ("text", "wordings"),
    [
        (
            "No pulmonary infection, zero infected areas.",
            ("No infected region in either lung.", "Both lungs are free of infection."),
        ),
        (
            "Left breast, 9 o'clock; unifocal, grade 2 tumour.",
            (
                "In the left breast, 9 o'clock: unifocal, grade 2 tumour.",
                "Left breast with unifocal, grade 2 tumour, 9 o'clock.",
            ),
        ),
        (
            "Right breast; multifocal tumour.",
            ("In the right breast: multifocal tumour.", "Right breast with multifocal tumour."),
        ),
        (
            "Large dark lesion in the lower left of the liver",
            ("Large-sized low-density focus in the lower left of the liver",),
        ),
        ("the larger of two lesions", ("the larger of two foci",)),
        (
            "Lesion at the top right of the liver, small",
            ("Focus at the top right of the liver, small-sized",),
        ),
        ("the lesion, top left liver.", ("the focus, top left liver.",)),
        # What cannot be reworded: other kinds, unlike extent and lungs, a zone that is lacking.
        ("a mass at the hilum", ()),
        ("", ()),
        ("Bilateral pulmonary infection, two infected areas, all left lung.", ()),
        ("Bilateral pulmonary infection, two infected areas, left lung and right lung.", ()),
    ],
)
def test_wordings_of_each_kind(text: str, wordings: tuple[str, ...]) -> None:
    assert rephrasings(text) == wordings


# The same words in free text, where they may mean something else.
FREE = (
    *("Dark lesion with an irregular border on the back.", "Big toe lesion", "a very dark lesion"),
    *("A little above the lesion", "dense breast tissue with a lesion", "no lesion", "lesion"),
    *("Lesion adjacent to the small bowel.", "lesion of the liver near the large intestine"),
    *("Hyper-dense lesion", "hyper\u2011dense lesion", "A small-sized lesion", "non-dense lesion"),
    *("low-density lesion in the upper left liver, not dense", "small bowel lesion"),
    *("the small lesion on the left, number 3", "small vessel disease with white matter lesions"),
    *("brain scan free of lesions or masses", "No evidence of abnormal growth or lesions."),
    *("the largest of the lesions", "the largest of the one lesions", "the larger of two-lesions"),
    *("dark lesion\n", "small  lesion", "Small lesion..", "SMALL LESION", "small lesion, dark"),
    *("small lesion in the upper left lobe", "small lesion in the left liver", "small liver"),
    "Breast appears normal with no tumor, although one lesion seems visible.",
    "Left breast, unlike the right; scar of a removed tumour.",
    "Left breast; no tumour.",
    "Left breast, 9 o'clock; grade 2-like tumour.",
    "There is a left breast, 9 o'clock; unifocal tumour.",
)


@pytest.mark.parametrize("text", FREE)
def test_free_text_keeps_its_words(text: str) -> None:
    assert rephrasings(text) == ()
    assert {paraphrased(text, seed=seed) for seed in range(4)} == {None}


def as_written(text: str) -> tuple[str, ...]:
    """An expression, capitalized, with its period, and mirrored."""
    capital = text[0].upper() + text[1:]
    return text, capital, normalize(capital), swap_sides(text) or text


def test_every_expression_that_is_composed_is_reworded() -> None:
    for text in all_expressions():
        for written in as_written(text):
            (wording,) = rephrasings(written)
            again = paraphrased(written, seed=0)
            assert again is not None, written
            assert len({written, wording, again}) == 3
            assert wording[0].isupper() == again[0].isupper() == written[0].isupper()
            assert wording.endswith(".") == again.endswith(".") == written.endswith(".")


# What an expression says, by its words.
SAID = {"focus": "lesion", "foci": "lesions", "bigger": "larger", "biggest": "largest"}
SAID |= {"low-density": "hypodense", "high-density": "hyperdense", "equal-density": "isodense"}
SAID |= {"small-sized": "small", "large-sized": "large", "top": "upper", "bottom": "lower"}
SAID |= {word: value for value, words in WORDS.items() for word in words if " " not in word}
SAID |= {"single": "only"}
GRAMMAR = {"the", "in", "at", "of", "part", "and", "that", "is"}


def said(text: str) -> list[str]:
    words = re.findall(r"[\w-]+", text.lower())
    return sorted(SAID.get(word, word) for word in words if word not in GRAMMAR)


def test_an_expression_in_other_words_says_the_same() -> None:
    for text in all_expressions():
        assert [said(wording) for wording in rephrasings(text)] == [said(text)]
        for seed in range(2):
            assert said(paraphrased(text, seed=seed) or "") == said(text)


def test_the_phantoms_captions_are_all_reworded() -> None:
    texts = [text for number in range(12) for text in draw_phantom(number).expressions]
    assert len(texts) > 24
    assert all(rephrasings(text) and paraphrased(text, seed=0) for text in texts)


POSITIONS = ("9", "10-11", "2:30", "axillary tail", "9 medial 5cm from nipple", "12, R 3 mid depth")
POSITIONS += (
    "upper outer quadrant",
    "central, R 6 posterior, R near nipple, R 9",
    "",
    "lower quad",
)
SUBTYPES = ("", "luminal-like", "luminal A", "luminal B", "HER2-positive", "triple-negative")
SUBTYPES += ("hormone-receptor-positive, HER2-positive",)


def breast_words(text: str) -> tuple[str, ...]:
    words = re.findall(r"[\w'-]+", text.lower())
    return tuple(sorted(word for word in words if word not in ("in", "the", "with")))


@pytest.mark.parametrize("position", POSITIONS)
def test_every_composed_caption_of_a_breast_is_reworded(position: str) -> None:
    for subtype, grade, several in itertools.product(SUBTYPES, (None, 1, 3), (None, False, True)):
        findings = Findings(
            position=f"R {position}", subtype=subtype, grade=grade, multifocal=several
        )
        caption = compose(findings, by_box=False)
        assert caption.startswith("Right breast")
        for text in (caption, swap_sides(caption)):
            assert text is not None
            wordings = [*rephrasings(text), paraphrased(text, seed=0) or ""]
            assert len({text, *wordings}) == 4
            assert {breast_words(wording) for wording in wordings} == {breast_words(text)}


def test_the_probe_rewords_as_training_never_does() -> None:
    texts = [*captions(), "No pulmonary infection, zero infected areas."]
    texts += ["Left breast, 9 o'clock; unifocal, grade 2 tumour.", "Right breast; tumour."]
    sizes, densities = ("small", "large"), ("hypodense", "dark", "isodense", "hyperdense")
    texts += [f"the {s} {d} lesion in the upper left liver" for s in sizes for d in densities]
    texts += ["the larger of two lesions", "the only lesion", "the smallest liver lesion"]
    for text in texts:
        probed = {key(again) for s in range(8) if (again := paraphrased(text, seed=s))}
        assert probed, text
        assert not probed & {key(wording) for wording in rephrasings(text)}, text


# --- in training


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_expressions(write_refhl(tmp_path_factory.mktemp("refhl")))


def data(root: Path, **settings: Any) -> RefHLSegDataModule:
    return RefHLSegDataModule(
        str(root), image_size=32, batch_size=2, num_workers=0, cache=None, **settings
    )


def test_training_rewords_as_often_as_it_says_and_evaluation_never(root: Path) -> None:
    plain = data(root).train_dataloader().dataset
    reworded = data(root, paraphrase=0.4).train_dataloader().dataset
    changed = []
    for item in itertools.product(range(60), range(2)):
        before, after = plain[item], reworded[item]
        assert before["image"].equal(after["image"])
        changed.append(after["text"] != before["text"])
        assert not changed[-1] or after["text"] in rephrasings(before["text"])
        # In other words it is still the same caption, where captions are contrasted.
        assert after["caption_id"] == before["caption_id"] == stable_id(key(before["text"]))
    assert 0.22 < sum(changed) / len(changed) < 0.58  # four standard errors
    always = data(root, paraphrase=1.0)
    for split in ("val", "test", "predict"):
        assert [t for batch in batches(always, split) for t in batch["text"]] == [
            t for batch in batches(data(root), split) for t in batch["text"]
        ]
        assert always.captions(split) == data(root).captions(split)


def test_a_mirrored_caption_is_reworded_from_its_mirrored_words(root: Path) -> None:
    always = data(root, paraphrase=1.0, hflip=1.0).train_dataloader().dataset
    mirrored = data(root, hflip=1.0).train_dataloader().dataset
    for index in range(len(always)):
        assert always[3, index]["text"] in rephrasings(mirrored[3, index]["text"])


def test_dropout_comes_after_rewording_and_takes_the_captions_identity(root: Path) -> None:
    both = data(root, paraphrase=1.0, caption_dropout=0.5).train_dataloader().dataset
    for item in itertools.product(range(8), range(2)):
        sample = both[item]
        is_empty = sample["caption_id"] == EMPTY_CAPTION_ID
        assert (sample["text"] == "") == is_empty


def test_draws_of_different_kinds_are_independent_and_even() -> None:
    items = list(itertools.product(range(40), range(40)))
    draws = {what: [drawn(what, 0, e, i) for e, i in items] for what in ("a", "b")}
    for values in draws.values():
        counts = [sum(k / 4 <= v < (k + 1) / 4 for v in values) for k in range(4)]
        assert all(abs(count - 400) < 70 for count in counts)  # four standard errors
    agree = sum((a < 0.5) == (b < 0.5) for a, b in zip(*draws.values(), strict=True))
    assert abs(agree - 800) < 80
    assert drawn("a", 0, 1, 2) != drawn("a", 1, 1, 2) != drawn("a", 1, 2, 1)


def test_a_vocabulary_of_the_training_captions_holds_the_words_of_every_wording(
    root: Path,
) -> None:
    module = data(root, paraphrase=0.1)
    own = data(root).captions("train")
    texts = module.captions("train")
    assert texts[: len(own)] == own
    vocabulary = build_tokenizer(texts, 512).get_vocab()
    wordings = [wording for text in own for wording in rephrasings(text)]
    assert wordings
    assert {word for wording in wordings for word in words_of(wording)} <= set(vocabulary)
    assert not {word for wording in wordings for word in words_of(wording)} <= set(
        build_tokenizer(own, 512).get_vocab()
    ), "without them it would lack some"


def test_captions_without_another_wording_are_counted_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(rephrasing, "rank_zero_info", messages.append)
    table = root / "manifest.jsonl"
    lines = table.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    changed = next(row for row in rows if row["split"] == "train")
    changed["text"] = "no word of ours"
    other = root / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, rows)))
    data(root, paraphrase=0.1).setup("fit")
    assert messages == []
    module = data(root, captions=str(other), paraphrase=0.1)
    module.setup("fit")
    module.setup("fit")
    (told,) = messages
    assert f"1 of {len(module.records('train'))}" in told


def test_bad_settings_are_refused(root: Path) -> None:
    with refused("paraphrase=-0.5"):
        data(root, paraphrase=-0.5)
    module = data(root, paraphrase=0.5)
    module.caption_mode = "empty"
    with refused("paraphrase", "''"):
        module.setup("fit")
    QaTaCov19DataModule("nowhere", paraphrase=0.5)
