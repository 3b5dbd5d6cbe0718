"""TextImageBackboneMixin: the image and text encoders that networks of the suite are built on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders import ImageEncoder, NoText, TextEncoder, TextEncoderBase
from textseg.errors import UserError
from textseg.layers import LayerNorm2d
from textseg.optim import parameter_groups

AUXILIARY_STRIDES = (8, 16)
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
    # Settings of SegmentationModule, which are known before `build_backbone`.
    unfreeze_text_layers: int = 0
    vocab_size: int = 512
    stage_norm: bool = False
    auxiliary_weight: float = 0.0

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
            UserError: an encoder cannot be found or fetched, lacks a promise, or has fewer layers
                than shall be unfrozen, or the image encoder's file of weights does not fit.
        """
        if text_encoder is None:
            self.text_encoder = NoText()
        elif isinstance(text_encoder, str):
            self.text_encoder = TextEncoder(
                text_encoder,
                pretrained=pretrained,
                max_tokens=max_tokens,
                vocab_size=self.vocab_size,
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
            self.refuse_stage_norm(f"image_encoder is the network's own {type(made).__name__}")
        self.stage_norms = (
            nn.ModuleList(map(LayerNorm2d, self.image_encoder.channels))
            if self.stage_norm
            else None
        )
        stages = zip(self.image_encoder.strides, self.image_encoder.channels, strict=True)
        self.build_auxiliary(dict(stages))
        frozen = self.text_encoder.pretrained if freeze is None else freeze
        if frozen:
            self.text_encoder.requires_grad_(False).eval()
        self.unfreeze_text(frozen=frozen)

    def build_auxiliary(self, widths: Mapping[int, int]) -> None:
        """Make the auxiliary heads, 1x1 convolutions to one logit; none without a weight.

        Args:
            widths: stride -> channels of the maps that `auxiliary_logits` will be given.

        Raises:
            UserError: no map has a stride of 8 or 16.
        """
        self.auxiliary_heads = nn.ModuleDict()
        if not self.auxiliary_weight:
            return
        for stride in AUXILIARY_STRIDES:
            if stride in widths:
                self.auxiliary_heads[str(stride)] = nn.Conv2d(widths[stride], 1, 1)
        if not self.auxiliary_heads:
            raise UserError(
                f"auxiliary_weight={self.auxiliary_weight} wants maps at stride 8 or 16, and the "
                f"image encoder has {list(widths)}",
                "set auxiliary_weight: 0, or choose another image encoder",
            )

    def auxiliary_logits(
        self, features: Sequence[Tensor], strides: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """`auxiliary_<stride>` [B, 1, H/stride, W/stride], which belong into the output's `aux`.

        The base adds their segmentation loss. In eval, or without a weight, there are none.

        Args:
            features: maps of the image encoder's widths, fine to coarse; best those that the text
                has entered.
            strides: theirs, by default the image encoder's.
        """
        if not (self.training and self.auxiliary_heads):
            return {}
        maps = dict(zip(strides or self.image_encoder.strides, features, strict=True))
        return {f"auxiliary_{s}": head(maps[int(s)]) for s, head in self.auxiliary_heads.items()}

    def refuse_stage_norm(self, why: str) -> None:
        """Check that no norm is asked for where it cannot be put, which `why` says.

        Raises:
            UserError: it is.
        """
        if self.stage_norm:
            raise UserError(
                f"stage_norm=True norms the stages of a timm encoder, and {why}",
                "leave stage_norm out",
            )

    def unfreeze_text(self, *, frozen: bool) -> None:
        """Train the last `unfreeze_text_layers` layers of a text encoder that is frozen.

        Raises:
            UserError: it has fewer layers, is not frozen, or there is none.
        """
        count = self.unfreeze_text_layers
        if not count:
            return
        if not frozen:
            none = isinstance(self.text_encoder, NoText)
            raise UserError(
                f"unfreeze_text_layers={count}, but "
                + ("there is no text encoder" if none else "the whole text encoder is trained"),
                "leave it out" if none else "leave it out, or freeze a pretrained text encoder",
            )
        known = partial(TextEncoderBase.unfreeze_layers, self.text_encoder)
        getattr(self.text_encoder, "unfreeze_layers", known)(count)
        self.text_encoder.train(self.training)

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

        With `stage_norm` each has its LayerNorm over channels. The encoder's next stage still reads
        what is not normed: x_i, and of a fusion what it adds, x_i + fuse(i, n_i) - n_i, n_i the
        normed x_i.

        Args:
            image: [B, 3, H, W] in [0, 1].
            fuse: ``fuse(i, x) -> x`` runs after stage i of a timm encoder and feeds the next.
            text: given to an encoder with ``takes_text``.
        """
        if self.image_encoder.takes_text:
            return self.image_encoder(image, text)
        if self.stage_norms is None:
            return self.image_encoder(image, fuse)
        if fuse is None:
            features = self.image_encoder(image)
            return [norm(x) for norm, x in zip(self.stage_norms, features, strict=True)]
        return self._fuse_normed(image, self.stage_norms, fuse)

    def _fuse_normed(
        self, image: Tensor, norms: nn.ModuleList, fuse: Callable[[int, Tensor], Tensor]
    ) -> list[Tensor]:
        features: list[Tensor] = []

        def add_fused(i: int, x: Tensor) -> Tensor:
            normed = norms[i](x)
            features.append(fuse(i, normed))
            return x + (features[i] - normed).to(x.dtype)

        self.image_encoder(image, add_fused)
        return features

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Let the text encoder learn from the captions to come; see `TextEncoderBase`."""
        self.text_encoder.prepare_captions(captions, training=training)

    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        pretrained_lr_scale: float,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Trainable parameters, each once; those of pretrained encoders at rates of their own."""
        return parameter_groups(
            self,
            lr=lr,
            weight_decay=weight_decay,
            pretrained=self.image_encoder.pretrained_parameters(),
            pretrained_lr_scale=pretrained_lr_scale,
            text=self.text_encoder.pretrained_parameters(),
            text_lr_scale=text_lr_scale,
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
