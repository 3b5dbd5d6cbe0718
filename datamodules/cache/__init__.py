"""Decoded pictures kept on disk, built once by one process."""
