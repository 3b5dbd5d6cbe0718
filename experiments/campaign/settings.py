"""A campaign's settings: which networks, on what terms, and where its files are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from campaign.processes import BadSettingsError, cores, read
from textseg.runs.folder import CAPTION_MODES, Run

EXPERIMENTS = Path(__file__).resolve().parents[1]
BEST = "best"  # the text-guided network with the best val/dice of the first stage
IMAGE_ONLY = ("unet",)
TTA = "tta"
TESTS = {**{mode: mode for mode in CAPTION_MODES}, TTA: "true_flip"}  # and their folders
MOST_WORKERS = 16
SPARE_CORES = 2  # of the training itself, when workers are counted


@dataclass(frozen=True, eq=False)  # a row is itself alone
class Row:
    """One training: a row of the tables.

    Args:
        name: of its files, and what --row takes.
        stage: of the settings file.
        network: file stem of an overlay, or "best".
        ablation: stem of a file in experiments/ablations, in place of <network>_<dataset>.yaml.
        overlay: folders of experiments/ whose <network>.yaml are laid over, in this order; by
            default the campaign's.
        title: what tables call it.
        seed: of the training.
        image_size: where it differs from the campaign's.
        epochs: likewise.
        cpu_hours: in place of epochs: hours, or the name of a row that has taken as many.
        words: false takes the words away, see `Campaign.without_words`; or says that an ablation
            reads none.
        arguments: further arguments of its fit.
        cost: whether `textseg benchmark` is run; of rows that differ in their seed for the first.
    """

    name: str
    stage: str
    network: str
    ablation: str | None = None
    overlay: list[str] | None = None
    title: str | None = None
    seed: int = 1
    image_size: int | None = None
    epochs: int | None = None
    cpu_hours: float | str | None = None
    words: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cost: bool = True


@dataclass(frozen=True)
class Campaign:
    """The settings of a start. Of a settings file those from title on.

    Args:
        name: of the settings file.
        out: where all of it goes.
        root, captions: of the data.
        synthesize: phantoms in place of data.
        limit: seconds a command may take.
        title: what the page calls it.
        dataset: the end of the experiments' names.
        stages: lists of rows by name, in the order in which they are trained.
        overlay: see `Row`.
        epochs: of every training that names none.
        arguments: further arguments of every command on the data or of a training.
        tests: captions that each network which reads words is tested with.
        probe, benchmark: arguments of these commands; null leaves them out.
        without_words: by network the ablation without text; others are trained with empty captions.
        measure: two shares of an epoch; the difference of what they cost tells how many epochs
            cpu_hours are.
        device: cpu or gpu.
        threads: of each command; null leaves it to torch.
        published: part of experiments/campaign/published.yaml to set beside.
        slurm: options of sbatch.
        smoke: settings in their place for `--smoke`.
    """

    name: str
    out: Path
    root: Path | None
    captions: Path | None
    title: str
    dataset: str
    stages: Mapping[str, list[Any]]
    synthesize: int | None = None
    limit: float | None = None
    overlay: list[str] = field(default_factory=list)
    epochs: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tests: list[str] = field(default_factory=lambda: list(TESTS))
    probe: Mapping[str, Any] | None = field(default_factory=dict)
    benchmark: Mapping[str, Any] | None = field(default_factory=dict)
    without_words: Mapping[str, str] = field(default_factory=dict)
    measure: tuple[float, float] = (0.02, 0.08)
    device: str = "cpu"
    threads: int | None = 1
    published: str | None = None
    slurm: list[str] = field(default_factory=list)
    smoke: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()

    # --- rows ----------------------------------------------------------------------------------

    def resolved(self, row: Row) -> Row | None:
        """`row` with the network that "best" stands for; None before that is chosen."""
        if row.network != BEST:
            return row
        chosen = read(self.out / "chosen.json")
        return None if chosen is None else replace(row, network=chosen["network"])

    def candidates(self) -> list[Row]:
        """Rows of the first stage that the best is chosen among: networks as they are."""
        size = self.arguments.get("data.image_size")
        return [
            row
            for row in self.rows
            if row.stage == self.rows[0].stage
            and reads_words(row)
            and row.ablation is None
            and row.image_size in (None, size)
        ]

    def val_dice(self, rows: Sequence[Row]) -> dict[str, float]:
        """The best val/dice of each network of these rows, mean over its seeds; 0 without any."""
        found: dict[str, list[float]] = {}
        for row in rows:
            validated = self.validated(row)
            found.setdefault(row.network, []).append(validated[1] if validated else 0.0)
        return {network: fmean(values) for network, values in found.items()}

    def title_of(self, row: Row) -> str:
        """What tables call it: network, change, words, size and seed."""
        found = self.resolved(row)
        same = [one.title for one in self.candidates() if found and one.network == found.network]
        given = next(iter(same), None) if row.network == BEST else row.title
        parts = [given or (self._called(found.network) if found else "best network")]
        parts += [row.ablation] if row.ablation and not row.title else []
        if not (row.words or row.ablation):
            how = self.without_words.get(found.network, "empty captions") if found else ""
            parts.append(f"no words ({how})" if how else "no words")
        if row.image_size not in (None, self.arguments.get("data.image_size")):
            parts.append(f"{row.image_size}x{row.image_size}")
        return ", ".join(parts + [f"seed {row.seed}"] * (row.seed != 1))

    def _called(self, network: str) -> str:
        if network in IMAGE_ONLY:
            return "U-Net"
        text = (EXPERIMENTS / f"{network}_{self.dataset}.yaml").read_text(encoding="utf-8")
        return str(yaml.safe_load(text)["model"]["class_path"])

    def tests_of(self, row: Row) -> list[str]:
        """The tests of a row: once, where it reads no words."""
        if reads_words(row):
            return self.tests
        return ["empty" if self._empty_captions(row) else "true"]

    def tasks_of(self, row: Row) -> list[str]:
        """What is done for a row, in this order."""
        tasks = ["train", *(f"test {name}" for name in self.tests_of(row))]
        tasks += ["probe"] * (self.probe is not None and reads_words(row))
        tasks += [] if self._empty_captions(row) else ["calibrate"]
        return tasks + ["benchmark"] * (self.benchmark is not None and row.cost)

    # --- arguments -----------------------------------------------------------------------------

    def experiment(self, row: Row) -> list[str]:
        """The --config arguments of a row whose network is known."""
        base = f"{row.network}_{self.dataset}.yaml"
        if row.ablation:
            base = f"ablations/{row.ablation}.yaml"
        elif not row.words and row.network in self.without_words:
            base = f"ablations/{self.without_words[row.network]}.yaml"
        overlay = self.overlay if row.overlay is None else row.overlay
        files = [base, *(f"{folder}/{row.network}.yaml" for folder in overlay)]
        return [part for file in files for part in ("--config", str(EXPERIMENTS / file))]

    def settings(self, row: Row) -> list[str]:
        """The arguments that all of a row's commands which read an experiment have in common."""
        given: dict[str, Any] = {"data.cache": self.out / "cache", "data.num_workers": workers()}
        if self.synthesize:
            given["data.synthesize"] = self.synthesize
        else:
            given["data.root"] = self.root
            given |= {"data.captions": self.captions} if self.captions else {}
        given |= self.arguments
        given |= {"data.image_size": row.image_size} if row.image_size else {}
        given |= {"data.caption_mode": "empty"} if self._empty_captions(row) else {}
        given |= {"trainer.accelerator": "gpu"} if self.device == "gpu" else {}
        given |= {"trainer.devices": 1, **row.arguments, "seed_everything": row.seed}
        return [*self.experiment(row), *as_arguments(given)]

    def terms(self, row: Row) -> list[str]:
        """`settings` without what may differ from machine to machine."""
        given = self.settings(row)
        pairs = zip(given[::2], given[1::2], strict=True)
        paths = ("--data.root", "--data.captions", "--data.cache", "--data.num_workers")
        home = f"{EXPERIMENTS}/"
        return [f"{k} {v.removeprefix(home)}" for k, v in pairs if k not in paths]

    def other_terms(self, row: Row) -> list[str]:
        """What a row was begun with, or would be now, but not both."""
        begun, found = self.note(row).get("terms"), self.resolved(row)
        if begun is None or found is None:
            return []
        now = self.terms(found)
        return [one for one in [*begun, *now] if (one in begun) != (one in now)]

    def data(self, row: Row) -> list[str]:
        """The arguments of `textseg data` commands: experiment and data alone."""
        given = self.settings(row)[len(self.experiment(row)) :]
        pairs = zip(given[::2], given[1::2], strict=True)
        own = [part for pair in pairs if pair[0].startswith("--data.") for part in pair]
        return [*self.experiment(row), *own]

    def _empty_captions(self, row: Row) -> bool:
        """Whether the words are taken away by training with empty captions."""
        if row.words or row.ablation or row.network in IMAGE_ONLY:
            return False
        found = self.resolved(row)
        return found is not None and found.network not in self.without_words

    # --- files ---------------------------------------------------------------------------------

    def runs(self, row: Row) -> Path:
        """The folder of all runs of a row, which is one unless it broke off early."""
        return self.out / "runs" / row.name

    def run_folder(self, row: Row) -> Path | None:
        """The folder of a row's run; None before it has begun."""
        found = [*self.runs(row).glob("*/*/config.yaml")]
        found += self.runs(row).glob("slurm-*/*/*/config.yaml")
        return max(found, key=lambda file: file.stat().st_mtime).parent if found else None

    def note(self, row: Row) -> dict[str, Any]:
        """What is done of a row and what it has cost."""
        return read(self.note_file(row)) or {"done": [], "cost": {}, "failed": {}}

    def note_file(self, row: Row) -> Path:
        """The file of `note`."""
        return self.out / "rows" / f"{row.name}.json"

    def left(self, row: Row) -> list[str]:
        """Tasks that are not done."""
        done = self.note(row)["done"]
        return [task for task in self.tasks_of(row) if task not in done]

    def results(self, row: Row, file: str) -> Any:
        """A JSON file of a row's run; None where there is none."""
        run = self.run_folder(row)
        return read(run / file) if run else None

    def cost(self, row: Row, of: str = "cpu_seconds") -> float | None:
        """What its training has taken, of all starts; None where that is not known."""
        starts = self.note(row)["cost"].get("train", [])
        return sum(start[of] for start in starts) if starts else None

    def validated(self, row: Row) -> tuple[int, float] | None:
        """The best val/dice of a training, and its epoch counted from 1."""
        run = self.run_folder(row)
        curve = Run(run).curves().get("val/dice") if run else None
        if not curve:
            return None
        epoch, value = max(curve, key=lambda point: (point[1], -point[0]))
        return epoch + 1, value

    def log(self, name: str) -> Path:
        """The file of a command's output."""
        return self.out / "logs" / f"{name.replace(' ', '_')}.log"


