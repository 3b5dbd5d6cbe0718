"""`textseg benchmark`: cost, speed and memory of networks on one machine."""
