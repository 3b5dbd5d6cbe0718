"""PyramidNetwork: what networks on a timm encoder and a text encoder have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.models.base import SegmentationModule


class PyramidNetwork(TextImageBackboneMixin, SegmentationModule, ABC):
    """Both encoders by name, and their settings; a network adds its parts and `forward_features`.

    Args:
        image_encoder: timm name.
        text_encoder: hub name or local folder of a BERT, "scratch", or None for none.
        pretrained: load the published weights of both encoders, of which `image_weights` replaces
            the image encoder's.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included.
        image_encoder_options: further arguments of the timm network, such as drop_path_rate; a Swin
            on other than 224 pixels wants img_size, by which timm decides where windows shift.
        image_weights: local file of the image encoder's weights, which then count as pretrained;
            no hub is asked for them.
    """

    def __init__(
        self,
        *,
        image_encoder: str,
        text_encoder: str | None,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        image_encoder_options: dict[str, Any] | None = None,
        image_weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.build_backbone(
            image_encoder,
            text_encoder,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
            image_encoder_options=image_encoder_options,
            image_weights=image_weights,
        )

    @abstractmethod
    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
