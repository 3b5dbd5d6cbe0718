"""Promise: no number that is not finite is trained on, written, loaded or scored in silence.

Faults: a loss, a gradient, pixels or weights of NaN or infinity in one step of a training, in one
of two processes, under fp16; checkpoints with one value spoiled, given to every command; logits of
NaN in a validation, a test and a segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

import textseg
import textseg.models
from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from tests.faults.spoiled_steps import SmallNetwork, Spoil
from tests.models.stand_ins import make_batch
from tests.tiny_run import (
    NO_PICTURES,
    SMALL,
    call,
    only,
    shell,
    write_experiment,
    write_refhl,
)
from textseg.batch import Batch
from textseg.checkpoint import not_finite, read_checkpoint
from textseg.errors import NotFiniteError, UserError
from textseg.segment.network import network_from
from textseg.training import FiniteTraining, finite

STEPS = 4


class Batches:
    """As a loader; every batch has pictures of its own."""

    def __init__(self, seeds: list[int]) -> None:
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Batch]:
        for seed in self.seeds:
            batch = make_batch(2, 16, 16, seed=seed)
            yield {**batch, "case": [f"c{seed}a", f"c{seed}b"], "case_id": [f"p{seed}", ""]}


def network() -> Any:
    torch.manual_seed(0)
    return SmallNetwork(schedule="constant", warmup=0.0, lr=1e-3)


def train(
    seeds: list[int], *callbacks: L.Callback, on_nan: Any = "stop", **settings: Any
) -> tuple[Any, L.Trainer]:
    """Train on one batch a seed; returns the network and its trainer."""
    settings = {"accelerator": "cpu", "gradient_clip_val": 1.0, "max_epochs": 1} | settings
    trainer = L.Trainer(
        logger=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[*callbacks, FiniteTraining(on_nan)],
        **settings,
    )
    model = network()
    trainer.fit(model, Batches(seeds))
    return model, trainer


def state(model: Any, trainer: L.Trainer) -> list[np.ndarray[Any, Any]]:
    """Weights, running statistics and moments."""
    (optimizer,) = trainer.optimizers
    moments = [
        value for entry in optimizer.state_dict()["state"].values() for value in entry.values()
    ]
    tensors = [v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")]
    return [value.detach().numpy() for value in [*tensors, *moments]]


def assert_equal(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs) > 20
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.fixture(params=["host", "device"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is left out by the host, or, as on a GPU, by the fused optimizer, and read later."""
    if request.param == "device":
        monkeypatch.setattr(finite, "leaves_steps_out", lambda optimizer, found: True)
        monkeypatch.setattr(finite._Readback, "here", property(lambda self: False))


FAULTS = [
    *(("loss", math.nan), ("loss", math.inf), ("gradient", math.nan), ("gradient", -math.inf)),
    ("forward", math.nan),
]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("what", "value"), FAULTS)
def test_a_training_stops_at_the_first_step_that_is_not_finite_with_the_state_before_it(
    what: Any, value: float
) -> None:
    seen: list[Any] = []

    class Look(L.Callback):
        def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: Any) -> None:
            seen.append(state(pl_module, trainer))

    with pytest.raises(NotFiniteError) as raised:
        train([1, 2, 3, 4], Spoil([2], what, value), Look())
    for told in ("step 3", "c3a (p3)", "c3b", "0.001"):
        assert told in str(raised.value)
    assert ("nan" in str(raised.value)) or ("inf" in str(raised.value))
    assert_equal(seen[0], state(*train([1, 2])))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("what", "value"), FAULTS)
def test_a_step_that_is_skipped_leaves_the_training_as_if_its_batch_had_not_been(
    what: Any, value: float
) -> None:
    spoiled = train([1, 2, 3, 4], Spoil([2], what, value), on_nan="skip")
    assert_equal(state(*spoiled), state(*train([1, 2, 4])))
    (callback,) = (c for c in spoiled[1].callbacks if isinstance(c, FiniteTraining))
    assert callback.left_out == 1
    assert callback.state_dict() == {"left_out": 1}


