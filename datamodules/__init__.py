"""Datasets on disk -> Batch. Knows nothing of networks."""

from datamodules.base import TextSegDataModule
from datamodules.duke_breast_mri import DukeBreastMRIDataModule
from datamodules.manifest_data import ManifestDataModule
from datamodules.mosmed import MosMedDataModule
from datamodules.qata_cov19 import QaTaCov19DataModule
from datamodules.refhl_seg import RefHLSegDataModule

__all__ = [
    "DukeBreastMRIDataModule",
    "ManifestDataModule",
    "MosMedDataModule",
    "QaTaCov19DataModule",
    "RefHLSegDataModule",
    "TextSegDataModule",
]
