"""The networks: importing this package makes their short class names known to the command line."""

from textseg.models.base import SegmentationModule
from textseg.models.baseline import ImageBaseline
from textseg.models.languidemedseg import LanGuideMedSeg
from textseg.models.lavt import LAVT
from textseg.models.lsms import LSMS
from textseg.models.lvit import LViT
from textseg.models.tmc import TMC
from textseg.models.tmca import TMCA

__all__ = [
    "LAVT",
    "LSMS",
    "TMC",
    "TMCA",
    "ImageBaseline",
    "LViT",
    "LanGuideMedSeg",
    "SegmentationModule",
]
