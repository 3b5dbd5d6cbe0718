"""`textseg segment` and `textseg.load`: masks of any images, from a checkpoint alone.

The checkpoint brings the network's class, its settings, its weights, and the config and tokenizer
of its text encoder, so that no hub is asked. The size of the network's input and the precision come
from the config.yaml of its run. Texts are read as they are given: of a run with
``normalize_captions: true``, give texts that are written as the normalized captions are.
"""

from textseg.segment.command import segment

__all__ = ["segment"]
