"""Image encoders from timm and text encoders from transformers: the only package importing either.

A text encoder by name is one of
  * ``scratch``: a small BERT trained with the network, its word-piece vocabulary built from the
    training captions;
  * a local folder or a hub name: weights-only, never running code that comes with the weights.

Whichever it is, its config and its tokenizer are kept as text in the network's ``state_dict``, so
that a checkpoint is rebuilt without any hub (`restoring`). A network may also build one of its own
with the promises of `TextEncoderBase`.
"""

from textseg.encoders.image import (
    IMAGENET,
    STRIDES,
    ImageEncoder,
    Normalize,
    check_image_size,
    check_strides,
    check_widths,
    is_timm_model,
    load_described_weights,
    load_timm_weights,
    near_timm_names,
    timm_no_weight_decay,
)
from textseg.encoders.ready import ReadyTextEncoder
from textseg.encoders.restore import is_restoring, restoring
from textseg.encoders.text import (
    NoText,
    TextEncoder,
    TextEncoderBase,
    masked_mean,
    reads_text,
    token_counter,
)
from textseg.encoders.timm_source import timm_source
from textseg.encoders.unknown_words import share_counter

__all__ = [
    "IMAGENET",
    "STRIDES",
    "ImageEncoder",
    "NoText",
    "Normalize",
    "ReadyTextEncoder",
    "TextEncoder",
    "TextEncoderBase",
    "check_image_size",
    "check_strides",
    "check_widths",
    "is_restoring",
    "is_timm_model",
    "load_described_weights",
    "load_timm_weights",
    "masked_mean",
    "near_timm_names",
    "reads_text",
    "restoring",
    "share_counter",
    "timm_no_weight_decay",
    "timm_source",
    "token_counter",
]
