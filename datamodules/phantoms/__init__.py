"""What the phantoms of every dataset share. A picture depends on (seed, split, index) alone."""
