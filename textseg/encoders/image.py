"""Image encoders: timm networks as feature pyramids."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from textseg.encoders.hub import hub_or_cache, hub_reason
from textseg.encoders.restore import is_restoring
from textseg.encoders.timm_source import TimmSource, timm_source, watched_loading, weights_file
from textseg.encoders.weights import load_pyramid
from textseg.encoders.windows import close_other_windows
from textseg.errors import UserError, first_line

STRIDES = (4, 8, 16, 32)  # of four stages, fine to coarse
# Options of a pyramid that the whole network does not have.
PYRAMID_OPTIONS = ("features_only", "out_indices", "feature_cls", "feature_cfg")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Normalize(nn.Module):
    """Normalize pixels in [0, 1] by channel; mean and std are not kept in checkpoints.

    Args:
        mean, std: by channel; by default ImageNet's.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET["mean"],
        std: Sequence[float] = IMAGENET["std"],
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the same, normalized."""
        return (image - self.mean) / self.std


def is_timm_model(name: str) -> bool:
    """Whether timm has a network of this name."""
    import timm  # a second of CPU time, so only where a network of its is asked for

    return timm.is_model(name)


def near_timm_names(name: str, *, prefix: str = "", others: Sequence[str] = ()) -> list[str]:
    """Up to three names that a misspelled one may have meant.

    Args:
        name: the misspelled name.
        prefix: put before timm's names.
        others: further names that may have been meant.
    """
    import timm

    known = [*others, *(f"{prefix}{model}" for model in timm.list_models())]
    return difflib.get_close_matches(name, known, n=3)


def _whole_network(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network that a pyramid is of, for its names and shapes; no random number is drawn."""
    import timm

    settings = {k: v for k, v in options.items() if k not in PYRAMID_OPTIONS}
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False, **settings)


def timm_no_weight_decay(
    body: nn.Module, name: str, options: Mapping[str, Any] | None = None
) -> set[str]:
    """Names of the parameters in `body` that timm's network exempts from weight decay.

    A feature pyramid renames parameters, ``layers.0.blocks`` to ``layers_0.blocks``, and keeps no
    ``no_weight_decay()``: the whole network is asked, without memory for its weights.

    Args:
        body: timm's feature pyramid.
        name: of the timm network.
        options: that the pyramid was made with.
    """
    with torch.device("meta"):
        whole = _whole_network(name, options or {})
    named: Collection[str] = getattr(whole, "no_weight_decay", set)()
    patterns = [_dotted(pattern) for pattern in named]  # XCiT's are with a *
    names = {k: _dotted(k.removeprefix("model.")) for k, _ in body.named_parameters()}
    return {k for k, name in names.items() if any(fnmatchcase(name, p) for p in patterns)}


def _dotted(name: str) -> str:
    """A parameter's name without a difference between dots and underscores."""
    return name.replace("_", ".")


def check_image_size(size: Sequence[int], stride: int, network: str, *, positions: int = 1) -> None:
    """Check that the deepest stage of an encoder has whole positions, and enough of them.

    Args:
        size: height and width of the images.
        stride: pixels for each position along either side.
        network: the setting that names it, for messages.
        positions: how many it needs along each side.

    Raises:
        UserError: a side is no multiple of `stride`, or too short.
    """
    if any(side % stride or side < positions * stride for side in size):
        raise UserError(
            f"images of {size[0]} x {size[1]} do not suit {network}, whose deepest stage has one "
            f"position for {stride} x {stride} pixels and needs {positions} x {positions}",
            f"set data.image_size to multiples of {stride}, {positions * stride} or more",
        )


