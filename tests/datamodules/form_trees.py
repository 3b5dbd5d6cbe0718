"""Phantoms in the forms of others: medvlsm's lists, Ref-LITS style lists, BiomedParse's folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.datamodules.trees import write_pair

Entry = dict[str, Any]

ROWS = {"train": 8, "val": 3, "test": 4}
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom")
LEVELS = tuple(f"p{level}" for level in range(10))


def save(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def numbers(split: str) -> range:
    """The numbers of a split's pictures, of which none is in two."""
    start = sum(ROWS[other] for other in list(ROWS)[: list(ROWS).index(split)])
    return range(start, start + ROWS[split])


def prompts(number: int) -> Entry:
    """Ten levels of detail; odd ones are lists of wordings."""
    place = f"at the {PLACES[number % 8]}, picture {number}"
    texts = ["", "polyp", "oval polyp", "white oval polyp", "small white oval polyp"]
    texts += ["one small white oval polyp", f"one polyp {place}", "polyp which is a lump"]
    texts += ["one small polyp which is a lump", f"one small polyp which is a lump {place} "]
    levels = dict(zip(LEVELS, texts, strict=True))
    return {name: [t, f"other {t}"] if int(name[1]) % 2 else t for name, t in levels.items()}


def medvlsm(root: Path) -> Path:
    """`anns/`, `images/` and `masks/`, as of its polyp sets; masks are called otherwise."""
    for split in ROWS:
        entries = []
        for number in numbers(split):
            image, mask = f"{number}.png", f"mask_1/{number}_gt.png"
            write_pair(root / "images" / image, root / "masks" / mask, seed=number)
            sentences = [{"idx": 0, "sent_id": number, "sent": ""}]
            entry = {"bbox": [1, 2, 3, 4], "cat": 0, "segment_id": number, "img_name": image}
            entry |= {"mask_name": mask, "sentences": sentences, "sentences_num": 1}
            entries.append({**entry, "prompts": prompts(number)})
        save(root / f"anns/{split}.json", entries)
    return root


def referring(root: Path, *, prefix: str = "ref_lits", image_key: str = "image_path") -> Path:
    """`<prefix>_<split>.json`, two expressions an image, each with a mask of its own."""
    for split in ROWS:
        entries = []
        for number in numbers(split):
            for lesion, size in enumerate(("tiny", "large")):
                image, mask = f"{split}/{number}.png", f"{split}_masks/{number}_{lesion}.png"
                write_pair(root / image, root / mask, seed=2 * number + lesion)
                text = f"A {size} lesion is present at the {PLACES[number % 8]} of {number}."
                entry = {"file_id": len(entries), image_key: image, "mask_path": mask}
                entries.append({**entry, "sentence": text})
        save(root / f"{prefix}_{split}.json", entries)
    return root


def biomedparse(root: Path, *, lists: bool = False) -> Path:
    """`train`, `train_mask`, `test` and `test_mask`; two targets an image, one of two words."""
    for split in ("train", "test"):
        annotations: list[Entry] = []
        for number in numbers(split):
            stem = f"case_{number:02d}_CT_liver"
            for target in ("tumor", "portal+vein"):
                mask = f"{stem}_{target}.png"
                image = root / split / f"{stem}.png"
                write_pair(image, root / f"{split}_mask" / mask, seed=number)
                plain = f"{target.replace('+', ' ')} in liver CT"
                sentences = [{"raw": plain, "sent": plain, "sent_id": 0}]
                sentences.append({"raw": "x", "sent": f"the {plain}", "sent_id": 1})
                entry = {"mask_file": mask, "file_name": image.name, "split": split}
                annotations.append({**entry, "id": len(annotations), "sentences": sentences})
        if lists:
            images = [{"file_name": entry["file_name"]} for entry in annotations]
            save(root / f"{split}.json", {"images": images, "annotations": annotations})
    return root
