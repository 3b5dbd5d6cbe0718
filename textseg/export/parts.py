"""The tensor functions of a network, and their graphs by torch.export."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from textseg.batch import TextFeatures
from textseg.encoders import NoText, TextEncoder, masked_mean
from textseg.errors import UserError, refusing
from textseg.models.base import SegmentationModule
from textseg.preprocess import Size

MULTIPLE = 32  # of the sides of images, as `textseg.preprocess.checked_size` has it
LEAST = 2 * MULTIPLE  # of sides that may change: a map of one row would be a case of its own
_MOST = 1024  # images in a batch, and 32 pixels of a side: a graph's dimension has bounds


class Traced(NamedTuple):
    """The graphs of a network; `dynamic` tells of height and width whether they may change."""

    network: ExportedProgram
    text: ExportedProgram | None
    dynamic: tuple[bool, bool]


class TextGuidedPart(nn.Module):
    """Image [B, 3, H, W] in [0, 1], tokens [B, L, D] and mask [B, L] to logits [B, 1, H, W]."""

    def __init__(self, network: SegmentationModule) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The logits."""
        text = TextFeatures(tokens, mask, masked_mean(tokens, mask))
        return self.network.forward_features(image, text).logits


class ImageOnlyPart(nn.Module):
    """Image [B, 3, H, W] in [0, 1] to logits [B, 1, H, W]."""

    def __init__(self, network: SegmentationModule) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The logits."""
        count = image.shape[0]
        nothing = TextFeatures(  # as NoText gives it
            image.new_zeros(count, 1, 0),
            image.new_ones(count, 1, dtype=torch.bool),
            image.new_zeros(count, 0),
        )
        return self.network.forward_features(image, nothing).logits


class TextPart(nn.Module):
    """Token ids [B, L] and their mask [B, L] to tokens [B, L, D]."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The tokens."""
        return self.encoder.encode_ids(input_ids, attention_mask)


def trace(network: SegmentationModule, size: Size) -> Traced:
    """The graphs of a network in eval mode, for images of any size or, where it must be, of `size`.

    Raises:
        UserError: the network or its text encoder cannot be traced, or it has a text encoder whose
            tokenizer is its own.
    """
    encoder = text_encoder_of(network)
    if has_windows(network) or min(size) < LEAST:
        return _traced(network, encoder, size, dynamic=False)
    try:
        return _traced(network, encoder, size, dynamic=True)
    except UserError:  # perhaps for one size alone
        return _traced(network, encoder, size, dynamic=False)


def _traced(
    network: SegmentationModule, encoder: TextEncoder | NoText, size: Size, *, dynamic: bool
) -> Traced:
    batch = Dim("batch", min=1, max=_MOST)
    sides = {}
    if dynamic:
        sides = {2 + i: MULTIPLE * Dim(name, min=2, max=_MOST) for i, name in enumerate("hw")}
    # A batch of 1, and equal sides, would be taken for the only ones there are.
    image = torch.rand(2, 3, 2 * MULTIPLE, 3 * MULTIPLE) if dynamic else torch.rand(2, 3, *size)
    if isinstance(encoder, NoText):
        part: nn.Module = ImageOnlyPart(network)
        return Traced(_graph(part, network, (image,), ({0: batch, **sides},)), None, (dynamic,) * 2)
    ids = torch.zeros(2, encoder.max_tokens, dtype=torch.int64)
    mask = torch.ones_like(ids, dtype=torch.bool)
    tokens = torch.rand(2, encoder.max_tokens, encoder.dim)
    shapes = ({0: batch, **sides}, {0: batch}, {0: batch})
    return Traced(
        _graph(TextGuidedPart(network), network, (image, tokens, mask), shapes),
        _graph(TextPart(encoder), network, (ids, mask), ({0: batch}, {0: batch})),
        (dynamic,) * 2,
    )


def text_encoder_of(network: SegmentationModule) -> TextEncoder | NoText:
    """A network's text encoder.

    Raises:
        UserError: it is one of the user's own, whose tokenizer has no file.
    """
    encoder = getattr(network, "text_encoder", None)
    if isinstance(encoder, TextEncoder | NoText):
        return encoder
    raise UserError(
        f"{network.network_name} has text_encoder {type(encoder).__name__}, whose tokenizer cannot "
        "be written as a file",
        "give the network a text encoder by name (scratch, a folder, a hub name), or None",
    )


def has_windows(network: nn.Module) -> bool:
    """Whether the image encoder pads its maps to windows, as timm's Swin does.

    The paddings of an unknown size nest remainders of divisions, which torch.export does not come
    to an end with; such a network is exported for one size.
    """
    return any(hasattr(module, "dynamic_mask") for module in network.modules())


def _graph(
    part: nn.Module, network: SegmentationModule, example: tuple[Tensor, ...], shapes: Any
) -> ExportedProgram:
    cause = f"{network.network_name} cannot be exported: torch.export does not trace it"
    remedy = (
        "its forward_features must be tensor operations, without a branch on their values and for "
        "every size of batch and image; docs/export.md says more"
    )
    with refusing(Exception, cause, remedy), torch.no_grad():  # torch has many kinds for it
        program = torch.export.export(part, example, dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program
