"""A run's folder: where it is, what it was trained on, where its results belong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from textseg.errors import UserError

RUN_CONFIG = "config.yaml"
TESTED_DATA = "data.json"
TIME_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")  # a run's folder
# Settings that make another dataset of the same files.
VARIANTS = ("captions_from", "slices", "phases", "layout")


def run_folder_of(path: str | Path) -> Path:
    """The run that a checkpoint belongs to: the folder above ``checkpoints/``, or its own."""
    folder = Path(path).resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def unique_dir(folder: Path) -> Path:
    """`folder`, or the first of `folder_2`, `folder_3`, ... that does not exist; created."""
    for number in range(1, 10_000):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"the folder {candidate} cannot be made ({error.strerror})",
                "give a folder that can be written to",
            ) from error
        return candidate
    raise UserError(f"{folder} exists ten thousand times", "clear out old results")


# --- whose data a test is of -------------------------------------------------------------------


def data_identity(class_path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells two datasets apart: the class, the split, and absolute paths or phantoms.

    Args:
        class_path: of the DataModule, with or without its package.
        settings: its init_args.
    """
    identity = {"class": class_path.rpartition(".")[2], "split": settings.get("split")}
    identity |= {name: settings[name] for name in VARIANTS if settings.get(name) is not None}
    if settings.get("synthesize"):
        return identity | {"synthesize": settings["synthesize"]}
    for name in ("root", "captions"):
        given = settings.get(name)
        identity[name] = str(Path(given).expanduser().resolve()) if given else None
    return identity


def data_of_run(run: Path) -> dict[str, Any] | None:
    """`data_identity` of what a run was trained on; None where its config does not tell."""
    config = run / RUN_CONFIG
    if not config.is_file():
        return None
    try:
        stored = yaml.safe_load(config.read_text(encoding="utf-8"))
        return data_identity(stored["data"]["class_path"], stored["data"]["init_args"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None


def name_of_other_data(run: Path, data: Mapping[str, Any]) -> str | None:
    """A short name of `data` where they are not the run's own; None where they are."""
    own = data_of_run(run)
    return None if own is None or own == data else _short_name(data, own)


def results_dir(run: Path, data: Mapping[str, Any]) -> Path:
    """Where results on `data` belong: ``test``, or ``test_on_<name>`` for other than the run's.

    A folder of the latter kind holds data.json, so that two datasets of one name stay apart.
    """
    name = name_of_other_data(run, data)
    if name is None:
        return run / "test"
    base = f"test_on_{name}"
    for number in count(1):
        home = run / (base if number == 1 else f"{base}_{number}")
        if not home.exists() or _tested_data(home) == data:
            break
    if not home.exists():
        home.mkdir(parents=True)
        (home / TESTED_DATA).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return home


def _short_name(data: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The dataset's folder and table, and the split where nothing else differs."""
    root, captions = data.get("root"), data.get("captions")
    parts = [Path(root).name if root else "phantoms"]
    parts += [Path(captions).stem] if captions else []
    if {**data, "split": None} == {**own, "split": None}:
        parts.append(str(data["split"]))
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def _tested_data(home: Path) -> Any:
    """What the results in a folder are of; None where that is not written down."""
    try:
        return json.loads((home / TESTED_DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
