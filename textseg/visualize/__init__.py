"""Overlays, explanation maps and sheets of panels, drawn with Pillow."""
