"""The lines of docs/training.md, each by a tiny fit through the command line and its effect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

import textseg.models
from tests.experiments.test_experiments import parse_command
from tests.models.stand_ins import CAPTIONS, BatchesInMemory, make_batch, quiet_trainer
from tests.models.tiny import NETWORKS
from tests.tiny_run import (
    ROOT,
    SMALL,
    Outcome,
    call,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.batch import SegmentationOutput
from textseg.benchmark.device import allocated_bytes
from textseg.encoders import ImageEncoder, TextEncoder
from textseg.errors import UserError
from textseg.models.base import SegmentationModule, settings_of
from textseg.optim import adamw
from textseg.training.options import GradientCheckpointing, blocks_of
from textseg.training.resume_checks import check_trainer_settings

HEAD = "decoder.head.conv.weight"
EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}


@dataclass
class Run:
    """A finished fit, and what `Watch` saw of it."""

    folder: Path
    outcome: Outcome
    norms: list[float]
    weights: list[Tensor]
    validated: list[Tensor]

    def checkpoint(self, name: str) -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)

    def metrics(self, column: str) -> list[float]:
        table = pd.read_csv(self.folder / "metrics.csv")
        return table[column].dropna().tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_refhl(tmp_path_factory.mktemp("refhl"))


def fit(folder: Path, data: Path, *more: str, **changes: Any) -> Run:
    experiment = write_experiment(folder, **{"model": SMALL, **changes})
    outcome = call(*train_arguments(experiment, data, *more), cwd=folder)
    assert outcome.status == 0, outcome.err
    run = sorted((folder / "runs/tiny").iterdir())[-1]
    seen = (list(Watch.norms), list(Watch.weights), list(Watch.validated))
    return Run(run, outcome, *seen)


class Watch(L.Callback):
    """Notes, after each batch, the norm of the gradients in place and one layer's weights."""

    norms: ClassVar[list[float]] = []
    weights: ClassVar[list[Tensor]] = []  # of the head
    validated: ClassVar[list[Tensor]] = []  # the same, as a validation runs it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.norms.clear()
        self.weights.clear()
        self.validated.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *others: Any
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        self.weights.append(pl_module.state_dict()[HEAD].clone())

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *others: Any
    ) -> None:
        if not trainer.sanity_checking:
            self.validated.append(pl_module.state_dict()[HEAD].clone())


class Dies(L.Callback):
    """In the middle of the second epoch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise RuntimeError("the machine is gone")


WATCH = {"class_path": f"{__name__}.Watch"}
DIES = {"class_path": f"{__name__}.Dies"}


# --- averaged weights -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """Two epochs of two steps."""
    folder = tmp_path_factory.mktemp("averaged")
    return fit(folder, data, trainer={"max_epochs": 2, "callbacks": [EMA, WATCH]})


def test_a_checkpoint_holds_the_moving_average_and_the_trainings_own_weights(
    averaged: Run,
) -> None:
    average = averaged.weights[0]
    for weights in averaged.weights[1:]:
        average = 0.5 * average + 0.5 * weights
    last = averaged.checkpoint("last")
    assert len(averaged.weights) == 4
    torch.testing.assert_close(last["state_dict"][HEAD], average)
    assert torch.equal(last["current_model_state"][HEAD], averaged.weights[-1])
    assert not torch.equal(last["state_dict"][HEAD], averaged.weights[-1])


def test_a_validation_scores_the_average_and_best_ckpt_keeps_what_it_scored(averaged: Run) -> None:
    average, expected = averaged.weights[0], []
    for step, weights in enumerate(averaged.weights[1:], start=2):
        average = 0.5 * average + 0.5 * weights
        expected += [average] if step % 2 == 0 else []  # the end of an epoch
    scored = averaged.validated[:: len(averaged.validated) // 2]  # one of each epoch
    for weights, mean in zip(scored, expected, strict=True):
        torch.testing.assert_close(weights, mean)
    best = averaged.checkpoint("best")
    assert torch.equal(best["state_dict"][HEAD], scored[best["epoch"]])
    assert not torch.equal(scored[0], scored[1])


def test_an_averaged_checkpoint_brings_the_vocabulary(averaged: Run) -> None:
    """The text encoder learns its words after Lightning's callback has copied the network."""
    stored = averaged.checkpoint("best")["state_dict"]
    network: Any = textseg.models.TMCA(**SMALL["init_args"])
    network.load_state_dict(stored)
    assert not network.text_encoder.needs_vocabulary


