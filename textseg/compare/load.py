"""Test results from runs' folders, joined case by case; refuses what cannot be compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from textseg.errors import UserError, first_line
from textseg.metrics import Protocol, Rows, dice, iou
from textseg.metrics.strata import SIDES, SIZES
from textseg.runs.folder import RUN_CONFIG, TIME_STAMP

_AREAS = ("intersection", "predicted", "true", "pixels")
_WORDS = ("case", "case_id", "patient", "caption")
_NEEDED = (*_WORDS, "dice", *_AREAS, "lesion_size", "lesion_number", "lesion_side", "truth")
_TEST_AGAIN = "test the run again: textseg test --ckpt_path RUN/checkpoints/best.ckpt"
_EDITED = f"the file was cut short or edited: {_TEST_AGAIN}"
_ROUNDING = 1e-6  # of a Dice in the file
_SHOWN = 3  # of what differs, in a message
# What may differ between two seeds of one method: where it ran, not what was trained.
_OF_THE_MACHINE = frozenset(("seed", "root", "cache", "num_workers"))
_OF_THE_TRAINING = (
    *("max_epochs", "max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches"),
    "limit_train_batches",
)


class Case(NamedTuple):
    """A row of cases.csv: areas in pixels, `pixels` of the whole image.

    `patient` is the unit that is resampled: `case_id`, or the case itself where that is unknown.
    """

    name: str
    case_id: str
    patient: str
    caption: str
    intersection: int
    predicted: int
    true: int
    pixels: int
    lesion_size: str
    lesion_number: int
    lesion_side: str
    truth: str


@dataclass(frozen=True)
class Result:
    """One test of one run.

    Args:
        run: the run's folder.
        folder: the test's folder, that holds cases.csv.
        method: what the run is a seed of.
        mode: of the captions.
        protocol: of the scores, see `textseg.metrics`.
        cases: by name, in the order of the test.
    """

    run: Path
    folder: Path
    method: str
    mode: str
    protocol: Protocol
    cases: dict[str, Case]


def load_results(
    runs: Sequence[str], *, captions: str, data: str | None, names: Sequence[str] | None
) -> list[Result]:
    """The results of every run, all over the same cases with the same truth.

    Raises:
        UserError: a run has no such result, or results differ in what must be equal.
    """
    if len(runs) < 2:
        raise UserError(
            f"runs={list(runs)} is too few to compare",
            "give two runs or more, runs/<config>/<time>",
        )
    if names is not None and len(names) != len(runs):
        raise UserError(
            f"names gives {len(names)} names for {len(runs)} runs",
            "give one name for each run; runs of one name are seeds of one method",
        )
    if names is not None and not all(name.strip() for name in names):
        raise UserError(f"names={list(names)} has an empty one", "give each run a name")
    given: Sequence[str | None] = names or [None] * len(runs)
    results = [_result(run, captions, data, name) for run, name in zip(runs, given, strict=True)]
    for number, result in enumerate(results):
        twice = [one for one in results[:number] if one.folder == result.folder]
        if twice:
            raise UserError(f"{result.folder} is given twice", "give each run once")
    for result in results[1:]:
        _check_same_cases(results[0], result)
        for earlier in results:
            if earlier is result:
                break
            _check_captions(earlier, result)
    _check_seeds(results)
    return results


def _result(run: str, captions: str, data: str | None, name: str | None) -> Result:
    """The results in a run's folder, or in the very folder of a test."""
    given = Path(run).expanduser().resolve()
    direct = (given / "cases.csv").is_file()
    home = given.parents[1] if direct else given
    folder = given if direct else given / _home(data) / captions
    if not (folder / "cases.csv").is_file():
        raise UserError(
            f"{run} has no results {folder.name} in {folder.parent} (tests found: {_tests(home)})",
            "test its checkpoint first: textseg test --ckpt_path RUN/checkpoints/best.ckpt "
            f"--data.caption_mode {captions}; or give another caption mode, or the test's folder "
            "itself as RUN",
        )
    metrics = _metrics(folder / "metrics.json")
    mode = str(metrics["caption_mode"])
    method = name or _config_name(home)
    if name is None and direct and mode != captions:
        method += f" ({mode} captions)"
    return Result(
        run=home,
        folder=folder,
        method=method,
        mode=mode,
        protocol=metrics["protocol"],
        cases=_read_cases(folder / "cases.csv", metrics["protocol"]),
    )


