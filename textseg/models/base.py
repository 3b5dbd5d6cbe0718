"""SegmentationModule: training, loss and optimization, the same for every network."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.checkpoint import ABOUT, check_finite, is_plain, not_finite
from textseg.errors import NotFiniteError, UserError, check_at_least, check_choice
from textseg.explain import eval_mode, normalize_map, saliency
from textseg.layers import resize_map
from textseg.losses import DICE_BCE, check_segmentation_loss, segmentation_loss
from textseg.metrics.scores import TOLERANCE, Protocol
from textseg.models.scoring import ScoringSteps
from textseg.optim import Schedule, adamw, warmup_schedule


class SegmentationModule(ScoringSteps):
    """Training and optimization that all networks share; it knows nothing of encoders.

    A network implements `encode_text`, `token_mask`, `forward_features` and `parameter_groups`
    (`TextImageBackboneMixin` has all but `forward_features`) and passes the settings below on with
    ``super().__init__(**kwargs)``. All its settings are recorded in `hparams`.

    Args:
        lr: peak learning rate of AdamW.
        weight_decay: of weights with two or more dimensions, but for those that timm exempts, such
            as a Swin's position tables.
        pretrained_lr_scale: learning rate of pretrained encoders over lr.
        text_lr_scale: the same of a pretrained text encoder that is trained; null is
            pretrained_lr_scale.
        unfreeze_text_layers: how many of the last layers of a frozen text encoder are trained; its
            captions are then encoded in every step.
        vocab_size: rows of the vocabulary of text_encoder: scratch, learned from the training
            captions; a warning says where they have more letters.
        stage_norm: put a LayerNorm on each stage of a timm encoder, whose ConvNeXt and Swin give
            the raw residual stream.
        schedule: course of the learning rate after the warm-up.
        warmup: share of all steps over which the learning rate rises.
        min_lr_scale: learning rate in which poly and cosine end, over the peak.
        segmentation_loss: weights of the mask's losses, out of dice, bce, focal, tversky and
            boundary; what a loss gives for an empty mask is in textseg/losses.py.
        auxiliary_weight: of the same loss of 1x1 heads on maps at 1/8 and 1/16 of the image, mean
            over the heads; in training alone. 0 builds none.
        protocol: how test masks are scored; "lvit" reproduces LViT's test and nothing else.
        nsd_tolerance: distance up to which boundaries agree in nsd, in millimetres, or in pixels
            where the spacing is unknown; a dataset's readers' own disagreement is a good choice.
    """

    def __init__(
        self,
        *,
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        pretrained_lr_scale: float = 1.0,
        text_lr_scale: float | None = 0.1,
        unfreeze_text_layers: int = 0,
        vocab_size: int = 512,
        stage_norm: bool = False,
        schedule: Schedule = "poly",
        warmup: float = 0.05,
        min_lr_scale: float = 0.0,
        segmentation_loss: dict[str, float] = DICE_BCE,
        auxiliary_weight: float = 0.0,
        protocol: Protocol = "standard",
        nsd_tolerance: float = TOLERANCE,
    ) -> None:
        super().__init__(protocol=protocol, nsd_tolerance=nsd_tolerance)
        # What a subclass fixes for its bases is no setting of its own and would not rebuild it.
        bases = [kind for kind in type(self).__mro__ if issubclass(kind, SegmentationModule)]
        fixed = set().union(*map(settings_of, bases)) - settings_of(type(self))
        self.save_hyperparameters(logger=False, ignore=sorted(fixed))
        if not 0 <= warmup < 1:
            raise UserError(f"warmup={warmup} is no share of the steps", "give a value in [0, 1)")
        check_at_least("lr", lr, 0, "3e-4 is the default")
        check_at_least("weight_decay", weight_decay, 0, "0.05 is the default")
        check_at_least("pretrained_lr_scale", pretrained_lr_scale, 0, "1 is the default")
        check_at_least("text_lr_scale", text_lr_scale or 0, 0)
        check_at_least("unfreeze_text_layers", unfreeze_text_layers, 0)
        if not 0 <= min_lr_scale <= 1:
            raise UserError(
                f"min_lr_scale={min_lr_scale} is no share of the peak learning rate",
                "give a value in [0, 1]; 0.01 keeps a hundredth",
            )
        check_choice("schedule", schedule, Schedule)
        self.lr, self.weight_decay = lr, weight_decay
        self.pretrained_lr_scale, self.text_lr_scale = pretrained_lr_scale, text_lr_scale
        self.unfreeze_text_layers, self.stage_norm = unfreeze_text_layers, stage_norm
        self.vocab_size = vocab_size
        self.schedule, self.warmup, self.min_lr_scale = schedule, warmup, min_lr_scale
        check_at_least("auxiliary_weight", auxiliary_weight, 0, "0.4 is usual; 0 is none")
        self.auxiliary_weight = auxiliary_weight
        self.loss_weights = check_segmentation_loss(segmentation_loss)

    @property
    def network_name(self) -> str:
        """What results and messages call it: the name of its class."""
        return type(self).__name__

    def unmirrored(self, captions: Sequence[str]) -> int:
        """How many of the captions a test with `tta` leaves unmirrored."""
        return 0

    @abstractmethod
    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        """Captions to word features."""

    @abstractmethod
    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """Images and word features to logits."""

    @abstractmethod
    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """[B, L] bool: tokens of `word`, or of all content words; see `TextEncoder.word_mask`."""

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """Raw maps [B, h, w] of the network's attention or gates, named ``<stage>.<kind>``.

        Called in eval mode without gradients. By default there are none.

        Args:
            image: [B, 3, H, W].
            text: features of B captions.
            words: [B, L] bool, the tokens to explain; at least one in each row.
        """
        return {}

    def explain(
        self, image: Tensor, text: Sequence[str], word: str | None = None
    ) -> dict[str, Tensor]:
        """Maps that explain the masks; docs/explanations.md says what each of them means.

        Args:
            image: [B, 3, H, W] in [0, 1].
            text: B captions.
            word: explain this word of the captions; by default all content words together.

        Returns:
            [B, H, W] in [0, 1], min-max by row: the network's own maps, and ``saliency``.

        Raises:
            UserError: a caption lacks `word`, or the network reads no words.
        """
        # Gradients are needed, and Lightning tests in inference mode, which has none.
        with eval_mode(self), torch.inference_mode(False), torch.no_grad():
            image = image.clone()
            words = self.token_mask(text, word)
            features = self.encode_text(text)
            maps = self.explanation_maps(image, features, words)
            maps["saliency"] = saliency(
                lambda pixels: self.forward_features(pixels, features).logits, image
            )
        size = (image.shape[-2], image.shape[-1])
        return {name: normalize_map(raw, size) for name, raw in maps.items()}

    @abstractmethod
    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        pretrained_lr_scale: float,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Trainable parameters for the optimizer."""

    def forward(self, image: Tensor, text: Sequence[str]) -> SegmentationOutput:
        """image [B, 3, H, W] in [0, 1] and B captions -> logits [B, 1, H, W] and aux.

        Raises:
            UserError: the pixels are bytes, as loaders yield them, or batch norm cannot be trained.
        """
        if not image.is_floating_point():
            raise UserError(
                f"{type(self).__name__} was given pixels of type {image.dtype}, not in [0, 1]",
                "give the Trainer the DataModule, not its loaders; by hand, call "
                "datamodule.on_after_batch_transfer(batch, 0)",
            )
        with _explain_batchnorm_error(self, image):
            return self.forward_features(image, self.encode_text(text))

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Called in setup with the captions to come; a text encoder may learn its vocabulary."""

    def setup(self, stage: str) -> None:
        """Show the captions of this stage to the text encoder."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            split = {"fit": "train", "validate": "val"}.get(stage, stage)
            self.prepare_captions(datamodule.captions(split), training=stage == "fit")

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """Terms by name, their total under ``loss``: the segmentation loss of the logits.

        In training that of the auxiliary heads is added, auxiliary_weight * mean over the heads.
        """
        losses = segmentation_loss(output.logits, batch["mask"], self.loss_weights)
        if not (self.auxiliary_weight and self.training):
            return losses
        terms = self._auxiliary_losses(output.aux, batch["mask"])
        total = losses["loss"] + self.auxiliary_weight * torch.stack([*terms.values()]).mean()
        return {**losses, **terms, "loss": total}

    def _auxiliary_losses(self, aux: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """`loss_auxiliary_<stride>`: the segmentation loss of logits resized to the mask."""
        heads = {name: logits for name, logits in aux.items() if name.startswith("auxiliary_")}
        if not heads:
            raise UserError(
                f"auxiliary_weight={self.auxiliary_weight}, but {type(self).__name__} gives its "
                "auxiliary heads no maps",
                "set auxiliary_weight: 0, or put **self.auxiliary_logits(features) into the aux of "
                "its SegmentationOutput",
            )
        size, weights = mask.shape[-2:], self.loss_weights
        return {
            f"loss_{name}": segmentation_loss(resize_map(x.float(), size), mask, weights)["loss"]
            for name, x in heads.items()
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the total loss of a batch."""
        return self._step(batch, "train")[1]

    def _step(self, batch: Batch, stage: str) -> tuple[SegmentationOutput, Tensor]:
        output = self(batch["image"], batch["text"])
        losses = self.compute_loss(output, batch)
        self.log_dict(
            {f"{stage}/{name}": value for name, value in losses.items()},
            batch_size=len(batch["text"]),
            on_step=False,
            on_epoch=True,
            sync_dist=True,  # once an epoch: what is logged is of all processes
        )
        return output, losses["loss"]

    def configure_optimizers(self) -> Any:
        """Fused AdamW over `parameter_groups`, and a schedule by step with the trainer's length."""
        groups = self.parameter_groups(
            lr=self.lr,
            weight_decay=self.weight_decay,
            pretrained_lr_scale=self.pretrained_lr_scale,
            text_lr_scale=self.text_lr_scale,
        )
        optimizer = adamw(groups, lr=self.lr, clipped=bool(self.trainer.gradient_clip_val))
        length = self.trainer.estimated_stepping_batches
        if length == float("inf"):
            raise UserError(
                "the run has no end, so the learning rate has no course",
                "give --trainer.max_epochs or --trainer.max_steps",
            )
        total = int(length)
        scheduler = warmup_schedule(
            optimizer,
            total_steps=total,
            warmup_steps=int(total * self.warmup),
            kind=self.schedule,
            floor=self.min_lr_scale,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another network, or with NaN, before any weight is changed.

        Of a run with averaged weights (EMA), `state_dict` is the average, and Lightning's callback
        would put the training's own weights in its place for a test right after the fit too.
        """
        check_state_dict(self, checkpoint["state_dict"])
        check_finite(checkpoint)
        fitting = self._trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if "current_model_state" in checkpoint and not fitting:
            assert isinstance(checkpoint, dict)
            checkpoint["current_model_state"] = checkpoint["state_dict"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the network without a config: its class, input size and precision.

        Averaged weights (EMA) come from a copy made before `setup` learned the vocabulary, which is
        added too. Settings that are no plain values, such as a function, are left out: they could
        not be loaded without running code.

        Raises:
            NotFiniteError: the weights hold NaN or infinity; the checkpoint on disk stays as it is.
        """
        odd = not_finite(checkpoint)
        if odd is not None:
            raise NotFiniteError(
                f"after step {checkpoint['global_step']} {odd} is not finite: no checkpoint is "
                "written",
                "go on from the last one that was, with --ckpt_path last; or lower model.lr",
            )
        own = self.state_dict()
        for name in checkpoint["state_dict"]:
            if not isinstance(own[name], Tensor):
                checkpoint["state_dict"][name] = own[name]
        about: dict[str, Any] = {"class_path": f"{type(self).__module__}.{type(self).__qualname__}"}
        if self._trainer is not None:
            about["precision"] = str(self.trainer.precision)
            data = getattr(self.trainer, "datamodule", None)
            size = getattr(data, "image_size", None)
            if size is not None:
                about["image_size"] = [size, size] if isinstance(size, int) else list(size)
                about["resize"] = getattr(data, "resize", "stretch")
        checkpoint[ABOUT] = about
        settings = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {k: v for k, v in settings.items() if is_plain(v)}


@contextmanager
def _explain_batchnorm_error(model: SegmentationModule, image: Tensor) -> Iterator[None]:
    """Turn torch's error of a batch norm with one value for each channel into a UserError."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel when training" not in str(error):
            raise
        height, width = image.shape[-2:]
        raise UserError(
            f"{type(model).__name__} cannot be trained on a batch of 1 image of "
            f"{height} x {width}: a batch norm is left with one value for each channel",
            "give data.batch_size and the training split 2 or more, or data.image_size 64 or more, "
            "which does not help a network that pools whole images",
        ) from error


def settings_of(network: type) -> set[str]:
    """Names of a network's settings, those that it passes on to its bases included."""
    named: set[str] = set()
    for kind in network.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        named |= {p.name for p in parameters if p.kind in by_name}
        if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return named - {"self"}


def check_state_dict(model: torch.nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Check that a checkpoint's weights are those of `model`.

    Raises:
        UserError: names or shapes in `state_dict` are not the model's.
    """
    own = model.state_dict()
    odd = [k for k in own if k not in state_dict] + [k for k in state_dict if k not in own]
    tensors = [k for k in own if k in state_dict and isinstance(own[k], Tensor)]
    odd += [k for k in tensors if own[k].shape != state_dict[k].shape]
    if odd:
        raise UserError(
            f"the checkpoint is of another network than {type(model).__name__} as configured: "
            f"{len(odd)} weights differ, first {odd[:3]}",
            "give the config of the run that the checkpoint came from, or another checkpoint",
        )
