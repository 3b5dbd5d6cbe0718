"""QaTa-COV19: reader, layouts on disk, phantoms."""
