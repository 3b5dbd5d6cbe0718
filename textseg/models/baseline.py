"""Image-only baselines: the networks of segmentation-models-pytorch, trained and scored as all are.

They measure what the images alone give; a text-guided network has to beat them on equal terms. The
architectures and encoders are that library's and rebuild no paper here.

Shapes: image [B, 3, H, W], H and W multiples of the encoder's output stride (32 for most);
logits [B, 1, H, W].
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import (
    IMAGENET,
    Normalize,
    NoText,
    check_image_size,
    is_restoring,
    is_timm_model,
    load_described_weights,
    load_timm_weights,
    near_timm_names,
    timm_no_weight_decay,
    timm_source,
)
from textseg.encoders.hub import hub_or_cache, hub_reason
from textseg.encoders.timm_source import watched_loading
from textseg.encoders.weights import load_encoder
from textseg.encoders.windows import close_other_windows
from textseg.errors import UserError, first_line
from textseg.models.base import SegmentationModule
from textseg.optim import parameter_groups

TIMM = "tu-"  # how the library marks the encoders that it takes from timm
# Positions that an architecture needs along each side of the deepest stage, if more than one: PAN
# pools them three times by two.
MIN_POSITIONS = {"pan": 8}
# Encoders of the library's own that were published for other colors than ImageNet's.
OTHER_COLORS = ("dpn", "inception", "xception", "timm-tf_efficientnet_lite")
# Arguments of every architecture that are settings of ours, or that would change the result's type.
FIXED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")


class StoredNormalize(Normalize):
    """`Normalize` whose mean and std travel in the checkpoint, because they came from a hub."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.register_buffer("mean", self.mean, persistent=True)
        self.register_buffer("std", self.std, persistent=True)


