"""Duke-Breast-Cancer-MRI: reader, layouts, clinical sheets, captions, slices, phantoms."""
