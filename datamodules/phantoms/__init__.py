"""Drawing and writing of phantoms; a picture depends on (seed, split, index) alone."""
