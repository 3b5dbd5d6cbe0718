"""Kinds of hostile tables, captions and manifests."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
from hypothesis import note
from hypothesis import strategies as st

from datamodules.captions.languages import LanguageSetting
from datamodules.captions.modes import apply_caption_mode, normalize, swap_sides
from datamodules.captions.perturbations import count_changed, side_swapped, typos
from datamodules.captions.rephrasing import rephrasings
from datamodules.files.forms import find_form
from datamodules.files.manifest import read_manifest, write_manifest
from datamodules.volumes.dataset_json import read_description
from tests.faults.fuzz import kind, valid
from textseg.errors import UserError
from textseg.metrics.text import escape_markdown
from textseg.tables import read_captions, read_rows

TEXT = st.text(
    st.one_of(
        st.sampled_from("left ,;\t\"'=+-@\n\r\u2028\u0085\u200b\ufeff左ä<&|\\$%#_^~{}"),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=30,
)
WORDS = [
    "disc",
    "on",
    "the",
    "left,",
    "right",
    "lung;",
    "左侧",
    "病灶",
    "gauche",
    "Läsion",
    "links",
    "linke",
    "Lunge",
    "two",
    "lesions",
]
CAPTION = st.one_of(TEXT, st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join))


def filled(text: str) -> bool:
    return bool(text.strip())


def written(rows: list[list[str]], separator: str) -> str:
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=separator).writerows(rows)
    return lines.getvalue()


def spoiled(draw: Any, content: bytes, *, start: int = 0) -> bytes:
    """Bytes with some changed, put in, left out, doubled, or cut off."""
    some = bytearray(content)
    dice = random.Random(draw(st.integers(0, 2**32 - 1)))  # Hypothesis would favor the start
    for _ in range(dice.randint(1, 3)):
        where = dice.randint(min(start, len(some)), max(start, len(some) - 1))
        how = dice.choice(("change", "change", "insert", "delete", "double", "cut"))
        byte = dice.choice((*b'",;\n\r\t\0\xff{}[]:0', *[dice.randrange(256)] * 9))
        length = dice.randint(1, 8)
        if how == "change":
            some[where : where + 1] = bytes([byte])
        elif how == "insert":
            some[where:where] = bytes([byte]) * (length if byte in b"\0\xff" else 1)
        elif how == "delete":
            del some[where : where + length]
        elif how == "double":
            some[where:where] = some[where : where + length]
        else:
            del some[where:]
    note(f"spoiled: {bytes(some[:2000])!r}")
    return bytes(some)


# --- separated text ----------------------------------------------------------------------------


@kind
def csv_valid(data: st.DataObject, folder: Path) -> bool:
    """Any captions, as Python, Excel or LibreOffice write them."""
    texts = data.draw(st.lists(CAPTION, min_size=1, max_size=5))
    separator = data.draw(st.sampled_from(",;\t"))
    encoding = data.draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16")))
    head = data.draw(st.sampled_from(("", f"sep={separator}\r\n")))
    rows = [[f"p{n}.png", text, "c"] for n, text in enumerate(texts)]
    text = head + written([["image", "text", "case_id"], *rows], separator)
    (folder / "a.csv").write_bytes(text.encode(encoding))
    with valid():
        found = read_rows(folder / "a.csv")
    return [[row["image"], row["text"], row["case_id"]] for row in found] == rows


@kind
def csv_stray_quotes(data: st.DataObject, folder: Path) -> bool:
    """Quotes put into lines of plain cells: every other row is there, and no row is lost."""
    columns = data.draw(st.permutations(["image", "text", "case_id", "split"]))
    columns = columns[: data.draw(st.integers(2, 4))]
    count = data.draw(st.integers(2, 6))
    cells = {
        "image": [f"images/p{n:02d}.png" for n in range(count)],
        "text": data.draw(
            st.lists(
                st.sampled_from(("disc", "disc on the left", "left; large", "a b")),
                min_size=count,
                max_size=count,
            )
        ),
        "case_id": [f"case{n}" for n in range(count)],
        "split": ["train"] * count,
    }
    rows = [[cells[column][n] for column in columns] for n in range(count)]
    lines = [",".join(row) for row in rows]
    hurt = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=2, unique=True))
    for n in hurt:
        cell = data.draw(st.integers(0, len(columns) - 1))
        changed = list(rows[n])
        at = data.draw(st.sampled_from((0, len(changed[cell]))))
        changed[cell] = changed[cell][:at] + '"' + changed[cell][at:]
        lines[n] = ",".join(changed)
    (folder / "a.csv").write_text("\n".join([",".join(columns), *lines, ""]))
    found = [[row[column] for column in columns] for row in read_rows(folder / "a.csv")]
    whole = [row for n, row in enumerate(rows) if n not in hurt]
    return len(found) == count and all(row in found for row in whole)


@kind
def csv_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes: what is read has the table's columns, and no cell holds lines of others."""
    rows = [[f"p{n}.png", f"disc on the left {n}", f"c{n}"] for n in range(4)]
    content = written([["image", "text", "case_id"], *rows], ",").encode()
    (folder / "a.csv").write_bytes(spoiled(data.draw, content))
    found = read_rows(folder / "a.csv")
    width = {len(row) for row in found}
    swallowed = any("\n" in cell and ".png" in cell for row in found for cell in row.values())
    return len(width) <= 1 and not swallowed


