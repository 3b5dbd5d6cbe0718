"""A run's folder: the one writer and the one reader of what is in it."""
