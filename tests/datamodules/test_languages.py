"""Sides in eight languages, against pairs of sentences written by hand."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from datamodules import ManifestDataModule
from datamodules.captions.languages import LANGUAGES, LanguageSetting, language_of
from datamodules.captions.modes import count_unmirrored, swap_sides
from datamodules.captions.perturbations import caption_variants, typos
from datamodules.transforms import TrainAugmentation, report_unmirrored
from textseg.errors import UserError

MIRRORED = {
    "en": [
        ("a lesion in the upper left", "a lesion in the upper right"),
        ("all left lung", "all right lung"),
        ("kidney_left, adrenal_gland_left", "kidney_right, adrenal_gland_right"),
        ("on the right next to the hilum", "on the left next to the hilum"),
    ],
    "zh": [
        ("左侧病灶", "右侧病灶"),
        ("右側腎臟囊腫", "左側腎臟囊腫"),
        ("左肺下部约5mm左右结节", "右肺下部约5mm左右结节"),
        ("CT示左肺结节", "CT示右肺结节"),
        ("病灶位于左侧中心", "病灶位于右侧中心"),
    ],
    "de": [
        ("rundlicher Herd im linken Unterfeld", "rundlicher Herd im rechten Unterfeld"),
        ("Linksseitiger Pleuraerguss", "Rechtsseitiger Pleuraerguss"),
        ("linke Niere, großer Herd links", "rechte Niere, großer Herd rechts"),
        ("Verschattung li. basal", "Verschattung re. basal"),
        ("LINKE LUNGE", "RECHTE LUNGE"),
        ("regelrechte linke Mamma", "regelrechte rechte Mamma"),
        ("L3, Läsion links", "L3, Läsion rechts"),
    ],
    "fr": [
        ("lésion du poumon gauche", "lésion du poumon droit"),
        ("lésion gauche", "lésion droite"),
        ("opacité à gauche", "opacité à droite"),
        ("nodules des poumons gauches", "nodules des poumons droits"),
        ("masse de la base gauche du poumon", "masse de la base droite du poumon"),
        ("lesion a gauche", "lesion a droite"),
        ("à cet endroit, sein droit", "à cet endroit, sein gauche"),
    ],
    "es": [
        ("lesión en el pulmón izquierdo", "lesión en el pulmón derecho"),
        ("lesion en la mama izquierda", "lesion en la mama derecha"),
        ("nódulos izquierdos", "nódulos derechos"),
        ("masa izq. superior", "masa der. superior"),
    ],
    "it": [
        ("lesione nel polmone sinistro", "lesione nel polmone destro"),
        ("disco a sinistra", "disco a destra"),
        ("nodulo sx", "nodulo dx"),
        ("finestra chiara, noduli sinistri", "finestra chiara, noduli destri"),
    ],
    "pt": [
        ("lesão à esquerda", "lesão à direita"),
        ("massa no lado esquerdo e direito", "massa no lado direito e esquerdo"),
        ("nódulos esquerdos, lesão direta", "nódulos direitos, lesão direta"),
    ],
    "ru": [
        ("очаг слева", "очаг справа"),
        ("Левосторонняя пневмония", "Правосторонняя пневмония"),
        ("образование в левом лёгком", "образование в правом лёгком"),
        ("очаги в левой почке и левой груди", "очаги в правой почке и правой груди"),
        ("очаг правильной формы слева", "очаг правильной формы справа"),
    ],
}
PAIRS = [(code, *pair) for code, pairs in MIRRORED.items() for pair in pairs]


def test_every_language_of_the_setting_has_a_table_and_pairs_to_test_it() -> None:
    assert {"auto", *LANGUAGES} == {"auto", *MIRRORED} == set(get_args(LanguageSetting))


@pytest.mark.parametrize(("code", "left", "right"), PAIRS)
def test_sides_are_exchanged_both_ways_in_each_language(code: str, left: str, right: str) -> None:
    assert swap_sides(left) == right
    assert swap_sides(right) == left
    assert language_of(left) == code


@pytest.mark.parametrize(("code", "left", "right"), PAIRS)
def test_a_language_that_is_set_reads_its_own_captions_and_no_script_of_another(
    code: LanguageSetting, left: str, right: str
) -> None:
    assert swap_sides(left, code) == right
    other: LanguageSetting = "ru" if code == "zh" else "zh"
    assert swap_sides(left, other) != right


def test_a_language_that_is_set_needs_no_other_word_of_it() -> None:
    assert swap_sides("Xylom li.") is None
    assert swap_sides("Xylom li.", "de") == "Xylom re."
    assert swap_sides("Xylom") is None
    assert swap_sides("Xylom", "de") == "Xylom"


@pytest.mark.parametrize(
    "text",
    [
        *("cells of 5 µm", "TNF\u03b1 positive tumor", "tumor \u03b2"),
        *("polyp", "COVID-19", "CT", "T2, 2 cm", "", "a bilateral effusion next to the heart"),
        *("双侧胸腔积液", "左右两侧均见病灶", "口服左氧氟沙星后复查", "点状钙化"),
        *("regelrechter Befund", "rechteckige Läsion", "recht große Läsion", "der Tumor"),
        *("à cet endroit, disque clair", "derrame leve", "finestra chiara", "lesão direta"),
        *("двусторонняя пневмония", "очаг правильной формы", "тень плевры"),
    ],
)
def test_a_caption_that_names_no_side_is_mirrored_as_it_is(text: str) -> None:
    assert swap_sides(text) == text


@pytest.mark.parametrize(
    "text",
    [
        # other languages, with and without a word for a side
        *("tumör i vänster lunga", "guz w lewym płucu", "leziune in lobul stang", "sol tümör"),
        *("tumor in stanga", "tumor di kiri", "ляво образувание", "пухлина в лівій легені"),
        *("病変は左側", "왼쪽 폐 결절", "آفة في الرئة اليسرى", "בצד שמאל", "xylom"),
        # what hides letters
        *("l\u0435ft lung", "le\u200bft lung", "le\u00adft lung"),
        # words that name no side, or may not
        *(
            "what is left of the tumor",
            "left over tissue",
            "the patient has left",
            "it is all right.",
        ),
        *("right angle mass on the left", "linke Niere, rechter Winkel", "muscle grand droit"),
        # sides that are not surely read
        *("mass in OD", "RMLO view", "sein D", "pulmón D", "L侧病灶", "Mamma li", "truc gauche"),
        # abbreviations of a side, or of a lobe or zone that has one
        *("lésion dte", "opacité du poumon dt", "poumon ga.", "nodule du LSG", "Läsion l.", "ROL"),
        *("masa en LII", "pulmón I", "addensamento al LID", "nódulo no LIE", "opacidade em HTD"),
        *("heart_atrium_left", "lung_middle_lobe_right", "herz_links", "lobe_gauche", "all_right"),
        *("образование л. почки", "пр. легкое", "в п. легком", "RUZ opacity", "LMZ", "rgt lung"),
        *(
            "lésion droit",
            "gauche",
            "очаг лев",
            "lesión en izquierrda",
            "masa zurda",
            "sinistral mass",
        ),
        *("pulmão dto", "pulmão dt.", "mama dta.", "riñón dch.", "riñón i.", "rein g", "rein g."),
        *("Mamma sin.", "Mamma dext.", "lk. Niere", "ren sin.", "arteria sin.", "kidney l."),
        *("OS papilledema", "OS: glaucoma", "fundus OS", "quiste OI"),
        # languages that are not read, in words that others share
        *("pulmón dereito", "lesión no lado dereito", "massa dereita", "högersidig förtätning"),
        *("vanstersidig fortatning", "hoyre lunge", "hojre lunge", "leva ledvica", "bal oldali"),
        *("hidari hai no kekkan", "pulmon drech"),
        # organs whose sides differ, and clock positions
        *(
            "左肺上叶结节",
            "左心房增大",
            "Läsion im linken Oberlappen",
            "верхняя доля левого лёгкого",
        ),
        *("lóbulo izquierdo", "lobo sinistro", "lobe gauche", "ventrículo esquerdo"),
        *("左乳10点钟方向肿块", "Mamma links auf 10 Uhr", "sein droit, 10 h", "mama, a las 3"),
    ],
)
def test_a_caption_that_is_not_surely_read_is_never_mirrored(text: str) -> None:
    assert swap_sides(text) is None


@pytest.mark.parametrize(("code", "left", "right"), PAIRS)
def test_accents_apart_and_letters_of_full_width_are_the_same_words(
    code: str, left: str, right: str
) -> None:
    assert swap_sides(unicodedata.normalize("NFD", left)) == right
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalpha() else c for c in left)
    assert swap_sides(wide) == right


def test_each_script_of_a_caption_is_read_in_its_own_language() -> None:
    text = "disc on the left 左侧病灶"
    assert swap_sides(text) == "disc on the right 右侧病灶"
    assert swap_sides("vänster 左侧病灶") is None


def test_a_picture_is_mirrored_with_words_of_its_language_or_not_at_all() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 1
    augment = TrainAugmentation("none", hflip=1.0)
    for text, wanted in (("左侧病灶", "右侧病灶"), ("病変は左側", "病変は左側")):
        _, moved, words = augment(image, mask, text, 0)
        assert words == wanted
        assert moved[0, 0] == (text == wanted)
    german = TrainAugmentation("none", hflip=1.0, language="de")
    assert german(image, mask, "Xylom li.", 0)[2] == "Xylom re."
    assert augment(image, mask, "Xylom li.", 0)[2] == "Xylom li."


def test_captions_that_are_never_mirrored_are_counted_with_repeats() -> None:
    texts = ["disc on the left", "tumör till vänster", "tumör till vänster", "LUL nodule", ""]
    assert count_unmirrored(texts) == (3, 2, "tumör till vänster")
    assert count_unmirrored(["disc on the left"]) == (0, 0, "")
    with pytest.warns(UserWarning, match=r"3 of 5 .* 2 .*vänster"):
        report_unmirrored(tuple(texts), "auto")


def test_a_side_swap_of_a_probe_and_a_typing_error_are_made_of_words_alone() -> None:
    variants = caption_variants(["Xylom li.", "左侧病灶结节"], ["p", "q"], seed=0)
    assert variants["side_swapped"] == [None, "右侧病灶结节"]
    fixed = caption_variants(["Xylom li."], ["p"], seed=0, language="de")
    assert fixed["side_swapped"] == ["Xylom re."]
    assert typos("左侧病灶结节", seed=0) is None


def test_a_probe_changes_other_languages_by_what_it_knows_of_them_and_counts_them() -> None:
    massa = "massa medial no pulmão direito, dense, 2 cm"
    texts = [massa, "zwei Herde links, 2 lesions, 3 cm", "laesie linksboven", "two dense lesions"]
    own = {"side": ["direito", "links"], "shape": ["medial"]}
    with pytest.warns(
        UserWarning, match=r"4 captions .* 2 .*\((pt 1, de 1|de 1, pt 1)\).*1 .*laesie"
    ):
        variants = caption_variants(texts, list("pqrs"), seed=0, word_classes=own)
    changed = {name: column[:2] for name, column in variants.items() if any(column[:2])}
    assert variants["side_swapped"][0] == massa.replace("direito", "esquerdo")
    assert changed["word_removed:side"][0] == massa.replace(" direito", "")
    assert changed["word_removed:shape"] == [massa.replace("medial ", ""), None]
    names = {name.partition(":")[0] for name in changed} - {"true", "empty", "shuffled"}
    assert names == {"other_patient", "side_swapped", "typos", "word_removed", "absent"}
    assert {n for n in changed if n.startswith("word_")} == {
        "word_removed:side",
        "word_removed:shape",
    }
    assert variants["count_changed"][3] is not None
    assert variants["word_removed:density"] == [None, None, None, "two lesions"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caption_variants(["two dense lesions", "", "3 cm"], list("pqr"), seed=0)
        caption_variants(["laesie linksboven"], ["p"], seed=0, language="en")


# --- a set in another language -----------------------------------------------------------------


def own_set(folder: Path, texts: tuple[str, str], **settings: Any) -> ManifestDataModule:
    """Pictures with a disc on each side; the mask is the left one under the first text."""
    rows = []
    for number in range(8):
        image, mask = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
        image[10:20, 4:12] = image[10:20, 20:28] = 200
        image[0, number] = 255  # no two alike
        mask[10:20, 4:12] = 255
        mask = mask[:, ::-1] if number % 2 else mask
        for name, values in (("image", image), ("mask", mask)):
            Image.fromarray(values).save(folder / f"{name}{number}.png")
        row = {"image": f"image{number}.png", "mask": f"mask{number}.png"}
        split = "val" if number > 5 else "train"
        rows.append(row | {"text": texts[number % 2], "case_id": f"c{number}", "split": split})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")
    module = ManifestDataModule(
        str(folder), image_size=32, num_workers=0, cache=None, augmentation="none", **settings
    )
    module.setup("fit")
    return module


@pytest.mark.parametrize(
    ("texts", "mirrored"),
    [(("左侧病灶", "右侧病灶"), True), (("病変は左側", "病変は右側"), False)],
)
def test_the_side_of_a_training_caption_is_that_of_its_mask_in_every_epoch(
    texts: tuple[str, str], mirrored: bool, tmp_path: Path
) -> None:
    module = own_set(tmp_path, texts, hflip=0.5)
    dataset: Any = module.train_dataloader().dataset
    rows = [dataset[(epoch, index)] for epoch in range(10) for index in range(len(dataset))]
    left = [bool(row["mask"][0, :, :16].any()) for row in rows]
    assert left == ["左" in row["text"] for row in rows]
    moved = [row["text"] != module.records("train")[row["index"]].text for row in rows]
    assert any(moved) == mirrored


def test_a_set_whose_language_is_unknown_is_told_of_once_and_one_can_be_given(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match=r"6 of 6 .* 6 .*data\.language"):
        own_set(tmp_path, ("Xylom li.", "Xylom re."), hflip=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own_set(tmp_path, ("Xylom li.", "Xylom re."), hflip=0.0)
        german = own_set(tmp_path, ("Xylom li.", "Xylom re."), hflip=0.5, language="de")
    assert german.mirror_text("Xylom li.") == "Xylom re."
    with pytest.raises(UserError, match="language='sv'"):
        ManifestDataModule(str(tmp_path), language="sv")  # type: ignore[arg-type]
