"""A run's folder: what it was trained on, what lies in it, and where its results belong."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from textseg.errors import UserError, refusing
from textseg.output import PART, check_complete, is_incomplete, write_text, writing
from textseg.runs.record import TrainingRecord
from textseg.runs.repeated_keys import check_keys
from textseg.runs.results import StoredTest, read_test

RUN_CONFIG = "config.yaml"
TESTED_DATA = "data.json"
AVERAGING = "averaging.json"  # beside masks: how they were made of logits
TIME_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")  # a run's folder
# Settings that make another dataset of the same files.
VARIANTS = ("captions_from", "slices", "phases", "layout", "mask_values", "folds", "fold")
CAPTION_MODES = ("true", "empty", "shuffled")
LAST = Path("checkpoints") / "last.ckpt"  # in a run's folder


@dataclass(frozen=True)
class Run:
    """One training in its folder, runs/<experiment>/<time stamp>."""

    folder: Path

    @classmethod
    def of_checkpoint(cls, path: str | Path) -> Run:
        """Take the run that a checkpoint belongs to: the folder above checkpoints/, or its own.

        A folder in place of a checkpoint, such as an export, is its own.
        """
        file = Path(path).expanduser().resolve()
        if file.is_dir():
            return cls(file)
        folder = file.parent
        return cls(folder.parent if folder.name == "checkpoints" else folder)

    @classmethod
    def of_folder(cls, given: str) -> tuple[Run, Path | None]:
        """Take a run by its folder, or by that of one of its tests, which is given back then.

        Raises:
            UserError: the folder is that of a test that was ended.
        """
        folder = Path(given).expanduser().resolve()
        check_complete(folder)
        if (folder / "cases.csv").is_file():
            return cls(folder.parents[1]), folder
        return cls(folder), None

    @property
    def config(self) -> Path:
        """The file of the run's resolved settings."""
        return self.folder / RUN_CONFIG

    @property
    def experiment(self) -> str:
        """Name of the run's config; a folder that was renamed goes by its own name."""
        stamped = TIME_STAMP.fullmatch(self.folder.name)
        return self.folder.parent.name if stamped else self.folder.name

    @property
    def short_name(self) -> str:
        """The end of the run's path, <experiment>/<time stamp>, or the name of a renamed folder."""
        own = self.folder.name
        return own if self.experiment == own else f"{self.experiment}/{own}"

    def checkpoint(self, name: str = "best") -> Path:
        """The file of a checkpoint, best or last, whether or not it exists."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def settings(self, remedy: str = "restore the file that the training wrote") -> dict[str, Any]:
        """Read the resolved settings from config.yaml; empty where there is no such file.

        Raises:
            UserError: the file cannot be read, holds no settings or one of them twice; `remedy`
                says what to do.
        """
        if not self.config.is_file():
            return {}
        broken = (OSError, ValueError, RecursionError, yaml.YAMLError)
        with refusing(broken, f"{self.config} is no YAML", remedy):
            text = self.config.read_text(encoding="utf-8")
            settings = yaml.safe_load(text)
        check_keys(text, self.config)
        if not isinstance(settings, dict):
            raise UserError(f"{self.config} holds no settings", remedy)
        return settings

    def training_record(self) -> TrainingRecord:
        """What the training recorded of itself in comments of config.yaml."""
        try:
            return TrainingRecord.read(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return TrainingRecord()

    def training_rows(self) -> int | None:
        """Rows that the run was trained on; None where config.yaml does not tell."""
        return self.training_record().rows

    def data_identity(self) -> dict[str, Any] | None:
        """`data_identity` of what the run was trained on; None where config.yaml does not tell."""
        try:
            data = self.settings()["data"]
            return data_identity(data["class_path"], data["init_args"])
        except (UserError, KeyError, TypeError, AttributeError, ValueError):
            return None

    def name_of_other_data(self, data: Mapping[str, Any]) -> str | None:
        """A short name for `data` where they are not the run's own; None where they are."""
        own = self.data_identity()
        return None if own is None or own == data else _short_data_name(data, own)

    def results_dir(self, data: Mapping[str, Any]) -> Path:
        """Where tests on `data` belong: test, or test_on_<name> for other than the run's own.

        A folder of the latter kind holds data.json, so that two datasets of one name stay apart.
        """
        name = self.name_of_other_data(data)
        if name is None:
            return self.tests_dir()
        for number in count(1):
            folder = self.tests_dir(name if number == 1 else f"{name}_{number}")
            if not folder.exists():
                _create_for(folder, data)
            if _tested_data(folder) == data:
                break
        return folder

    def tests_dir(self, data: str | None = None) -> Path:
        """The folder of tests on the run's own data, or on other data by their name."""
        if data is None:
            return self.folder / "test"
        return self.folder / (data if data.startswith("test_on_") else f"test_on_{data}")

    def tests(self, data: str | None = None) -> dict[str, StoredTest]:
        """Read every complete test on some data by name, the caption modes in their usual order.

        Raises:
            UserError: a file of a test is broken.
        """
        folder = self.tests_dir(data)
        found = [path.parent for path in sorted(folder.glob("*/metrics.json"))]
        names = [path.name for path in found if not is_incomplete(path)]
        names.sort(key=lambda name: (*CAPTION_MODES, name).index(name))
        return {name: read_test(folder / name) for name in names}

    def not_tested(self, captions: str, data: str | None) -> UserError:
        """The error of a run that lacks a test; it names the tests that there are.

        Raises:
            UserError: the test was begun and not ended.
        """
        check_complete(self.tests_dir(data) / captions)
        files = self.folder.glob("test*/*/cases.csv")
        whole = [file.parent for file in files if not is_incomplete(file.parent)]
        tests = sorted(folder.relative_to(self.folder).as_posix() for folder in whole)
        return UserError(
            f"{self.folder} has no test {captions} in {self.tests_dir(data).name} (tests found: "
            f"{', '.join(tests) or 'none'})",
            "test its checkpoint first: textseg test --ckpt_path RUN/checkpoints/best.ckpt "
            f"--data.caption_mode {captions}; or give other captions or data, or a test's folder",
        )

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Read metrics.csv: key -> (epoch, value), the last value of each epoch.

        Empty where there is no such file.

        Raises:
            UserError: the file cannot be read.
        """
        file = self.folder / "metrics.csv"
        if not file.is_file():
            return {}
        curves: dict[str, dict[int, float]] = {}
        broken = (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError)
        remedy = "the file was cut short or edited; the page leaves out the curves without it"
        with (
            refusing(broken, f"{file} cannot be read", remedy),
            file.open(newline="", encoding="utf-8") as stream,
        ):
            for row in csv.DictReader(stream):
                for key, value in row.items():
                    if value and key and row.get("epoch") and key not in ("epoch", "step"):
                        curves.setdefault(key, {})[int(row["epoch"])] = float(value)
        return {key: sorted(values.items()) for key, values in curves.items()}


def nested(settings: Any, *names: str) -> Any:
    """A value below several names of a mapping; None where one of them is missing."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def runs_dir(root: str | None, experiment: str) -> Path:
    """The folder of all runs of an experiment: ``<root>/<experiment>``, by default below runs/."""
    return Path(root or "runs").expanduser() / experiment


