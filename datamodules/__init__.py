"""Datasets on disk -> Batch. Knows nothing of networks."""

from datamodules.base import TextSegDataModule
from datamodules.qata_cov19 import QaTaCov19DataModule
from datamodules.refhl_seg import RefHLSegDataModule

__all__ = ["QaTaCov19DataModule", "RefHLSegDataModule", "TextSegDataModule"]
