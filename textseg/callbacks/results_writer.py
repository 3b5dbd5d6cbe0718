"""What a test writes: metrics.json, cases.csv and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from textseg.batch import Batch
from textseg.encoders import reads_text
from textseg.errors import check_at_least
from textseg.metrics.bootstrap import Floats, Ints, bootstrap_warnings
from textseg.metrics.calibration import calibration_errors
from textseg.metrics.emptiness import emptiness_warnings
from textseg.metrics.ranking import choose
from textseg.metrics.scores import UNITS, CaseTableRows, Protocol, dice, iou
from textseg.metrics.strata import (
    NUMBERS,
    SIDES,
    SIZES,
    Side,
    by_stratum,
    describe_truth,
    number_class,
    size_classes,
)
from textseg.metrics.summary import summary
from textseg.metrics.text import to_json
from textseg.models.base import SegmentationModule
from textseg.models.scoring import caption_mode_of
from textseg.output import OutputFolder, write_text, writing
from textseg.preprocess import Bytes
from textseg.runs.cases import OUTLINES, CaseRow, write_cases
from textseg.runs.outputs import (
    PackedMask,
    averaging_of,
    evenly_spaced,
    gather_by_index,
    mask_bytes,
    mask_source_of,
    new_test_dir,
    original_picture,
    pack_mask,
    rows_in,
    unpack_mask,
    write_mask,
)
from textseg.visualize.overlay import overlay_sheet


class _Case(NamedTuple):
    """Facts about a case that are not in its row of the case table."""

    case: str
    case_id: str
    caption: str
    lesion_number: int
    lesion_side: Side
    strata: dict[str, str]  # of the user's own


class ResultsWriter(L.Callback):
    """Writes test/<caption mode>/: metrics.json, cases.csv, overlays/ and, if asked, masks/.

    A second test of the same checkpoint writes beside the first, never over it; one that was ended
    before it was complete, which the file INCOMPLETE says, is begun anew. A test on other
    data than the run's own writes test_on_<dataset folder>/<caption mode>/. Where the truth is no
    outline (the DataModule's `mask_source`, such as "boxes"), each of them says so. So does
    metrics.json, and the folder's name, where logits are averaged (tta, ensemble).

    Args:
        overlays: pictures to draw, evenly spaced over the test set.
        ranked: further pictures, of so many cases each with the best, median and worst Dice.
        save_masks: also write every predicted mask, as predict does.
    """

    def __init__(self, overlays: int = 24, ranked: int = 4, save_masks: bool = False) -> None:
        for name, count in (("overlays", overlays), ("ranked", ranked)):
            check_at_least(f"results_writer.{name}", count, 0)
        self.overlays = overlays
        self.ranked = ranked
        self.save_masks = save_masks
        self.results: dict[str, dict[str, Any]] = {}
        self.folder = Path()
        self._claimed = OutputFolder(self.folder)
        self._drawn: set[int] = set()
        self._strata: dict[str, list[str]] = {}  # of the user's own, by row of the test set
        self._cases: dict[int, _Case] = {}
        self._masks: dict[int, PackedMask] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the test's folder, and choose the cases to draw."""
        self.mode = caption_mode_of(trainer)
        self.truth = mask_source_of(trainer)
        self._claimed = new_test_dir(trainer)
        self.folder = self._claimed.path
        for name in ("overlays", *["masks"] * self.save_masks):
            with writing(self.folder / name):
                (self.folder / name).mkdir(exist_ok=True)
        self._drawn = evenly_spaced(self.overlays, rows_in(trainer.test_dataloaders))
        strata_of = getattr(getattr(trainer, "datamodule", None), "strata_of", None)
        self._strata = strata_of("test") if strata_of else {}
        self._cases, self._masks = {}, {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is known of each case; write masks and the evenly spaced overlays."""
        assert isinstance(pl_module, SegmentationModule)
        for row, index in enumerate(batch["index"].tolist()):
            case, pred = batch["case"][row], outputs["pred"][row]
            truth = mask_bytes(batch["truth"][row])
            names = case, batch["case_id"][row], batch["text"][row]
            own = {name: classes[index] for name, classes in self._strata.items()}
            self._cases[index] = _Case(*names, *describe_truth(truth), own)
            if self.ranked:
                self._masks[index] = pack_mask(mask_bytes(pred))
            if self.save_masks:
                write_mask(pred, self.folder / "masks" / f"{case}.png")
            if index in self._drawn:
                self._draw(trainer, batch, row, mask_bytes(pred))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score all cases; write metrics.json, cases.csv and the overlays of ranked cases."""
        assert isinstance(pl_module, SegmentationModule)
        rows = pl_module.test_cases.compute()
        known = gather_by_index(self._cases)
        cases = [known[index] for index in rows.index.tolist()]
        sizes, scores = scored_cases(rows, cases, pl_module.protocol)
        total = rows_in(trainer.test_dataloaders)
        if len(cases) < total:
            scores["warnings"].append(
                f"{len(cases)} of {total} cases were tested (trainer.limit_test_batches)"
            )
        result: dict[str, Any] = {
            "caption_mode": self.mode,
            "protocol": pl_module.protocol,
            "truth": self.truth,
        }
        result |= averaging_of(pl_module, [case.caption for case in cases])
        result |= scores
        result["reads_text"] = reads_text(pl_module)
        result["parameters"] = sum(one.numel() for one in pl_module.parameters())
        result["versions"] = ", ".join(f"{x} {version(x)}" for x in ("torch", "lightning", "timm"))
        if pl_module.test_cases.surface:
            result["nsd_tolerance"] = pl_module.nsd_tolerance
            pixels = pl_module.test_pixels.compute()
            if pixels.cases == len(cases):
                result |= calibration_errors(pixels, pl_module.mask_temperature)
            else:
                scores["warnings"].append(
                    f"no ece: a sampler of its own counts {pixels.cases} of {len(cases)} cases"
                )
        self.results[self.mode] = result
        self._draw_ranked(trainer, rows, dice(rows, protocol=pl_module.protocol))
        if trainer.is_global_zero:
            write_text(self.folder / "metrics.json", to_json(result))
            table = _case_rows(rows, cases, sizes, pl_module.protocol, self.truth)
            write_cases(self.folder / "cases.csv", table)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the mark that the test is not complete: every process has written by now."""
        self._claimed.finish()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the test marked as incomplete, for the next one to begin anew."""
        self._claimed.release()

    def _draw(self, trainer: L.Trainer, batch: Batch, row: int, pred: Bytes) -> None:
        case = batch["case"][row]
        sheet = overlay_sheet(
            original_picture(trainer, batch, row),
            mask_bytes(batch["truth"][row]),
            pred,
            caption=batch["text"][row],
            title=[case, *([f"truth: {self.truth}"] * (self.truth != OUTLINES))],
        )
        sheet.save(self.folder / "overlays" / f"{case}.png")

    def _draw_ranked(self, trainer: L.Trainer, rows: CaseTableRows, scores: Floats) -> None:
        """Best, median and worst are known only now, so their images are read again."""
        lesions = (rows.true > 0).tolist()
        choice = choose(scores.tolist(), lesions, range(len(scores)), self.ranked)
        chosen = {int(rows.index[position]) for position in choice.shown()} - self._drawn
        masks = gather_by_index({i: mask for i, mask in self._masks.items() if i in chosen})
        self._masks = {}
        if not trainer.is_global_zero:
            return
        loader: Any = trainer.test_dataloaders
        for index in sorted(chosen):
            loaded = loader.collate_fn([loader.dataset[index]])
            batch = trainer.strategy.batch_to_device(loaded)  # as before a step, hooks included
            self._draw(trainer, batch, 0, unpack_mask(masks[index]))


def scored_cases(
    rows: CaseTableRows, cases: Sequence[_Case | CaseRow], protocol: Protocol
) -> tuple[list[str], dict[str, Any]]:
    """Each case's class of lesion size, and everything in metrics.json that is a number."""
    groups = [case.case_id for case in cases]
    sizes, cuts = size_classes(rows.true, rows.pixels)
    strata: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "size": (sizes, SIZES),
        "number": ([number_class(case.lesion_number) for case in cases], NUMBERS),
        "side": ([case.lesion_side for case in cases], SIDES),
    }
    for name in cases[0].strata if cases else ():
        own = [case.strata[name] for case in cases]
        strata[name] = own, sorted(set(own))
    scores: dict[str, Any] = summary(rows, groups, protocol=protocol)
    scores["warnings"] = bootstrap_warnings(groups, len(cases))
    scores["warnings"] += emptiness_warnings([case.caption for case in cases], rows.true.tolist())
    scores["size_cuts"] = cuts
    scores["strata"] = {
        name: by_stratum(rows, groups, classes, order, protocol=protocol)
        for name, (classes, order) in strata.items()
    }
    return sizes, scores


def _case_rows(
    rows: CaseTableRows,
    cases: Sequence[_Case],
    sizes: Sequence[str],
    protocol: Protocol,
    truth: str,
) -> list[CaseRow]:
    """The lines of cases.csv, in the order of the test set."""
    dices, ious = dice(rows, protocol=protocol), iou(rows, protocol=protocol)
    return [
        CaseRow(
            **case._asdict(),
            patient=case.case_id or case.case,
            dice=float(dices[row]),
            iou=float(ious[row]),
            intersection=int(rows.intersection[row]),
            predicted=int(rows.predicted[row]),
            true=int(rows.true[row]),
            pixels=int(rows.pixels[row]),
            hd95=_defined(rows.hd95[row]),
            nsd=_defined(rows.nsd[row]),
            diagonal=_defined(rows.diagonal[row]),
            surface_unit=UNITS[rows.unit[row]],
            lesions_predicted=_asked(rows, row, rows.predicted_lesions),
            lesions_matched=_asked(rows, row, rows.matched),
            lesions_matched_half=_asked(rows, row, rows.matched_half),
            lesion_size=sizes[row],
            truth=truth,
        )
        for row, case in enumerate(cases)
    ]


def _asked(rows: CaseTableRows, row: int, counts: Ints) -> int | None:
    return int(counts[row]) if rows.unit[row] else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
