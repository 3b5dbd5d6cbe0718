"""TextImageBackboneMixin: the text-image backbone that every network of the suite stands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders import ImageEncoder, NoText, TextEncoder, warn_of_truncation
from textseg.optim import parameter_groups


class TextImageBackboneMixin(nn.Module):
    """An image encoder and a text encoder, built, frozen, run and grouped in one way.

    It stands before `SegmentationModule` in a network's bases and has no constructor of its own:
    the network calls `build_backbone` once, after ``super().__init__()``.
    """

    image_encoder: Any
    text_encoder: TextEncoder | NoText

    def build_backbone(
        self,
        image_encoder: str | Callable[[int], nn.Module],
        text_encoder: str | None,
        *,
        pretrained: bool = True,
        freeze: bool | None = None,
        max_tokens: int = 32,
        image_encoder_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Make `self.image_encoder` and `self.text_encoder`.

        Args:
            image_encoder: a timm name, or a function from the width of the word features to a
                module with ``channels``, ``strides``, ``takes_text`` and
                ``pretrained_parameters()``.
            text_encoder: ``scratch``, a local folder, a hub name, or None for an image-only
                network.
            pretrained: load published weights of both.
            freeze: keep the text encoder as it is; None freezes it if and only if it is
                pretrained.
            max_tokens: length of every caption in tokens, special ones included.
            image_encoder_options: further arguments of the timm model.

        Raises:
            UserError: an encoder cannot be found or fetched.
        """
        self.text_encoder = (
            NoText()
            if text_encoder is None
            else TextEncoder(text_encoder, pretrained=pretrained, max_tokens=max_tokens)
        )
        if isinstance(image_encoder, str):
            self.image_encoder = ImageEncoder(
                image_encoder, pretrained=pretrained, options=image_encoder_options
            )
        else:
            self.image_encoder = image_encoder(self.text_encoder.dim)
        if self.text_encoder.pretrained if freeze is None else freeze:
            self.text_encoder.requires_grad_(False).eval()

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        """Captions to tokens [B, L, D], mask [B, L] and pooled [B, D]."""
        return self.text_encoder(text)

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """[B, L] bool: which tokens of the captions are `word`, or any content word if None."""
        return self.text_encoder.word_mask(text, word)

    def encode_image(
        self,
        image: Tensor,
        fuse: Callable[[int, Tensor], Tensor] | None = None,
        text: TextFeatures | None = None,
    ) -> list[Tensor]:
        """The image's pyramid, fine to coarse: a list of [B, C_i, H/s_i, W/s_i].

        Args:
            image: [B, 3, H, W] in [0, 1].
            fuse: ``fuse(i, x) -> x`` after stage i of a timm encoder; feeds the next stage.
            text: for an encoder with ``takes_text``, the words it reads while it sees.
        """
        if self.image_encoder.takes_text:
            return self.image_encoder(image, text)
        return self.image_encoder(image, fuse)

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Learn a missing vocabulary from the training captions, and warn of cut ones."""
        if isinstance(self.text_encoder, NoText):
            return
        if self.text_encoder.needs_vocabulary and training:
            self.text_encoder.learn_vocabulary(captions)
        if not self.text_encoder.needs_vocabulary:
            warn_of_truncation(self.text_encoder, captions)

    def parameter_groups(
        self, *, lr: float, weight_decay: float, pretrained_lr_scale: float
    ) -> list[dict[str, Any]]:
        """Trainable parameters, each once; those of pretrained encoders at a slower rate."""
        pretrained = [
            *self.image_encoder.pretrained_parameters(),
            *self.text_encoder.pretrained_parameters(),
        ]
        return parameter_groups(
            self,
            lr=lr,
            weight_decay=weight_decay,
            pretrained=pretrained,
            pretrained_lr_scale=pretrained_lr_scale,
        )

    def train(self, mode: bool = True) -> TextImageBackboneMixin:
        """Training mode, except for a frozen text encoder, which stays in eval."""
        super().train(mode)
        if getattr(self.text_encoder, "frozen", False):
            self.text_encoder.eval()
        return self