def size_key(row: Row) -> str:
    """What a row's parameters and GFLOPs depend on; its seed is none of it."""
    of = [row.network, row.ablation, row.image_size, row.words, row.overlay, dict(row.arguments)]
    return json.dumps(of, sort_keys=True, default=str)


def reads_words(row: Row) -> bool:
    """Whether a row's network reads words."""
    return row.words and row.network not in IMAGE_ONLY


def workers() -> int:
    """Processes that load data, where the settings name no number."""
    return max(1, min(MOST_WORKERS, cores() - SPARE_CORES))


def as_arguments(given: Mapping[str, Any]) -> list[str]:
    """Settings as a command line's arguments."""

    def text(value: Any) -> str:
        return str(value) if isinstance(value, str | Path) else json.dumps(value)

    return [part for key, value in given.items() for part in (f"--{key}", text(value))]


def read_campaign(file: Path, *, smoke: bool = False, **given: Any) -> Campaign:
    """Read a settings file; `given` are settings of this start.

    Raises:
        BadSettingsError: it names a setting, a row or a file that there is not.
    """
    if not file.is_file():
        raise BadSettingsError(
            f"there is no file {file}", "give one of experiments/campaign/*.yaml"
        )
    read_settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    if smoke:
        read_settings |= read_settings.get("smoke") or {}
    allowed = {one.name for one in fields(Campaign)} - {"name", "rows", "out", "root", "captions"}
    _check_keys(read_settings, allowed, str(file))
    missing = {"title", "dataset", "stages"} - set(read_settings)
    if missing:
        raise BadSettingsError(f"{file} lacks {sorted(missing)}", "add them")
    campaign = Campaign(name=file.stem, **read_settings | given)
    wrong = [name for name in campaign.tests if name not in TESTS]
    if wrong:
        raise BadSettingsError(f"{file}: tests names {wrong}", f"choose of {list(TESTS)}")
    rows = tuple(_rows(campaign, str(file)))
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadSettingsError(f"{file} has two rows {twice[0]}", "give one of them a name")
    campaign = replace(campaign, rows=rows)
    for row in rows:
        _check_row(campaign, row, names, str(file))
    return campaign


