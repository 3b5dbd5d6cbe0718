"""A network probed with changed words, against masks and scores worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules import RefHLSegDataModule
from datamodules.captions.perturbations import caption_variants
from tests.models.stand_ins import quiet_trainer
from tests.probe.drawing_networks import (
    TEXTS,
    VARIANTS,
    Blind,
    Reader,
    RowsInMemory,
    half,
    run,
    truth_of_row,
)
from tests.tiny_run import write_refhl
from textseg.callbacks.results_writer import ResultsWriter
from textseg.errors import UserError
from textseg.models import LSMS
from textseg.models.base import SegmentationModule
from textseg.preprocess.pixel_files import read_image
from textseg.probe import ProbeResult, probe
from textseg.probe.masks import Probe, ProbedCase
from textseg.probe.pictures import probe_picture
from textseg.probe.results import pairs, variant_result


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> ProbeResult:
    return run(Blind(), tmp_path_factory.mktemp("blind"))


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else 1.0


def by_hand(name: str) -> dict[str, float]:
    """The figures of a variant for `Reader`, by numpy."""
    rows = [row for row in range(8) if VARIANTS[name][row] is not None]
    truths = [truth_of_row(row) for row in rows]
    own = [half(TEXTS[row], t.shape) for row, t in zip(rows, truths, strict=True)]
    new = [half(VARIANTS[name][row] or "", t.shape) for row, t in zip(rows, truths, strict=True)]
    return {
        "cases": len(rows),
        "dice": np.mean([overlap(m, t) for m, t in zip(new, truths, strict=True)]),
        "dice_true": np.mean([overlap(m, t) for m, t in zip(own, truths, strict=True)]),
        "mask_change": np.mean([1 - overlap(m, o) for m, o in zip(new, own, strict=True)]),
        "share_changed": np.mean([(m != o).any() for m, o in zip(new, own, strict=True)]),
    }


def figures(result: ProbeResult, name: str) -> dict[str, float]:
    (found,) = (variant for variant in result.variants if variant.name == name)
    assert found.difference.value == pytest.approx(found.dice.value - found.dice_true.value)
    return {
        "cases": found.cases,
        "dice": found.dice.value,
        "dice_true": found.dice_true.value,
        "mask_change": found.mask_change.value,
        "share_changed": found.share_changed.value,
    }


# --- masks, Dice and the change of masks


@pytest.mark.parametrize("name", ["true", "empty", "side_swapped", "typos"])
def test_dice_and_mask_change_equal_a_computation_by_hand(obeying: ProbeResult, name: str) -> None:
    assert figures(obeying, name) == pytest.approx(by_hand(name))


def test_two_empty_masks_have_not_changed(obeying: ProbeResult) -> None:
    assert figures(obeying, "empty")["mask_change"] == pytest.approx(7 / 8), "row 6 says nothing"
    assert figures(obeying, "empty")["share_changed"] == pytest.approx(7 / 8)


def test_a_network_that_ignores_its_text_changes_no_mask(blind: ProbeResult) -> None:
    for variant in blind.variants[:4]:
        changes = variant.mask_change.value, variant.difference.value, variant.share_changed.value
        assert changes == (0, 0, 0)
    assert any("reads no text" in text for text in blind.warnings)


def test_a_network_that_could_read_but_does_not_is_told_so(tmp_path: Path) -> None:
    model = Blind()
    del model.text_encoder
    result = run(model, tmp_path)
    assert any("ignores its text" in text for text in result.warnings)
    assert not any("reads no text" in text for text in result.warnings)


def test_a_network_that_reads_is_warned_of_neither(obeying: ProbeResult) -> None:
    assert not any("text" in text.split(":")[0] for text in obeying.warnings)
    assert any("count_changed" in text for text in obeying.warnings)
    assert any("patients" in text for text in obeying.warnings), "there are four"


# --- pairs and sides


def test_swapping_expressions_swaps_the_masks_of_a_network_that_obeys(
    obeying: ProbeResult, blind: ProbeResult
) -> None:
    for result in (obeying, blind):
        assert result.pairs is not None
        # Rows 6 and 7 are a pair too: one of them says nothing, and has an empty truth.
        assert (result.pairs.pairs, result.pairs.images, result.pairs.patients) == (4, 4, 3)
        assert result.side_swap is None, "pairs tell more"
    assert obeying.pairs is not None
    assert blind.pairs is not None
    assert (obeying.pairs.followed.value, blind.pairs.followed.value) == (1, 0)
    truths = [truth_of_row(row) for row in range(8)]
    own = [overlap(half(TEXTS[row], truths[row].shape), truths[row]) for row in range(8)]
    other = [overlap(half(TEXTS[row], truths[row].shape), truths[row ^ 1]) for row in range(8)]
    assert obeying.pairs.own.value == pytest.approx(np.mean(own))
    assert obeying.pairs.other.value == pytest.approx(np.mean(other))


def probed(model: SegmentationModule, rows: Sequence[int], pictures: int = 0) -> dict[int, Any]:
    runner = Probe(model, VARIANTS, pictures)
    quiet_trainer().test(runner, datamodule=RowsInMemory(rows), verbose=False)
    return runner.cases


def test_rows_that_ask_for_the_same_are_no_pair() -> None:
    cases = probed(Reader(), range(4))
    assert pairs(cases, VARIANTS, seed=0) is not None
    same_text = {"true": ["On the  LEFT", "on the left", "left", "left "]}
    assert pairs(cases, same_text, seed=0) is None
    same_truth = {0: cases[0], 1: ProbedCase(**(vars(cases[1]) | {"truth": cases[0].truth}))}
    assert pairs(same_truth, VARIANTS, seed=0) is None


@pytest.mark.parametrize(("model", "share"), [(Reader, 1.0), (Blind, 0.0)])
def test_swapped_sides_take_masks_to_the_other_half(
    tmp_path: Path, model: type[Reader], share: float
) -> None:
    data = RowsInMemory([0, 3, 4, 6])  # one row for an image
    trainer = quiet_trainer(default_root_dir=tmp_path)
    result = probe(model(), data, trainer=trainer, variants=VARIANTS, pictures=0)
    assert result.pairs is None
    assert result.side_swap is not None
    assert result.side_swap.cases == 3, "row 6 has no side to swap"
    assert result.side_swap.share.value == share


# --- how it is run


def test_the_cases_of_two_processes_are_those_of_one() -> None:
    whole = probed(Reader(), range(8))
    # As DistributedSampler deals seven or eight rows: the second share repeats row 0.
    merged = probed(Reader(), [0, 2, 4, 6]) | probed(Reader(), [1, 3, 5, 7, 0])
    assert sorted(merged) == sorted(whole)
    for name in VARIANTS:
        one, two = ([c[i] for i in sorted(c)] for c in (whole, merged))
        assert repr(variant_result(one, name, seed=0)) == repr(variant_result(two, name, seed=0))
    assert pairs(whole, VARIANTS, seed=0) == pairs(merged, VARIANTS, seed=0)


def test_every_variant_runs_on_the_whole_batch_and_one_without_rows_not_at_all() -> None:
    model = Reader()
    probed(model, range(8))
    # Batches of 3, 3 and 2; true, empty and swapped in each, misspelled in the first and the last.
    assert model.sizes == [3] * 4 + [3] * 3 + [2] * 4


def test_changed_captions_are_shown_to_the_text_encoder_but_not_for_learning() -> None:
    model = Reader()
    probed(model, range(8))
    ((captions, training),) = model.shown
    assert not training
    assert set(captions) == {text for column in VARIANTS.values() for text in column} - {None}


def test_only_a_progress_bar_of_the_trainers_callbacks_runs(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[ResultsWriter()])
    before = list(trainer.callbacks)  # type: ignore[attr-defined]
    probe(Reader(), RowsInMemory(), trainer=trainer, variants=VARIANTS, pictures=0)
    assert not (tmp_path / "test").exists()
    assert trainer.callbacks == before  # type: ignore[attr-defined]


def test_weights_come_from_the_checkpoint(tmp_path: Path) -> None:
    weights = Reader()
    weights.strength.data.fill_(-1.0)  # draws the half that is not named
    torch.save({"state_dict": weights.state_dict()}, tmp_path / "best.ckpt")
    result = run(Reader(), tmp_path, ckpt_path=str(tmp_path / "best.ckpt"))
    assert figures(result, "true")["dice"] == 0
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="another network"):
        run(Reader(), tmp_path, ckpt_path=str(tmp_path / "other.ckpt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pictures": -1}, "pictures=-1"),
        ({"variants": {"empty": [""] * 8}}, "true captions"),
        ({"variants": VARIANTS | {"empty": [""] * 7}}, "'empty': 7"),
        ({"variants": {"true": TEXTS[::-1]}}, "other captions"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(
    tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    model = Reader()
    with pytest.raises(UserError, match=message):
        run(model, tmp_path, **settings)
    assert model.sizes == []
    assert not (tmp_path / "probe").exists()


def test_captions_that_are_changed_already_are_refused(tmp_path: Path) -> None:
    data = RowsInMemory()
    data.caption_mode = "empty"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="caption_mode=empty"):
        probe(Reader(), data, trainer=quiet_trainer(), variants=VARIANTS)


def test_a_real_network_is_probed_and_learns_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[NDArray[np.uint8]] = []

    def draw(image: NDArray[np.uint8], *rest: Any, **named: Any) -> NDArray[np.uint8]:
        drawn.append(image)
        return probe_picture(image, *rest, **named)

    monkeypatch.setattr("textseg.probe.probe_picture", draw)
    root = write_refhl(tmp_path / "data")
    data = RefHLSegDataModule(str(root), image_size=32, batch_size=2, num_workers=0, cache=None)
    torch.manual_seed(0)
    model = LSMS(image_encoder="mscan_tiny", text_encoder="scratch", decoder_dim=32)
    model.prepare_captions(data.captions("train"), training=True)
    before = model.text_encoder.get_extra_state()["tokenizer"]
    rows = data.records("test")
    variants = caption_variants([r.text for r in rows], [r.case_id for r in rows], seed=0)
    trainer = quiet_trainer(default_root_dir=tmp_path)
    result = probe(model, data, trainer=trainer, variants=variants, pictures=1)
    assert model.text_encoder.get_extra_state()["tokenizer"] == before
    assert (result.cases, result.patients) == (5, 3)
    swapped = next(v for v in result.variants if v.name == "side_swapped")
    assert swapped.cases == 5
    assert result.output is not None
    assert len(list((result.output / "pictures").iterdir())) == 1
    files = [read_image(data.root / row.image) for row in rows]
    assert any(np.array_equal(drawn[0], file) for file in files), "not the network's small input"
