"""How much a file may ask for, which its header tells before it is decoded.

| setting of the environment | by default | of |
|---|---|---|
| TEXTSEG_MAX_PIXELS | 100 million | a picture, or a frame of DICOM |
| TEXTSEG_MAX_VOXELS | 512 x 512 x 2048 | a volume: a NIfTI file, or a series of DICOM files |
| TEXTSEG_MAX_TABLE_BYTES | 256 MiB | a table; of a workbook, its unpacked sheets |
| TEXTSEG_MAX_CELLS | 20 million | a table, rows times columns |
| TEXTSEG_MAX_CHECKPOINT_BYTES | 1 GiB | what a compressed checkpoint unpacks to |
| TEXTSEG_MAX_UPLOAD_BYTES | 1 GiB | what the page of `textseg demo` is sent at once |

torch compresses no checkpoint: of those that it wrote, the last limit refuses none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from textseg.errors import UserError


@dataclass(frozen=True)
class Limit:
    """The most that a file may have of something.

    Args:
        variable: the setting of the environment that takes its place.
        usual: the limit without that setting.
        unit: what is counted.
    """

    variable: str
    usual: int
    unit: str

    @property
    def most(self) -> int:
        """The limit in force.

        Raises:
            UserError: the setting is no number.
        """
        given = os.environ.get(self.variable, "").strip()
        if not given:
            return self.usual
        if not given.isascii() or not given.isdigit():
            raise UserError(
                f"{self.variable}={given!r} is no number of {self.unit}",
                f"give a whole number, by default {self.usual}",
            )
        return int(given)

    def check(self, count: int, where: object) -> None:
        """Check what a file asks for.

        Args:
            count: of the unit.
            where: the file, for the message.

        Raises:
            UserError: it is more than the limit.
        """
        if count > (most := self.most):
            raise UserError(
                f"{where} has {count:,} {self.unit}, over the limit of {most:,}",
                f"if this is meant, and there is memory for it, set {self.variable}={count} in the "
                "environment",
            )


PIXELS = Limit("TEXTSEG_MAX_PIXELS", 100_000_000, "pixels")
VOXELS = Limit("TEXTSEG_MAX_VOXELS", 512 * 512 * 2048, "voxels")
TABLE_BYTES = Limit("TEXTSEG_MAX_TABLE_BYTES", 256 * 2**20, "bytes")
CELLS = Limit("TEXTSEG_MAX_CELLS", 20_000_000, "cells")
CHECKPOINT_BYTES = Limit("TEXTSEG_MAX_CHECKPOINT_BYTES", 2**30, "bytes when it is unpacked")
UPLOAD_BYTES = Limit("TEXTSEG_MAX_UPLOAD_BYTES", 2**30, "bytes")
LIMITS = (PIXELS, VOXELS, TABLE_BYTES, CELLS, CHECKPOINT_BYTES, UPLOAD_BYTES)