def test_a_test_right_after_the_fit_runs_the_averaged_weights(tmp_path: Path) -> None:
    network: Any = textseg.models.LSMS(**NETWORKS["LSMS"], warmup=0.0)
    batches = BatchesInMemory([make_batch(2, 32, 32)] * 3)
    file = tmp_path / "averaged.ckpt"
    averaging = EMAWeightAveraging(decay=0.5)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[averaging])
    trainer.fit(network, batches)
    trainer.save_checkpoint(file)
    stored = torch.load(file, weights_only=True)
    # As best.ckpt is: written while the training's own weights differ.
    stored["current_model_state"]["head.weight"] += 1
    torch.save(stored, file)
    trainer.validate(network, batches, ckpt_path=file, weights_only=True, verbose=False)
    assert torch.equal(network.head.weight, stored["state_dict"]["head.weight"])


@pytest.mark.slow
def test_averaging_goes_on_exactly_after_a_break(tmp_path: Path, data: Path) -> None:
    settings: dict[str, Any] = {"trainer": {"max_epochs": 3}, "restart": {"every_n_steps": 1}}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    settings["trainer"]["callbacks"] = [EMA]
    expected = fit(whole, data, **settings).checkpoint("last")
    settings["trainer"]["callbacks"] = [EMA, DIES]
    experiment = write_experiment(broken, model=SMALL, **settings)
    with pytest.raises(RuntimeError, match="gone"):
        call(*train_arguments(experiment, data), cwd=broken)
    settings["trainer"]["callbacks"] = [EMA]
    resumed = fit(broken, data, "--ckpt_path", "last", **settings).checkpoint("last")
    for part in ("state_dict", "current_model_state", "averaging_state"):
        for name, value in expected[part].items():
            assert not isinstance(value, Tensor) or torch.equal(value, resumed[part][name]), name


# --- the trainer's own ------------------------------------------------------------------------


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path: Path, data: Path) -> None:
    # Statistics of batch norms go on changing, whatever the rate; by 1 no Dice can improve.
    stopping = {"monitor": "val/dice", "mode": "max", "patience": 2, "min_delta": 1.0}
    callbacks = [{"class_path": "EarlyStopping", "init_args": stopping}]
    model = {**SMALL, "init_args": {**SMALL["init_args"], "lr": 1e-12}}
    trainer = {"max_epochs": 9, "callbacks": callbacks}
    run = fit(tmp_path, data, trainer=trainer, model=model)
    assert len(run.metrics("val/dice")) == 1 + 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """Two epochs of two batches with all of the options, and the optimizer that a GPU gets."""
    trainer: dict[str, Any] = {"max_epochs": 2, "callbacks": [WATCH], "profiler": "simple"}
    trainer |= {"gradient_clip_val": 0.01, "accumulate_grad_batches": 2}
    trainer |= {"precision": "bf16-mixed"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textseg.models.base, "adamw", partial(adamw, fused=True))
        return fit(tmp_path_factory.mktemp("loaded"), data, trainer=trainer)


def test_the_profiler_reports_where_the_time_went(loaded: Run) -> None:
    assert "FIT Profiler Report" in loaded.outcome.err
    assert "[_TrainingEpochLoop].train_dataloader_next" in loaded.outcome.err


