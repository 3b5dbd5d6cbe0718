"""Intervals by a bootstrap over patients: one method for a test and for a comparison.

1. Patients are drawn with replacement, each with all of its cases (Efron and Tibshirani, An
   Introduction to the Bootstrap, 1993). Of n patients n - 1 are drawn, because the mean of n - 1
   draws varies just as the mean of n new patients would; the mean of n draws varies by (n - 1) / n
   of that (Rao and Wu, Resampling inference with complex survey data, 1988).
2. The percentiles of the draws are the ends, which keeps the skewness of a ratio.
3. Percentiles, like normal quantiles, take the spread as known. Each end is moved away from the
   estimate by t / z, quantiles of Student's t and of the normal distribution, as an interval of a
   mean would be (after Hesterberg, What teachers should know about the bootstrap, 2015, who widens
   the percentiles' levels instead: of the few values that few seeds can give there are none).

On simulated data this came nearer to 95% than plain percentiles, BCa and bootstrap-t did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# A patient or study for each case, "" or None for a case that is alone; None: every case is.
Groups = Sequence[str | None] | None

_UPPER = 0.975  # the upper end of a 95% interval
FEW_PATIENTS = 20  # below, a bootstrap's intervals are known to be too narrow
_MAX_DRAWS_AT_ONCE = 2_000_000  # numbers drawn at once: what bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A mean over cases and its 95% interval; NaN without cases, or with a single patient."""

    value: float
    low: float
    high: float


def patient_ids(groups: Groups, cases: int) -> Ints:
    """Number the patients: equal within a patient; a case without a patient is alone: [N]."""
    if groups is None:
        return np.arange(cases)
    if len(groups) != cases:
        raise ValueError(f"groups names {len(groups)} patients for {cases} cases; give one per row")
    keys = [(True, group) if group else (False, str(row)) for row, group in enumerate(groups)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def count_patients(groups: Groups, cases: int) -> int:
    """Number of patients, cases without one included: what a bootstrap draws from."""
    return int(patient_ids(groups, cases).max(initial=-1)) + 1


def bootstrap_warnings(groups: Groups, cases: int) -> list[str]:
    """Warn of what makes an interval too narrow, in sentences; usually there is none."""
    if cases == 0:
        return []
    known = sum(bool(group) for group in groups or ())
    units = count_patients(groups, cases)
    warnings = []
    if units < FEW_PATIENTS:
        some = "patients" if known == cases else "patients and images without one"
        what = some if known else "images"
        warnings.append(
            f"{units} {what}: under {FEW_PATIENTS}, intervals from a bootstrap are too narrow"
        )
    if not known:
        warnings.append("no patient is known: images of one patient count as independent")
    elif known < cases:
        warnings.append(
            f"no patient is known of {cases - known} of {cases} images: each counts as a patient"
        )
    return warnings


def patient_draws(
    generator: np.random.Generator, patients: int, resamples: int
) -> Iterator[Floats]:
    """Draw n - 1 of n patients with replacement, and count how often each is drawn, in parts.

    Counting drawn numbers takes a quarter of the time of the generator's own multinomial.

    Yields:
        [some, n], each row with the sum n - 1; `resamples` rows in all.
    """
    assert patients > 1, patients
    rows = max(1, _MAX_DRAWS_AT_ONCE // patients)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(patients, size=(size, patients - 1))
        drawn += patients * np.arange(size)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=size * patients)
        yield counted.reshape(size, patients).astype(np.float64)


def t_adjusted_interval(
    draws: Floats,
    estimate: Floats,
    *,
    degrees_of_freedom: Floats | float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[Floats, Floats]:
    """Take the percentiles of bootstrap draws, moved away from the estimate by t / z.

    Args:
        draws: [R, K].
        estimate: [K], of the data themselves.
        degrees_of_freedom: of the spread, of each or of all.
        bounds: what a score can be; ends beyond are cut off.

    Returns:
        low [K], high [K].
    """
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]  # takes a while

    ends = np.quantile(draws, [1 - _UPPER, _UPPER], axis=0)
    ends = estimate + (ends - estimate) * (stdtrit(degrees_of_freedom, _UPPER) / ndtri(_UPPER))
    low, high = np.clip(ends, *bounds)
    return low, high


def patient_interval(
    columns: Floats,
    groups: Groups,
    score: Callable[[Floats], Floats],
    *,
    estimate: Floats,
    resamples: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[Floats, Floats]:
    """Bootstrap the interval of scores that are functions of sums over cases.

    Args:
        columns: [N, C], what is summed over cases.
        groups: the N cases' patients.
        score: sums [R, C] -> scores [R, K].
        estimate: [K], the scores of the data themselves.
        resamples: R, the number of draws.
        seed: of the draws.
        bounds: what a score can be.

    Returns:
        low [K], high [K]; NaN with fewer than two units to draw from, which show no spread.
    """
    number, patients = patient_ids(groups, len(columns)), count_patients(groups, len(columns))
    if patients < 2:
        undefined = np.full(len(estimate), np.nan)
        return undefined, undefined
    sums = np.zeros((patients, columns.shape[1]))
    np.add.at(sums, number, columns)
    generator = np.random.default_rng(seed)
    totals = [drawn @ sums for drawn in patient_draws(generator, patients, resamples)]
    return t_adjusted_interval(
        score(np.concatenate(totals)),
        estimate,
        degrees_of_freedom=patients - 1.0,
        bounds=bounds,
    )


def mean_interval(
    values: Floats, groups: Groups, *, seed: int = 0, lowest: float = 0.0
) -> Estimate:
    """Estimate the mean of N values in [lowest, 1] with its 95% interval over patients."""
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    low, high = patient_interval(
        np.stack([values, np.ones(len(values))], axis=1),
        groups,
        lambda sums: sums[:, :1] / sums[:, 1:],
        estimate=np.array([mean]),
        seed=seed,
        bounds=(lowest, 1.0),
    )
    return Estimate(mean, float(low[0]), float(high[0]))


def effective_degrees_of_freedom(
    variance: Floats, patients: int, seeds: Sequence[tuple[Floats, int]]
) -> Floats:
    """Compute the degrees of freedom of a variance that patients and seeds share.

    v^2 / (v_0^2 / (n - 1) + sum of v_i^2 / (S_i - 1)), with v the sum of all parts: near n - 1
    where patients make up the spread, near S - 1 where the seeds do (Satterthwaite 1946).

    Args:
        variance: [K], of the draws.
        patients: n.
        seeds: of each method with S > 1 seeds, the part of the variance that is its own [K], and S.
    """
    parts = [np.asarray(part) for part, _ in seeds]
    own = np.maximum(variance - sum(parts), 0.0)
    total = own + sum(parts)
    below = own**2 / (patients - 1)
    for part, (_, count) in zip(parts, seeds, strict=True):
        below = below + part**2 / (count - 1)
    out = np.full(np.shape(variance), float(patients - 1))  # no spread at all: any will do
    return np.divide(total**2, below, out=out, where=below > 0)