def load_timm_weights(
    body: nn.Module, name: str, options: Mapping[str, Any], path: str, *, asked: str
) -> None:
    """Fill timm's feature pyramid from a local file of the whole network.

    Args:
        body: the pyramid.
        name: of the timm model.
        options: that the pyramid was made with.
        path: the file.
        asked: what messages call the network.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    load_pyramid(body, _whole_network(name, options), path, asked=asked)


def load_described_weights(
    body: nn.Module, source: TimmSource, options: Mapping[str, Any], name: str, *, asked: str
) -> None:
    """Fill timm's feature pyramid from the weights beside its description.

    Args:
        body: the pyramid.
        source: the description.
        options: that the pyramid was made with.
        name: ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.
        asked: what messages call the network.

    Raises:
        UserError: the weights are missing, cannot be fetched or read, or do not fit.
    """
    path = weights_file(name, source.options["pretrained_cfg"], asked=asked)
    load_pyramid(
        body,
        _whole_network(source.architecture, options),
        str(path),
        asked=asked,
        field="weights",
        remedy="config.json, image_encoder_options and the weights are of different networks: give "
        "a model where they are of one, or set pretrained: false",
    )


def check_strides(image_encoder: str, strides: Sequence[int]) -> None:
    """Check that an encoder's feature maps lie at STRIDES.

    Raises:
        UserError: they do not.
    """
    if tuple(strides) != STRIDES:
        raise UserError(
            f"image_encoder={image_encoder!r} has feature maps at strides {list(strides)}, "
            f"not {list(STRIDES)}",
            "choose a ConvNeXt or a Swin, or pick the stages of another network with "
            "image_encoder_options: {out_indices: [1, 2, 3, 4]}",
        )


def check_widths(image_encoder: str, widths: Sequence[int]) -> None:
    """Check that maps of these widths can be given a 2-D position embedding.

    Raises:
        UserError: a width is no multiple of 4.
    """
    if any(width % 4 for width in widths):
        raise UserError(
            f"image_encoder={image_encoder!r} has widths {list(widths)}, not all multiples of 4",
            "the position embedding splits a width into four: choose another encoder",
        )


def _pyramid(
    name: str,
    timm_name: str,
    settings: Mapping[str, Any],
    *,
    fetch: bool,
    given: Mapping[str, Any],
) -> Any:
    """timm's feature pyramid, filled in full with the weights that timm publishes if `fetch`.

    Args:
        name: as the user gave it.
        timm_name: of the architecture.
        settings: arguments of ``timm.create_model``.
        fetch: load timm's weights.
        given: those of `settings` that the user gave.
    """
    if not is_timm_model(timm_name):
        near = near_timm_names(name)
        raise UserError(
            f"image_encoder={name!r} is not a timm model",
            f"did you mean one of {near}?" if near else "timm.list_models() tells their names",
        )
    import timm

    try:
        with hub_or_cache(name) if fetch else nullcontext(), watched_loading(name) as loading:
            body = timm.create_model(timm_name, pretrained=fetch, features_only=True, **settings)
    except TypeError as error:
        raise UserError(
            f"image_encoder={name!r} does not take options {dict(given)} ({first_line(error)})",
            "leave out what this timm model does not know",
        ) from error
    except IndexError as error:  # of a stage that is not there
        raise UserError(
            f"image_encoder={name!r} has fewer stages than options {dict(given)} ask for",
            "give indices of its stages, counted from 0, as out_indices, or leave out_indices out",
        ) from error
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"image_encoder={name!r} could not be built "
            f"({hub_reason(error) if fetch else first_line(error)})",
            "connect to the hub once so that the weights are cached, give a local file as "
            "image_weights, or set pretrained: false",
        ) from error
    loading.check(body)
    return body


class ImageEncoder(nn.Module):
    """A timm network as a feature pyramid.

    Args:
        name: a timm model name, or timm's ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.
        pretrained: load its published weights.
        weights: a local file of its weights; then nothing is fetched.
        options: further arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Attributes:
        channels, strides: of each stage, fine to coarse.

    Raises:
        UserError: the name is unknown, has no feature pyramid, or its weights cannot be fetched,
            read or do not fit.
    """

    takes_text = False

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = True,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        fetch = pretrained and weights is None and not is_restoring()
        self.source = timm_source(name, with_weights=weights is not None)
        timm_name = self.source.architecture if self.source else name
        settings = {**(self.source.options if self.source else {}), **(options or {})}
        if "swin" in timm_name:
            settings.setdefault("strict_img_size", False)
        self.body: Any = _pyramid(
            name, timm_name, settings, fetch=fetch and self.source is None, given=options or {}
        )
        if fetch and self.source is not None:
            load_described_weights(self.body, self.source, settings, name, asked=name)
        close_other_windows(self.body)
        if weights is not None and not is_restoring():
            load_timm_weights(self.body, timm_name, settings, weights, asked=name)
        self.name, self.pretrained = name, pretrained or weights is not None
        self._timm_name, self._options = timm_name, settings
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.body.feature_info.reduction())
        self.normalize = Normalize(
            *(self.body.pretrained_cfg.get(key) or default for key, default in IMAGENET.items())
            if hasattr(self.body, "pretrained_cfg")
            else ()
        )
        layout = getattr(self.body, "output_fmt", "NCHW")
        self._nhwc = getattr(layout, "value", layout) == "NHWC"

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of stages that do not list their own, such as a ResNet's.

        See `textseg.training.GradientCheckpointing`.
        """
        stages = [stage for stage in self.body.children() if isinstance(stage, nn.Sequential)]
        return [block for stage in stages for block in stage if list(block.children())]

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that started from published weights or a local file's."""
        return list(self.parameters()) if self.pretrained else []

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm exempts from weight decay."""
        return {
            f"body.{k}" for k in timm_no_weight_decay(self.body, self._timm_name, self._options)
        }

    def forward(
        self, image: Tensor, fuse: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Feature maps of an image, fine to coarse.

        Args:
            image: [B, 3, H, W] in [0, 1].
            fuse: ``fuse(i, x) -> x`` runs after stage i on [B, C_i, H/s_i, W/s_i]; its result is
                the stage's feature and the next stage's input.

        Returns:
            A list of [B, C_i, H/s_i, W/s_i].

        Raises:
            UserError: H or W is no multiple of the deepest stride, or timm refuses it.
        """
        size = (image.shape[-2], image.shape[-1])
        check_image_size(size, max(self.strides), f"image_encoder={self.name!r}")
        x = self.normalize(image)
        if fuse is None:
            return [self._nchw(feature) for feature in self._run(self.body, x, size)]
        features: list[Tensor] = []
        for module, is_feature in self._steps():
            x = self._run(module, x, size)
            if is_feature:
                fused = fuse(len(features), self._nchw(x))
                features.append(fused)
                x = fused.permute(0, 2, 3, 1) if self._nhwc else fused
        return features

    def check_steppable(self) -> None:
        """Check that text can be fused between the stages.

        Raises:
            UserError: the network runs as a whole only.
        """
        self._steps()

    def _steps(self) -> list[tuple[nn.Module, bool]]:
        """The body's modules in the order they run, and whether a feature is what they return."""
        from timm.models import FeatureListNet
        from timm.models.efficientnet import EfficientNetFeatures

        body = self.body
        if isinstance(body, FeatureListNet):
            return [(module, name in body.return_layers) for name, module in body.items()]
        if isinstance(body, EfficientNetFeatures):
            stem = [(body.conv_stem, "conv_stem"), (body.bn1, "bn1")]
            blocks = [(module, f"blocks.{i}") for i, module in enumerate(body.blocks)]
            returned = body.feature_info.module_name()
            return [(module, name in returned) for module, name in stem + blocks]
        raise UserError(
            f"image_encoder={self.name!r} does not run stage by stage",
            "choose a ConvNeXt, EfficientNet, ResNet or Swin for networks that fuse text inside "
            "the encoder",
        )

    def _run(self, module: Any, x: Tensor, size: tuple[int, int]) -> Any:
        """Run a module of timm; its asserts on sizes become a UserError."""
        try:
            return module(x)
        except AssertionError as error:
            raise UserError(
                f"images of {size[0]} x {size[1]} do not suit image_encoder={self.name!r} "
                f"({first_line(error)})",
                "set data.image_size to what the message in brackets asks for, or give the encoder "
                "that size: image_encoder_options: {img_size: ...}",
            ) from error

    def _nchw(self, feature: Tensor) -> Tensor:
        # A view, channels last: the layers after it read it so without a copy.
        return feature.permute(0, 3, 1, 2) if self._nhwc else feature
