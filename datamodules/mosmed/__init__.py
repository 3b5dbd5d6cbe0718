"""MosMedData+: reader, layouts on disk, phantoms."""

from datamodules.mosmed.datamodule import MosMedDataModule

__all__ = ["MosMedDataModule"]
