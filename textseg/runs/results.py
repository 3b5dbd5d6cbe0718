"""A run's folder as plain values, checked: what a page shows is what the files say."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from textseg.errors import UserError, first_line
from textseg.runs.folder import RUN_CONFIG, TIME_STAMP

SCORES = ("dice", "miou", "dice_global", "iou_global")
_NEEDED = ("case", "caption", "dice", "iou", "predicted", "true")
_LESION = {"lesion_size": "lesion size", "lesion_number": "lesions", "lesion_side": "side"}
_ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]*://|~|/|\\\\|[A-Za-z]:[\\/]).*", re.DOTALL)
_MODES = ("true", "empty", "shuffled")


@dataclass(frozen=True)
class CaseRow:
    """A row of cases.csv: areas in pixels; None where the file is silent."""

    name: str
    caption: str
    dice: float
    iou: float
    predicted: int
    true: int
    pixels: int | None
    hd95: float | None
    nsd: float | None
    unit: str
    lesion: tuple[tuple[str, str], ...]  # of size, number and side those that are written


@dataclass(frozen=True)
class TestOfRun:
    """One test: `name` is its folder's, which is the caption mode, or `true_2` for a second."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    cases: tuple[CaseRow, ...]
    written: str

    def pictures(self, kind: str) -> dict[str, Path]:
        """overlays or explain: the files by case."""
        return {file.stem: file for file in sorted((self.folder / kind).glob("*.png"))}


def read_tests(home: Path) -> dict[str, TestOfRun]:
    """Every test in a folder such as RUN/test by name, the caption modes in their usual order."""
    names = [path.parent.name for path in sorted(home.glob("*/metrics.json"))]
    ordered = [n for n in _MODES if n in names] + [n for n in names if n not in _MODES]
    return {name: read_test(home / name) for name in ordered}


def read_test(folder: Path) -> TestOfRun:
    """metrics.json and cases.csv.

    Raises:
        UserError: either is missing, broken, or of another version.
    """
    file = folder / "metrics.json"
    metrics = read_json(file)
    if not isinstance(metrics, dict):
        raise UserError(f"{file} holds no results by name", again(file))
    for name in (*SCORES, "cases", "empty_cases"):
        if number_of(metrics, name, file) is None:
            raise UserError(f"{file} has no {name}", again(file))
    cases = _read_cases(folder / "cases.csv")
    if metrics["cases"] != len(cases):
        raise UserError(
            f"{file} is of {metrics['cases']} cases, cases.csv beside it of {len(cases)}",
            "one of them was edited or is of another test: test the run again",
        )
    when = datetime.fromtimestamp(file.stat().st_mtime, tz=timezone.utc)
    return TestOfRun(folder.name, folder, metrics, cases, f"{when:%Y-%m-%d %H:%M} UTC")


def again(file: Path) -> str:
    """The remedy for a test's broken file; a new test is written beside the old one."""
    return f"test the run again with this version and remove {file.parent}"


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read as JSON ({first_line(error)})", again(file)
        ) from error


def number_of(values: Mapping[str, Any], name: str, file: Path) -> float | None:
    """A number by its name; None where it is absent, null or NaN."""
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{file}: {name} is {value!r}, no number", again(file))
    return value if math.isfinite(value) else None


def _read_cases(file: Path) -> tuple[CaseRow, ...]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(f"{file} lacks the columns {', '.join(lacking)}", again(file))
            return tuple(_case(file, reader.line_num, row) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)})", again(file)) from error


def _case(file: Path, line: int, row: Mapping[str, str | None]) -> CaseRow:
    try:
        optional = {k: float(row[k] or "nan") if k in row else math.nan for k in ("hd95", "nsd")}
        lesion = {k: row.get(column) or "" for column, k in _LESION.items()}
        return CaseRow(
            name=row["case"] or "",
            caption=row["caption"] or "",
            dice=_finite(row["dice"]),
            iou=_finite(row["iou"]),
            predicted=int(row["predicted"] or ""),
            true=int(row["true"] or ""),
            pixels=int(row["pixels"] or "") if row.get("pixels") else None,
            hd95=None if math.isnan(optional["hd95"]) else optional["hd95"],
            nsd=None if math.isnan(optional["nsd"]) else optional["nsd"],
            unit=row.get("surface_unit") or "",
            lesion=tuple((name, word) for name, word in lesion.items() if word),
        )
    except ValueError as error:
        raise UserError(
            f"{file}, line {line}: a value is no number ({first_line(error)})",
            "the file was cut short or edited: test the run again",
        ) from error


def _finite(text: str | None) -> float:
    value = float(text or "")
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def read_settings(run: Path) -> dict[str, Any] | None:
    """config.yaml; None where there is none."""
    file = run / RUN_CONFIG
    if not file.is_file():
        return None
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML ({first_line(error)})", "mend it") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} holds no settings", "restore the file that the training wrote")
    return settings


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv of a training: key -> (epoch, value), the last value of each epoch.

    Empty where there is no such file.
    """
    file = run / "metrics.csv"
    if not file.is_file():
        return {}
    curves: dict[str, dict[int, float]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for key, value in row.items():
                    if value and key and row.get("epoch") and key not in ("epoch", "step"):
                        curves.setdefault(key, {})[int(row["epoch"])] = float(value)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)})",
            "the file was cut short or edited; the page leaves out the curves without it",
        ) from error
    return {key: sorted(values.items()) for key, values in curves.items()}


# --- what may be shown of a machine --------------------------------------------------------------


def short_name(run: Path) -> str:
    """<config>/<time>, the end of a run's path; of a folder that was renamed its own name."""
    return f"{run.parent.name}/{run.name}" if TIME_STAMP.fullmatch(run.name) else run.name


def flat_settings(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Settings by dotted name; of absolute paths the last part only: the machine is not shown."""
    found: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            found += flat_settings(value, f"{name}.")
        else:
            found.append((name, _shown(value)))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return _without_path(value)
    return json.dumps(_without_paths(value), ensure_ascii=False, default=str)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return _without_path(value) if isinstance(value, str) else value


def _without_path(value: str) -> str:
    """`/home/somebody/data/qata` -> `.../qata`."""
    if not _ABSOLUTE.fullmatch(value):
        return value
    last = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return f".../{last}"
