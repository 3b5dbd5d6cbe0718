"""What differs between the methods of a comparison beside what is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from textseg.compare.load import Result
from textseg.compare.settings import (
    ENCODER_START,
    IMAGES_A_STEP,
    WeightsFile,
    training_settings,
)
from textseg.errors import UserError

Value = str | PurePosixPath | WeightsFile
Rows = Mapping[str, Sequence[tuple[Value, ...]]]  # name -> of each method the values of its runs

CAPTIONS = "captions trained on"
# Terms in which methods should be alike: budget, data, test and start. Others are the method.
_SHARED = (
    *("epochs trained", "training rows", "data.", "trainer.", "captions", "at test time"),
    *(IMAGES_A_STEP, ENCODER_START),
)
NONE = "-"  # where a run does not tell
# Settings that a network without words does not feel, and what is told of them.
_OF_WORDS = {"captions", CAPTIONS, "data.caption_mode", "data.caption_dropout", "data.paraphrase"}
_OF_WORDS |= {"data.normalize_captions"}
READS_NONE = "reads no words"


def differing_terms(methods: Mapping[str, Sequence[Result]]) -> Rows:
    """Everything in which methods differ: settings of config.yaml, and what was recorded."""
    found = [_terms_of(results) for results in methods.values()]
    names = dict.fromkeys(name for terms in found for name in terms)
    rows = {name: [terms.get(name, (NONE,)) for terms in found] for name in names}
    if any(NONE in values for values in rows[CAPTIONS]):  # a digest says nothing by itself
        del rows[CAPTIONS]
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def shown_terms(rows: Rows) -> dict[str, tuple[str, ...]]:
    """Name -> text for each method, which lists values that differ between its runs.

    Of paths the ends are shown, as long as it takes to tell those of one row apart.
    """
    shown = {}
    for name, methods in rows.items():
        texts = _shortened(value for values in methods for value in values)
        shown[name] = tuple(", ".join(texts[value] for value in values) for values in methods)
    return shown


def unequal_terms_warning(rows: Rows, methods: Sequence[str]) -> list[str]:
    """Warn where budget, data, tests or starts differ, in one sentence; usually there is none."""
    shown = shown_terms(
        {name: values for name, values in rows.items() if _is_unequal(name, values)}
    )
    if not shown:
        return []
    texts = [
        f"{name}: {', '.join(f'{value} ({m})' for m, value in zip(methods, values, strict=True))}"
        for name, values in shown.items()
    ]
    return [f"methods are not on equal terms; {'; '.join(texts)}"]


def _is_unequal(name: str, methods: Sequence[tuple[Value, ...]]) -> bool:
    """Whether a row is a reason to warn.

    Files of one name in different folders are none: most often they are one table on two machines.
    That tests have the same cases, truths and captions is checked of their files, and tables that
    were trained on with other words differ in `CAPTIONS`.
    """
    judged = [tuple(dict.fromkeys(_without_folder(v) for v in values)) for values in methods]
    return name.startswith(_SHARED) and len({*judged} - {(READS_NONE,)}) > 1


def _without_folder(value: Value) -> Value:
    return value.name if isinstance(value, PurePosixPath) else value


def _terms_of(results: Sequence[Result]) -> dict[str, tuple[Value, ...]]:
    """All that is known of a method: the values of its runs, each once."""
    each = [_terms_of_run(result) for result in results]
    names = dict.fromkeys(name for terms in each for name in terms)
    return {name: tuple(dict.fromkeys(terms.get(name, NONE) for terms in each)) for name in names}


def _terms_of_run(result: Result) -> dict[str, Value]:
    test, record = result.test, result.run.training_record()
    terms: dict[str, Value] = {
        "captions": test.caption_mode,
        "at test time": test.averaging or "none",
        "epochs trained": str(_epochs(result) or NONE),
        "training rows": str(record.rows or NONE),
        CAPTIONS: f"sha256 {record.captions[:12]}" if record.captions else NONE,
    }
    for name in ("parameters", "versions"):
        terms[name] = str(test.metrics.get(name, NONE))
    try:
        settings = training_settings(result.run)
    except UserError:  # the run's config.yaml is missing or broken, which hinders no comparison
        settings = {}
    terms |= {name: _comparable(name, value) for name, value in settings.items()}
    if test.metrics.get("reads_text") is False:
        terms |= dict.fromkeys(_OF_WORDS & {*terms}, READS_NONE)
    return terms


def _epochs(result: Result) -> int:
    """Number of epochs in metrics.csv; 0 where it does not tell."""
    try:
        curves = result.run.curves()
    except UserError:
        return 0
    losses = [points for name, points in curves.items() if name in ("train/loss", "val/loss")]
    return len({epoch for points in losses for epoch, _ in points})


def _comparable(name: str, value: object) -> Value:
    """A setting as it is compared: whole. No setting of the trainer is a path."""
    if isinstance(value, WeightsFile):
        return value
    is_path = isinstance(value, str) and "/" in value and name.startswith(("model.", "data."))
    return PurePosixPath(str(value)) if is_path else str(value)


def _shortened(values: Iterable[Value]) -> dict[Value, str]:
    """Each value with its text: of paths so many last parts that no two texts are alike."""
    distinct = {*values}
    for length in range(1, 1 + max(len(_path(value).parts) for value in distinct)):
        shown = {value: _end(value, length) for value in distinct}
        if len({*shown.values()}) == len(distinct):
            return shown
    return {value: str(value) for value in distinct}


def _path(value: Value) -> PurePosixPath:
    return PurePosixPath(value.path if isinstance(value, WeightsFile) else value)


def _end(value: Value, length: int) -> str:
    return value if isinstance(value, str) else str(PurePosixPath(*_path(value).parts[-length:]))
