"""What the words are worth to each method: its tests with true, empty and shuffled captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textseg.compare.load import Result, same_run_test
from textseg.compare.results import WordUse
from textseg.compare.statistics import estimated, resample, seed_variance
from textseg.metrics.bootstrap import Ints
from textseg.metrics.scores import PRIMARY

MODES = ("empty", "shuffled")


def word_use(
    methods: Mapping[str, Sequence[Result]],
    order: Sequence[str],
    patient: Ints,
    *,
    resamples: int,
    seed: int,
) -> tuple[WordUse, ...]:
    """Compare dice with true captions with that of the same runs with others.

    Only where every run of a method was tested with them on the very cases `order`. Each run is
    compared with itself, so that the luck of a training counts only as far as it changes the gain.
    """
    found = []
    for name, results in methods.items():
        for mode in MODES if all(one.test.caption_mode == "true" for one in results) else ():
            others = [same_run_test(one, mode) for one in results]
            pairs = [(one, other) for one, other in zip(results, others, strict=True) if other]
            if len(pairs) < len(results):
                continue
            true, changed = (
                np.stack([one.columns(order, [PRIMARY]) for one in side])
                for side in zip(*pairs, strict=True)
            )
            gain = true - np.array([1.0, 0.0]) * changed  # means over the same cases
            own = resample([gain], patient, resamples=resamples, seed=seed, names=[PRIMARY])
            runs, draws, left_out = own.runs[0], own.draws[0], own.left_out[0]
            seeds = [seed_variance(runs, draws)] if len(runs) > 1 else []
            means = runs.mean(axis=0), draws.mean(axis=1), left_out.mean(axis=0)
            one = estimated(*means, seeds, bounds=(-1.0, 1.0))
            numbers = [float(x[0]) for x in (one.value, one.low, one.high)]
            dice = float(changed[..., 0].mean())
            found.append(WordUse(name, mode, dice, *numbers))
    return tuple(found)
