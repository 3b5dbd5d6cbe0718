"""What decided a training, from its config.yaml: what seeds of a method share, and terms list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textseg.errors import refusing
from textseg.runs import Run
from textseg.runs.record import STARTS, TrainingRecord

ENCODER_START = "image encoder starts from"
IMAGES_A_STEP = "images a step"
# Facts that not every run tells; where one does not, two runs are not said to differ in them.
NOT_ALWAYS_KNOWN = (ENCODER_START, IMAGES_A_STEP)
# What may differ between two seeds of one method: where it ran and what is told of its tests.
_NOT_TRAINED = frozenset(("seed", "root", "cache", "num_workers", "strata"))
_OF_THE_TRAINING = (
    *("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "precision"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
    *("limit_train_batches", "overfit_batches", "sync_batchnorm"),
    # Which epoch is the best is decided by validations.
    *("limit_val_batches", "val_check_interval", "check_val_every_n_epoch"),
)
# Callbacks that leave the weights as they are. One of the user's own may change them.
_WATCHING = frozenset(
    (
        *("CompiledTraining", "GradientCheckpointing", "SampleTables"),
        *("BasePredictionWriter", "DeviceStatsMonitor", "LearningRateMonitor"),
        *("ModelCheckpoint", "OnExceptionCheckpoint", "ThroughputMonitor"),
        *("ModelSummary", "RichModelSummary"),
        *("ProgressBar", "RichProgressBar", "TQDMProgressBar"),
    )
)
# Networks whose image encoder `pretrained` or `image_weights` starts from pretrained weights, and
# those where the latter alone does: their `pretrained` is of the text encoder. LViT takes neither.
FROM_HUB_OR_FILE = frozenset(("ImageBaseline", "LAVT", "LanGuideMedSeg", "TMC", "TMCA"))
FROM_FILE = frozenset(("LSMS", "LViT"))
_NETWORKS = "textseg.models."


@dataclass(frozen=True)
class WeightsFile:
    """A file of image weights, which is the same under any path if it holds the same bytes."""

    path: str = field(compare=False)
    digest: str

    def __str__(self) -> str:
        """The path with the beginning of the digest."""
        return f"{self.path} (sha256 {self.digest[:12]})"


def training_settings(run: Run) -> dict[str, Any]:
    """seed_everything, and all that decides what was trained, by dotted name.

    Raises:
        UserError: config.yaml is missing, broken or lacks a group of settings.
    """
    remedy = "give names, one for each run, so that no two runs are seeds of one method"
    stored, record = run.settings(remedy), run.training_record()
    cause = f"{run.config} does not tell the seed and the settings of the run"
    with refusing((KeyError, TypeError, AttributeError), cause, remedy):
        seed, model, data = stored["seed_everything"], stored["model"], stored["data"]
        trainer = stored.get("trainer") or {}
        facts = {
            ENCODER_START: _encoder_start(model, record),
            IMAGES_A_STEP: record.images_a_step or _images_a_step(trainer, data["init_args"]),
        }
        return {
            "seed_everything": seed,
            **{"model": model["class_path"], "data": data["class_path"]},
            **{f"model.{k}": v for k, v in _with_digest(model["init_args"], record).items()},
            **{f"data.{k}": v for k, v in _of_the_data(data["init_args"]).items()},
            **{f"trainer.{k}": trainer[k] for k in _OF_THE_TRAINING if k in trainer},
            "trainer.callbacks": _changing_callbacks(trainer.get("callbacks")),
            **{name: value for name, value in facts.items() if value is not None},
        }


def _with_digest(settings: Mapping[str, Any], record: TrainingRecord) -> dict[str, Any]:
    """A network's settings; its file of weights is known by its digest, if that was recorded."""
    weights = settings.get("image_weights")
    if record.weights is None or not isinstance(weights, str):
        return dict(settings)
    return {**settings, "image_weights": WeightsFile(weights, record.weights)}


def _of_the_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's settings but those of the machine.

    The name of a table of folds tells what is in it, wherever the table lies.
    """
    own = {name: value for name, value in settings.items() if name not in _NOT_TRAINED}
    if isinstance(own.get("folds"), str):
        own["folds"] = Path(own["folds"]).name
    return own


def _encoder_start(model: Mapping[str, Any], record: TrainingRecord) -> str | None:
    """What the image encoder starts from; None where neither the run nor a rule tells."""
    pretrained = record.pretrained
    if pretrained is None:
        pretrained = started_pretrained(model["class_path"], model["init_args"])
    return None if pretrained is None else STARTS[pretrained]


def started_pretrained(class_path: str, settings: Mapping[str, Any]) -> bool | None:
    """Whether the settings start a network's image encoder from pretrained weights.

    For runs without a record of it; None where the network is none of the suite's.
    """
    name = class_path.removeprefix(_NETWORKS)
    if name not in FROM_FILE | FROM_HUB_OR_FILE:
        return None
    from_file = settings.get("image_weights") is not None
    pretrained = name in FROM_HUB_OR_FILE and settings.get("pretrained")
    return from_file or (pretrained if isinstance(pretrained, bool) else None)


def _images_a_step(trainer: Mapping[str, Any], data: Mapping[str, Any]) -> int | None:
    """Images of one step of the optimizer on all devices; None where their number is not known."""
    numbers = (
        _number_of_devices(trainer.get("devices")),
        trainer.get("num_nodes", 1),
        trainer.get("accumulate_grad_batches", 1),
        data.get("batch_size"),
    )
    product = 1
    for number in numbers:
        if not isinstance(number, int):
            return None
        product *= number
    return product


def _number_of_devices(given: object) -> int | None:
    """How many devices a setting means; None where that is the machine's to say (auto, -1)."""
    if isinstance(given, str) and "," not in given:
        return int(given) if given.isdecimal() else None
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if isinstance(given, Sequence):
        return None if {"-1", -1} & {*given} else len(given)
    return given if isinstance(given, int) and given > 0 else None


def _changing_callbacks(given: Any) -> str:
    """The callbacks that may change what is trained, by class and arguments: "none" or a list."""
    listed = [given] if isinstance(given, Mapping) else given or []
    texts = []
    for callback in listed:
        name = callback["class_path"].rpartition(".")[2]
        arguments = callback.get("init_args") or {}
        told = [f"{k}={v}" for k, v in arguments.items() if v is not None]
        if name not in _WATCHING:
            texts.append(f"{name}({', '.join(told)})")
    return ", ".join(sorted(texts)) or "none"
