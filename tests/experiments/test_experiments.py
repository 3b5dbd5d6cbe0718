"""Every file in experiments/ says what its results row needs, and nothing of a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import WandbLogger

import datamodules
import lightning_cli
import textseg.models
from lightning_cli import COMMANDS, datasets
from tests.models.tiny import PUBLIC
from textseg.callbacks.sample_tables import SampleTables
from textseg.cli.commands import find
from textseg.cli.suite import SuiteCLI
from textseg.models.base import SegmentationModule
from textseg.training import CompiledTraining, GradientCheckpointing

EXPERIMENTS = Path(lightning_cli.__file__).parent / "experiments"
ABLATIONS = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))
BASES = sorted(EXPERIMENTS.glob("*.yaml")) + ABLATIONS
FROM_SCRATCH = sorted((EXPERIMENTS / "cpu").glob("*.yaml"))
OVERLAYS = FROM_SCRATCH + sorted((EXPERIMENTS / "offline").glob("*.yaml"))
IDS = [path.stem for path in BASES]
OTHER_CLASSES = (SampleTables, CompiledTraining, GradientCheckpointing, WandbLogger, L.Trainer)


class Parsed(SuiteCLI):
    """A command line that is read and not obeyed."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@cache
def suite_parser() -> Any:
    """The command line's parser; building it costs more than parsing does."""
    command, arguments = find(COMMANDS, ["fit", "--config", str(BASES[0])])
    return Parsed(command, arguments, datasets()).parser


def parse_command(arguments: Sequence[str]) -> Any:
    """The resolved settings of a fit."""
    return suite_parser().parse_args(list(arguments)).fit


@cache
def parse(*configs: Path) -> Any:
    """The resolved settings of configs; kept, because several tests only read them."""
    return parse_command(["fit", *(part for file in configs for part in ("--config", str(file)))])


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def network_of(path: Path) -> str:
    return load(path)["model"]["class_path"]


def class_named(name: str) -> type:
    """A class by the short name that YAML uses."""
    for home in (textseg.models, datamodules):
        if hasattr(home, name):
            return getattr(home, name)
    return {kind.__name__: kind for kind in OTHER_CLASSES}[name]


@cache
def defaults_of(kind: type) -> dict[str, Any]:
    """Every setting of a class with its default, those that it hands on included."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, fail_untyped=False)
    return parser.get_defaults().as_dict()


def classes_in(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class_path in a config, with its init_args."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield value["class_path"], value.get("init_args", {})
        for inner in value.values():
            yield from classes_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from classes_in(inner)


def bases_of(overlay: Path) -> list[Path]:
    """The experiments of an overlay's network: lsms_*.yaml for cpu/lsms.yaml."""
    return [base for base in BASES if base.stem.split("_")[0] == overlay.stem]


def test_every_network_has_an_experiment_and_every_overlay_has_one_of_its_network() -> None:
    assert {network_of(base) for base in BASES} == set(PUBLIC)
    for overlay in OVERLAYS:
        assert len({network_of(base) for base in bases_of(overlay)}) == 1, overlay


@pytest.mark.parametrize("folder", ["cpu", "gpu", "offline"])
def test_every_network_has_an_overlay(folder: str) -> None:
    networks = {path.stem.removesuffix("_qata") for path in EXPERIMENTS.glob("*_qata.yaml")}
    assert {file.stem for file in (EXPERIMENTS / folder).glob("*.yaml")} == networks


@pytest.mark.parametrize("path", BASES, ids=IDS)
def test_an_experiment_is_accepted_by_the_command_line(path: Path) -> None:
    config = parse(path)
    assert config.model.class_path.rpartition(".")[2] == network_of(path)


def test_an_lsms_experiment_names_its_image_weights_or_says_that_it_has_none() -> None:
    """Its first line says "from scratch", or its file is of the encoder and has an address."""
    parent = (EXPERIMENTS / "lsms_qata.yaml").read_text(encoding="utf-8")
    for path in (path for path in BASES if network_of(path) == "LSMS"):
        text, settings = path.read_text(encoding="utf-8"), parse(path).model.init_args
        weights = settings.image_weights
        assert (weights is None) == ("from scratch" in text.splitlines()[0]), path
        if weights is not None:
            size = settings.image_encoder.removeprefix("mscan_")
            assert Path(weights).name.startswith(f"mscan_{size[0]}_"), path
            address = rf"https://\S+/{re.escape(Path(weights).name)}"
            assert re.search(address, parent if path in ABLATIONS else text), path