def new_run_dir(runs: Path) -> Path:
    """A new folder below `runs` with the time for a name; created by the first process alone.

    Other processes get `runs`: every path that is written to comes from the first.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):
        return runs
    return unique_dir(runs / time.strftime("%Y-%m-%d_%H-%M-%S"))


def last_written(runs: Path) -> Run | None:
    """The run below a folder whose last.ckpt was written last; None where none has one.

    A clock that was set back does not matter: `textseg.training.checkpoint_files` gives each
    last.ckpt a time after those of the runs beside it.
    """
    found = [(file.stat().st_mtime_ns, file.parents[1]) for file in runs.glob(f"*/{LAST}")]
    return Run(max(found)[1]) if found else None


def remove_if_empty(run: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything."""
    with suppress(OSError):
        run.rmdir()
        run.parent.rmdir()


def experiment_of(run: Path) -> str | None:
    """The name of a run's experiment; None where the folder is no run's."""
    return run.parent.name if Run(run).config.is_file() else None


def unique_dir(folder: Path) -> Path:
    """Create `folder`, or the first of `folder_2`, `folder_3`, ... that does not exist.

    Raises:
        UserError: it cannot be made.
    """
    with writing(folder):
        return create_unique(folder, lambda candidate: candidate.mkdir(parents=True))


def create_unique(path: Path, create: Callable[[Path], None], suffix: str = "") -> Path:
    """Create `path`, or the first with _2, _3, ... before its suffix that does not exist."""
    for number in range(1, 10_000):
        name = f"{path.name.removesuffix(suffix)}_{number}{suffix}"
        candidate = path if number == 1 else path.with_name(name)
        with suppress(FileExistsError):
            create(candidate)
            return candidate
    raise UserError(f"{path} exists ten thousand times", "clear out old results")


def data_identity(class_path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells two datasets apart: the class, the split, and absolute paths or phantoms."""
    identity = {"class": class_path.rpartition(".")[2], "split": settings.get("split")}
    identity |= {name: settings[name] for name in VARIANTS if settings.get(name) is not None}
    if "folds" in identity:  # its name tells what is in it, and it moves with the runs
        identity["folds"] = Path(str(identity["folds"])).name
    if settings.get("synthesize"):
        return identity | {"synthesize": settings["synthesize"]}
    for name in ("root", "captions"):
        given = settings.get(name)
        identity[name] = str(Path(given).expanduser().resolve()) if given else None
    return identity


def _short_data_name(data: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The dataset's folder and table, and the split where nothing else differs."""
    root, captions = data.get("root"), data.get("captions")
    parts = [Path(root).name if root else "phantoms"]
    parts += [Path(captions).stem] if captions else []
    if {**data, "split": None} == {**own, "split": None}:
        parts.append(str(data["split"]))
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def _create_for(folder: Path, data: Mapping[str, Any]) -> None:
    """Create a folder of tests together with data.json; nothing, where another process has."""
    with writing(folder):
        aside = folder.with_name(f"{PART}{uuid.uuid4().hex[:8]}-{folder.name}")
        aside.mkdir(parents=True)
        try:
            write_text(aside / TESTED_DATA, json.dumps(data, indent=2) + "\n")
            aside.replace(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _tested_data(folder: Path) -> Any:
    """What the results in a folder are of; None where that is not written down."""
    try:
        return json.loads((folder / TESTED_DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
