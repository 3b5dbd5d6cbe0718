"""Duke-Breast-Cancer-MRI: reader, layouts, clinical sheets, captions, slices, phantoms."""

from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule

__all__ = ["DukeBreastMRIDataModule"]
