"""RefHL-Seg: reader, the builder of a stand-in from CT volumes, phantoms."""
