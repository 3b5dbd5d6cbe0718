"""Datasets on disk -> Batch. Knows nothing of networks."""

from datamodules.base import TextSegDataModule
from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule
from datamodules.medclipseg.datamodule import MedCLIPSegDataModule
from datamodules.mosmed.datamodule import MosMedDataModule
from datamodules.own_data import ManifestDataModule
from datamodules.qata_cov19.datamodule import QaTaCov19DataModule
from datamodules.refhl_seg.datamodule import RefHLSegDataModule

__all__ = [
    "DukeBreastMRIDataModule",
    "ManifestDataModule",
    "MedCLIPSegDataModule",
    "MosMedDataModule",
    "QaTaCov19DataModule",
    "RefHLSegDataModule",
    "TextSegDataModule",
]
