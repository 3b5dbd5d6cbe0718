"""The vocabulary between data, networks and scoring."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypedDict

from torch import Tensor


class _RequiredFields(TypedDict):
    image: Tensor
    text: list[str]
    caption_id: Tensor
    image_id: Tensor
    index: Tensor
    case: list[str]
    case_id: list[str]
    original_size: Tensor
    spacing: Tensor


class Batch(_RequiredFields, total=False):
    """A batch as a step receives it; `LoadedBatch` is what the loaders yield.

    | field | shape | meaning |
    |---|---|---|
    | image | [B, 3, H, W] float32 | in [0, 1]; mean and std belong to the image encoder |
    | text | list of B | captions as strings; the text encoder owns its tokenizer |
    | caption_id | [B] int64 | `stable_id` of the normalized caption, as the dataset words it |
    | image_id | [B] int64 | `stable_id` of the image |
    | index | [B] int64 | position in the split; DDP pads with repeats, scoring drops them by it |
    | case | list of B | one row: `<image stem>__<row>`, safe as a file name |
    | case_id | list of B | patient or study; "" where unknown |
    | original_size | [B, 2] int64 | height and width on disk, pixels |
    | file | list of B | path of each image; test and predict only |
    | spacing | [B, 2] float32 | millimetres per pixel, rows then columns; NaN where unknown |
    | mask | [B, 1, H, W] float32 | 0 or 1; absent in predict |
    | frame | [B, 4] int64 | top, left, height, width of a padded picture; absent without borders |
    | truth | list of B [H0, W0] uint8 | 0 or 1 at each image's own resolution; test only |
    """

    mask: Tensor
    frame: Tensor
    truth: list[Tensor]
    file: list[str]


class LoadedBatch(_RequiredFields, total=False):
    """A batch as a DataModule's loaders yield it: pixels are still bytes.

    | field | shape | meaning |
    |---|---|---|
    | image | [B, 3, H, W] uint8 | 0 to 255; [B, 1, H, W] where all pictures of the batch are gray |
    | mask | [B, 1, H, W] uint8 | 0 or 1; absent in predict |

    The other fields are a Batch's. A Trainer that is given the DataModule turns it into a Batch on
    the device. A loop of your own does the same::

        for loaded in datamodule.val_dataloader():
            batch = datamodule.on_after_batch_transfer(loaded, 0)
    """

    mask: Tensor
    frame: Tensor
    truth: list[Tensor]
    file: list[str]


class TextFeatures(NamedTuple):
    """An encoded caption.

    tokens [B, L, D]; mask [B, L] bool, True for a real token, special ones included, so an empty
    caption still has tokens to attend to; pooled [B, D], the mean over real tokens.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class SegmentationOutput(NamedTuple):
    """The output of every network: logits [B, 1, H, W] at input size, and tensors for its loss."""

    logits: Tensor
    aux: dict[str, Tensor]


def stable_id(text: str) -> int:
    """A digest in [0, 2**63) that, unlike `hash`, is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


EMPTY_CAPTION_ID = stable_id("")
"""`caption_id` of a row without words."""

ABSENT = "absent:"
"""Begins the name of changed captions that ask for what an image does not show."""

ABSENT_LESION = f"{ABSENT}lesion"
"""The name of those that ask for a lesion where an image has none."""
UNKNOWN_BOUND = 0.05
"""Mean share of [UNK] in the tokens of captions above which it is warned of."""
