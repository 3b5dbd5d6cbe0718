"""Forms of others' datasets that are read as manifests, each told by its files' names and keys.

    medvlsm      <root>/anns/{train,val,test}.json, <root>/images/, <root>/masks/
    referring    <root>/<prefix>_{train,val,test}.json, as of Ref-LITS and Ref-LIDC (Attr-Mamba)
    biomedparse  <root>/{train,train_mask,test,test_mask}/*.png [and train.json, test.json]

medvlsm: a list of {img_name, mask_name, prompts: {p0: "", p1: ..., ...}}, one entry a mask. A
prompt is one sentence or a list of wordings, of which the first is taken. The images may also lie
as MedCLIPSeg's do, in {Train,Val,Test}_Folder/{img,label}. Read on the real lists of BUSI.

referring: a list of {image_path or img_path, mask_path, sentence}, one entry an expression. The
images are not released; written down from the public loader, read on phantoms alone.

biomedparse: an image is <name>_<modality>_<site>.png, its masks are
<name>_<modality>_<site>_<target>.png with + for a space; the text is "<target> in <site>
<modality>". Where there is a json (COCO's keys, with mask_file and sentences in its annotations),
it lists the masks, and each sentence is a row. Nothing is named val. Written down from the public
scripts, read on phantoms alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.checks import preview
from datamodules.files.manifest import ALTERED
from textseg.errors import Report, UserError, first_line, raise_error
from textseg.tables import SPLITS, TEXT_COLUMNS, Row, images_in, parse_json, split_name

RECOGNIZED_BY = (
    "medvlsm's anns/{train,val,test}.json, <prefix>_{train,val,test}.json of image_path and "
    "mask_path, or train/ and train_mask/ as of BiomedParse"
)

_HEAD = 65_536  # characters of a json that are looked at to tell its form
_MEDVLSM = {"img_name", "mask_name", "prompts"}
_IMAGE_PATHS = ("image_path", "img_path")
_MASK_PATH = "mask_path"
# Where medvlsm's images and masks lie, in the order in which they are looked for.
_IMAGE_FOLDERS = ("images", "img", "{Split}_Folder/img")
_MASK_FOLDERS = ("masks", "label", "{Split}_Folder/label")
_MASK_ENDING = "_mask"


@dataclass(frozen=True)
class Form:
    """A dataset in one of the forms.

    Args:
        name: medvlsm, referring or biomedparse.
        where: what messages call it: the lists' folder, or the first list.
        root: folder that images and masks lie in.
        files: by split, a list; of biomedparse, the folder of images.
    """

    name: str
    where: Path
    root: Path
    files: Mapping[str, Path]

    def rows(self, report: Report = raise_error, *, level: str | None = None) -> list[Row]:
        """Read all rows, numbered through, with a manifest's columns.

        Args:
            report: is told of entries that cannot be used, which are left out.
            level: of medvlsm's prompts, the one that is the text; None takes the highest number
                that all entries have.

        Raises:
            UserError: as `report` does; always where a list cannot be read.
        """
        if level is not None and self.name != "medvlsm":
            cause = f"prompt_level={level!r}, but {self.where} has no levels of detail"
            raise UserError(cause, "leave prompt_level out; it is for medvlsm's prompts")
        if self.name == "medvlsm":
            return _medvlsm_rows(self, level, report)
        if self.name == "referring":
            return _referring_rows(self)
        return _biomedparse_rows(self, report)


def find_form(root: Path, captions: Path | None = None) -> Form | None:
    """Find a dataset in one of the forms; None where there is none. Of a list, the head is opened.

    Args:
        root: the dataset's folder.
        captions: one of the lists, or their folder; None looks in root and in its folder anns.

    Raises:
        UserError: root holds several referring sets.
    """
    if captions is None and _is_biomedparse(root):
        files = {split: root / split for split in SPLITS if (root / split).is_dir()}
        return Form("biomedparse", root, root, files)
    for folder in (root / "anns", root) if captions is None else (captions,):
        sets = _sets(folder)
        for name in ("medvlsm", "referring"):
            fitting = {prefix: files for prefix, (kind, files) in sets.items() if kind == name}
            if len(fitting) > 1:
                cause = f"{folder} holds lists of {len(fitting)} datasets: {', '.join(fitting)}"
                raise UserError(cause, "set captions to a list of the one that is meant")
            for files in fitting.values():
                first = next(iter(files.values()))
                return Form(name, first.parent if name == "medvlsm" else first, root, files)
    return None


# --- telling a form ----------------------------------------------------------------------------


def _is_biomedparse(root: Path) -> bool:
    return any(
        (root / split).is_dir() and (root / f"{split}{_MASK_ENDING}").is_dir() for split in SPLITS
    )


def _sets(place: Path) -> dict[str, tuple[str, dict[str, Path]]]:
    """The lists in a folder by what comes before the split in their names, with their form.

    Of a file, the set that it belongs to.
    """
    folder = place.parent if place.is_file() else place
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    wanted = None if place == folder else _prefix_and_split(place)
    if wanted is None and place != folder:
        return {}
    sets: dict[str, tuple[str, dict[str, Path]]] = {}
    for file in files:
        named = _prefix_and_split(file)
        if named is None or (wanted is not None and named[0] != wanted[0]):
            continue
        form = _form_of(file)
        if form:
            sets.setdefault(named[0], (form, {}))[1][named[1]] = file
    return {
        prefix: (form, {split: found[split] for split in SPLITS if split in found})
        for prefix, (form, found) in sets.items()
    }


def _prefix_and_split(file: Path) -> tuple[str, str] | None:
    """``("ref_lits", "train")`` of ref_lits_train.json; None where no split ends the name."""
    prefix, _, last = file.stem.rpartition("_")
    split = split_name(last)
    return (prefix, split) if split in SPLITS else None


def _form_of(file: Path) -> str:
    """The form of a list by its first entry's keys; "" if it is none."""
    keys = set(_first_entry(file))
    if keys >= _MEDVLSM:
        return "medvlsm"
    has_text = any(key.casefold() in TEXT_COLUMNS for key in keys)
    return "referring" if keys & set(_IMAGE_PATHS) and _MASK_PATH in keys and has_text else ""