# --- JSON --------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@kind
def jsonl_valid(data: st.DataObject, folder: Path) -> bool:
    """Any captions as JSON lines."""
    texts = data.draw(st.lists(CAPTION, min_size=1, max_size=5))
    rows = [{"image": f"p{n}.png", "text": text} for n, text in enumerate(texts)]
    ascii_only = data.draw(st.booleans())
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(text, encoding="utf-8", newline="\n")
    with valid():
        found = read_rows(folder / "a.jsonl")
    return [dict(row) for row in found] == rows


@kind
def jsonl_key_twice(data: st.DataObject, folder: Path) -> bool:
    """A key that is written twice with two values has no right one."""
    name = data.draw(st.sampled_from(("image", "text", "mask")))
    one, other = data.draw(st.tuples(TEXT, TEXT).filter(lambda pair: pair[0] != pair[1]))
    text = json.dumps({"image": "a.png", "text": "disc", "mask": "m.png"})[:-1]
    line = f"{text}, {json.dumps(name)}: {json.dumps(one)}, {json.dumps(name)}: {json.dumps(other)}"
    (folder / "a.jsonl").write_text(line + "}\n", encoding="utf-8")
    read_rows(folder / "a.jsonl")
    return False


@kind
def json_of_any_shape(data: st.DataObject, folder: Path) -> bool:
    """A json of any shape where a list, a form or a dataset.json is looked for."""
    value = data.draw(
        st.one_of(
            PLAIN,
            st.fixed_dictionaries({"labels": PLAIN}, optional={"channel_names": PLAIN}),
            st.fixed_dictionaries({"train": PLAIN, "valid": PLAIN}),
            st.lists(st.fixed_dictionaries({"image_path": PLAIN, "mask_path": PLAIN}), max_size=2),
            st.lists(
                st.fixed_dictionaries({"img_name": PLAIN, "mask_name": PLAIN, "prompts": PLAIN}),
                max_size=2,
            ),
        )
    )
    text = data.draw(st.sampled_from((json.dumps(value), "[" * 100_000)))
    for name in ("dataset.json", "x_train.json", "captions.json"):
        (folder / name).write_text(text)
    (folder / "anns").mkdir()
    (folder / "anns/train.json").write_text(text)
    for read in (
        lambda: read_description(folder),
        lambda: read_captions(folder / "captions.json"),
        lambda: (form := find_form(folder)) and form.rows(_raised),
        lambda: (form := find_form(folder, folder / "x_train.json")) and form.rows(_raised),
    ):
        try:
            read()
        except UserError as error:
            last = error
        else:
            last = None
    if last is not None:
        raise last
    return True