def _home(data: str | None) -> str:
    if data is None:
        return "test"
    return data if data.startswith("test_on_") else f"test_on_{data}"


def _tests(run: Path) -> str:
    found = sorted(str(path.parent.relative_to(run)) for path in run.glob("test*/*/cases.csv"))
    return ", ".join(found) or "none"


def _config_name(run: Path) -> str:
    """runs/<config name>/<time stamp>; a folder that was renamed goes by its own name."""
    return run.parent.name if TIME_STAMP.fullmatch(run.name) else run.name


def _metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["protocol"] not in get_args(Protocol):
            raise ValueError(f"protocol {content['protocol']!r} is unknown")
        return {key: content[key] for key in ("caption_mode", "protocol")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not tell caption_mode and protocol ({first_line(error)})",
            f"{_TEST_AGAIN}, with this version",
        ) from error


def _read_cases(path: Path, protocol: Protocol) -> dict[str, Case]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{path} lacks the columns {', '.join(lacking)}: it is cut short, or of an "
                    "older version",
                    f"{_TEST_AGAIN}, with this version",
                )
            rows = [_case(path, reader.line_num, row, protocol) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)})", _TEST_AGAIN) from error
    cases = {case.name: case for case in rows}
    if not rows:
        raise UserError(f"{path} lists no case", f"{_TEST_AGAIN}, on data with a test split")
    if len(cases) < len(rows):
        raise UserError(f"{path} lists {len(rows) - len(cases)} cases twice", _EDITED)
    return cases


def _case(path: Path, line: int, row: Mapping[str, str | None], protocol: Protocol) -> Case:
    def wrong(what: str) -> UserError:
        return UserError(f"{path}, line {line}: {what}", _EDITED)

    def number_in(name: str, kind: Callable[[str], float]) -> Any:
        try:
            return kind(row[name] or "")
        except ValueError as error:
            raise wrong(f"{name}={row[name]!r} is no number of its kind") from error

    both, predicted, true, pixels = (number_in(name, int) for name in _AREAS)
    number, written = number_in("lesion_number", int), number_in("dice", float)
    if not 0 <= both <= min(predicted, true) or predicted + true - both > pixels:
        raise wrong(f"{both} pixels in both masks, {predicted} predicted, {true} true, of {pixels}")
    # LViT's protocol counts areas after resizing, which may lose a lesion of few pixels.
    if number < 0 or (protocol == "standard" and (number == 0) != (true == 0)):
        raise wrong(f"lesion_number={number} with {true} true pixels")
    name, case_id, patient, caption = (row[word] or "" for word in _WORDS)
    if not name or patient != (case_id or name):
        raise wrong(f"case={name!r} with case_id={case_id!r} has patient={patient!r}")
    size = _one_of(row, "lesion_size", SIZES, wrong)
    side = _one_of(row, "lesion_side", SIDES, wrong)
    source = row["truth"] or ""
    if not source:
        raise wrong("it does not say what the truth is")
    case = Case(
        *(name, case_id, patient, caption),
        *(both, predicted, true, pixels),
        *(size, number, side, source),
    )
    score = float(dice(_rows([case]), protocol=protocol)[0])
    if not abs(score - written) < _ROUNDING:
        raise wrong(f"dice={written} where its areas give {score:.6f}")
    return case


def _one_of(
    row: Mapping[str, str | None],
    name: str,
    known: Sequence[str],
    wrong: Callable[[str], UserError],
) -> str:
    value = row[name] or ""
    if value not in known:
        raise wrong(f"{name}={value!r} is none of {', '.join(known)}")
    return value


# --- what must be equal ------------------------------------------------------------------------


def _check_same_cases(first: Result, other: Result) -> None:
    """The same cases with the same patients and truths, scored alike."""
    if first.protocol != other.protocol:
        raise UserError(
            f"{other.folder} is scored by protocol {other.protocol!r}, {first.folder} by "
            f"{first.protocol!r}",
            "test both with the same model.protocol",
        )
    missing = [name for name in first.cases if name not in other.cases]
    added = [name for name in other.cases if name not in first.cases]
    if missing or added:
        raise UserError(
            f"the cases differ: {other.folder} lacks {_count(missing)} that {first.folder} has, "
            f"and has {_count(added)} that it lacks",
            "test both on the same split of the same data",
        )
    _check_equal(first, other, "areas of the truth (pixels)", lambda case: case.true)
    _check_equal(first, other, "sizes of the images (pixels)", lambda case: case.pixels)
    _check_equal(
        first,
        other,
        "lesions of the truth (size, number, side)",
        lambda case: (case.lesion_size, case.lesion_number, case.lesion_side),
    )
    _check_equal(first, other, "sources of the truth", lambda case: case.truth)
    _check_equal(first, other, "patients", lambda case: case.patient)


