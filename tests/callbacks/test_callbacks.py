"""Folders nobody wrote to before, and explanations: nothing unless asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.stand_ins import make_batch
from tests.models.tiny import NO_TEXT
from tests.tiny_run import (
    NO_PICTURES,
    SMALL,
    Outcome,
    call,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.callbacks.explanation_writer import ExplanationWriter
from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.runs.folder import unique_dir
from textseg.runs.outputs import evenly_spaced, picture_of, write_mask

# --- folders and files --------------------------------------------------------------------------


def test_folders_claimed_at_once_are_all_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(unique_dir, [tmp_path / "test" / "true"] * 24))
    assert len(set(claimed)) == 24
    assert all(folder.is_dir() for folder in claimed)


def test_a_file_in_the_way_is_not_taken_for_a_fresh_folder(tmp_path: Path) -> None:
    (tmp_path / "predict").write_text("mine")
    assert unique_dir(tmp_path / "predict").name == "predict_2"
    assert (tmp_path / "predict").read_text() == "mine"


@pytest.mark.parametrize(("count", "total"), [(24, 2113), (5, 5), (8, 3), (2, 10), (24, 25)])
def test_evenly_spaced_rows_are_as_many_as_asked_and_include_both_ends(
    count: int, total: int
) -> None:
    chosen = sorted(evenly_spaced(count, total))
    assert len(chosen) == min(count, total)
    assert (chosen[0], chosen[-1]) == (0, total - 1)
    gaps = np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("count", "total"), [(0, 5), (3, 0), (0, 0)])
def test_no_rows_are_chosen_where_there_are_none_or_none_are_asked_for(
    count: int, total: int
) -> None:
    assert evenly_spaced(count, total) == set()


def test_a_mask_is_written_as_8_bit_gray_of_0_and_255(tmp_path: Path) -> None:
    mask = torch.tensor([[True, False, False], [False, True, True]])
    write_mask(mask, tmp_path / "mask.png")
    stored = Image.open(tmp_path / "mask.png")
    assert (stored.mode, stored.size) == ("L", (3, 2))
    assert np.array_equal(np.asarray(stored), mask.numpy() * 255)


def test_the_picture_of_a_row_has_the_images_original_size() -> None:
    batch = make_batch(2, 64, 64)
    batch["original_size"] = torch.tensor([[70, 90], [64, 64]])
    assert picture_of(batch, 0).shape == (70, 90, 3)
    expected = (batch["image"][1].permute(1, 2, 0).numpy() * 255).round()
    assert np.array_equal(picture_of(batch, 1), expected)


# --- explanations on disk -------------------------------------------------------------------------

MODES = ("true", "empty", "shuffled")


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A fit that is tested three ways with two explanations each: its run and what it printed."""
    home = tmp_path_factory.mktemp("explained")
    more = ["--test_after_fit", "true", "--explain.pictures", "2"]
    experiment = write_experiment(home, model=SMALL, results_writer=NO_PICTURES)
    root = write_refhl(home / "refhl")
    outcome = call(*train_arguments(experiment, root, *more), cwd=home)
    assert outcome.status == 0, outcome.err
    return only(home / "runs/tiny"), outcome


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def again(run: Path, command: str, *more: str) -> Outcome:
    """`test` or `predict` of the run's checkpoint."""
    best = run / "checkpoints/best.ckpt"
    outcome = call(command, "--ckpt_path", best, *more, cwd=run.parents[2])
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.mark.slow
def test_each_way_of_testing_writes_the_first_and_the_last_case_into_its_own_folder(
    explained: tuple[Path, Outcome],
) -> None:
    run, outcome = explained
    for mode in MODES:
        assert names_in(run / "test" / mode / "explain") == {"test0__7.png", "test0__11.png"}
        said = f"explanations written to {run / 'test' / mode / 'explain'}: 2"
        assert said.replace(f"{run.parents[2]}/", "") in outcome.err.splitlines()
    assert not (run / "explain").exists()


def test_explanations_of_true_and_shuffled_captions_differ(
    explained: tuple[Path, Outcome],
) -> None:
    pages = [explained[0] / "test" / mode / "explain/test0__7.png" for mode in MODES]
    assert len({page.read_bytes() for page in pages}) == 3


def test_a_case_whose_caption_lacks_the_word_is_skipped_and_counted_once(
    explained: tuple[Path, Outcome],
) -> None:
    """Rows 8 and 10 are of a small lesion, 7, 9 and 11 of a large one."""
    asked = ["--explain.pictures", "5", "--explain.word", "SMALL"]
    outcome = again(explained[0], "test", *asked)
    folder = max((explained[0] / "test").glob("true_*"), key=lambda path: path.stat().st_mtime)
    assert names_in(folder / "explain") == {"test1__8.png", "test3__10.png"}
    assert outcome.err.count("captions without 'SMALL', skipped: 3") == 1


def test_predict_writes_explanations_beside_its_masks_and_never_over_them(
    explained: tuple[Path, Outcome],
) -> None:
    run = explained[0]
    again(run, "predict", "--explain.pictures", "1")
    first = (run / "explain/test0__7.png").read_bytes()
    again(run, "predict", "--explain.pictures", "1", "--explain.word", "lesion")
    assert names_in(run / "explain") == names_in(run / "explain_2") == {"test0__7.png"}
    assert (run / "explain/test0__7.png").read_bytes() == first
    assert (run / "explain_2/test0__7.png").read_bytes() != first, "another word, other maps"


def test_without_pictures_nothing_is_explained_and_no_folder_made(
    explained: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(*_: object) -> None:
        raise AssertionError("a network was explained")

    before = set(explained[0].rglob("explain*"))
    monkeypatch.setattr(SegmentationModule, "explain", explain)
    outcomes = [again(explained[0], command) for command in ("test", "predict")]
    assert set(explained[0].rglob("explain*")) == before
    assert not any("explanations written" in outcome.err for outcome in outcomes)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pictures": -1}, "explain.pictures=-1"),
        ({"word": "left"}, "explain.word='left' with explain.pictures=0"),
        ({"pictures": 3, "word": " "}, "explain.word=' '"),
    ],
)
def test_settings_that_draw_nothing_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ExplanationWriter(**settings)


def test_a_word_for_a_network_that_reads_none_is_refused_before_the_training(
    tmp_path: Path,
) -> None:
    blind = {**SMALL, "init_args": {**SMALL["init_args"], **NO_TEXT["TMCA"]}}
    experiment = write_experiment(tmp_path, model=blind)
    word = ["--explain.pictures", "1", "--explain.word", "left", "--test_after_fit", "true"]
    arguments = train_arguments(experiment, write_refhl(tmp_path / "refhl"), *word)
    outcome = call(*arguments, cwd=tmp_path)
    assert outcome.status == 2
    assert "reads no words" in outcome.message()[0]
    assert not list(tmp_path.rglob("*.ckpt"))