def test_steps_that_are_left_out_are_counted_and_said(recwarn: pytest.WarningsRecorder) -> None:
    train([1, 2, 3, 4], Spoil([1, 3]), on_nan="skip")
    assert any("2 of 4" in str(w.message) for w in recwarn)


def test_of_accumulated_batches_all_are_named_and_none_is_stepped_on() -> None:
    with pytest.raises(NotFiniteError) as raised:
        train([1, 2, 3, 4], Spoil([2]), accumulate_grad_batches=2)
    assert "step 2" in str(raised.value)
    assert {"c3a", "c3b", "c4a"} <= set(str(raised.value).replace(",", "").split())


def test_a_training_without_faults_is_the_same_with_the_callback_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = state(*train([1, 2, 3]))
    for name in ("on_before_optimizer_step", "on_train_batch_start"):
        monkeypatch.setattr(FiniteTraining, name, getattr(L.Callback, name))
    assert_equal(ours, state(*train([1, 2, 3])))


def test_weights_that_are_not_finite_stop_a_training_that_skips() -> None:
    with pytest.raises(NotFiniteError, match="weights") as raised:
        train([1, 2, 3, 4], Spoil([2], "weight", math.inf), on_nan="skip")
    assert next(name for name, _ in network().named_parameters()) in str(raised.value)


def test_a_training_that_skips_everything_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 2)
    with pytest.raises(NotFiniteError, match="3 steps in a row"):
        train([1, 2, 3, 4, 5], Spoil([1, 2, 3, 4]), on_nan="skip")


def test_the_norm_is_that_of_all_gradients_together() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (5,))]
    for number, parameter in enumerate(parameters[:2]):
        parameter.grad = torch.randn(parameter.shape, generator=torch.manual_seed(number))
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    flat = np.concatenate([p.grad.numpy().ravel() for p in parameters[:2] if p.grad is not None])
    assert float(finite.gradient_norm(optimizer)) == pytest.approx(float(np.sqrt((flat**2).sum())))


def fp16(*callbacks: L.Callback, scale: float = 2.0**16, **settings: Any) -> tuple[Any, L.Trainer]:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return train([1, 2, 3, 4], *callbacks, plugins=[plugin], **settings)


def test_gradients_that_the_scaler_handles_are_no_fault_and_a_loss_is() -> None:
    _, trainer = fp16(Spoil([1], "gradient", math.inf))
    (callback,) = (c for c in trainer.callbacks if isinstance(c, FiniteTraining))
    assert callback.left_out == 0
    plugin: Any = trainer.precision_plugin
    assert plugin.scaler.get_scale() == 2.0**15, "halved once, by itself"
    with pytest.raises(NotFiniteError, match="step 3"):
        fp16(Spoil([2], "forward"))


def test_gradients_that_no_scale_helps_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "MOST_IN_A_ROW", 2)
    with pytest.raises(NotFiniteError, match="3 steps in a row"):
        fp16(Spoil([0, 1, 2, 3], "gradient", math.inf))


# --- checkpoints


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states"])
def test_no_checkpoint_takes_the_place_of_a_finite_one_when_it_is_not(
    part: str, tmp_path: Path
) -> None:
    """Whatever made it so: here it comes about after the check of the step."""

    class Spoiler(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *others: Any) -> None:
            if trainer.global_step == 2:
                (optimizer,) = trainer.optimizers
                weight = next(iter(optimizer.state))
                spoiled = weight if part == "state_dict" else optimizer.state[weight]["exp_avg"]
                spoiled.data.view(-1)[0] = math.inf

    saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1, enable_version_counter=False)
    with pytest.raises(NotFiniteError, match=part):
        train([1, 2, 3, 4], Spoiler(), saver)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 1
    assert not_finite(kept) is None