def _check_captions(first: Result, other: Result) -> None:
    """Captions may differ between two caption modes only."""
    if first.mode == other.mode:
        _check_equal(first, other, f"captions (caption mode {first.mode!r})", lambda c: c.caption)


def _check_equal(first: Result, other: Result, what: str, of: Callable[[Case], object]) -> None:
    pairs = [(case, other.cases[name]) for name, case in first.cases.items()]
    unlike = [(one, two) for one, two in pairs if of(one) != of(two)]
    if unlike:
        shown = "; ".join(f"{a.name}: {of(a)!r} and {of(b)!r}" for a, b in unlike[:_SHOWN])
        more = ", ..." if len(unlike) > _SHOWN else ""
        raise UserError(
            f"the {what} differ in {len(unlike)} of {len(pairs)} cases between {first.folder} and "
            f"{other.folder}: {shown}{more}",
            "test both on the same files with the same settings of data (captions, "
            "normalize_captions, seed)",
        )


def _count(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})"


# --- seeds -------------------------------------------------------------------------------------


def _check_seeds(results: Sequence[Result]) -> None:
    """Runs of one method differ in their seed and in nothing else that was trained."""
    for number, result in enumerate(results):
        for earlier in results[:number]:
            if earlier.method == result.method:
                _check_seed_pair(earlier, result)


def _check_seed_pair(first: Result, other: Result) -> None:
    remedy = f"leave one out, or give names, so that they are not both {first.method!r}"
    if first.mode != other.mode:
        raise UserError(
            f"{first.folder} and {other.folder} are both {first.method!r}, but of the caption "
            f"modes {first.mode!r} and {other.mode!r}",
            "give names that tell them apart",
        )
    one, two = _settings(first.run), _settings(other.run)
    if one["seed_everything"] == two["seed_everything"]:
        raise UserError(
            f"{first.run} and {other.run} are both {first.method!r} with seed_everything "
            f"{one['seed_everything']}",
            remedy,
        )
    differ = [k for k in sorted(one | two) if k != "seed_everything" and one.get(k) != two.get(k)]
    if differ:
        values = "; ".join(f"{k}: {one.get(k)} and {two.get(k)}" for k in differ[:_SHOWN])
        raise UserError(
            f"{first.run} and {other.run} are both {first.method!r}, but differ in more than the "
            f"seed: {values}",
            remedy,
        )


def _settings(run: Path) -> dict[str, Any]:
    """seed_everything, and all that decides what was trained, by dotted name."""
    path = run / RUN_CONFIG
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        seed, model, data = stored["seed_everything"], stored["model"], stored["data"]
        trainer = stored.get("trainer") or {}
        own = {k: v for k, v in data["init_args"].items() if k not in _OF_THE_MACHINE}
        network = dict(model["init_args"])
        classes = {"model": model["class_path"], "data": data["class_path"]}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{path} does not tell the seed and the settings of the run ({first_line(e)})",
            "give names, one for each run, so that no two runs are seeds of one method",
        ) from e
    return {
        "seed_everything": seed,
        **classes,
        **{f"model.{k}": v for k, v in network.items()},
        **{f"data.{k}": v for k, v in own.items()},
        **{f"trainer.{k}": trainer[k] for k in _OF_THE_TRAINING if k in trainer},
    }


def columns_of(result: Result, order: Sequence[str]) -> NDArray[np.float64]:
    """Dice, IoU, intersection, predicted and true of each case, in the order given: [N, 5]."""
    rows = _rows([result.cases[name] for name in order])
    each = dice(rows, protocol=result.protocol), iou(rows, protocol=result.protocol)
    columns = (*each, rows.intersection, rows.predicted, rows.true)
    return np.stack(columns, axis=1).astype(np.float64)


def _rows(cases: Sequence[Case]) -> Rows:
    both, predicted, true = (
        np.array([getattr(case, field) for case in cases], dtype=np.int64)
        for field in ("intersection", "predicted", "true")
    )
    unknown = np.full(len(cases), np.nan)  # the surface distances are not compared
    index = np.arange(len(cases))
    return Rows(index, both, predicted, true, np.zeros_like(index), unknown, unknown)
