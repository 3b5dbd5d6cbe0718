"""Two processes train and score as one does, in one run folder."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

import textseg.models
from tests.models.stand_ins import CAPTIONS
from tests.models.tiny import NETWORKS
from tests.tiny_run import ROWS, call, only, shell, train_arguments, write_experiment, write_refhl

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """A fit of two steps in two processes. Plain ddp refuses unused parameters at the second."""
    home = tmp_path_factory.mktemp("ddp")
    experiment = write_experiment(home, data={"init_args": {"batch_size": 1, "image_size": 64}})
    arguments = train_arguments(experiment, write_refhl(home / "refhl"), *TWO)
    return home, shell("-m", "lightning_cli", *arguments, cwd=home)


@pytest.fixture(scope="module")
def tested(fitted: tuple[Path, CompletedProcess[str]]) -> tuple[Path, Path]:
    """test/true of one process and of two, on five rows, which two cannot share evenly."""
    home = fitted[0]
    best = only(home / "runs/tiny") / "checkpoints/best.ckpt"
    saving = ["--results_writer.save_masks", "true"]
    for name, more in (("one", ["--trainer.devices", "1"]), ("two", TWO)):
        copy = home / name / "best.ckpt"
        copy.parent.mkdir()
        shutil.copy(best, copy)
        shutil.copy(best.parents[1] / "config.yaml", copy.parent)
        if name == "one":
            outcome = call("test", "--ckpt_path", copy, *more, *saving, cwd=home)
            assert outcome.status == 0, outcome.err
            continue
        done = shell("-m", "lightning_cli", "test", "--ckpt_path", copy, *more, *saving, cwd=home)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("captions  cases") == 1, "the table is printed once"
    return home / "one/test/true", home / "two/test/true"


def test_two_processes_train_and_find_no_unused_parameter(
    fitted: tuple[Path, CompletedProcess[str]],
) -> None:
    assert fitted[1].returncode == 0, fitted[1].stderr
    assert "did not receive grad" not in fitted[1].stderr


def test_two_processes_leave_one_run_folder(fitted: tuple[Path, CompletedProcess[str]]) -> None:
    run = only(fitted[0] / "runs/tiny")
    assert {p.name for p in run.iterdir()} == {"config.yaml", "metrics.csv", "checkpoints"}
    names = {p.name for p in (run / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}
    assert fitted[1].stderr.count("run folder:") == 1


def test_two_processes_log_each_metric_once(fitted: tuple[Path, CompletedProcess[str]]) -> None:
    with (only(fitted[0] / "runs/tiny") / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "val/dice", "val/iou_global"):
        assert len([row[name] for row in rows if row[name]]) == 1


@pytest.mark.parametrize("name", ["metrics.json", "cases.csv"])
def test_two_processes_score_exactly_as_one(tested: tuple[Path, Path], name: str) -> None:
    one, two = ((folder / name).read_text() for folder in tested)
    assert one == two


def test_a_checkpoint_of_two_processes_has_the_keys_of_one(
    fitted: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    """All levels but `restart`, which holds the random state of each process."""
    data = {"init_args": {"batch_size": 2, "image_size": 64}}
    arguments = train_arguments(write_experiment(tmp_path, data=data), fitted[0] / "refhl")
    done = call(*arguments, cwd=tmp_path)
    assert done.status == 0, done.err
    for file in ("best.ckpt", "last.ckpt"):
        runs = (tmp_path / "runs/tiny", fitted[0] / "runs/tiny")
        files = [only(run) / "checkpoints" / file for run in runs]
        one, two = (torch.load(path, weights_only=True) for path in files)
        processes = [checkpoint.pop("restart")["processes"] for checkpoint in (one, two)]
        assert [len(own) for own in processes] == [1, 2]
        assert keys_of(one) == keys_of(two)
        assert one["global_step"] == two["global_step"] == 2


def keys_of(value: object, name: str = "") -> list[str]:
    """The keys of nested mappings, as paths, but for those that are files' names."""
    if not isinstance(value, dict):
        return [name]
    inner = [keys_of(v, f"{name}/{k}") for k, v in value.items() if "best.ckpt" not in str(k)]
    return sorted(key for keys in inner for key in keys) or [name]


def test_two_processes_count_no_row_twice(tested: tuple[Path, Path]) -> None:
    assert json.loads((tested[1] / "metrics.json").read_text())["cases"] == ROWS["test"]


def test_two_processes_average_at_test_time_exactly_as_one(
    fitted: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    run = shutil.copytree(only(fitted[0] / "runs/tiny"), tmp_path / "run")
    arguments = ["test", "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--tta", "flip"]
    one = call(*arguments, "--trainer.devices", "1", cwd=fitted[0])
    assert one.status == 0, one.err
    two = shell("-m", "lightning_cli", *arguments, *TWO, cwd=fitted[0])
    assert two.returncode == 0, two.stderr
    for name in ("metrics.json", "cases.csv"):
        texts = [(run / "test" / test / name).read_text() for test in ("true_flip", "true_flip_2")]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("folder", ["masks", "overlays"])
def test_two_processes_write_the_pictures_of_one(tested: tuple[Path, Path], folder: str) -> None:
    one, two = ({p.name: p.read_bytes() for p in (t / folder).iterdir()} for t in tested)
    assert len(one) == ROWS["test"]
    assert one == two


def test_processes_that_a_launcher_started_leave_one_run_folder(tmp_path: Path) -> None:
    """torchrun and srun start all ranks at once, so none inherits what the first one chose."""
    root = write_refhl(tmp_path / "refhl")
    experiment = write_experiment(tmp_path, data={"init_args": {"batch_size": 1, "image_size": 64}})
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = train_arguments(experiment, root, *TWO)
    done = shell(*torchrun, "-m", "lightning_cli", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/tiny").iterdir())) == 1


# --- batch norm over all processes -------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETWORKS))
def test_sync_batchnorm_leaves_a_network_its_names_groups_logits_and_maps(name: str) -> None:
    """What `--trainer.sync_batchnorm true` does; training so takes GPUs, as torch has it."""
    torch.manual_seed(1)
    model = getattr(textseg.models, name)(**NETWORKS[name]).eval()
    model.prepare_captions(CAPTIONS, training=True)
    image, text = torch.rand(2, 3, 64, 64), CAPTIONS
    groups = {"lr": 1e-3, "weight_decay": 0.05, "pretrained_lr_scale": 0.1}
    plain = copy.deepcopy(model)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    kinds = [type(part).__name__ for part in model.modules()]
    before = [type(part).__name__ for part in plain.modules()]
    assert kinds.count("SyncBatchNorm") == sum(k.startswith("BatchNorm") for k in before) > 0
    assert [*model.state_dict()] == [*plain.state_dict()]
    plain.load_state_dict(model.state_dict())  # a checkpoint trained so needs no option to load
    sizes = [
        [
            [parameter.shape for parameter in group["params"]]
            for group in m.parameter_groups(**groups)
        ]
        for m in (plain, model)
    ]
    assert sizes[0] == sizes[1]
    assert torch.equal(model(image, text).logits, plain(image, text).logits)
    if name != "ImageBaseline":  # it reads no words, so it has nothing to explain
        maps, expected = model.explain(image, text), plain.explain(image, text)
        assert {n: m.tolist() for n, m in maps.items()} == {
            n: m.tolist() for n, m in expected.items()
        }
