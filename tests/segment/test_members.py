"""Which checkpoints are an ensemble, and how a command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from textseg.cli.arguments import with_first_checkpoint
from textseg.errors import UserError
from textseg.segment.members import check_one_task

TRAINED: dict[str, Any] = {
    "root": "/data/qata",
    "captions": None,
    "split": "official",
    "image_size": 224,
    "normalize_captions": False,
}


def checkpoint_of(run: Path, kind: str = "QaTaCov19DataModule", **changes: Any) -> str:
    """The path of a checkpoint in a run whose config.yaml tells the data; there is no such file."""
    run.mkdir(parents=True)
    data = {"class_path": f"datamodules.{kind}", "init_args": TRAINED | changes}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return str(run / "checkpoints/best.ckpt")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "MosMedDataModule"}, ("class", "MosMedDataModule")),
        ({"split": "first80"}, ("split", "first80")),
        ({"root": "/data/mosmed"}, ("root", "mosmed")),
        ({"captions": "/tables/other.csv"}, ("captions", "other.csv")),
        ({"image_size": [224, 256]}, ("image_size", "[224, 256]")),
        ({"normalize_captions": True}, ("normalize_captions", "True")),
    ],
)
def test_networks_of_different_tasks_are_no_ensemble(
    tmp_path: Path, changes: dict[str, Any], named: tuple[str, str]
) -> None:
    paths = [checkpoint_of(tmp_path / "one"), checkpoint_of(tmp_path / "other", **changes)]
    with pytest.raises(UserError) as error:
        check_one_task(paths, [{}, {}])
    cause = str(error.value).partition("\n")[0]
    assert all(part in cause for part in (*named, *paths))


def test_runs_may_lie_anywhere_and_an_image_size_that_is_given_is_no_difference(
    tmp_path: Path,
) -> None:
    moved = {"root": "/elsewhere/qata", "image_size": [320, 320]}
    paths = [checkpoint_of(tmp_path / "one"), checkpoint_of(tmp_path / "other", **moved)]
    check_one_task(paths, [{}, {}], image_size_given=True)
    with pytest.raises(UserError, match="image_size"):
        check_one_task(paths, [{}, {}])


def test_one_side_is_a_square(tmp_path: Path) -> None:
    same = checkpoint_of(tmp_path / "other", image_size=[224, 224])
    check_one_task([checkpoint_of(tmp_path / "one"), same], [{}, {}])


def test_the_size_in_a_plain_trainers_checkpoint_counts(tmp_path: Path) -> None:
    paths, sizes = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"], ([64, 64], [96, 96])
    with pytest.raises(UserError, match="image_size"):
        check_one_task(paths, [{"textseg": {"image_size": size}} for size in sizes])
    check_one_task(paths, [{}, {}])  # nothing is known


def test_a_checkpoint_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="twice"):
        check_one_task([tmp_path / "a.ckpt", tmp_path / "x/../a.ckpt"], [{}, {}])


@pytest.mark.parametrize("form", [["--ckpt_path", "{}"], ["--ckpt_path={}"]])
def test_the_first_of_several_checkpoints_stands_for_the_run(form: list[str]) -> None:
    several = [part.format("[a.ckpt, b.ckpt,c.ckpt]") for part in form]
    single = [part.format("a.ckpt") for part in form]
    kept = (["--tta", "flip", *single], ["b.ckpt", "c.ckpt"])
    assert with_first_checkpoint(["--tta", "flip", *several]) == kept
    assert with_first_checkpoint(single) == (single, [])
    assert with_first_checkpoint(["--tta", "flip"]) == (["--tta", "flip"], [])


@pytest.mark.parametrize("given", ["[a.ckpt", "[]", "[1, 2]", "[[a.ckpt], b.ckpt]"])
def test_a_broken_list_of_checkpoints_is_refused(given: str) -> None:
    with pytest.raises(UserError) as error:
        with_first_checkpoint(["--ckpt_path", given])
    assert repr(given) in str(error.value)
