"""Probes how a trained network uses its text: masks under true words and under changed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import lightning as L

from textseg.batch import ABSENT
from textseg.checkpoint import read_checkpoint
from textseg.encoders import reads_text
from textseg.errors import UserError, check_at_least, check_seed
from textseg.metrics.bootstrap import Estimate, bootstrap_warnings, count_patients
from textseg.metrics.text import to_json
from textseg.models.base import SegmentationModule, check_state_dict
from textseg.output import output_folder, write_picture, write_text, writing
from textseg.probe.masks import TRUE, Probe, ProbedCase, Variants, distinct_texts
from textseg.probe.pictures import Panel, probe_picture
from textseg.probe.results import (
    ProbeResult,
    VariantResult,
    absent,
    absent_kinds,
    case_dice,
    case_mask_change,
    pairs,
    same_texts,
    side_swap,
    variant_result,
)
from textseg.probe.tables import markdown_table, plain_table, write_cases
from textseg.runs.cases import OUTLINES
from textseg.runs.outputs import (
    averaging_suffix,
    mask_source_of,
    only_progress_bars,
    test_dir_name,
    unpack_mask,
)

__all__ = ["Estimate", "ProbeResult", "VariantResult", "plain_table", "probe"]


def probe(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    trainer: L.Trainer,
    variants: Variants,
    ckpt_path: str | None = None,
    pictures: int = 6,
    seed: int = 0,
) -> ProbeResult:
    """Measure how far a network's masks move, and its Dice falls, when its words are changed.

    The test set is run with true, empty, shuffled and otherwise changed captions, and asked for
    what its images do not show, of which nothing should be outlined. The results are written into
    RUN/probe/ (RUN/test_on_<name>/probe/ for other data than the run's own, and probe_flip or
    probe_ensemble where logits are averaged): probe.json, probe.csv, probe.md and pictures. Dice is
    always that of protocol=standard.

    Args:
        model: the network.
        datamodule: whose test set is run; with its true captions.
        trainer: gives devices and precision; of its callbacks only a progress bar runs.
        variants: by name the changed texts in row order, None where a row has none; names that
            begin with "absent:" are those of requests for what an image does not show.
            `datamodules.captions.perturbations.caption_variants` makes them.
        ckpt_path: weights to load first; null keeps those of the model.
        pictures: cases to draw with each change, evenly spaced over the test set; 0 for none.
        seed: of the changes and of the bootstrap.

    Raises:
        UserError: a wrong setting, or variants of other captions than the test set's.
    """
    check_at_least("pictures", pictures, 0)
    check_seed(seed)
    _check_variants(datamodule, variants)
    if ckpt_path is not None:
        weights = read_checkpoint(ckpt_path)["state_dict"]
        check_state_dict(model, weights)
        model.load_state_dict(weights)
    run = Probe(model, variants, pictures)
    with only_progress_bars(trainer):
        trainer.test(run, datamodule=datamodule, verbose=False)
    if not run.cases:
        raise UserError("the probe saw no case", "give trainer.limit_test_batches a batch or more")
    result = _evaluated(run.cases, model, trainer, variants, seed)
    if not trainer.is_global_zero:
        return result
    tests, folder = test_dir_name(trainer), Path(trainer.default_root_dir)
    folder = folder if tests == "test" else folder / tests
    with output_folder(folder / f"probe{averaging_suffix(model)}", "probe") as claimed:
        _write(claimed.path, result, run.cases, variants)
    return replace(result, output=claimed.path)


def _check_variants(datamodule: L.LightningDataModule, variants: Variants) -> None:
    """Check that variants hold the true captions of the test set, and one entry for each row."""
    mode = getattr(datamodule, "caption_mode", "true")
    if mode != "true":
        raise UserError(
            f"caption_mode={mode} has changed the captions that a probe starts from",
            "leave caption_mode out: a probe runs empty and shuffled captions too",
        )
    if TRUE not in variants or None in variants[TRUE]:
        raise UserError(
            "variants lack the true captions, which all others are compared with",
            f"give a text for every row under {TRUE!r}; captions.perturbations makes them all",
        )
    captions = getattr(datamodule, "captions", None)
    texts = list(variants[TRUE] if captions is None else captions("test"))
    odd = {name: len(column) for name, column in variants.items() if len(column) != len(texts)}
    if odd:
        raise UserError(
            f"variants has {odd} texts for the {len(texts)} rows of the test set",
            "make them of the captions of the split test: datamodules.captions.perturbations",
        )
    if list(variants[TRUE]) != texts:
        raise UserError(
            f"variants[{TRUE!r}] are other captions than those of the test set",
            "make the variants of datamodule.captions('test'), in that order",
        )


def _evaluated(
    cases: Mapping[int, ProbedCase],
    model: SegmentationModule,
    trainer: L.Trainer,
    variants: Variants,
    seed: int,
) -> ProbeResult:
    rows = list(cases.values())
    groups = [case.case_id for case in rows]
    names = [name for name in variants if not name.startswith(ABSENT)]
    results = tuple(
        variant_result(rows, name, seed=seed, same=same_texts(cases, variants, name))
        for name in names
    )
    paired = pairs(cases, variants, seed=seed)
    return ProbeResult(
        network=model.network_name,
        data=type(getattr(trainer, "datamodule", None)).__name__,
        seed=seed,
        cases=len(rows),
        patients=count_patients(groups, len(groups)),
        variants=results,
        # In a referring set sides are those of an organ, and the pairs tell more.
        side_swap=side_swap(rows) if paired is None else None,
        pairs=paired,
        absent=absent(rows, variants, seed=seed),
        absent_kinds=absent_kinds(rows, variants, seed=seed),
        warnings=(
            *_warnings(model, results, mask_source_of(trainer)),
            *bootstrap_warnings(groups, len(rows)),
        ),
        tta=model.tta,
        ensemble=model.ensemble,
        threshold=model.mask_threshold,
        temperature=model.mask_temperature,
        unmirrored=None if model.tta == "none" else model.unmirrored(distinct_texts(variants)),
    )


def _warnings(
    model: SegmentationModule, results: tuple[VariantResult, ...], truth: str
) -> list[str]:
    warnings = []
    if not reads_text(model):
        warnings.append(
            f"{model.network_name} reads no text: its masks stay where they are, whatever the "
            "words, and every difference is 0 by construction"
        )
    elif not any(result.share_changed.value > 0 for result in results):
        warnings.append("no change of the words moved a single pixel: the network ignores its text")
    lacking = [result.name for result in results if not result.cases]
    if lacking:
        warnings.append(f"no caption of this test set could be changed so: {', '.join(lacking)}")
    if truth != OUTLINES:
        warnings.append(f"the truth is {truth}, not outlines: dice is against those")
    if model.protocol != "standard":
        warnings.append(
            f"protocol={model.protocol} is the model's, but dice is that of protocol=standard here"
        )
    return warnings


def _write(
    folder: Path, result: ProbeResult, cases: Mapping[int, ProbedCase], variants: Variants
) -> None:
    write_text(folder / "probe.json", to_json(result.as_json()))
    table = markdown_table(result, cases, variants)
    write_text(folder / "probe.md", table)
    write_cases(folder / "probe.csv", cases, variants)
    for index, case in cases.items():
        if case.image is None:
            continue
        with writing(folder):
            (folder / "pictures").mkdir(exist_ok=True)
        panels = []
        for name, mask in case.masks.items():
            text = variants[name][index] or ""
            panels.append(Panel(name, unpack_mask(mask), text, _note(case, name)))
        page = probe_picture(case.image, unpack_mask(case.truth), panels, title=case.case)
        write_picture(folder / "pictures" / f"{case.case}.png", page)


def _note(case: ProbedCase, name: str) -> str:
    """The numbers of one mask in words."""
    if name.startswith(ABSENT):
        return f"absent; outlined: {case.measured[name].predicted / case.pixels:.1%} of the image"
    dice = f"dice {case_dice([case], name)[0]:.2f}"
    return dice if name == TRUE else f"{dice}, mask change {case_mask_change([case], name)[0]:.2f}"