def _rows(campaign: Campaign, file: str) -> Iterator[Row]:
    """The rows of all stages; one entry with seeds is several, and one of them is benchmarked."""
    benchmarked: set[str] = set()
    first = None  # of the networks that the best will be one of
    allowed = {one.name for one in fields(Row)} - {"stage", "cost"} | {"seeds"}
    for stage, entries in campaign.stages.items():
        for entry in entries or []:
            given = {"network": entry} if isinstance(entry, str) else dict(entry)
            _check_keys(given, allowed, f"{file}, stage {stage}")
            if "ablation" in given:  # <network>_<dataset>_<change>
                given.setdefault("network", str(given["ablation"]).split("_")[0])
            if "network" not in given:
                raise BadSettingsError(
                    f"{file}, stage {stage}: {entry}", "give network or ablation"
                )
            name = given.pop("name", None) or given.get("ablation") or given["network"]
            if "image_size" in given and "name" not in (entry if isinstance(entry, dict) else {}):
                name += f"_{given['image_size']}"
            seeds = given.pop("seeds", [given.pop("seed", 1)])
            for seed in seeds:
                own = name if seed == 1 else f"{name}_seed{seed}"
                row = Row(own, stage, **given, seed=seed)
                first = first or row.network
                key = size_key(replace(row, network=first) if row.network == BEST else row)
                yield replace(row, cost=key not in benchmarked)
                benchmarked.add(key)


