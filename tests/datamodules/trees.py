"""Tiny datasets in the layouts that circulate, written into a temporary folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SIDE = 48

TRAIN = [f"covid_{n}" for n in (1, 10, 2, 25, 3)] + [
    f"sub-S{s}_ses-E{e}_run-1_bp-chest_vp-ap_dx"
    for s, e in (("00001", "10001"), ("00002", "10002"), ("00003", "10003"), ("00003", "10004"))
]
TRAIN.append("sub-S00004_ses-E10005_run-1_bp-chest_cr")
TEST = [f"sub-S0010{n}_ses-E2000{n}_run-1_bp-chest_vp-pa_dx" for n in range(4)]
ZONES = ("upper", "middle", "lower", "upper middle", "middle lower", "all")


def text_of(name: str) -> str:
    """A caption, equal for no two names of `TRAIN`, nor of `TEST`."""
    number = (TRAIN + TEST).index(name)
    side = "left" if number % 2 else "right"
    zones = ZONES[number // 2 % len(ZONES)]
    count = "two infected areas" if number >= 12 else "one infected area"
    return f"Unilateral pulmonary infection, {count}, {zones} {side} lung."


def write_pair(image: Path, mask: Path, *, seed: int = 0, side: int = SIDE) -> None:
    """A noisy picture and the mask of a block in it."""
    generator = np.random.default_rng(seed)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 255, (side, side), dtype=np.uint8)).save(image)
    block = np.zeros((side, side), np.uint8)
    row, column = generator.integers(4, side // 2, 2)
    block[row : row + 12, column : column + 9] = 255
    Image.fromarray(block).save(mask)


def write_images(folder: Path, names: Sequence[str], images: str, masks: str) -> None:
    tested = {name.lower() for name in TEST}
    for number, name in enumerate(names):
        seed = number + 100 * (name.lower() in tested)  # no picture is another split's
        write_pair(folder / images / f"{name}.png", folder / masks / f"mask_{name}.png", seed=seed)


def rows_of(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"mask_{name}.png", text_of(name)) for name in names]


def write_table(
    file: Path,
    rows: Sequence[Sequence[str]],
    columns: Sequence[str] = ("Image", "Description"),
    separator: str = ",",
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".xlsx":
        pd.DataFrame([list(row) for row in rows], columns=list(columns)).to_excel(file, index=False)
        return
    with file.open("w", encoding="utf-8-sig", newline="") as lines:
        csv.writer(lines, delimiter=separator).writerows([columns, *rows])


def kaggle(root: Path) -> Path:
    """The unpacked archive, version 1 beside version 2, and LViT's tables as text."""
    base = root / "QaTa-COV19/QaTa-COV19-v2"
    write_images(base / "Train Set", TRAIN, "Images", "Ground-truths")
    write_images(base / "Test Set", TEST, "Images", "Ground-truths")
    write_images(root / "QaTa-COV19/QaTa-COV19-v1", TRAIN[:2], "Images", "Ground-truths")
    write_table(root / "train.csv", rows_of(TRAIN))
    write_table(root / "test.csv", rows_of(TEST))
    return root


def kaggle_workbooks(root: Path) -> Path:
    """The same with the workbooks, ID lists included, in the split folders."""
    base = kaggle(root) / "QaTa-COV19/QaTa-COV19-v2"
    for name in ("train.csv", "test.csv"):
        (root / name).unlink()
    write_table(base / "Train Set/Text/Train_text_for_Covid19.xlsx", rows_of(TRAIN))
    write_table(base / "Test Set/Text/whatever.xlsx", rows_of(TEST))
    write_ids(base / "Train Set")
    return root


def write_ids(folder: Path) -> None:
    """LViT's lists: every third row is validation."""
    val = TRAIN[::3]
    lists = {"Train_ID": [name for name in TRAIN if name not in val], "Val_ID": val}
    for stem, names in lists.items():
        write_table(folder / f"{stem}.xlsx", [[f"mask_{n}.png"] for n in names], ["Image"])


def kaggle_split_list(root: Path) -> Path:
    """Kaggle's tree with the official membership as one list of two columns."""
    val = TRAIN[::3]
    rows = [(f"{name}.png", "valid" if name in val else "train") for name in TRAIN]
    rows += [(f"{name}.png", "test") for name in TEST]
    write_table(kaggle(root) / "official_split.csv", rows, ("image", "split"))
    return root