def test_clipping_bounds_the_gradients_that_the_optimizer_gets(averaged: Run, loaded: Run) -> None:
    assert min(averaged.norms) > 0.1
    assert max(loaded.norms[1::2]) <= 0.0101  # after a step; there is one every second batch


def test_accumulating_two_batches_halves_the_steps(averaged: Run, loaded: Run) -> None:
    assert averaged.checkpoint("last")["global_step"] == 4
    assert loaded.checkpoint("last")["global_step"] == 2


def test_the_optimizer_was_fused_and_clipped_in_mixed_precision(loaded: Run) -> None:
    """Lightning refuses that for the optimizer as torch makes it."""
    groups = loaded.checkpoint("last")["optimizer_states"][0]["param_groups"]
    assert all(group["fused"] for group in groups)
    assert loaded.checkpoint("last")["state_dict"][HEAD].dtype == torch.float32


# --- precision --------------------------------------------------------------------------------


def ready(name: str) -> Any:
    """A network whose text encoder is frozen and has seen its captions."""
    torch.manual_seed(0)
    network: Any = getattr(textseg.models, name)(**NETWORKS[name])
    network.prepare_captions(CAPTIONS, training=True)
    if isinstance(network.text_encoder, TextEncoder):
        network.text_encoder.freeze()
        network.encode_text(CAPTIONS)
    return network.train()


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_are_in_full_precision_under_autocast(name: str) -> None:
    network, batch = ready(name), make_batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch["image"], batch["text"])
        mixed = network.compute_loss(output, batch)
    assert output.logits.dtype == torch.bfloat16
    aux = {key: value.float() for key, value in output.aux.items()}
    full = network.compute_loss(SegmentationOutput(output.logits.float(), aux), batch)
    for term, value in mixed.items():
        assert value.dtype == torch.float32, term
        torch.testing.assert_close(value, full[term], rtol=1e-6, atol=1e-7)


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_blocks_to_be_computed_again(name: str) -> None:
    network = getattr(textseg.models, name)(**NETWORKS[name])
    blocks = list(blocks_of(network))
    assert len(blocks) >= 4
    parts = [id(part) for block in blocks for part in block.modules()]
    assert len(parts) == len(set(parts))  # none in another


@pytest.mark.parametrize("name", ["LSMS", "TMCA"])  # both with batch norms
def test_computing_again_changes_no_weight(name: str) -> None:
    def trained(*callbacks: L.Callback) -> dict[str, Any]:
        network = ready(name)
        batches = BatchesInMemory([make_batch(2)] * 3)
        trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=list(callbacks))
        torch.manual_seed(0)
        trainer.fit(network, batches)
        return network.state_dict()

    plain, again = trained(), trained(GradientCheckpointing())
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        assert not isinstance(value, Tensor) or torch.equal(value, again[key]), key


@pytest.mark.parametrize("name", NETWORKS)
def test_computing_again_changes_no_gradient_of_any_network(name: str) -> None:
    """One step of the training's own, at 64 x 64, the least that LAVT takes."""

    def gradients(*callbacks: GradientCheckpointing) -> tuple[float, dict[str, Tensor]]:
        torch.manual_seed(0)
        network: Any = getattr(textseg.models, name)(**NETWORKS[name])
        batch = make_batch(2, 64, 64)
        network.prepare_captions(batch["text"], training=True)
        network.log_dict = lambda *values, **settings: None
        for callback in callbacks:
            callback.on_fit_start(quiet_trainer(), network)
        loss = network.train().training_step(batch, 0)
        loss.backward()
        named = network.named_parameters()
        return loss.item(), {key: p.grad for key, p in named if p.grad is not None}

    loss, plain = gradients()
    same_loss, again = gradients(GradientCheckpointing())
    assert loss == same_loss
    assert plain
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        assert torch.equal(value, again[key]), key