def _first_entry(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            head = lines.read(_HEAD).lstrip()
        entry = json.JSONDecoder().raw_decode(head, head.index("{"))[0] if head[:1] == "[" else {}
    except (ValueError, OSError, RecursionError):  # no json, another encoding, or no such file
        return {}
    return entry if isinstance(entry, dict) else {}


# --- medvlsm -----------------------------------------------------------------------------------


def _medvlsm_rows(form: Form, level: str | None, report: Report) -> list[Row]:
    entries = [
        (split, file, number, entry)
        for split, file in form.files.items()
        for number, entry in enumerate(_entries(file), start=1)
    ]
    _warn_of_other_lists(form)
    images = {split: _folder(form.root, split, _IMAGE_FOLDERS) for split in form.files}
    masks = {split: _folder(form.root, split, _MASK_FOLDERS) for split in form.files}
    level = _level(form, [entry for *_, entry in entries], level)
    rows = []
    for number, (split, file, place, entry) in enumerate(entries):
        row = Row(entry, file, number, entry=place)
        texts = {name: _wording(text) for name, text in _prompts(entry).items()}
        lacking = [key for key in sorted(_MEDVLSM) if not row.filled(key)]
        lacking += [f"prompts.{level}"] * (not texts.get(level))
        if lacking:
            detail = f"{', '.join(lacking)} is missing or empty"
            report(row.error(detail, "is this medvlsm's list, unchanged?"))
            continue
        cells = {
            "image": f"{images[split]}/{entry['img_name']}",
            "mask": f"{masks[split]}/{entry['mask_name']}",
            "text": texts[level],
            "split": split,
            **{f"{ALTERED}{name}": text for name, text in texts.items() if text is not None},
        }
        rows.append(Row(cells, file, number, entry=place))
    return rows


def _entries(file: Path) -> list[dict[str, Any]]:
    """The objects of a list.

    Raises:
        UserError: it is no list of objects, or cannot be read.
    """
    try:
        entries = parse_json(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        cause = f"{file} cannot be read ({first_line(error)})"
        raise UserError(cause, "download it again") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} is no list of objects", "is this the downloaded list, complete?")
    return entries


def _prompts(entry: Mapping[str, Any]) -> dict[str, Any]:
    prompts = entry.get("prompts")
    return prompts if isinstance(prompts, dict) else {}


def _wording(text: object) -> str | None:
    """A prompt, or its first wording; None of something else."""
    first = text[0] if isinstance(text, list) and text else text
    return first.strip() if isinstance(first, str) else None


def _level(form: Form, entries: Sequence[Mapping[str, Any]], level: str | None) -> str:
    """The level that is the text: the one asked for, or the highest that all entries have."""
    common = set.intersection(*(set(_prompts(entry)) for entry in entries)) if entries else set()
    known = sorted((name for name in common if name[1:].isdigit()), key=lambda name: int(name[1:]))
    if not known:
        raise UserError(f"{form.where} has no level of prompts in all entries", "download it again")
    if level is not None and level not in known:
        cause = f"prompt_level={level!r}, but {form.where} has {', '.join(known)}"
        raise UserError(cause, f"give one of them, or leave it out for {known[-1]}")
    return level or known[-1]


def _folder(root: Path, split: str, folders: Sequence[str]) -> str:
    """The first of some folders that is there, else the usual one."""
    named = [folder.format(Split=split.title()) for folder in folders]
    return next((folder for folder in named if (root / folder).is_dir()), named[0])


def _warn_of_other_lists(form: Form) -> None:
    """medvlsm's other lists, such as testB.json, are not read, which is said."""
    read = set(form.files.values())
    other = [f.name for f in sorted(form.where.glob("*.json")) if f not in read and _form_of(f)]
    if other:
        rank_zero_warn(f"{form.where}: lists that are not read: {preview(other)}")


# --- referring ---------------------------------------------------------------------------------


def _referring_rows(form: Form) -> list[Row]:
    names = {**dict.fromkeys(_IMAGE_PATHS, "image"), _MASK_PATH: "mask"}
    rows: list[Row] = []
    for split, file in form.files.items():
        for place, entry in enumerate(_entries(file), start=1):
            cells = {names.get(key, key): value for key, value in entry.items()}
            rows.append(Row({**cells, "split": split}, file, len(rows), entry=place))
    return rows


# --- biomedparse -------------------------------------------------------------------------------


class _Target(NamedTuple):
    """A mask with a sentence; `entry` counts what they are read from, from 1."""

    image: str
    mask: str
    text: str
    entry: int


def _biomedparse_rows(form: Form, report: Report) -> list[Row]:
    rows: list[Row] = []
    for split, images in form.files.items():
        file, masks = form.root / f"{split}.json", form.root / f"{split}{_MASK_ENDING}"
        source = file if file.is_file() else masks
        targets = list((_annotated if source == file else _named)(source, report))
        for target in targets:
            cells = {
                "image": f"{images.name}/{target.image}",
                "mask": f"{masks.name}/{target.mask}",
                "text": target.text,
                "split": split,
            }
            rows.append(Row(cells, source, len(rows), entry=target.entry))
        if source == file:
            _warn_of_other_masks(masks, {target.mask for target in targets})
    return rows


def _annotated(file: Path, report: Report) -> Iterator[_Target]:
    """Every sentence of the masks that a json lists."""
    try:
        annotations = parse_json(file.read_text(encoding="utf-8-sig"))["annotations"]
        rows = [Row(annotation, file, number) for number, annotation in enumerate(annotations)]
        sentences = [[s.get("sent") or s["raw"] for s in row.get("sentences", ())] for row in rows]
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = f"{file} cannot be read as a list of annotations ({first_line(error)})"
        raise UserError(cause, "make it anew by BiomedParse's script, or remove it") from error
    for row, texts in zip(rows, sentences, strict=True):
        image, mask = row.required("file_name", report), row.required("mask_file", report)
        if not texts:
            report(row.error("it has no sentence", "write one, or delete the annotation"))
        if image and mask:
            yield from (_Target(image, mask, text, row.entry) for text in dict.fromkeys(texts))


def _named(folder: Path, report: Report) -> Iterator[_Target]:
    """Every mask of a folder, with the sentence that its name makes."""
    for number, path in enumerate(images_in(folder) if folder.is_dir() else ()):
        parts = path.stem.split("_")
        if len(parts) < 4:
            detail = f"{path.name} is not <name>_<modality>_<site>_<target>{path.suffix}"
            report(Row({}, folder, number).error(detail, "rename it, or write a manifest"))
            continue
        *_, modality, site, target = parts
        image = f"{path.stem.rpartition('_')[0]}{path.suffix}"
        text = f"{target.replace('+', ' ')} in {site} {modality}"
        yield _Target(image, path.name, text, number + 1)


def _warn_of_other_masks(folder: Path, names: set[str]) -> None:
    """Masks that a json does not list are not used, which is said."""
    masks = images_in(folder) if folder.is_dir() else []
    other = [path.name for path in masks if path.name not in names]
    if other:
        rank_zero_warn(f"{folder}: {len(other)} masks are in no row: {preview(other)}")
