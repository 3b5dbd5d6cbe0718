"""dataset.json of the Medical Segmentation Decathlon (MSD) and of both versions of nnU-Net.

| | MSD, nnU-Net 1 | nnU-Net 2 |
|---|---|---|
| labels | {"0": "background", "1": "liver"} | {"background": 0, "liver": 1, "organ": [1, 2]} |
| channels | "modality": {"0": "CT"} | "channel_names": {"0": "CT"} |
| suffix of files | .nii.gz | "file_ending": ".nii.gz", ".nii" and others |

Either direction of the labels is taken, whatever else the file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from textseg.errors import UserError, refusing
from textseg.tables import parse_json

DATASET_JSON = "dataset.json"
_ENDINGS = (".nii", ".nii.gz")
_ODD = (AttributeError, RecursionError)
_IGNORE = "ignore"  # nnU-Net's name of what was not annotated


class Description(NamedTuple):
    """What a dataset.json says.

    Args:
        file: where it lies, or would lie.
        regions: the labels of each region by its name, background and "ignore" left out; empty
            where there is no file.
        channels: names of the channels by number.
        listed: label files of the training cases, where it names them.
        cases: number of the training cases, where it says; else 0.
    """

    file: Path
    regions: dict[str, tuple[int, ...]]
    channels: dict[int, str]
    listed: tuple[str, ...] = ()
    cases: int = 0

    @property
    def names(self) -> dict[int, str]:
        """What each label is called; of nested regions, the smallest names it."""
        largest_first = sorted(self.regions.items(), key=lambda item: -len(item[1]))
        return {label: name for name, labels in largest_first for label in labels}


def read_description(folder: Path) -> Description:
    """Read the dataset.json of a folder, where there is one.

    Raises:
        UserError: it does not name the labels, or the volumes are in a format not read here.
    """
    file = folder / DATASET_JSON
    if not file.is_file():
        return Description(file, {}, {})
    cause = f"{file} does not name the labels"
    remedy = 'it must hold "labels": {"0": "background", "1": ...} or {"background": 0, ...}'
    with refusing((OSError, LookupError, TypeError, ValueError, *_ODD), cause, remedy):
        content = parse_json(file.read_bytes())  # in UTF-8 or 16, with its mark or without
        regions = _regions(content["labels"])
        channels = content.get("channel_names") or content.get("modality") or {}
        names = {int(number): str(name) for number, name in channels.items()}
        listed, count = content.get("training"), content.get("numTraining")
        entries = listed if isinstance(listed, list) else []
        labels = [e["label"] for e in entries if isinstance(e, dict) and "label" in e]
    ending = content.get("file_ending", _ENDINGS[-1])
    if ending not in _ENDINGS:
        raise UserError(
            f"{file}: file_ending is {ending!r}, and {' and '.join(_ENDINGS)} are read here",
            "convert the volumes to NIfTI, for example with SimpleITK",
        )
    told = count if isinstance(count, int) else 0
    return Description(file, regions, names, tuple(map(str, labels)), told)


def _regions(written: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The labels of each region by name; 0 is the background."""
    by_label = all(key.strip().isdigit() for key in written)
    pairs = [(v, k) if by_label else (k, v) for k, v in written.items()]
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in pairs:
        labels = tuple(int(label) for label in (value if isinstance(value, list) else [value]))
        if not isinstance(name, str) or name in regions:
            raise ValueError(f"{name!r} is no name, or is given twice")
        if labels != (0,) and name.casefold() != _IGNORE:
            regions[name] = labels
    return regions
