"""Scores of masks under changed words: Dice, change of the mask, and whether swaps are followed.

* `dice`: mean per image against the truth, at the truth's own resolution (`textseg.metrics`).
* `mask_change`: mean over cases of 1 - Dice(mask with true words, mask with changed words): 0 where
  not one pixel differs, two empty masks included, and 1 where the two share none.
* Of what an image does not show, the share of requests in which anything is outlined.
* Intervals are over patients: of means those of `textseg.metrics.bootstrap`, of shares those of
  `textseg.metrics.shares`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from textseg.batch import ABSENT
from textseg.metrics.bootstrap import Estimate, Floats, count_patients, mean_interval
from textseg.metrics.scores import dice_from_counts
from textseg.metrics.shares import share_interval
from textseg.probe.masks import TRUE, Measured, ProbedCase, Variants
from textseg.runs.outputs import unpack_mask

ONE_HALF = 0.9  # share of a mask's pixels that puts it into one half of the picture
SWAPPED = "side_swapped"


@dataclass(frozen=True)
class VariantResult:
    """One change of the captions, over the cases where it can be made.

    `dice_true` is of the same cases with true words, `difference` is `dice` less `dice_true`, and
    `share_changed` the share of cases in which at least one pixel of the mask differs. `same` of
    the cases have their true caption in a set of altered ones that the dataset offers.
    """

    name: str
    cases: int
    patients: int
    dice: Estimate
    dice_true: Estimate
    difference: Estimate
    mask_change: Estimate
    share_changed: Estimate
    same: int = 0


@dataclass(frozen=True)
class SideSwap:
    """How often swapped sides take a mask from one half of the picture to the other.

    Of the cases where nine tenths of the mask with true words lie in one half, the share in which
    more than half of the mask with swapped sides lies in the other.
    """

    cases: int
    share: Estimate


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of one image whose texts and truths differ.

    `followed` is the share of pairs in which the mask of either text overlaps its own truth (Dice)
    more than the other's; a network that ignores its text has none. `own` is the mean Dice of a
    mask and its own truth, `other` that of a mask and the truth of the pair's other text.
    """

    pairs: int
    images: int
    patients: int
    followed: Estimate
    own: Estimate
    other: Estimate


@dataclass(frozen=True)
class Absent:
    """Requests for what an image does not show, of one kind or of all.

    `outlined` is the share of requests in which at least one pixel is outlined: of networks probed
    on the same test set with the same seed the one number to compare, less being better. `area` is
    the mean share of the image that is outlined, and `area_true` the same with true words.
    """

    requests: int
    cases: int
    patients: int
    outlined: Estimate
    area: Estimate
    area_true: Estimate


@dataclass(frozen=True)
class ProbeResult:
    """Result of `textseg.probe.probe`; `output` is the folder it was written to.

    `tta`, `ensemble`, `threshold` and `temperature` are the network's, and with tta `unmirrored` is
    how many of the captions, those of all variants, could not be mirrored.
    """

    network: str
    data: str
    seed: int
    cases: int
    patients: int
    variants: tuple[VariantResult, ...]
    side_swap: SideSwap | None
    pairs: Pairs | None
    absent: Absent | None
    absent_kinds: Mapping[str, Absent]
    warnings: tuple[str, ...]
    tta: str = "none"
    ensemble: tuple[str, ...] = ()
    unmirrored: int | None = None
    threshold: float = 0.5
    temperature: float = 1.0
    output: Path | None = None

    def averaging(self) -> dict[str, Any]:
        """What masks were made with, as `textseg.metrics.text.averaging_text` reads it."""
        names = ("tta", "ensemble", "threshold", "temperature")
        return {name: getattr(self, name) for name in names}

    def as_json(self) -> dict[str, Any]:
        """Convert to plain values, an estimate to <name>, <name>_ci_low and <name>_ci_high."""
        values = asdict(self)
        del values["output"]
        values["variants"] = {v.pop("name"): _flat(v) for v in values["variants"]}
        for name in ("side_swap", "pairs", "absent"):
            values[name] = values[name] and _flat(values[name])
        values["absent_kinds"] = {k: _flat(v) for k, v in values["absent_kinds"].items()}
        return values


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat[name] = value["value"] if isinstance(value, dict) else value
        if isinstance(value, dict):
            flat |= {f"{name}_ci_{end}": value[end] for end in ("low", "high")}
    return flat


def case_dice(cases: Sequence[ProbedCase], name: str) -> Floats:
    """Dice of each case's mask with the words of a variant, against the truth: [N]."""
    masks = [case.measured[name] for case in cases]
    areas = [m.overlap for m in masks], [m.predicted for m in masks], [case.true for case in cases]
    return dice_from_counts(*areas)


def case_mask_change(cases: Sequence[ProbedCase], name: str) -> Floats:
    """1 - Dice of each case's masks with true words and with those of a variant: [N]."""
    masks = [case.measured[name] for case in cases]
    own = [case.measured[TRUE].predicted for case in cases]
    return 1 - dice_from_counts([m.kept for m in masks], [m.predicted for m in masks], own)