def raw_workbooks(root: Path) -> Path:
    """OneDrive's workbooks in root, Kaggle's tree beside them."""
    kaggle(root)
    (root / "train.csv").unlink()
    (root / "test.csv").unlink()
    write_table(root / "Train_text_for_Covid19.xlsx", rows_of(TRAIN))
    write_table(root / "Test_text_for_Covid19.xlsx", rows_of(TEST))
    write_ids(root)
    return root


def lvit(root: Path, *, joint: bool = False) -> Path:
    base = root / "datasets/Covid19"
    val = TRAIN[::3]
    train = [name for name in TRAIN if name not in val]
    for split, names in (("Train", train), ("Val", val), ("Test", TEST)):
        write_images(base / f"{split}_Folder", names, "img", "labelcol")
    if joint:
        write_table(base / "Train_Folder/Train_Val_text.xlsx", rows_of(TRAIN))
    else:
        write_table(base / "Train_Folder/Train_text.xlsx", rows_of(train))
        write_table(base / "Val_Folder/Val_text.xlsx", rows_of(val))
    write_table(base / "Test_Folder/Test_text.xlsx", rows_of(TEST))
    return root


def lvit_joint(root: Path) -> Path:
    return lvit(root, joint=True)


def languide(root: Path) -> Path:
    base = root / "QaTa-COV19-v2"
    write_images(base / "Train", TRAIN, "Images", "GTs")
    write_images(base / "Test", TEST, "Images", "GTs")
    write_table(base / "prompt/train.csv", rows_of(TRAIN), separator=";")
    write_table(base / "prompt/test.csv", rows_of(TEST))
    return root


def languide_lower(root: Path) -> Path:
    """Lower-case folders, the tables beside the images, image names with a Windows folder."""
    for split, names in (("train", TRAIN), ("test", TEST)):
        write_images(root / split, names, "images", "masks")
        rows = [(f"Images\\{name}.png", text_of(name)) for name in names]
        write_table(root / split / f"{split}.csv", rows, ("filename", "caption"))
    return root


def sgseg(root: Path) -> Path:
    """Names in lower case, and some copies under the archive's spelling."""
    cut = int(0.8 * len(TRAIN))
    splits = {"train": TRAIN[:cut], "valid": TRAIN[cut:], "test": TEST}
    captions = {}
    for split, names in splits.items():
        lower = [name.lower() for name in names]
        write_images(root / "images" / split, lower, "images", "masks")
        write_images(root / "images" / split, names[:6], "images", "masks")
        captions[split] = [
            {"image_path": f"mask_{n.lower()}.png", "caption": text_of(n), "infected_area": 1}
            for n in names
        ]
    (root / "prompts").mkdir(parents=True)
    (root / "prompts/annotation.json").write_text(json.dumps(captions))
    return root


def prepared(root: Path) -> Path:
    base = root / "QaTa_prepared"
    cut = int(0.8 * len(TRAIN))
    for split, names in (("train", TRAIN[:cut]), ("val", TRAIN[cut:]), ("test", TEST)):
        write_images(base / split, names, "image", "mask")
        write_table(base / f"{split}.csv", rows_of(names))
    return root


def prepared_nested(root: Path) -> Path:
    cut = int(0.8 * len(TRAIN))
    nested = root / "train_and_val"
    write_images(nested / "train_subset", TRAIN[:cut], "Images", "Ground-truths")
    write_images(nested / "val", TRAIN[cut:], "Images", "Ground-truths")
    write_images(root / "test", TEST, "Images", "Ground-truths")
    write_table(root / "Text/train.csv", rows_of(TRAIN))
    write_table(root / "Text/test.csv", rows_of(TEST))
    return root


# --- MosMedData+ -------------------------------------------------------------------------------

# Official tables share Jun_coronacases_case1 (train, val), Morozov_study_0255 (train, test) and
# Jun_coronacases_case8 (val, test), as the real ones share some.
MOSMED = {
    "train": [
        *("bjorke_1", "bjorke_10", "Jun_coronacases_case1_100", "Jun_coronacases_case1_99"),
        *("Jun_radiopaedia_10_85902_1_case11_10", "Jun_radiopaedia_10_85902_3_case12_20"),
        *("Morozov_study_0255_11", "Morozov_study_0255_12", "Morozov_study_0256_7"),
    ],
    "val": [
        *("bjorke_81", "Jun_coronacases_case1_140", "Jun_coronacases_case8_3"),
        "Morozov_study_0300_5",
    ],
    "test": ["Jun_coronacases_case8_77", "Morozov_study_0255_30", "Morozov_study_0298_9"],
}
HEALTHY = "bjorke_10"


