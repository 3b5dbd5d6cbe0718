"""A run's folder: its name, its settings, and where results on some data belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from textseg.errors import UserError
from textseg.runs import Run
from textseg.runs.folder import data_identity, unique_dir
from textseg.runs.results import pngs_in


def test_the_run_of_a_checkpoint_is_the_folder_above_checkpoints_or_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path.resolve() / "run"
    assert Run.of_checkpoint(run / "checkpoints" / "best.ckpt").folder == run
    assert Run.of_checkpoint(run / "best.ckpt").folder == run
    (run / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(run / "checkpoints")
    assert Run.of_checkpoint("best.ckpt").folder == run


def test_a_fresh_folder_is_never_one_that_exists(tmp_path: Path) -> None:
    made = [unique_dir(tmp_path / "test" / "true") for _ in range(3)]
    assert [folder.name for folder in made] == ["true", "true_2", "true_3"]
    assert all(folder.is_dir() for folder in made)


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("lsms/2026-01-02_03-04-05_2", ("lsms", "lsms/2026-01-02_03-04-05_2")),
        ("lsms/best_one", ("best_one", "best_one")),
    ],
)
def test_a_stamped_run_goes_by_its_experiment_and_a_renamed_one_by_itself(
    tmp_path: Path, folder: str, names: tuple[str, str]
) -> None:
    run = Run(tmp_path / folder)
    assert (run.experiment, run.short_name) == names
    assert run.checkpoint("last") == tmp_path / folder / "checkpoints/last.ckpt"


@pytest.mark.parametrize("content", [b"", b"a: [", b"[1]", b"\xff"])
def test_a_broken_config_is_named_with_the_callers_remedy(tmp_path: Path, content: bytes) -> None:
    assert Run(tmp_path).settings() == {}, "there is none"
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        Run(tmp_path).settings("do this")
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert str(caught.value).endswith("\ndo this")


def identity(root: Path, **settings: Any) -> dict[str, Any]:
    return data_identity("ManifestDataModule", {"root": str(root), "split": "manifest", **settings})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on tmp_path/own, of which only the config is there."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {"root": str(tmp_path / "own"), "captions": None, "split": "manifest"}
    data = {"class_path": "datamodules.ManifestDataModule", "init_args": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return Run(folder)


def test_a_key_that_was_written_into_a_stored_config_twice_is_refused(run: Run) -> None:
    with run.config.open("a", encoding="utf-8") as file:
        file.write("\ndata: {class_path: Other}\ndata: {class_path: Another}\n")
    with pytest.raises(UserError, match=r"config\.yaml, line \d+: data is there already"):
        run.settings()


def test_folds_are_other_data_wherever_their_table_lies(tmp_path: Path) -> None:
    first, moved, second = (
        identity(tmp_path, folds=folds, fold=fold)
        for folds, fold in (("a/folds-5-x.csv", 1), ("b/folds-5-x.csv", 1), ("a/folds-5-x.csv", 2))
    )
    assert first == moved
    assert first != second
    assert first != identity(tmp_path, folds="a/folds-5-y.csv", fold=1)


def test_own_data_and_data_of_a_run_without_config_belong_to_test(run: Run, tmp_path: Path) -> None:
    assert run.results_dir(identity(tmp_path / "own")) == run.folder / "test"
    assert list(run.folder.iterdir()) == [run.config]
    for broken in ("", "data: [", "model: {}"):
        run.config.write_text(broken)
        assert run.data_identity() is None
        assert run.results_dir(identity(tmp_path / "other")) == run.folder / "test"


def test_two_datasets_of_one_name_never_share_a_folder(run: Run, tmp_path: Path) -> None:
    first, second = (identity(tmp_path / parent / "data") for parent in ("a", "b"))
    assert run.results_dir(first).name == "test_on_data"
    assert run.results_dir(second).name == "test_on_data_2"
    assert run.results_dir(first).name == "test_on_data"
    assert run.results_dir(second).name == "test_on_data_2"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"captions": "tables/outside.csv"}, "test_on_own-outside"),
        ({"split": "all_test"}, "test_on_own-all_test"),
        ({"root": "/mnt/Data (new)"}, "test_on_Data__new_"),
        ({"synthesize": 4}, "test_on_phantoms"),
    ],
)
def test_the_folders_name_tells_what_differs(
    run: Run, tmp_path: Path, settings: dict[str, Any], name: str
) -> None:
    data = identity(**{"root": tmp_path / "own", **settings})
    assert run.results_dir(data).name == name


def test_a_folder_that_somebody_else_made_is_not_written_to(run: Run, tmp_path: Path) -> None:
    (run.folder / "test_on_data").mkdir()
    assert run.results_dir(identity(tmp_path / "data")).name == "test_on_data_2"
    assert not any((run.folder / "test_on_data").iterdir())


def test_what_a_mac_leaves_beside_results_is_none_of_them(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "._a.png", ".DS_Store", "a.csv"):
        (tmp_path / name).touch()
    assert [file.name for file in pngs_in(tmp_path)] == ["a.png", "b.png"]