each_overlay = pytest.mark.parametrize(
    "overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)


@each_overlay
def test_an_overlay_changes_only_what_it_names(overlay: Path) -> None:
    base = bases_of(overlay)[0]
    small, full = parse(base, overlay), parse(base)
    over = load(overlay)
    for part in ("model", "data"):
        changes = over.get(part, {}).get("init_args", {})
        expected = {**full[part].init_args.as_dict(), **changes}
        found = small[part].init_args.as_dict()
        assert {k: _plain(v) for k, v in found.items()} == {
            k: _plain(v) for k, v in expected.items()
        }


@each_overlay
def test_an_overlays_data_settings_are_known_to_every_dataset_of_its_network(overlay: Path) -> None:
    given = load(overlay).get("data", {}).get("init_args", {})
    for base in bases_of(overlay):
        kind = class_named(load(base)["data"]["class_path"])
        assert set(given) <= set(defaults_of(kind)), base


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@each_overlay
def test_an_overlay_makes_a_run_without_gpu_and_wandb(overlay: Path) -> None:
    config = parse(bases_of(overlay)[0], overlay)
    assert config.trainer.precision == "32-true"
    assert "WandbLogger" not in str(config.trainer.logger)
    assert not config.trainer.callbacks


@pytest.mark.parametrize("overlay", FROM_SCRATCH, ids=lambda path: path.stem)
def test_an_overlay_from_scratch_makes_a_small_network_without_a_hub(overlay: Path) -> None:
    """The network is built, which conftest's guard would fail if it asked a hub."""
    base = bases_of(overlay)[0]
    settings = parse(base, overlay).model.init_args.as_dict()
    assert settings.get("text_encoder", "scratch") == "scratch"
    with torch.device("meta"):  # no memory
        model = class_named(network_of(base))(**settings)
    assert isinstance(model, SegmentationModule)
    assert sum(p.numel() for p in model.parameters()) < 15e6


@pytest.mark.parametrize("path", BASES + OVERLAYS, ids=lambda path: path.stem)
def test_the_first_line_is_a_comment_and_lines_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# \w", lines[0])
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("path", BASES, ids=IDS)
def test_the_comment_names_the_results_row_or_the_readme(path: Path) -> None:
    assert re.match(r"# (Results row|README)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", BASES + OVERLAYS, ids=lambda path: path.stem)
def test_no_path_is_absolute_and_no_machine_is_described(path: Path) -> None:
    config = load(path)
    text = yaml.safe_dump(config)
    assert not re.search(r"(?m)[:\-\s]['\"]?(/|~|[A-Za-z]:\\)", text), "an absolute path"
    machine = {"devices", "num_nodes", "strategy", "default_root_dir"}
    assert not machine & set(config.get("trainer", {}))


def test_a_configs_class_names_are_short() -> None:
    names = {name for path in BASES for name, _ in classes_in(load(path))}
    assert {name for name in names if "." in name} == set()


@pytest.mark.parametrize("path", BASES, ids=IDS)
def test_an_experiment_repeats_no_default(path: Path) -> None:
    config = load(path)
    repeated = []
    for name, arguments in [*classes_in(config), ("Trainer", config.get("trainer", {}))]:
        known = defaults_of(class_named(name))
        repeated += [
            f"{name}.{key}={value}"
            for key, value in arguments.items()
            if key in known and _plain(known[key]) == value and type(known[key]) is type(value)
        ]
    assert repeated == []


@pytest.mark.parametrize("path", BASES, ids=IDS)
def test_an_experiment_uploads_no_pictures(path: Path) -> None:
    samples = [args for name, args in classes_in(load(path)) if name == "SampleTables"]
    assert not any(arguments.get("upload") for arguments in samples)


@pytest.mark.parametrize("path", BASES, ids=IDS)
def test_a_wandb_run_is_named_and_grouped_by_its_file_not_by_hand(path: Path) -> None:
    for name, arguments in classes_in(load(path)):
        if name == "WandbLogger":
            assert arguments == {"project": "textseg"}
