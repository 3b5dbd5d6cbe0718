"""RefHL-Seg: reader, the builder of a stand-in from CT volumes, phantoms."""

from datamodules.refhl_seg.datamodule import RefHLSegDataModule

__all__ = ["RefHLSegDataModule"]