def variant_result(
    cases: Sequence[ProbedCase], name: str, *, seed: int, same: int = 0
) -> VariantResult:
    """Score one variant over all cases that have it."""
    having = [case for case in cases if name in case.measured]
    groups = [case.case_id for case in having]
    with_it, without = case_dice(having, name), case_dice(having, TRUE)
    change = case_mask_change(having, name)
    return VariantResult(
        name=name,
        cases=len(having),
        patients=count_patients(groups, len(groups)),
        dice=mean_interval(with_it, groups, seed=seed),
        dice_true=mean_interval(without, groups, seed=seed),
        difference=mean_interval(with_it - without, groups, seed=seed, lowest=-1.0),
        mask_change=mean_interval(change, groups, seed=seed),
        share_changed=share_interval(change > 0, groups),
        same=same,
    )


def side_swap(cases: Sequence[ProbedCase]) -> SideSwap | None:
    """Measure how often swapped sides take a mask to the other half; None without cases."""
    groups, followed = [], []
    for case in cases:
        own, swapped = case.measured[TRUE], case.measured.get(SWAPPED)
        if swapped is None or not own.predicted:
            continue
        left = own.left / own.predicted
        if ONE_HALF > left > 1 - ONE_HALF:
            continue
        to_left = swapped.left if left < 0.5 else swapped.predicted - swapped.left
        groups.append(case.case_id)
        followed.append(2 * to_left > swapped.predicted)
    if not followed:
        return None
    return SideSwap(len(followed), share_interval(followed, groups))


def absent_kinds(
    cases: Sequence[ProbedCase], names: Iterable[str], *, seed: int
) -> dict[str, Absent]:
    """Measure each kind of request for something absent, by the end of its name."""
    kinds = (name for name in names if name.startswith(ABSENT))
    return {
        name.removeprefix(ABSENT): _absent(_requests(cases, [name]), seed=seed) for name in kinds
    }


def absent(cases: Sequence[ProbedCase], names: Iterable[str], *, seed: int) -> Absent | None:
    """Measure all requests for something absent together; None where there are none."""
    requests = _requests(cases, [name for name in names if name.startswith(ABSENT)])
    return _absent(requests, seed=seed) if requests else None


def _requests(
    cases: Sequence[ProbedCase], names: Sequence[str]
) -> list[tuple[ProbedCase, Measured]]:
    return [
        (case, case.measured[name]) for name in names for case in cases if name in case.measured
    ]


def _absent(requests: Sequence[tuple[ProbedCase, Measured]], *, seed: int) -> Absent:
    groups = [case.case_id or case.case for case, _ in requests]  # a case may be asked for several
    pixels = np.array([case.pixels for case, _ in requests], dtype=np.float64)
    outlined = np.array([mask.predicted for _, mask in requests], dtype=np.float64)
    true = np.array([case.measured[TRUE].predicted for case, _ in requests], dtype=np.float64)
    return Absent(
        requests=len(requests),
        cases=len({case.case for case, _ in requests}),
        patients=count_patients(groups, len(groups)),
        outlined=share_interval(outlined > 0, groups),
        area=mean_interval(outlined / pixels, groups, seed=seed),
        area_true=mean_interval(true / pixels, groups, seed=seed),
    )


def pairs(cases: Mapping[int, ProbedCase], variants: Variants, *, seed: int) -> Pairs | None:
    """Score all pairs of rows of one image with unlike texts and truths; None where there are none.

    Texts that differ in case and spacing alone are alike.
    """
    images: dict[int, list[int]] = {}
    for index in sorted(cases):
        images.setdefault(cases[index].image_id, []).append(index)
    groups, dices, images_used = [], [], set()
    for image, rows in images.items():
        masks = {row: unpack_mask(cases[row].masks[TRUE]) > 0 for row in rows}
        truths = {row: unpack_mask(cases[row].truth) > 0 for row in rows}
        for a, b in combinations(rows, 2):
            same_text = _plain(variants[TRUE][a]) == _plain(variants[TRUE][b])
            if same_text or np.array_equal(truths[a], truths[b]):
                continue
            overlaps = [(masks[x], truths[y]) for x, y in ((a, a), (a, b), (b, b), (b, a))]
            both = [int((mask & truth).sum()) for mask, truth in overlaps]
            sizes = [[int(p[i].sum()) for p in overlaps] for i in (0, 1)]
            dices.append(dice_from_counts(both, *sizes))
            groups.append(cases[a].case_id)
            images_used.add(image)
    if not dices:
        return None
    own_a, other_a, own_b, other_b = np.array(dices).T  # each [P]
    followed = (own_a > other_a) & (own_b > other_b)
    return Pairs(
        pairs=len(dices),
        images=len(images_used),
        patients=count_patients(groups, len(groups)),
        followed=share_interval(followed, groups),
        own=mean_interval((own_a + own_b) / 2, groups, seed=seed),
        other=mean_interval((other_a + other_b) / 2, groups, seed=seed),
    )


def same_texts(cases: Iterable[int], variants: Variants, name: str) -> int:
    """How many of the cases have their true caption in a variant, but for case and spacing."""
    given, true = variants[name], variants[TRUE]
    return sum(given[i] is not None and _plain(given[i]) == _plain(true[i]) for i in cases)


def _plain(text: str | None) -> str:
    return " ".join((text or "").lower().split())
