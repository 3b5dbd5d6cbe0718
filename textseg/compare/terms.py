"""What differs between the methods of a comparison beside what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from textseg.compare.load import Result, training_settings
from textseg.errors import UserError

# Terms in which methods should be alike: budget, data and test. Others are the method.
_SHARED = ("epochs trained", "training rows", "data.", "trainer.", "captions", "at test time")
WEIGHTS = "model.image_weights"  # likewise, whether there are any; which, an encoder decides
NONE = "-"  # where a run does not tell
# Settings that a network without words does not feel, and what is told of them.
_OF_WORDS = {"captions", "data.caption_mode", "data.caption_dropout", "data.paraphrase"}
_OF_WORDS |= {"data.normalize_captions"}
READS_NONE = "reads no words"


def differing_terms(methods: Mapping[str, Sequence[Result]]) -> dict[str, tuple[str, ...]]:
    """Name -> value of each method, of everything in which methods differ.

    Settings are those of config.yaml; of a method's runs, values that differ are listed. Of paths
    only the last part is shown.
    """
    found = [_terms_of(results) for results in methods.values()]
    names = dict.fromkeys(name for terms in found for name in terms)
    rows = {name: tuple(terms.get(name, NONE) for terms in found) for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def unequal_terms_warning(terms: Mapping[str, Sequence[str]], methods: Sequence[str]) -> list[str]:
    """Warn where budget, data or initial weights differ, in one sentence; usually there is none."""
    unequal = {
        name: values
        for name, values in terms.items()
        if name.startswith(_SHARED) or (name == WEIGHTS and set(values) & {NONE, "None"})
    }
    unequal = {
        name: all_of for name, all_of in unequal.items() if len({*all_of} - {READS_NONE}) > 1
    }
    if not unequal:
        return []
    texts = [
        f"{name}: {', '.join(f'{value} ({m})' for m, value in zip(methods, values, strict=True))}"
        for name, values in unequal.items()
    ]
    return [f"methods are not on equal terms; {'; '.join(texts)}"]


def _terms_of(results: Sequence[Result]) -> dict[str, str]:
    """All that is known of a method, the values of its runs joined where they differ."""
    each = [_terms_of_run(result) for result in results]
    names = dict.fromkeys(name for terms in each for name in terms)
    return {
        name: ", ".join(dict.fromkeys(terms.get(name, NONE) for terms in each)) for name in names
    }


def _terms_of_run(result: Result) -> dict[str, str]:
    test = result.test
    terms = {"captions": test.caption_mode, "at test time": test.averaging or "none"}
    terms["epochs trained"] = str(_epochs(result) or NONE)
    terms["training rows"] = str(result.run.training_rows() or NONE)
    for name in ("parameters", "versions"):
        terms[name] = str(test.metrics.get(name, NONE))
    try:
        settings = training_settings(result.run)
    except UserError:  # the run's config.yaml is missing or broken, which hinders no comparison
        return terms
    terms |= {name: _shown(value) for name, value in settings.items()}
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


def _shown(value: object) -> str:
    text = str(value)
    return Path(text).name if isinstance(value, str) and "/" in text else text
