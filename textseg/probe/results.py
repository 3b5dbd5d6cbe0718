"""What masks with changed words tell: Dice, how far they moved, and whether expressions swap them.

* `dice`: mean per image against the truth, at the truth's own resolution (`textseg.metrics`).
* `moved`: mean over cases of 1 - Dice(mask with true words, mask with changed words): 0 where not
  one pixel differs, two empty masks included, and 1 where the two share none.
* Intervals are those of `textseg.metrics.bootstrap`, over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from textseg.metrics import Rows, dice
from textseg.metrics.bootstrap import Floats, patient_draws, patient_ids, t_adjusted_interval
from textseg.probe.masks import TRUE, Measured, ProbedCase, Variants
from textseg.runs.outputs import unpack_mask

RESAMPLES = 2000
ONE_HALF = 0.9  # share of a mask's pixels that puts it into one half of the picture
SWAPPED = "side_swapped"


@dataclass(frozen=True)
class Score:
    """A mean over cases and its 95% interval; NaN without cases, or with a single patient."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class VariantResult:
    """One change of the captions, over the cases where it can be made.

    `dice_true` is of the same cases with true words, `difference` is `dice` less `dice_true`, and
    `changed` the share of cases in which at least one pixel of the mask differs.
    """

    name: str
    cases: int
    patients: int
    dice: Score
    dice_true: Score
    difference: Score
    moved: Score
    changed: float


@dataclass(frozen=True)
class SideSwap:
    """Of the cases whose mask lies in one half of the picture, those that swapped sides moved.

    Args:
        cases: nine tenths of the mask with true words lie in one half.
        share: of these, the mask with swapped sides lies in the other half by more than half.
    """

    cases: int
    share: Score


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of one image whose texts and truths differ.

    Args:
        pairs: how many.
        images: they are of.
        patients: they are of.
        followed: share of pairs in which the mask of either text overlaps its own truth (Dice) more
            than the other's; a network that ignores its text has none.
        own: mean Dice of a mask and its own truth.
        other: mean Dice of a mask and the truth of the pair's other text.
    """

    pairs: int
    images: int
    patients: int
    followed: Score
    own: Score
    other: Score


@dataclass(frozen=True)
class ProbeResult:
    """The result of `textseg.probe.probe`; `output` is the folder it was written to."""

    network: str
    data: str
    seed: int
    cases: int
    patients: int
    variants: tuple[VariantResult, ...]
    crossing: SideSwap | None
    pairs: Pairs | None
    warnings: tuple[str, ...]
    output: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; null for what is undefined, since JSON knows no NaN."""
        values = asdict(self)
        del values["output"]
        values["variants"] = {v.pop("name"): _flat(v) for v in values["variants"]}
        for name in ("crossing", "pairs"):
            values[name] = values[name] and _flat(values[name])
        values["warnings"] = list(self.warnings)
        return values


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A Score as <name>, <name>_ci_low and <name>_ci_high, as in metrics.json."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        score = value if isinstance(value, dict) else {"value": value}
        for part, number in score.items():
            key = name if part == "value" else f"{name}_ci_{part}"
            flat[key] = None if isinstance(number, float) and isnan(number) else number
    return flat


# --- of one case -------------------------------------------------------------------------------


def case_dice(cases: Sequence[ProbedCase], name: str) -> Floats:
    """Dice of each case's mask with the words of a variant, against the truth: [N]."""
    found = [case.measured[name] for case in cases]
    return _dice([m.overlap for m in found], [m.predicted for m in found], [c.true for c in cases])


def case_moved(cases: Sequence[ProbedCase], name: str) -> Floats:
    """1 - Dice of each case's masks with true words and with those of a variant: [N]."""
    found = [case.measured[name] for case in cases]
    own = [case.measured[TRUE].predicted for case in cases]
    return 1 - _dice([m.kept for m in found], [m.predicted for m in found], own)


def _dice(both: Sequence[int], one: Sequence[int], other: Sequence[int]) -> Floats:
    overlap, predicted, true = (np.array(c, dtype=np.int64) for c in (both, one, other))
    index = np.arange(len(overlap))
    unit, blank = np.zeros(len(index), dtype=np.int64), np.full(len(index), np.nan)
    return dice(Rows(index, overlap, predicted, true, unit, blank, blank))


# --- over cases --------------------------------------------------------------------------------