def _raised(error: UserError) -> None:
    raise error


# --- workbooks ---------------------------------------------------------------------------------

CELL = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20)


@kind
def workbook_valid(data: st.DataObject, folder: Path) -> bool:
    """Texts and whole numbers in a workbook, with empty rows between them."""
    texts = data.draw(st.lists(CELL.filter(lambda t: filled(t) and t[0] != "="), max_size=4))
    numbers = data.draw(st.lists(st.integers(-(10**9), 10**9), min_size=len(texts)))
    book = openpyxl.Workbook()
    book.active.append(["image", "text", "case_id"])
    for n, text in enumerate(texts):
        for _ in range(data.draw(st.integers(0, 2))):
            book.active.append([])
        book.active.append([f"p{n}.png", text, numbers[n]])
        book.active.cell(book.active.max_row, 2).data_type = "s"
    book.save(folder / "a.xlsx")
    with valid():
        found = read_rows(folder / "a.xlsx")
    expected = [[f"p{n}.png", text, str(numbers[n])] for n, text in enumerate(texts)]
    return [[row["image"], row["text"], row["case_id"]] for row in found] == expected


@kind
def workbook_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of the archive, or of a sheet inside it: as it was, or refused."""
    book = openpyxl.Workbook()
    rows = [["image", "text"], ["p0.png", "disc on the left"], ["p1.png", "large disc"]]
    for row in rows:
        book.active.append(row)
    book.save(folder / "whole.xlsx")
    if data.draw(st.booleans()):
        (folder / "a.xlsx").write_bytes(spoiled(data.draw, (folder / "whole.xlsx").read_bytes()))
        found = read_rows(folder / "a.xlsx")
        return [list(row.values()) for row in found] == rows[1:]
    with (
        zipfile.ZipFile(folder / "whole.xlsx") as whole,
        zipfile.ZipFile(folder / "a.xlsx", "w") as a,
    ):
        part = data.draw(st.sampled_from(sorted(whole.namelist())))
        for name in whole.namelist():
            content = whole.read(name)
            a.writestr(name, spoiled(data.draw, content) if name == part else content)
    found = read_rows(folder / "a.xlsx")
    return all(isinstance(cell, str) for row in found for cell in row.values())


@kind
def workbook_far_cell(data: st.DataObject, folder: Path) -> bool:
    """One cell far away in a small workbook: read or refused, in bounded memory."""
    row, column = data.draw(st.sampled_from(((50_000, 2), (3, 16_384), (50_000, 16_384))))
    book = openpyxl.Workbook()
    book.active.append(["image", "text"])
    book.active.append(["p0.png", "disc"])
    book.active.cell(row, column).value = "far"
    book.save(folder / "a.xlsx")
    return read_rows(folder / "a.xlsx")[0]["image"] == "p0.png"


# --- captions ----------------------------------------------------------------------------------


@kind
def captions_rewritten(data: st.DataObject, folder: Path) -> bool:
    """Whatever changes captions takes any text, and a mirrored caption mirrored is the caption."""
    text = data.draw(CAPTION)
    language = data.draw(st.sampled_from(LanguageSetting.__args__))
    for change in (
        normalize,
        rephrasings,
        lambda t: side_swapped(t, language),
        lambda t: count_changed(t, seed=1),
        lambda t: typos(t, seed=1),
        lambda t: escape_markdown(t),
        lambda t: apply_caption_mode([t, "disc", "other"], "empty", 0),
    ):
        change(text)
    mirrored = swap_sides(text, language)
    return mirrored is None or swap_sides(mirrored, language) in (text, None)


# --- manifests ---------------------------------------------------------------------------------


@kind
def manifest_valid(data: st.DataObject, folder: Path) -> bool:
    """Rows that `write_manifest` writes are what `read_manifest` gives."""
    texts = data.draw(st.lists(CAPTION.filter(filled), min_size=1, max_size=4))
    rows = [
        {"image": f"i{n}.png", "mask": f"m{n}.png", "text": text, "case_id": f"c{n}", "split": s}
        for n, (text, s) in enumerate(zip(texts, ("train", "val", "test", "train"), strict=False))
    ]
    file = write_manifest(folder, rows)
    with valid():
        splits = read_manifest(folder, file)
    found = {record.image.name: record.text for part in splits.values() for record in part}
    return found == {row["image"]: row["text"] for row in rows}


LETTERS = "aéöñか゛\uff21\uff3a\uff11"  # the last three are full-width
PATHS = st.one_of(
    st.text(st.sampled_from("ab./\\ ä:\0\n"), min_size=1, max_size=12),
    st.sampled_from(("../a.png", "/etc/passwd", "a/../../b", "C:\\a.png", "a" * 300, "~/a.png")),
)


@kind
def manifest_paths(data: st.DataObject, folder: Path) -> bool:
    """A path lies below root, or is refused."""
    entry = data.draw(PATHS)
    row = {"image": entry, "mask": "m.png", "text": "t", "case_id": "c", "split": "train"}
    splits = read_manifest(folder, write_manifest(folder, [row]))
    (record,) = splits["train"]
    return str(record.image).startswith(str(folder) + os.sep) and ".." not in record.image.parts


@kind
def manifest_spacing(data: st.DataObject, folder: Path) -> bool:
    """A spacing is its number, in whatever way it is written, or is refused."""
    whole, tenth = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 99))
    point, separator = data.draw(st.sampled_from(".,")), data.draw(st.sampled_from(",;\t"))
    number = f"{whole}{point}{tenth}"
    value = data.draw(st.sampled_from((number, f"{number} {number}", f" {number} ")))
    row = ["i.png", "m.png", "t", "c", "train", value]
    head = ["image", "mask", "text", "case_id", "split", "spacing"]
    (folder / "manifest.csv").write_text(written([head, row], separator))
    (record,) = read_manifest(folder, None)["train"]
    expected = float(f"{whole}.{tenth}")
    return record.spacing == (expected, expected)


@kind
def manifest_identities(data: st.DataObject, folder: Path) -> bool:
    """One patient under two ways of writing the name, in two splits, is refused."""
    name = data.draw(st.text(st.sampled_from(LETTERS), min_size=1, max_size=5))
    change = data.draw(st.sampled_from(("NFC", "NFD", "NFKC", "NFKD", "zero", "mark", "space")))
    other = name
    if change.startswith("NF"):
        other = unicodedata.normalize(change, name)
    elif change in ("zero", "mark"):
        other = name[:1] + ("\u200b" if change == "zero" else "\ufeff") + name[1:]
    else:
        other = f" {name} "
    rows = [
        {"image": f"{s}.png", "mask": "m.png", "text": "t", "case_id": c, "split": s}
        for s, c in (("train", name), ("test", other))
    ]
    read_manifest(folder, write_manifest(folder, rows))
    return False


@kind
def manifest_of_any_values(data: st.DataObject, folder: Path) -> bool:
    """Cells of any JSON values: strings where strings are wanted."""
    row = {"image": "i.png", "mask": "m.png", "text": "t", "case_id": "c", "split": "train"}
    for name in data.draw(st.sets(st.sampled_from([*row, "spacing", "lesion_id", "attributes"]))):
        row[name] = data.draw(PLAIN)
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    splits = read_manifest(folder, None, needs_split=False, lenient=True)
    return all(
        isinstance(value, str)
        for part in splits.values()
        for record in part
        for value in (record.text, record.case_id, record.case)
    )