def test_a_timm_encoder_whose_stages_list_no_blocks_has_them_all_the_same() -> None:
    encoder = ImageEncoder("resnet18", pretrained=False)
    assert {type(block).__name__ for block in blocks_of(encoder)} == {"BasicBlock"}
    assert len(list(blocks_of(encoder))) == 2 + 2 + 2 + 2


def test_computing_again_keeps_less_for_the_backward_pass() -> None:
    network, batch = ready("LSMS"), make_batch(2, 96, 96)
    network.log_dict = lambda *values, **settings: None

    def kept_bytes() -> int:
        """Of the tensors that a forward pass keeps, whatever it computes again."""
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            network.training_step(batch, 0)
        return allocated_bytes(kept)

    plain = kept_bytes()
    GradientCheckpointing().on_fit_start(quiet_trainer(), network)
    assert kept_bytes() < 0.6 * plain


def test_compiling_and_computing_again_exclude_each_other(tmp_path: Path, data: Path) -> None:
    names = ("CompiledTraining", "GradientCheckpointing")
    callbacks = [{"class_path": f"textseg.training.{name}"} for name in names]
    experiment = write_experiment(tmp_path, model=SMALL, trainer={"callbacks": callbacks})
    outcome = call(*train_arguments(experiment, data), cwd=tmp_path)
    assert outcome.status == 2
    assert "exclude each other" in outcome.message()[0]


def test_a_network_without_blocks_is_the_users_to_know() -> None:
    network: Any = textseg.models.ImageBaseline(**NETWORKS["ImageBaseline"])
    network.network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1))
    with pytest.raises(UserError, match="finds no block in ImageBaseline"):
        GradientCheckpointing().on_fit_start(quiet_trainer(), network)


# --- the page ---------------------------------------------------------------------------------

PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")
LINES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


RECIPE = re.findall(r"^\| `(\w+: .+?)` \|", PAGE, re.MULTILINE)


def parse(experiment: str, overlay: Path) -> Any:
    base = ROOT / f"experiments/{experiment}.yaml"
    return parse_command(["fit", "--config", str(base), "--config", str(overlay)])


@pytest.mark.parametrize("line", RECIPE)
def test_a_line_of_the_recipe_reaches_the_network(line: str, tmp_path: Path) -> None:
    settings = yaml.safe_load(line)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": settings}}))
    found = parse("tmc_qata", overlay).model.init_args
    assert {name: found[name] for name in settings} == settings


def test_the_recipe_has_a_line_for_each_shared_setting_of_learning() -> None:
    lined = {name for line in RECIPE for name in yaml.safe_load(line)}
    elsewhere = {"lr", "weight_decay", "warmup", "protocol", "nsd_tolerance", "vocab_size"}
    assert lined == settings_of(SegmentationModule) - elsewhere


def test_the_page_has_a_line_for_each_option() -> None:
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_page_is_accepted_beside_an_experiment(line: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(line)
    settings = parse("lsms_qata", overlay).trainer
    wanted = yaml.safe_load(line)["trainer"]
    for name, value in wanted.items():
        if name == "callbacks+":
            kinds = [one.class_path.rpartition(".")[2] for one in settings.callbacks]
            assert kinds == ["SampleTables", value["class_path"].rpartition(".")[2]]
        else:
            kind = settings[name].class_path if isinstance(value, dict) else settings[name]
            wanted_kind = value["class_path"] if isinstance(value, dict) else value
            assert str(kind).rpartition(".")[2] == str(wanted_kind).rpartition(".")[2]


# --- how long a fit is ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_epochs", "max_steps", "limit_train_batches"])
def test_a_fit_of_no_step_is_refused(name: str) -> None:
    sound = {"max_epochs": -1, "max_steps": -1, "limit_train_batches": None}
    check_trainer_settings(sound)
    for nothing in (0, 0.0):
        with pytest.raises(UserError, match=f"trainer.{name}=0"):
            check_trainer_settings({**sound, name: nothing})
