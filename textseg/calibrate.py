"""Calibration of a network on its validation rows: how far its probabilities can be trusted.

Pixels are those of the network's input, without borders, as validation scores them; formulas are in
`textseg.metrics.calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L

from textseg.batch import Batch
from textseg.checkpoint import read_checkpoint, weights_digest
from textseg.errors import UserError
from textseg.metrics.bootstrap import FEW_PATIENTS
from textseg.metrics.calibration import (
    BINS,
    HIGHEST,
    LOWEST,
    MARGIN,
    REGIONS,
    THRESHOLDS,
    PixelCounts,
    best_threshold,
    calibration_errors,
    fitted_temperature,
    negative_log_likelihood,
    reliability,
    with_temperature,
)
from textseg.metrics.case_table import without_border
from textseg.metrics.pixel_table import PixelTable
from textseg.metrics.text import aligned, averaging_text, one_line, to_json
from textseg.models.base import SegmentationModule, check_state_dict
from textseg.models.ensemble import Ensemble
from textseg.models.odd_logits import check_logits
from textseg.output import output_folder, write_text
from textseg.runs.calibration import CALIBRATION
from textseg.runs.cases import OUTLINES
from textseg.runs.outputs import (
    averaging_of,
    averaging_suffix,
    mask_source_of,
    only_progress_bars,
    test_dir_name,
)


@dataclass(frozen=True)
class Measures:
    """Of probabilities: calibration error of all pixels and of the margin, and mean -log p."""

    ece: float
    ece_margin: float
    nll: float


@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`; `output` is the folder it was written to.

    `measured` is of the network's own probabilities, `scaled` of those with the temperature.
    `threshold` is the best on the former, `threshold_scaled` outlines the same on the latter;
    `dice` is the mean over images at threshold 0.5, `dice_best` at the best one.
    `curves` has `Reliability` of each region, and of <region>_scaled.
    """

    network: str
    data: str
    cases: int
    pixels: int
    pixels_margin: int
    margin: float
    temperature: float
    threshold: float
    threshold_scaled: float
    dice: float
    dice_best: float
    measured: Measures
    scaled: Measures
    curves: dict[str, dict[str, list[Any]]]
    dice_by_threshold: list[float]
    weights: list[str]
    averaging: dict[str, Any]
    warnings: list[str]
    output: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Convert to plain values."""
        values = asdict(self)
        del values["output"]
        return values


class _Counting(L.LightningModule):
    """Counts pixels of the validation rows by logit; `trainer.validate` drives it."""

    def __init__(self, model: SegmentationModule) -> None:
        super().__init__()
        self.model = model
        self.table = PixelTable(thresholds=True)
        self.captions: list[str] = []
        self.counts: PixelCounts | None = None

    def setup(self, stage: str) -> None:
        """Let the text encoder warn of captions that it must cut; it learns no word of them."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        self.captions = [] if datamodule is None else list(datamodule.captions("val"))
        self.model.prepare_captions(self.captions, training=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the pixels of a batch."""
        frames = batch.get("frame")
        logits = without_border(self.model(batch["image"], batch["text"]).logits[:, 0], frames)
        check_logits(logits, batch["case"])
        truths = without_border(batch["mask"][:, 0] > 0.5, frames)
        self.table.update(logits, truths, batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Add up the counts of all processes."""
        self.counts = self.table.compute()


def calibrate(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    trainer: L.Trainer,
    ckpt_path: str | None = None,
    draw: Callable[[Mapping[str, Any], Path], None] | None = None,
) -> Calibration:
    """Fit the temperature and the threshold of a network on its validation rows.

    Writes RUN/calibration/calibration.json (RUN/test_on_<name>/calibration for other data than the
    run's own; calibration_flip and so on where logits are averaged). Nothing of it is applied
    unless a command is asked to.

    Args:
        model: the network.
        datamodule: whose validation rows are run; with its true captions.
        trainer: gives devices and precision; of its callbacks only a progress bar runs.
        ckpt_path: weights to load first; null keeps those of the model.
        draw: writes pictures of what calibration.json holds into the folder that it is given.

    Raises:
        UserError: the captions are changed ones, or no validation row has a lesion.
    """
    if ckpt_path is not None:
        weights = read_checkpoint(ckpt_path)["state_dict"]
        check_state_dict(model, weights)
        model.load_state_dict(weights)
    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    digests = [weights_digest(network.state_dict()) for network in networks]
    run = _Counting(model)
    threshold, temperature = model.mask_threshold, model.mask_temperature
    if (threshold, temperature) != (0.5, 1.0):
        raise UserError(
            f"threshold={threshold}, temperature={temperature}, which is what a calibration finds",
            "leave both out",
        )
    mode = getattr(datamodule, "caption_mode", "true")
    if mode != "true":
        raise UserError(
            f"caption_mode={mode}, but a network is calibrated with true captions",
            "leave caption_mode out",
        )
    with only_progress_bars(trainer):
        trainer.validate(run, datamodule=datamodule, verbose=False)
    if run.counts is None:
        raise UserError("no validation row was seen", "give trainer.limit_val_batches 1 or more")
    result = _evaluated(run.counts, model, run.captions, trainer, digests)
    if not trainer.is_global_zero:
        return result
    tests, folder = test_dir_name(trainer), Path(trainer.default_root_dir)
    folder = folder if tests == "test" else folder / tests
    with output_folder(folder / f"{CALIBRATION}{averaging_suffix(model)}", CALIBRATION) as claimed:
        write_text(claimed.path / f"{CALIBRATION}.json", to_json(result.as_json()))
        if draw is not None:
            draw(result.as_json(), claimed.path)
    return replace(result, output=claimed.path)


def _evaluated(
    counts: PixelCounts,
    model: SegmentationModule,
    captions: list[str],
    trainer: L.Trainer,
    digests: list[str],
) -> Calibration:
    everywhere = counts.of("all")
    if not everywhere[1].any():
        raise UserError(
            f"none of the {counts.cases} validation rows has a lesion in its mask",
            "calibrate on rows with lesions: check data.split, or trainer.limit_val_batches",
        )
    assert counts.dice is not None
    dice = counts.dice / counts.cases
    temperature, threshold = fitted_temperature(everywhere), best_threshold(dice)
    curves = {}
    for region in REGIONS:
        for name, scale in ((region, 1.0), (f"{region}_scaled", temperature)):
            found = reliability(counts.of(region), scale)
            curves[name] = {key: column.tolist() for key, column in found._asdict().items()}
    return Calibration(
        network=model.network_name,
        data=type(getattr(trainer, "datamodule", None)).__name__,
        cases=counts.cases,
        pixels=int(everywhere.sum()),
        pixels_margin=int(counts.of("margin").sum()),
        margin=MARGIN,
        temperature=temperature,
        threshold=threshold,
        threshold_scaled=with_temperature(threshold, temperature),
        dice=float(dice[THRESHOLDS == 0.5][0]),
        dice_best=float(dice.max()),
        measured=_measures(counts, 1.0),
        scaled=_measures(counts, temperature),
        curves=curves,
        dice_by_threshold=dice.tolist(),
        weights=digests,
        averaging=averaging_of(model, captions),
        warnings=_warnings(counts, temperature, mask_source_of(trainer)),
    )


def _measures(counts: PixelCounts, temperature: float) -> Measures:
    errors = calibration_errors(counts, temperature)
    return Measures(**errors, nll=negative_log_likelihood(counts.of("all"), temperature))


def _warnings(counts: PixelCounts, temperature: float, truth: str) -> list[str]:
    warnings = []
    if counts.cases < FEW_PATIENTS:
        warnings.append(
            f"{counts.cases} validation images: under {FEW_PATIENTS}, both are much luck"
        )
    if not LOWEST * 1.001 < temperature < HIGHEST / 1.001:
        warnings.append(
            f"temperature {temperature:.3g} is the end of what is looked at, {LOWEST} to {HIGHEST}"
        )
    if truth != OUTLINES:
        warnings.append(f"the truth is {truth}, not outlines: probabilities are of those")
    return warnings


def plain_table(result: Calibration) -> str:
    """Write the result for a terminal."""
    averaged = averaging_text(result.averaging)
    of = f"{result.network} on {result.data}: {result.cases} validation images"
    head = ("of probabilities", "as they are", f"temperature {result.temperature:.3f}")
    rows = [
        (title, f"{getattr(result.measured, name):.4f}", f"{getattr(result.scaled, name):.4f}")
        for title, name in (
            ("expected calibration error, all pixels", "ece"),
            ("expected calibration error, in and around lesions", "ece_margin"),
            ("negative log-likelihood, all pixels", "nll"),
        )
    ]
    return "\n".join(
        [
            of + (f", {averaged}" if averaged else ""),
            *(one_line(f"warning: {text}") for text in result.warnings),
            "",
            *aligned([head, *rows]),
            "",
            f"best threshold {result.threshold:.2f}: dice {result.dice_best:.4f} (at 0.5: "
            f"{result.dice:.4f}); with the temperature it is {result.threshold_scaled:.2f}",
            f"{BINS} bins; around lesions: up to {result.margin:.0%} of the image's longer side",
            "nothing of it is applied unasked: --temperature fitted, --threshold best",
        ]
    )
