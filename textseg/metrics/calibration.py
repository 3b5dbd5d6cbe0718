"""Calibration: whether of the pixels with probability p the share p is foreground; without torch.

* Expected calibration error: the sum over bins b of n_b / N * |mean probability - share of the
  foreground|, over equal bins of the foreground's probability (Naeini et al., Obtaining well
  calibrated probabilities using Bayesian binning, 2015); twice: of all pixels, of which most are
  far from any lesion and easy, and of those in a margin around the lesions and in them.
* Temperature T: logits are divided by it. That which minimizes the mean negative log-likelihood of
  all pixels is the fitted one (Guo et al., On calibration of modern neural networks, 2017). At
  threshold 0.5 it moves no mask.

All is computed from counts of pixels by logit. Their bins have every edge of a probability's bin
and every threshold among their own edges, so that Dice by threshold is exact. A pixel's logit is
taken for the middle of its bin, which moves no probability by more than 0.0005.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textseg.metrics.bootstrap import Floats, Ints

BINS = 15  # of probability, in an expected calibration error
MARGIN = 0.05  # around lesions, of the image's longer side
THRESHOLDS = np.arange(1, 100) / 100  # among which the best is chosen
LOWEST, HIGHEST = 0.05, 20.0  # what a temperature can be

_FINE, _LARGEST = 1 / 256, 1000.0  # width of bins near 0, and the largest logit that has one


def _logit(probability: Floats) -> Floats:
    return np.log(probability) - np.log1p(-probability)


def _edges() -> Floats:
    """Edges of the bins of logits, narrow around 0 and as wide as a share of the logit far off."""
    steps = int(np.arcsinh(_LARGEST) / _FINE)
    spaced = np.sinh(np.arange(-steps, steps + 1) * _FINE)
    wanted = [_logit(np.arange(1, BINS) / BINS), _logit(THRESHOLDS)]
    # As logits are: an edge that is rounded otherwise would not part what a threshold parts.
    return np.unique(np.concatenate([spaced, *wanted]).astype(np.float32)).astype(np.float64)


BIN_EDGES = _edges()
_MIDDLES = np.concatenate(
    [BIN_EDGES[:1], (BIN_EDGES[1:] + BIN_EDGES[:-1]) / 2, BIN_EDGES[-1:]]
)  # of each bin of logits
THRESHOLD_BINS: list[int] = [
    int(np.searchsorted(BIN_EDGES, np.float32(edge))) for edge in _logit(THRESHOLDS)
]
"""The last bin whose pixels a threshold leaves out, for each of `THRESHOLDS`."""


class PixelCounts(NamedTuple):
    """Pixels of a split by logit: [far or near a lesion, background or foreground, bin] int64.

    `cases` is the number of images; `dice` [T] the sum of their Dice at each of `THRESHOLDS`, None
    where that was not asked for.
    """

    counts: Ints
    cases: int
    dice: Floats | None = None

    def of(self, region: str) -> Ints:
        """Counts of a region, "all" or "margin": [background or foreground, bin]."""
        return self.counts.sum(axis=0) if region == "all" else self.counts[1]


REGIONS = ("all", "margin")


class Reliability(NamedTuple):
    """Of K bins of probability: pixels, mean probability and share of foreground; NaN if empty."""

    pixels: Ints
    probability: Floats
    share: Floats

    @property
    def error(self) -> float:
        """The expected calibration error; NaN without a pixel."""
        total = self.pixels.sum()
        if not total:
            return float("nan")
        return float(np.nansum(self.pixels * np.abs(self.probability - self.share)) / total)


def reliability(counts: Ints, temperature: float = 1.0) -> Reliability:
    """Compare probability and share of foreground in `BINS` equal bins of probability.

    Args:
        counts: [background or foreground, bin of logits].
        temperature: what logits are divided by.
    """
    middles = _probability(_MIDDLES / temperature)
    # Bin k of K holds probabilities in (k / K, (k + 1) / K].
    bins = np.clip(np.ceil(middles * BINS).astype(np.int64) - 1, 0, BINS - 1)
    pixels = np.zeros(BINS, dtype=np.int64)
    np.add.at(pixels, bins, counts.sum(axis=0))
    sums = [
        np.bincount(bins, weights=weights, minlength=BINS)
        for weights in (counts.sum(axis=0) * middles, counts[1].astype(np.float64))
    ]
    nothing = np.full((2, BINS), np.nan)
    probability, share = np.divide(sums, pixels, out=nothing, where=pixels > 0)
    return Reliability(pixels, probability, share)


def negative_log_likelihood(counts: Ints, temperature: float = 1.0) -> float:
    """Compute the mean over pixels of -log of the probability of what is true."""
    scaled = _MIDDLES / temperature
    background, foreground = counts
    total = foreground @ np.logaddexp(0, -scaled) + background @ np.logaddexp(0, scaled)
    return float(total / max(1, counts.sum()))


def fitted_temperature(counts: Ints) -> float:
    """Find the temperature, `LOWEST` to `HIGHEST`, of the least negative log-likelihood.

    The likelihood is convex in 1 / T, so there is one minimum.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]  # takes a while

    found = minimize_scalar(
        lambda log: negative_log_likelihood(counts, float(np.exp(log))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def best_threshold(dice: Floats) -> float:
    """Take the threshold of the largest Dice; of equal ones that nearest to 0.5.

    Args:
        dice: [T], at each of `THRESHOLDS`.
    """
    best = np.flatnonzero(dice >= dice.max())
    return float(THRESHOLDS[best[np.abs(THRESHOLDS[best] - 0.5).argmin()]])


def with_temperature(threshold: float, temperature: float) -> float:
    """The threshold on scaled probabilities that outlines what `threshold` does on others."""
    if temperature == 1:
        return threshold  # to the last digit
    return float(_probability(_logit(np.asarray(threshold)) / temperature))


ERRORS = {
    "ece": ("all", "Expected calibration error, all pixels"),
    "ece_margin": ("margin", "Expected calibration error, in and around lesions"),
}
"""What a test reports: by name its region and title."""


def calibration_errors(counts: PixelCounts, temperature: float = 1.0) -> dict[str, float]:
    """Compute the `ERRORS` of logits that are divided by a temperature."""
    return {
        name: reliability(counts.of(region), temperature).error
        for name, (region, _) in ERRORS.items()
    }


def _probability(logits: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -logits))
