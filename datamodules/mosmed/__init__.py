"""MosMedData+: reader, layouts on disk, phantoms."""
