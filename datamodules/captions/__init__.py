"""Captions: modes, LViT's template, perturbations, referring expressions."""
