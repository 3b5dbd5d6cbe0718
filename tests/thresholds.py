"""A threshold for masks that are compared pixel by pixel."""

from __future__ import annotations

import numpy as np


def between_pixels(values: np.ndarray) -> float:
    """A threshold that parts `values` some 30 to 70 % apart, in the widest gap between two of them.

    A network rounds one way in a batch and another alone, by processor and number of threads: at
    the median itself a pixel may then fall on either side.
    """
    ordered = np.sort(values.astype(np.float64), axis=None)
    middle = ordered[int(0.3 * ordered.size) : int(0.7 * ordered.size) + 1]
    widest = int(np.argmax(np.diff(middle)))
    return float(middle[widest : widest + 2].mean())
