"""`textseg card`: a run as a folder ready for a model hub, with an honest label."""

from textseg.card.command import card

__all__ = ["card"]
