"""Intervals of shares, such as "in 30 of 30 cases": Wilson's, on an effective number of patients.

A bootstrap draws what was seen: of 30 cases that all agree every draw agrees too, and its interval
is [1, 1]. Wilson's interval (Probable inference, 1927) is the set of true shares under which the
seen one is not unlikely, [0.886, 1] for 30 of 30.

It supposes independent cases, and slices of one patient are none. So the number of cases gives way
to the effective number of Korn and Graubard (Confidence intervals for proportions with small
expected number of positive counts estimated from survey data, 1998): that of independent cases
whose share would vary as much as this one does between patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.bootstrap import ALPHA, Estimate, Floats, Groups, Ints, patient_ids

# So many patients must have cases of the rarer answer, before its spread can be estimated.
_LEAST_PATIENTS = 5


def wilson_interval(share: float, number: float) -> tuple[float, float]:
    """Compute the 95% interval of a share of `number` independent cases, which may be no integer.

    Returns:
        low, high: the two roots p of (share - p)^2 = z^2 p (1 - p) / number.
    """
    from scipy.special import ndtri  # type: ignore[import-untyped]  # takes a while

    z_squared = float(ndtri(1 - ALPHA / 2)) ** 2
    middle = (share + z_squared / (2 * number)) / (1 + z_squared / number)
    spread = share * (1 - share) / number + z_squared / (4 * number**2)
    half = np.sqrt(z_squared * spread) / (1 + z_squared / number)
    # The roots at the ends are 0 and 1, but for rounding.
    low = 0.0 if share == 0 else max(0.0, middle - half)
    high = 1.0 if share == 1 else min(1.0, middle + half)
    return float(low), float(high)


def share_interval(values: Sequence[bool] | NDArray[Any], groups: Groups = None) -> Estimate:
    """Estimate the share of N cases that something is true of, with its interval over patients.

    Args:
        values: [N], true or false, or the share of each case, in [0, 1].
        groups: patient or study of each case, as in `textseg.metrics.bootstrap`.

    Returns:
        NaN without cases.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Estimate(np.nan, np.nan, np.nan)
    share = float(numbers.mean())
    number = effective_number(numbers, patient_ids(groups, len(numbers)))
    return Estimate(share, *wilson_interval(share, number))


def effective_number(values: Floats, patient: Ints) -> float:
    """Compute how many independent cases tell as much about a share as these do.

    With m_g cases of patient g, y_g the sum of their values, p the share and n patients, the
    variance of p is v = n / (n - 1) * sum (y_g - p m_g)^2 / N^2, and p (1 - p) / v cases would have
    it; times (z / t)^2, as v is an estimate with n - 1 degrees of freedom. At most this is N, and
    at least N^2 / sum m_g^2, as if all cases of a patient were one. The latter is taken where fewer
    than five patients have cases of the rarer answer, since v then tells nothing.

    Args:
        values: [N] in [0, 1].
        patient: [N], the number of each case's patient.
    """
    from scipy.special import ndtri, stdtrit

    cases, share = len(values), float(values.mean())
    sizes = np.bincount(patient).astype(np.float64)
    patients = len(sizes)
    least = cases**2 / float((sizes**2).sum())
    rarer = values if share <= 0.5 else 1 - values
    if len(np.unique(patient[rarer > 0])) < _LEAST_PATIENTS:
        return least
    sums = np.bincount(patient, weights=values)
    variance = patients / (patients - 1) * ((sums - share * sizes) ** 2).sum() / cases**2
    upper = 1 - ALPHA / 2
    shrink = float(ndtri(upper) / stdtrit(patients - 1, upper)) ** 2
    estimated = shrink * share * (1 - share) / max(variance, np.finfo(float).tiny)
    return float(min(max(estimated, least), cases))