def test_what_is_not_finite_is_named_and_a_mask_of_attention_is_not() -> None:
    triangle = torch.full((3, 3), -math.inf).triu(1)
    sound = {"state_dict": {"mask": triangle, "n": torch.tensor(3), "w": torch.ones(2)}}
    assert not_finite(sound) is None
    for value in (math.nan, math.inf, -math.inf):
        weight = torch.tensor([1.0, value])
        assert not_finite({"state_dict": {**sound["state_dict"], "b": weight}}) == "state_dict.b"
        entry = {"state": {0: {"exp_avg": weight}}}
        assert "exp_avg" in str(not_finite({**sound, "optimizer_states": [entry]}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in runs/tiny, and `spoiled`, the same with a NaN in one weight."""
    home = tmp_path_factory.mktemp("nan")
    experiment = write_experiment(home, model=SMALL, results_writer=NO_PICTURES)
    outcome = call(
        *("fit", "--config", experiment, "--data.root", write_refhl(home / "refhl")), cwd=home
    )
    assert outcome.status == 0, outcome.err
    run = only(home / "runs/tiny")
    spoiled = home / "spoiled"
    (spoiled / "checkpoints").mkdir(parents=True)
    (spoiled / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    name = weight_of(checkpoint)
    checkpoint["state_dict"][name][0, 0, 0, 0] = math.nan
    torch.save(checkpoint, spoiled / "checkpoints/last.ckpt")
    return home


def weight_of(checkpoint: Any) -> str:
    return next(n for n, v in checkpoint["state_dict"].items() if getattr(v, "ndim", 0) == 4)


@pytest.mark.parametrize(
    "command",
    [
        *(["test"], ["validate"], ["predict"], ["probe"], ["calibrate"], ["fit"]),
        *(["test", "--explain.pictures", "1"], ["test", "--tta", "flip"], ["several"], ["segment"]),
    ],
    ids=" ".join,
)
def test_no_command_takes_weights_that_are_not_finite(command: list[str], home: Path) -> None:
    spoiled = home / "spoiled/checkpoints/last.ckpt"
    found = ["--ckpt_path", str(spoiled)]
    if command == ["several"]:
        sound = only(home / "runs/tiny") / "checkpoints/best.ckpt"
        command, found = ["test"], ["--ckpt_path", f"[{sound},{spoiled}]"]
    if command == ["fit"]:
        command = ["fit", "--config", str(home / "tiny.yaml"), "--data.root", str(home / "refhl")]
    if command == ["segment"]:
        picture = next((home / "refhl/images").glob("*.png"))
        command = ["segment", str(picture), "the lesion"]
    outcome = call(*command, *found, cwd=home)
    assert outcome.status == 2, outcome.err
    name = weight_of(torch.load(spoiled, weights_only=True))
    assert str(spoiled) in outcome.message()[0]
    assert name in outcome.message()[0]


def test_python_takes_no_weights_that_are_not_finite(home: Path) -> None:
    spoiled = home / "spoiled/checkpoints/last.ckpt"
    for reader in (textseg.load, read_checkpoint):
        with pytest.raises(UserError, match="not finite"):
            reader(spoiled)
    with pytest.raises(UserError, match="not finite"):
        textseg.models.TMCA.load_from_checkpoint(spoiled, weights_only=True)


def test_pretrained_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from textseg.encoders.weights import read_tensors

    torch.save({"w": torch.tensor([math.nan])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        read_tensors(tmp_path / "w.pth", wanted="other weights")


# --- the command line


def fit(home: Path, folder: Path, *more: str) -> Any:
    """A fit of two epochs of two steps, with its runs in `folder`."""
    settings = ["--trainer.max_epochs", "2", "--trainer.default_root_dir", str(folder)]
    files = ["--config", str(home / "tiny.yaml"), "--data.root", str(home / "refhl")]
    return call("fit", *files, *settings, "--restart.every_n_steps", "1", *more, cwd=home)


def spoil(*batches: int, what: str = "loss") -> list[str]:
    return [
        *("--trainer.callbacks+=tests.faults.spoiled_steps.Spoil",),
        *("--trainer.callbacks.batches", str(list(batches)), "--trainer.callbacks.what", what),
    ]


def test_a_fit_that_is_not_finite_ends_with_3_and_keeps_its_last_finite_state(
    home: Path, tmp_path: Path
) -> None:
    outcome = fit(home, tmp_path, *spoil(3))
    assert outcome.status == 3, outcome.err
    assert len(outcome.message()) == 2
    for told in ("step 4", "train", "learning rate", "norm", "epoch 1"):
        assert told in outcome.message()[0]
    assert "last.ckpt" in outcome.message()[1]
    for name in ("best", "last"):
        kept = torch.load(only(tmp_path, f"*/*/checkpoints/{name}.ckpt"), weights_only=True)
        assert kept["global_step"] == (2 if name == "best" else 3)
        assert not_finite(kept) is None


def test_a_fit_of_a_wild_learning_rate_ends_with_3(home: Path, tmp_path: Path) -> None:
    outcome = fit(home, tmp_path, *("--model.lr", "1e39", "--trainer.gradient_clip_val", "null"))
    assert outcome.status == 3, outcome.err
    for file in tmp_path.rglob("*.ckpt"):
        assert not_finite(torch.load(file, weights_only=True)) is None


def test_a_fit_that_skips_ends_well_and_says_how_often(
    home: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    outcome = fit(home, tmp_path, "--on_nan", "skip", *spoil(1, 2))
    assert outcome.status == 0, outcome.err
    assert any("2 of 4" in str(w.message) for w in recwarn)
    for file in tmp_path.rglob("*.ckpt"):
        assert not_finite(torch.load(file, weights_only=True)) is None


def test_logits_that_are_not_finite_have_no_score_and_no_mask(
    home: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = textseg.models.TMCA.forward_features

    def odd(*given: Any) -> Any:
        output = forward(*given)
        return output._replace(logits=output.logits * math.nan)

    monkeypatch.setattr(textseg.models.TMCA, "forward_features", odd)
    best = only(home / "runs/tiny") / "checkpoints/best.ckpt"
    network = network_from(read_checkpoint(best), best)
    data = RefHLSegDataModule(root=home / "refhl", image_size=32, batch_size=2, num_workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (scores,) = trainer.validate(network, data, verbose=False)
    assert all(math.isnan(scores[f"val/{name}"]) for name in ("dice", "miou"))
    said = [str(w.message) for w in recwarn if "not finite" in str(w.message)]
    assert len(said) == 1
    assert "3 cases" in said[0]
    assert "val0__" in said[0]
    for run in (trainer.test, trainer.predict):
        with pytest.raises(NotFiniteError, match="test0__"):
            run(network, data)
    with pytest.raises(NotFiniteError, match="32 x 48"):
        textseg.load(best, device="cpu").segment(np.zeros((32, 48, 3), np.uint8), "the lesion")


# --- several processes


@pytest.mark.slow
@pytest.mark.ddp
def test_all_processes_stop_together_where_one_is_not_finite(home: Path) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1"]
    callback = [*spoil(2), "--trainer.callbacks.rank", "1"]
    files = ["--config", "tiny.yaml", "--data.root", "refhl", "--trainer.max_epochs", "3"]
    done = shell(
        *("-m", "lightning_cli", "fit", *files, *two, *callback),
        *("--trainer.default_root_dir", home / "two"),
        cwd=home,
        python_path=Path(__file__).parents[2],
    )
    assert done.returncode == 3, done.stderr
    assert "step 3" in done.stderr
    assert "Traceback" not in done.stderr
    for file in (home / "two").rglob("*.ckpt"):
        assert not_finite(torch.load(file, weights_only=True)) is None
