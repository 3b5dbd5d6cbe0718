"""TextImageBackboneMixin: the image and text encoders that networks of the suite are built on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders import ImageEncoder, NoText, TextEncoder
from textseg.errors import UserError
from textseg.optim import parameter_groups

IMAGE_PROMISES = ("channels", "strides", "takes_text", "pretrained_parameters")
TEXT_PROMISES = (
    *("dim", "pretrained", "frozen", "word_mask"),
    *("prepare_captions", "pretrained_parameters"),
)


class TextImageBackboneMixin(nn.Module):
    """An image encoder and a text encoder, built, frozen, run and grouped in one way.

    It stands before `SegmentationModule` in a network's bases and has no constructor of its own:
    the network calls `build_backbone` once, after ``super().__init__()``.
    """

    image_encoder: Any
    text_encoder: Any

    def build_backbone(
        self,
        image_encoder: str | Callable[[int], nn.Module],
        text_encoder: str | Callable[[], nn.Module] | None,
        *,
        pretrained: bool = True,
        freeze: bool | None = None,
        max_tokens: int = 32,
        image_encoder_options: Mapping[str, Any] | None = None,
        image_weights: str | None = None,
    ) -> None:
        """Make `self.image_encoder` and `self.text_encoder`.

        Args:
            image_encoder: a timm name, or a function from the width of the text tokens to a module
                with ``channels``, ``strides``, ``takes_text`` and ``pretrained_parameters()``.
            text_encoder: ``scratch``, a local folder, a hub name, a function (or class) that makes
                a module with the promises of `TextEncoderBase`, or None for an image-only network.
            pretrained: load published weights of encoders that are given by name.
            freeze: keep the text encoder as it is; None freezes it if and only if it is
                pretrained.
            max_tokens: length of every caption in tokens, special ones included, of a text encoder
                that is given by name.
            image_encoder_options: further arguments of the timm model.
            image_weights: local file of the timm model's weights, for which no hub is asked; the
                encoder counts as pretrained. A function that makes an image encoder loads its own.

        Raises:
            UserError: an encoder cannot be found or fetched, lacks a promise, or its file of
                weights does not fit.
        """
        if text_encoder is None:
            self.text_encoder = NoText()
        elif isinstance(text_encoder, str):
            self.text_encoder = TextEncoder(
                text_encoder, pretrained=pretrained, max_tokens=max_tokens
            )
        else:
            self.text_encoder = _kept("text_encoder", text_encoder(), TEXT_PROMISES)
        if isinstance(image_encoder, str):
            self.image_encoder = ImageEncoder(
                image_encoder,
                pretrained=pretrained,
                weights=image_weights,
                options=image_encoder_options,
            )
        elif image_weights is not None:
            raise UserError(
                f"image_weights={image_weights!r} stands beside an image encoder that is no name",
                "let the function that makes the image encoder load its weights",
            )
        else:
            made = image_encoder(self.text_encoder.dim)
            self.image_encoder = _kept("image_encoder", made, IMAGE_PROMISES)
        if self.text_encoder.pretrained if freeze is None else freeze:
            self.text_encoder.requires_grad_(False).eval()

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        """Encode B captions: tokens [B, L, D], mask [B, L] and pooled [B, D]."""
        return self.text_encoder(text)

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """Tokens of `word` in the captions, or of all content words if it is None: [B, L] bool."""
        return self.text_encoder.word_mask(text, word)

    def encode_image(
        self,
        image: Tensor,
        fuse: Callable[[int, Tensor], Tensor] | None = None,
        text: TextFeatures | None = None,
    ) -> list[Tensor]:
        """Feature maps of the image, fine to coarse: a list of [B, C_i, H/s_i, W/s_i].

        Args:
            image: [B, 3, H, W] in [0, 1].
            fuse: ``fuse(i, x) -> x`` runs after stage i of a timm encoder and feeds the next.
            text: given to an encoder with ``takes_text``.
        """
        if self.image_encoder.takes_text:
            return self.image_encoder(image, text)
        return self.image_encoder(image, fuse)

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Let the text encoder learn from the captions to come; see `TextEncoderBase`."""
        self.text_encoder.prepare_captions(captions, training=training)

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
        if self.text_encoder.frozen:
            self.text_encoder.eval()
        return self


def _kept(field: str, encoder: Any, promises: Sequence[str]) -> nn.Module:
    """An encoder of one's own, if it keeps what a network relies on."""
    missing = [name for name in promises if not hasattr(encoder, name)]
    if not isinstance(encoder, nn.Module) or missing:
        raise UserError(
            f"{field}: {type(encoder).__name__} is no torch module with {', '.join(promises)}"
            f" (missing: {', '.join(missing) or 'nn.Module'})",
            "add what is missing; textseg.encoders.TextEncoderBase says what each is"
            if field == "text_encoder"
            else "add what is missing, as textseg.encoders.ImageEncoder does",
        )
    return encoder
