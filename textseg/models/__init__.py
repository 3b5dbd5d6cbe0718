"""The networks: importing this package makes their short class names known to the command line."""

from textseg.models.base import SegmentationModule
from textseg.models.lsms import LSMS

__all__ = ["LSMS", "SegmentationModule"]
