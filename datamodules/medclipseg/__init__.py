"""MedCLIPSeg's sixteen datasets: reader, layout on disk, phantoms."""
