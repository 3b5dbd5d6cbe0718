"""Synthetic data in the datasets' real on-disk layouts, for the quickstart and the tests.

A picture depends on (seed, split, index) alone, not on how many are written. Words take the
viewer's side: "left" is the picture's left.
"""

from datamodules.synthetic.qata import write_qata
from datamodules.synthetic.refhl import write_refhl

__all__ = ["write_qata", "write_refhl"]
