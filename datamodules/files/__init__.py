"""Files as they lie on disk: layouts, manifests, checks, volumes."""
