"""CT and MR volumes: cut into slices with captions, or opened for a network and written back."""