class ImageBaseline(TextImageBackboneMixin, SegmentationModule):
    """An image-only network: any architecture and encoder of segmentation-models-pytorch.

    Args:
        architecture: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus,
            pan, upernet, segformer or dpt.
        image_encoder: the library's name of an encoder: "tu-" and a timm name, which may be
            hf-hub:ORG/NAME, or one of its own such as resnet34 or mit_b0.
        pretrained: load the encoder's published ImageNet weights.
        image_encoder_options: further arguments of a "tu-" encoder, such as drop_path_rate.
        image_weights: local file of the encoder's weights, which then count as pretrained; no hub
            is asked for them. Timm's names for a "tu-" encoder, the library's for one of its own.
        decoder_options: further arguments of the architecture, such as decoder_channels or
            encoder_depth (below 5, take a "tu-" encoder: the others keep stages that nothing
            reads, which several processes refuse to train).
        lr: peak learning rate of AdamW.
    """

    def __init__(
        self,
        architecture: str = "unet",
        image_encoder: str = "tu-convnext_tiny",
        *,
        pretrained: bool = True,
        image_encoder_options: dict[str, Any] | None = None,
        image_weights: str | None = None,
        decoder_options: dict[str, Any] | None = None,
        lr: float = 6e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.source = None  # of a hub or folder
        encoder_options = dict(image_encoder_options or {})
        name = image_encoder.removeprefix(TIMM)  # a hub or folder is named by it
        if image_encoder.startswith(TIMM):
            self.source = timm_source(name, with_weights=image_weights is not None)
        if self.source is not None:
            image_encoder = f"{TIMM}{self.source.architecture}"
            encoder_options = {**self.source.options, **encoder_options}
        self._encoder = (image_encoder, encoder_options)
        _check_names(architecture, image_encoder)
        _check_options(architecture, image_encoder, encoder_options, decoder_options or {})
        if self.auxiliary_weight and architecture == "dpt":
            raise UserError(
                f"auxiliary_weight={self.auxiliary_weight} wants maps at stride 8 or 16, and the "
                "encoders of architecture='dpt' have all maps at one stride",
                "set auxiliary_weight: 0, or choose another architecture",
            )
        self.pretrained = pretrained or image_weights is not None
        self.min_positions = MIN_POSITIONS.get(architecture, 1)
        fetch = pretrained and image_weights is None and not is_restoring()
        self.network = _build(
            architecture,
            image_encoder,
            pretrained=fetch and self.source is None,
            options={**encoder_options, **(decoder_options or {})},
        )
        encoder = self.network.encoder
        close_other_windows(encoder)
        if image_weights is None and self.source is None:
            self.normalize = _normalize(image_encoder, pretrained=pretrained)
        else:
            self.normalize = _normalize_offline(image_encoder, encoder)
        if image_weights is not None and not is_restoring():
            _load(encoder, image_encoder, encoder_options, image_weights)
        elif fetch and self.source is not None:
            asked = f"{TIMM}{name}"
            load_described_weights(encoder.model, self.source, encoder_options, name, asked=asked)
        self.text_encoder = NoText()
        self.unfreeze_text(frozen=False)
        self.refuse_stage_norm("segmentation-models-pytorch builds this one into its network")
        self._build_heads()
        self.to(memory_format=torch.channels_last)

    def _build_heads(self) -> None:
        """Auxiliary heads on the encoder's own maps, which the library keeps to itself."""
        widths = self.network.encoder.out_channels  # of the image, then by stages, halving
        self.build_auxiliary({2**i: width for i, width in enumerate(widths)})
        self._stages: Sequence[Tensor] = ()  # of the latest image, until they are read
        if self.auxiliary_heads:
            self.network.encoder.register_forward_hook(self._keep_stages)

    def _keep_stages(self, encoder: nn.Module, inputs: Any, stages: Sequence[Tensor]) -> None:
        self._stages = stages

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        stride = self.network.encoder.output_stride
        check_image_size(image.shape[-2:], stride, self._names(), positions=self.min_positions)
        logits = self.network(self.normalize(image))
        self._check_grid(logits, image)
        stages, self._stages = self._stages, ()
        strides = [2**i for i in range(len(stages))]
        return SegmentationOutput(logits, self.auxiliary_logits(stages, strides))

    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        pretrained_lr_scale: float,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Trainable parameters, each once; those of a pretrained encoder at their own rate."""
        return parameter_groups(
            self,
            lr=lr,
            weight_decay=weight_decay,
            pretrained=self.network.encoder.parameters() if self.pretrained else (),
            pretrained_lr_scale=pretrained_lr_scale,
        )

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm exempts from weight decay, of a "tu-" encoder."""
        name, options = self._encoder
        if not name.startswith(TIMM):
            return set()
        body = self.network.encoder.model
        exempt = timm_no_weight_decay(body, name.removeprefix(TIMM), options)
        return {f"network.encoder.model.{parameter}" for parameter in exempt}

    def _check_grid(self, logits: Tensor, image: Tensor) -> None:
        """Some architectures upsample by a fixed factor, whatever the encoder's stride."""
        if logits.shape[-2:] != image.shape[-2:]:
            given, wanted = logits.shape[-2:], image.shape[-2:]
            raise UserError(
                f"{self._names()} gives logits of {given[0]} x {given[1]} for images of "
                f"{wanted[0]} x {wanted[1]}",
                f"multiply decoder_options.upsampling by {wanted[0] / given[0]:g}, or leave "
                "decoder_options.encoder_depth out",
            )

    def _names(self) -> str:
        architecture, image_encoder = (self.hparams[k] for k in ("architecture", "image_encoder"))
        return f"architecture={architecture!r} on image_encoder={image_encoder!r}"


def _build(
    architecture: str, image_encoder: str, *, pretrained: bool, options: Mapping[str, Any]
) -> Any:
    """Build the library's network with one logit and three colors."""
    import segmentation_models_pytorch as smp  # with all of timm, so only where it is used

    published: str | bool = True if image_encoder.startswith(TIMM) else "imagenet"
    try:
        hub = hub_or_cache(image_encoder) if pretrained else nullcontext()
        with hub, watched_loading(image_encoder) as loading:
            network = smp.create_model(
                architecture,
                image_encoder,
                encoder_weights=published if pretrained else None,
                in_channels=3,
                classes=1,
                **options,
            )
        loading.check(network)
        return network
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        if isinstance(error, OSError) or (pretrained and isinstance(error, RuntimeError)):
            raise _out_of_reach(image_encoder, error) from error
        raise UserError(
            f"architecture={architecture!r} cannot be built with image_encoder={image_encoder!r} "
            f"and options {dict(options)} ({first_line(error)})",
            "change what the message in brackets names; pretrained: false needs no published "
            "weights",
        ) from error


def _normalize(image_encoder: str, *, pretrained: bool) -> Normalize:
    """The colors that the encoder was published with; ImageNet's for one without weights."""
    if not pretrained:
        return Normalize()
    if not image_encoder.startswith(TIMM) and is_restoring():
        return StoredNormalize((0.0,) * 3, (1.0,) * 3)  # the checkpoint has them
    import segmentation_models_pytorch as smp

    try:
        published = smp.encoders.get_preprocessing_params(image_encoder, pretrained="imagenet")
    except OSError as error:
        raise _out_of_reach(image_encoder, error) from error
    colors = (published["input_space"], published["input_range"])
    if colors != ("RGB", [0, 1]):
        raise UserError(
            f"image_encoder={image_encoder!r} was published for colors {colors}, not for RGB in "
            "0..1",
            "choose another encoder, or set pretrained: false",
        )
    kind = Normalize if image_encoder.startswith(TIMM) else StoredNormalize
    return kind(published["mean"], published["std"])


def _load(encoder: Any, name: str, options: Mapping[str, Any], path: str) -> None:
    """Fill an encoder from a local file."""
    if name.startswith(TIMM):
        timm_name = name.removeprefix(TIMM)
        load_timm_weights(encoder.model, timm_name, options, path, asked=name)
    else:
        load_encoder(encoder, path, asked=name)


def _normalize_offline(image_encoder: str, encoder: Any) -> Normalize:
    """The colors that timm knows of a "tu-" encoder; those of the library's own are on a hub only.

    Raises:
        UserError: an encoder of its own was published for other colors than ImageNet's.
    """
    if image_encoder.startswith(TIMM):
        published = encoder.model.pretrained_cfg
        return Normalize(published["mean"], published["std"])
    if image_encoder.startswith(OTHER_COLORS):
        raise UserError(
            f"image_encoder={image_encoder!r} was published for colors that only the hub tells, so "
            "that image_weights cannot be given",
            f'take the "{TIMM}" encoder of the same network, whose colors timm knows',
        )
    return StoredNormalize(*IMAGENET.values())


def _check_names(architecture: str, image_encoder: str) -> None:
    import segmentation_models_pytorch as smp

    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture not in architectures:
        near = difflib.get_close_matches(architecture, architectures) or architectures
        raise UserError(f"architecture={architecture!r} is unknown", f"choose one of {near}")
    of_timm = image_encoder.startswith(TIMM)
    own = [] if of_timm else smp.encoders.get_encoder_names()
    known = is_timm_model(image_encoder.removeprefix(TIMM)) if of_timm else image_encoder in own
    if not known:
        near = near_timm_names(image_encoder, prefix=TIMM, others=own)
        raise UserError(
            f"image_encoder={image_encoder!r} is no "
            + ("timm model" if of_timm else "encoder of segmentation-models-pytorch"),
            f"choose one of {near}"
            if near
            else f"choose {TIMM!r} and a name of timm.list_models()",
        )


def _check_options(
    architecture: str,
    image_encoder: str,
    encoder_options: Mapping[str, Any],
    decoder_options: Mapping[str, Any],
) -> None:
    """The library drops what an encoder of its own does not know; here nothing is dropped."""
    if encoder_options and not image_encoder.startswith(TIMM):
        raise UserError(
            f"image_encoder={image_encoder!r} takes no options, given {dict(encoder_options)}",
            f'leave image_encoder_options out, or take a "{TIMM}" encoder',
        )
    import segmentation_models_pytorch as smp

    signature = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture].__init__)
    known = [p for p in signature.parameters if p not in (*FIXED, "self", "kwargs")]
    odd = [name for name in decoder_options if name not in known]
    if odd:
        raise UserError(
            f"decoder_options={odd} are unknown to architecture={architecture!r}",
            f"choose of {known}",
        )
    both = sorted(set(encoder_options) & {*signature.parameters})
    if both:
        raise UserError(
            f"image_encoder_options={both} belong to the architecture {architecture!r}",
            "give such settings under decoder_options, or not at all",
        )


def _out_of_reach(image_encoder: str, error: Exception) -> UserError:
    return UserError(
        f"the weights of image_encoder={image_encoder!r} could not be fetched "
        f"({hub_reason(error)})",
        "connect to the hub once so that the weights are cached, give a local file as "
        "image_weights, or set pretrained: false",
    )
