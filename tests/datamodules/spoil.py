"""Faults planted into phantoms, each at a known place.

Every function spoils a dataset on disk and returns what an audit has to find: kinds and places.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Planted = list[tuple[str, str]]

QATA = Path("QaTa-COV19/QaTa-COV19-v2")
LONG = "the lesion that is somewhere " + "very " * 40 + "far away"


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image).copy()


def save(values: NDArray[Any], path: Path, mode: str | None = None) -> None:
    image = Image.fromarray(values.astype(np.uint8))
    (image if mode is None else image.convert(mode)).save(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


# --- tables ------------------------------------------------------------------------------------


def read_table(file: Path, separator: str = ",") -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines, delimiter=separator))


def write_table(file: Path, rows: Sequence[Sequence[str]], separator: str = ",") -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter=separator, lineterminator="\n").writerows(rows)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def write_lines(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- QaTa --------------------------------------------------------------------------------------


class _Qata:
    """The train set of phantoms: row k of train.csv, its files, and its case in an audit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = read_table(root / "train.csv")

    def name(self, row: int) -> str:
        return self.table[row + 1][0].removeprefix("mask_")

    def image(self, row: int) -> Path:
        return self.root / QATA / "Train Set/Images" / self.name(row)

    def mask(self, row: int) -> Path:
        return self.root / QATA / "Train Set/Ground-truths" / f"mask_{self.name(row)}"

    def where(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def case(self, row: int) -> str:
        return f"{Path(self.name(row)).stem}__{row}"

    def text(self, row: int) -> str:
        return self.table[row + 1][1]

    def say(self, row: int, text: str) -> None:
        assert text != self.text(row)
        self.table[row + 1][1] = text

    def unilateral(self, rows: Sequence[int]) -> int:
        """The first of some rows that names one lung."""
        return next(row for row in rows if self.text(row).startswith("Unilateral"))

    def saved(self) -> None:
        write_table(self.root / "train.csv", self.table)


def spoil_qata_files(root: Path) -> Planted:
    """Of `write_qata(train=60, test=8, image_size=64)`."""
    qata = _Qata(root)
    images = root / QATA / "Train Set/Images"
    masks = root / QATA / "Train Set/Ground-truths"
    cut_short(qata.image(0))
    cut_short(qata.mask(1))
    save(pixels(qata.mask(2)).repeat(2, axis=0).repeat(2, axis=1), qata.mask(2))
    qata.image(3).unlink()
    qata.mask(4).unlink()
    save(255 - pixels(qata.image(5)), images / "covid_999999.png")
    shutil.copy(qata.mask(5), masks / "mask_covid_999998.png")
    save(0 * pixels(qata.mask(6)), qata.mask(6))
    save(0 * pixels(qata.image(7)) + 90, qata.image(7))
    save(pixels(qata.image(8)), qata.image(8), "RGB")
    soft = pixels(qata.mask(9))
    soft[0, 0] = 100
    save(soft, qata.mask(9))
    save(pixels(qata.mask(10)) // 255, qata.mask(10))
    save(pixels(qata.mask(11)), qata.mask(11), "RGBA")
    shutil.copy(qata.image(12), qata.image(13))
    test = sorted((root / QATA / "Test Set/Images").iterdir())[0]
    shutil.copy(qata.image(14), test)
    return [
        ("unreadable image", qata.where(qata.image(0))),
        ("unreadable mask", qata.where(qata.mask(1))),
        ("size mismatch", qata.case(2)),
        ("caption without image", qata.where(qata.image(3))),
        ("mask without image", qata.where(qata.mask(3))),
        ("image without mask", qata.where(qata.image(4))),
        ("image without caption", qata.where(images / "covid_999999.png")),
        ("mask without image", qata.where(masks / "mask_covid_999998.png")),
        ("empty mask, caption names lesions", qata.case(6)),
        ("constant image", qata.where(qata.image(7))),
        ("odd picture", qata.where(qata.image(8))),
        ("soft mask", qata.where(qata.mask(9))),
        ("mask erased by the threshold", qata.where(qata.mask(10))),
        ("unusual mask mode", qata.where(qata.mask(11))),
        ("duplicate image", qata.where(qata.image(13))),
        ("duplicate image across splits", qata.where(test)),
    ]


def spoil_qata_captions(root: Path) -> Planted:
    """Of `write_qata(train=60, test=8, image_size=64)`; says what is beside its pictures."""
    qata = _Qata(root)
    side, extent = qata.unilateral(range(2, 15)), qata.unilateral(range(15, 30))
    qata.say(0, qata.text(0).replace(", ", " ,  ", 1))
    qata.say(1, "Unilateral pulmonary infection, one infected area, lung.")
    left, right = "left lung", "right lung"
    here, there = (left, right) if left in qata.text(side) else (right, left)
    qata.say(side, qata.text(side).replace(here, there))
    qata.say(extent, qata.text(extent).replace("Unilateral", "Bilateral"))
    words = qata.text(30).split(", ")
    number = "six" if not words[1].startswith("six") else "five"
    qata.say(30, f"{words[0]}, {number} infected areas, {words[2]}")
    again = len(qata.table) - 1
    qata.table.append(qata.table[31 + 1])
    leaking = _test_a_train_patient(qata)
    qata.saved()
    return [
        ("caption breaks the template", qata.case(0)),
        ("caption beyond repair", qata.case(1)),
        ("caption side against mask", qata.case(side)),
        ("extent against lungs", qata.case(extent)),
        ("caption count against mask", qata.case(30)),
        ("repeated row", f"{Path(qata.name(31)).stem}__{again}"),
        ("case in two splits", leaking),
    ]


def _test_a_train_patient(qata: _Qata) -> str:
    """A new film of a train patient in the test set; its pixels are new, too."""
    row = next(k for k in range(32, 48) if qata.name(k).startswith("sub-S"))
    patient = qata.name(row).split("_")[0]
    name = f"{patient}_ses-E99999_run-1_bp-chest_vp-ap_dx.png"
    test = qata.root / QATA / "Test Set"
    save(255 - pixels(qata.image(row)), test / "Images" / name)
    shutil.copy(qata.mask(row), test / f"Ground-truths/mask_{name}")
    table = read_table(qata.root / "test.csv")
    write_table(qata.root / "test.csv", [*table, [f"mask_{name}", qata.text(row)]])
    return patient


def refuse_qata(root: Path) -> Planted:
    """Rows that the reader refuses, in both tables; it names the first alone."""
    qata = _Qata(root)
    qata.say(5, " ")
    qata.table[9 + 1][0] = ""
    qata.table[11 + 1][0] = "../elsewhere/mask_covid_1.png"
    lost = [_unlisted(qata, row) for row in (9, 11)]
    qata.saved()
    test = read_table(root / "test.csv")
    test[3][1] = ""
    write_table(root / "test.csv", test)
    blank = Path(test[3][0]).stem.removeprefix("mask_")
    return [
        ("refused by the reader", str(root)),
        ("empty caption", qata.case(5)),
        ("empty caption", f"{blank}__2"),
        ("invalid row", "train.csv, row 11 (the header is row 1)"),
        ("outside root", "train.csv, row 13 (the header is row 1)"),
        *(place for pair in lost for place in pair),
    ]


def _unlisted(qata: _Qata, row: int) -> Planted:
    """Image and mask of a row that no longer names them; call before the name is gone."""
    table = read_table(qata.root / "train.csv")
    name = table[row + 1][0]
    images = f"{QATA.as_posix()}/Train Set/Images"
    return [("image without caption", f"{images}/{name.removeprefix('mask_')}")]


# --- RefHL and manifests -----------------------------------------------------------------------


def manifest_case(rows: Sequence[dict[str, Any]], row: int) -> str:
    return f"{Path(rows[row]['image']).stem}__{row}"


def same_image(rows: Sequence[dict[str, Any]], start: int) -> int:
    """The first row from `start` whose image the next row shares."""
    return next(k for k in range(start, len(rows)) if rows[k]["image"] == rows[k + 1]["image"])


def spoil_manifest(root: Path) -> Planted:
    """Of `write_refhl(train=20, val=4, test=4, image_size=64)`, for image_size=32."""
    rows = read_lines(root)
    masks = [root / row["mask"] for row in rows]
    save(0 * pixels(masks[0]) + 255, masks[0])
    dot = 0 * pixels(masks[1])
    dot[20, 30] = 255  # at half the size, pixels of odd rows and columns are kept
    save(dot, masks[1])
    faint = pixels(masks[2])
    faint[faint == 0] = 12
    save(faint, masks[2])
    colored = pixels(masks[3])
    save(np.stack([colored, colored, 0 * colored], axis=-1), masks[3])
    both = same_image(rows, 6)
    rows[both + 1]["text"] = rows[both]["text"].upper()
    rows[12]["text"] = LONG
    rows.append(dict(rows[15]))
    val = next(row for row in rows if row["split"] == "val")
    shutil.copy(root / rows[20]["image"], root / val["image"])
    save(pixels(masks[4]), root / "images/stray.png")
    save(pixels(masks[4]), root / "masks/stray_lesion1.png")
    write_lines(root, rows)
    return [
        ("mask of everything", rows[0]["mask"]),
        ("lesion lost at network size", rows[1]["mask"]),
        ("faint areas", rows[2]["mask"]),
        ("unusual mask mode", rows[3]["mask"]),
        ("one caption, two masks", manifest_case(rows, both + 1)),
        ("truncated caption", manifest_case(rows, 12)),
        ("repeated row", manifest_case(rows, len(rows) - 1)),
        ("duplicate image across splits", val["image"]),
        ("image without caption", "images/stray.png"),
        ("mask without image", "masks/stray_lesion1.png"),
    ]


def refuse_manifest(root: Path) -> Planted:
    """Rows that the strict reader refuses; it names the first alone."""
    rows = read_lines(root)
    rows[1]["text"] = ""
    rows[4]["split"] = "trian"
    both = same_image(rows, 6)
    (root / rows[both]["mask"]).unlink()
    rows[both]["mask"] = "../elsewhere.png"
    rows[15]["case_id"] = " "
    rows[17]["spacing"] = "0.8 x 0.8"
    rows[18]["text"] = ["one", "two"]
    test = next(k for k, row in enumerate(rows) if row["split"] == "test")
    rows[test]["case_id"] = rows[0]["case_id"]
    val = next(k for k, row in enumerate(rows) if row["split"] == "val")
    rows.append({**rows[20], "split": "val", "case_id": rows[val]["case_id"], "text": "one more"})
    write_lines(root, rows)
    return [
        ("refused by the reader", str(root)),
        ("empty caption", manifest_case(rows, 1)),
        ("invalid split name", "manifest.jsonl, entry 5"),
        ("outside root", f"manifest.jsonl, entry {both + 1}"),
        ("invalid row", "manifest.jsonl, entry 16"),
        ("invalid row", "manifest.jsonl, entry 18"),
        ("invalid row", "manifest.jsonl, entry 19"),
        ("case in two splits", rows[0]["case_id"]),
        ("image in two splits", rows[20]["image"]),
    ]


# --- MosMed ------------------------------------------------------------------------------------

TRAIN_TABLE = "Train_text_MosMedData+ 1(in).csv"
VAL_TABLE = "Val_text_MosMedData+ 1(in).csv"


def mosmed_quirks(root: Path) -> Planted:
    """What is odd about the real dataset, and so about its phantoms: the rim, and the formula."""
    planted: Planted = []
    for file in root.glob("*.csv"):
        for row, (name, text) in enumerate(read_table(file, ";")[1:]):
            if ", left lung and" in text or text.endswith(".."):
                planted.append(("caption breaks the template", f"{Path(name).stem}__{row}"))
            if (pixels(root / "masks" / name) == 255).any():
                planted.append(("faint mask values", f"masks/{name}"))
    return list(dict.fromkeys(planted))  # a slice may be in two tables


def spoil_mosmed(root: Path) -> Planted:
    """Of `write_mosmed(train=30, val=8, test=8, image_size=96)`."""
    table, val = read_table(root / TRAIN_TABLE, ";"), read_table(root / VAL_TABLE, ";")
    ill = next(k for k, row in enumerate(table) if row[1].startswith("Bilateral"))
    table[ill][1] = "No pulmonary infection, zero infected areas."
    donor = next(row[0] for row in table if row[0].startswith("Jun_coronacases"))
    study = donor.rsplit("_", 1)[0]
    name = f"{study}_999.png"
    save(255 - pixels(root / "frames" / donor), root / "frames" / name)
    save(0 * pixels(root / "masks" / donor), root / "masks" / name)
    val.append([name, "No pulmonary infection, zero infected areas."])
    write_table(root / TRAIN_TABLE, table, ";")
    write_table(root / VAL_TABLE, val, ";")
    return [
        ("mask, caption names no lesion", f"{Path(table[ill][0]).stem}__{ill - 1}"),
        ("case in two splits", study),
    ]


def share_a_mosmed_slice(root: Path) -> Planted:
    """One slice in two tables, which the reader refuses."""
    table, val = read_table(root / TRAIN_TABLE, ";"), read_table(root / VAL_TABLE, ";")
    slice_row = next(row for row in table[1:] if row[0].startswith("Morozov"))
    write_table(root / VAL_TABLE, [*val, slice_row], ";")
    return [
        ("refused by the reader", str(root)),
        ("image in two splits", f"frames/{slice_row[0]}"),
        ("case in two splits", slice_row[0].rsplit("_", 1)[0]),
    ]


# --- Duke's prepared slices --------------------------------------------------------------------


def spoil_duke(root: Path) -> Planted:
    """One caption of each side turned round."""
    rows = read_lines(root)
    planted: Planted = []
    for here, there in (("left", "right"), ("right", "left")):
        row = next(k for k, r in enumerate(rows) if r["text"].lower().startswith(f"{here} breast"))
        planted.append(("named side against mask", manifest_case(rows, row)))
        rows[row]["text"] = rows[row]["text"].lower().replace(here, there)
        rows[row]["text"] = f"Turned: {rows[row]['text']}"
    write_lines(root, rows)
    return planted
