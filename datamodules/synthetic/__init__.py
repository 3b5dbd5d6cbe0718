"""Synthetic data in the datasets' real on-disk layouts, for the quickstart and the tests.

A picture depends on (seed, split, index) alone, not on how many are written. Words take the
viewer's side: "left" is the picture's left. Writers of volumes are in modules of their own,
`synthetic.duke` and `synthetic.liver`, because they need nibabel and pydicom.
"""

from datamodules.synthetic.mosmed import write_mosmed
from datamodules.synthetic.qata import write_qata
from datamodules.synthetic.refhl import write_refhl

__all__ = ["write_mosmed", "write_qata", "write_refhl"]