def mosmed_text(name: str) -> str:
    """A caption of the real kinds, equal for no two names."""
    number = [n for names in MOSMED.values() for n in names].index(name)
    count = ("one", "two", "three", "four")[number // 4 % 4]
    if name == HEALTHY:
        return "No pulmonary infection, zero infected areas."
    extent, where = (
        ("Unilateral", "middle left lung."),
        ("Unilateral", "left lung and middle right lung."),
        ("Bilateral", "upper left lung and lower right lung."),
        ("Bilateral", "all left lung and all right lung.."),
    )[number % 4]
    return f"{extent} pulmonary infection, {count} infected areas, {where}"


def write_mosmed_images(folder: Path, names: Sequence[str], images: str, masks: str) -> None:
    """RGB slices and masks of the same names; a mask's edge is faint, and one mask is empty."""
    for number, name in enumerate(names):
        generator = np.random.default_rng(number)
        gray = generator.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if name != HEALTHY:
            row, column = generator.integers(4, SIDE // 2, 2)
            mask[row - 1 : row + 13, column - 1 : column + 10] = 17
            mask[row : row + 12, column : column + 9] = 255
        for kind, picture in ((images, gray), (masks, mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).convert("RGB").save(folder / kind / f"{name}.png")


def mosmed_rows(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{name}.png", mosmed_text(name)) for name in names]


def mosmed_kaggle(root: Path) -> Path:
    """The unpacked archive, and LViT's tables as Excel's web page saves them as text."""
    for names in MOSMED.values():
        write_mosmed_images(root, names, "frames", "masks")
    for split, ending in (("train", " 1(in)"), ("val", " 1(in)"), ("test", "(in)")):
        file = root / f"{split.title()}_text_MosMedData+{ending}.csv"
        write_table(file, mosmed_rows(MOSMED[split]), ("Image", "text"), ";")
    return root


def mosmed_workbooks(root: Path) -> Path:
    """The archive two folders further in, and the workbooks as they are downloaded."""
    base = root / "MosMedData+/2"
    for names in MOSMED.values():
        write_mosmed_images(base, names, "frames", "masks")
    for split, ending in (("train", " 1"), ("val", " 1"), ("test", "")):
        file = root / f"text_annotations/{split.title()}_text_MosMedData+{ending}.xlsx"
        write_table(file, mosmed_rows(MOSMED[split]), ("Image", "text"))
    return root


def mosmed_lvit(
    root: Path, *, folder: str = "datasets/MosMedDataPlus", table: str | None = None
) -> Path:
    for split, names in MOSMED.items():
        own = root / folder / f"{split.title()}_Folder"
        write_mosmed_images(own, names, "img", "labelcol")
        write_table(own / (table or f"{split.title()}_text.xlsx"), mosmed_rows(names))
    return root


def mosmed_reclmis(root: Path) -> Path:
    return mosmed_lvit(root, folder="MosMedplus", table="text_alpha.xlsx")


def mosmed_mmiunet(root: Path) -> Path:
    base = root / "data/MosMedDataPlus"
    for split, names in MOSMED.items():
        write_mosmed_images(base / split.title(), names, "Images", "GTs")
        write_table(base / f"prompt/{split}.csv", mosmed_rows(names))
    return root


def mosmed_prepared(root: Path) -> Path:
    """Images divided by slice, with lists; LViT's tables, which divide them otherwise, beside."""
    pool = [name for names in MOSMED.values() for name in names]
    for number, split in enumerate(("train", "val", "test")):
        names = pool[number::3]
        write_mosmed_images(root / "MosMedData+_prepared" / split, names, "images", "masks")
        rows = [(f"{name}.png", f"{name}.png") for name in names]
        columns = ("original_image_filename", "mask_filename")
        write_table(root / f"mosmed_{split}_split.csv", rows, columns)
        file = root / f"{split.title()}_text_MosMedData+.csv"
        write_table(file, mosmed_rows(MOSMED[split]), ("Image", "text"), ";")
    return root
