"""What a run is called: --name, or its config and the data that another config brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_run import SMALL, call, only, train_arguments, write_experiment, write_refhl
from textseg.cli.arguments import experiment_name
from textseg.errors import UserError

FILES = {
    "unet_refhl": "data: {class_path: RefHLSegDataModule, init_args: {root: data/RefHL-Seg}}",
    "laptop": "data: {init_args: {image_size: 128}}",
    "my_data": "data: {class_path: ManifestDataModule, init_args: {root: mine}}",
    "my_copy": "data: {init_args: {root: elsewhere}}",
    "no_data": "trainer: {max_epochs: 3}",
}


@pytest.mark.parametrize(
    ("configs", "options", "name"),
    [
        ([], [], "run"),
        (["unet_refhl"], [], "unet_refhl"),
        (["unet_refhl", "laptop", "no_data"], [], "unet_refhl"),
        (["unet_refhl", "my_data"], [], "unet_refhl+my_data"),
        (["unet_refhl", "my_data", "laptop"], [], "unet_refhl+my_data"),
        (["unet_refhl", "my_copy"], [], "unet_refhl+my_copy"),
        (["unet_refhl"], ["--data", "RefHLSegDataModule"], "unet_refhl"),
        (["unet_refhl"], ["--data=ManifestDataModule"], "unet_refhl+ManifestDataModule"),
        (["unet_refhl"], ["--data.root", "elsewhere"], "unet_refhl"),
        (["unet_refhl", "my_data"], ["--name", "trial-1"], "trial-1"),
        (["missing"], [], "missing"),  # the parser says what is wrong with it
    ],
)
def test_the_name_tells_data_of_another_config(
    tmp_path: Path, configs: list[str], options: list[str], name: str
) -> None:
    for stem, content in FILES.items():
        (tmp_path / f"{stem}.yaml").write_text(content, encoding="utf-8")
    given = [part for stem in configs for part in ("--config", str(tmp_path / f"{stem}.yaml"))]
    assert experiment_name([*given, *options]) == name


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "a b", "x" * 101, "a\x1b[2J"])
def test_a_name_that_no_folder_could_bear_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        experiment_name([f"--name={name}"])


def test_a_named_run_lies_in_a_folder_of_its_name(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, model=SMALL)
    arguments = train_arguments(experiment, write_refhl(tmp_path / "data"))
    fit = call(*arguments, "--name", "first_trial", cwd=tmp_path)
    assert fit.status == 0, fit.err
    assert only(tmp_path, "runs/first_trial/*/config.yaml")
