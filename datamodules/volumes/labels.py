"""Tells label volumes, which often lie beside the volumes that they are of, from images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from datamodules.files.nifti import read_slabs
from textseg.errors import UserError
from textseg.preprocess import words_apart
from textseg.tables import nifti_stem

_MOST_VALUES = 200  # the largest sets of organs have fewer, and an image in 8 bits has more
_IN_AREAS = 0.5  # of the labeled voxels, as share; noise makes neighbors differ in images
_NAMED = re.compile(r"\b(seg|segmentations?|labels?|masks?|gt)\b", re.IGNORECASE)


def is_label_volume(path: Path) -> bool:
    """Whether a NIfTI file holds labels: few whole numbers from 0 on, most beside an equal one.

    Of a file that its name calls labels the numbers alone are asked for. What cannot be read is
    none. Of most images the first slice tells, and no more is read.
    """
    found: set[float] = set()
    labeled = beside = 0
    try:
        for values in read_slabs(path):
            if values.dtype.kind not in "biuf" or not _are_whole(values):
                return False
            found |= {*np.unique(values).tolist()}
            if len(found) > _MOST_VALUES:
                return False
            for one, other in ((values[:-1], values[1:]), (values[:, :-1], values[:, 1:])):
                labeled += np.count_nonzero(one)
                beside += np.count_nonzero((one != 0) & (one == other))
    except UserError:
        return False
    named = _NAMED.search(words_apart(nifti_stem(path))) is not None
    return named or beside >= _IN_AREAS * labeled


def _are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers from 0 on."""
    return bool((values >= 0).all() and (values.dtype.kind != "f" or (values % 1 == 0).all()))