def _check_row(campaign: Campaign, row: Row, names: list[str], file: str) -> None:
    if isinstance(row.cpu_hours, str) and row.cpu_hours not in names:
        raise BadSettingsError(
            f"{file}: cpu_hours of {row.name} are those of {row.cpu_hours!r}, which is no row",
            f"give hours, or one of {names}",
        )
    if not re.fullmatch(r"[\w.+-]+", row.name):
        raise BadSettingsError(
            f"{file}: a row is called {row.name!r}", "give letters, digits, _+-."
        )
    if row.network == BEST and row.stage == next(iter(campaign.stages)):
        raise BadSettingsError(
            f"{file}: {row.name} is the best network, which the first stage decides",
            "put it into a later stage",
        )
    if row.network == BEST and not campaign.candidates():
        raise BadSettingsError(
            f"{file}: {row.name} is the best network, but the first stage has none to choose: "
            "ablations, other sizes and networks without words are not",
            "put a network into the first stage",
        )
    if row.network == BEST:
        return
    for path in campaign.experiment(row)[1::2]:
        if not Path(path).is_file():
            raise BadSettingsError(f"{file}: {row.name} needs {path}, which is missing", "add it")


def _check_keys(given: Any, allowed: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise BadSettingsError(f"{where} holds {given!r}, no settings", "see its neighbors")
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise BadSettingsError(f"{where}: unknown {unknown[0]!r}", f"choose of {sorted(allowed)}")
