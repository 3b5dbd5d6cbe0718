"""QaTa-COV19: reader, layouts on disk, phantoms."""

from datamodules.qata_cov19.datamodule import QaTaCov19DataModule

__all__ = ["QaTaCov19DataModule"]