def mean_interval(values: Floats, groups: Sequence[str], *, seed: int, least: float = 0.0) -> Score:
    """The mean of N values in [least, 1] with its 95% interval over patients.

    Args:
        values: [N].
        groups: N patients; "" for a case that is alone.
        seed: of the draws.
        least: -1 for differences.
    """
    if not len(values):
        return Score(np.nan, np.nan, np.nan)
    number = patient_ids(groups, len(values))
    patients = int(number.max()) + 1
    mean = float(values.mean())
    if patients < 2:  # one unit drawn again and again shows no spread
        return Score(mean, np.nan, np.nan)
    sums = np.zeros((patients, 2))
    np.add.at(sums, number, np.stack([values, np.ones(len(values))], axis=1))
    generator = np.random.default_rng(seed)
    total = np.concatenate([d @ sums for d in patient_draws(generator, patients, RESAMPLES)])
    low, high = t_adjusted_interval(
        total[:, :1] / total[:, 1:],
        np.array([mean]),
        freedom=patients - 1.0,
        bounds=(least, 1.0),
    )
    return Score(mean, float(low[0]), float(high[0]))


def count_patients(groups: Sequence[str]) -> int:
    """Patients, and cases without one."""
    return int(patient_ids(groups, len(groups)).max(initial=-1)) + 1


def variant_result(cases: Sequence[ProbedCase], name: str, *, seed: int) -> VariantResult:
    """One variant over all cases that have it."""
    having = [case for case in cases if name in case.measured]
    groups = [case.case_id for case in having]
    with_it, without = case_dice(having, name), case_dice(having, TRUE)
    changed = [_differs(case.measured[name], case.measured[TRUE]) for case in having]
    return VariantResult(
        name=name,
        cases=len(having),
        patients=count_patients(groups),
        dice=mean_interval(with_it, groups, seed=seed),
        dice_true=mean_interval(without, groups, seed=seed),
        difference=mean_interval(with_it - without, groups, seed=seed, least=-1.0),
        moved=mean_interval(case_moved(having, name), groups, seed=seed),
        changed=float(np.mean(changed)) if changed else np.nan,
    )


def _differs(mask: Measured, own: Measured) -> bool:
    return not mask.kept == mask.predicted == own.predicted


def crossing(cases: Sequence[ProbedCase], *, seed: int) -> SideSwap | None:
    """How often swapped sides took a mask to the other half of the picture; None without cases."""
    groups, crossed = [], []
    for case in cases:
        own, swapped = case.measured[TRUE], case.measured.get(SWAPPED)
        if swapped is None or not own.predicted:
            continue
        left = own.left / own.predicted
        if ONE_HALF > left > 1 - ONE_HALF:
            continue
        to_left = swapped.left if left < 0.5 else swapped.predicted - swapped.left
        groups.append(case.case_id)
        crossed.append(2 * to_left > swapped.predicted)
    if not crossed:
        return None
    values = np.array(crossed, dtype=np.float64)
    return SideSwap(len(crossed), mean_interval(values, groups, seed=seed))


def pairs(cases: Mapping[int, ProbedCase], variants: Variants, *, seed: int) -> Pairs | None:
    """All pairs of rows of one image that ask for different things; None where there are none.

    Args:
        cases: by index.
        variants: whose true texts are asked for the difference; case and spacing make none.
        seed: of the intervals.
    """
    images: dict[int, list[int]] = {}
    for index in sorted(cases):
        images.setdefault(cases[index].image_id, []).append(index)
    groups, found, seen = [], [], set()
    for image, rows in images.items():
        masks = {row: unpack_mask(cases[row].pred) > 0 for row in rows}
        truths = {row: unpack_mask(cases[row].truth) > 0 for row in rows}
        for a, b in combinations(rows, 2):
            same_text = _plain(variants[TRUE][a]) == _plain(variants[TRUE][b])
            if same_text or np.array_equal(truths[a], truths[b]):
                continue
            overlaps = [(masks[x], truths[y]) for x, y in ((a, a), (a, b), (b, b), (b, a))]
            both = [int((mask & truth).sum()) for mask, truth in overlaps]
            sizes = [[int(p[i].sum()) for p in overlaps] for i in (0, 1)]
            found.append(_dice(both, *sizes))
            groups.append(cases[a].case_id)
            seen.add(image)
    if not found:
        return None
    own_a, other_a, own_b, other_b = np.array(found).T  # each [P]
    followed = ((own_a > other_a) & (own_b > other_b)).astype(np.float64)
    return Pairs(
        pairs=len(found),
        images=len(seen),
        patients=count_patients(groups),
        followed=mean_interval(followed, groups, seed=seed),
        own=mean_interval((own_a + own_b) / 2, groups, seed=seed),
        other=mean_interval((other_a + other_b) / 2, groups, seed=seed),
    )


def _plain(text: str | None) -> str:
    return " ".join((text or "").lower().split())
