"""Two processes with batch B train as one process with batch 2B does: rows, losses, weights.

Plain DDP refuses a parameter without a gradient at the second step, so no network here has one.
Both see the same rows in the same step, because `DistributedSampler` gives every second row of one
permutation to each process. The gradient is the same but for the order of sums, because

    DDP's gradient = 1/2 sum_r dL_r/dw,  L_r the loss that process r computes;

* a loss that is a mean over rows or pixels (Dice, BCE, text to pixel): L = (L_0 + L_1) / 2 where
  both have as many rows, so dL/dw is what DDP gives;
* a loss of all rows together (InfoNCE, TMCA's alignment; their number of anchors too): L_0 = L_1 =
  L(x_0, x_1) of gathered rows x_r(w). `all_gather_with_grad` adds up the gradients that the
  processes send back to a row: process r has 2 dL/dx_r dx_r/dw, and the mean over r is dL/dw. A
  parameter used behind the gathering (a temperature) has dL/dw on both.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from torch import Tensor

import textseg.models
import textseg.models.tmc.alignment
import textseg.models.tmca
from datamodules import RefHLSegDataModule
from tests.forked import start
from tests.models.tiny import NETWORKS
from textseg.batch import SegmentationOutput

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

SEED, SIZE = 5, 64
ROWS, PER_STEP, EPOCHS = 14, 4, 3  # three steps an epoch, and two rows that make no batch
STEPS = EPOCHS * (ROWS // PER_STEP)
TESTED = 7  # rows, which two cannot share evenly
HANGS = 60  # seconds that a process waits for the other before it fails


@dataclass(frozen=True)
class Case:
    """A network and how it is trained; without `gathers` each process contrasts its own rows."""

    network: str
    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    gathers: bool = True


# The losses that read words weigh as much as the mask, so that a wrong one would show.
CASES = {
    "LSMS": Case("LSMS", {"contrastive_weight": 1.0}),
    "TMC": Case("TMC", {"alignment_weight": 1.0}),
    "TMCA": Case("TMCA", {"alignment_weight": 1.0}),
    "LAVT": Case("LAVT"),
    "LanGuideMedSeg": Case("LanGuideMedSeg"),
    "LViT": Case("LViT"),
    "ImageBaseline": Case("ImageBaseline"),
    "TMC, pixel": Case("TMC", {"alignment_weight": 1.0, "alignment": "pixel"}),
    "TMCA, global": Case("TMCA", {"alignment_weight": 1.0, "alignment": "global"}),
    "LAVT, cross-entropy": Case("LAVT", {"segmentation_loss": {"bce": 1.0}}),
    "TMC, clipped": Case("TMC", {"alignment_weight": 1.0}, {"gradient_clip_val": 0.5}),
    "TMCA, accumulated": Case("TMCA", {"alignment_weight": 1.0}, {"accumulate_grad_batches": 2}),
    "TMC, not gathered": Case("TMC", {"alignment_weight": 1.0}, gathers=False),
    "TMCA, not gathered": Case("TMCA", {"alignment_weight": 1.0}, gathers=False),
}
EQUAL = [name for name, case in CASES.items() if case.gathers]


# --- the rows ----------------------------------------------------------------------------------


# Epoch 0, by place in the permutation; process r of two has the places r, r + 2, ...
CAPTIONS = ["left lesion", "right lesion", "both lungs", "no lesion"]
PLAN = [
    *[("empty", 0), ("box", 1), ("empty", 0), ("box", 2)],  # only empty masks on process 0
    *[("empty", 3), ("empty", 3), ("empty", 0), ("empty", 1)],  # none but empty ones anywhere
    *[("box", 1), ("box", 1), ("box", 2), ("full", 0)],  # a shared caption, a full mask
    *[("box", 0), ("box", 2)],  # left out
]
SAME_IMAGE = (8, 11)  # places on different processes, with different captions


def write_rows(root: Path) -> None:
    """Training rows that meet PLAN in the first epoch, two of val, and an odd number of test."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(SEED)).tolist()
    place_of = {row: place for place, row in enumerate(order)}
    generator = np.random.default_rng(SEED)
    rows = []
    for number, split in enumerate(["train"] * ROWS + ["val"] * 2 + ["test"] * TESTED):
        place = place_of.get(number, number % ROWS)
        kind, caption = PLAN[place]
        truth = np.full((SIZE, SIZE), 255 * (kind == "full"), np.uint8)
        if kind == "box":
            truth[8:40, 10 + place : 40 + place] = 255
        image, mask = f"images/{number}.png", f"masks/{number}.png"
        noise = generator.integers(0, 120, (SIZE, SIZE), dtype=np.uint8)
        for path, pixels in ((mask, truth), (image, noise + truth // 2)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)
        if split == "train" and place == SAME_IMAGE[1]:
            image = f"images/{order[SAME_IMAGE[0]]}.png"
        case = {"case_id": f"patient-{number}", "split": split}
        rows.append({"image": image, "mask": mask, "text": CAPTIONS[caption], **case})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- what a process does -----------------------------------------------------------------------


RECORDED = ("losses", "rows", "norms", "gradients", "start", "end", "logged", "logits")


class Recorder(L.Callback):
    """Keeps the network in eval while it trains, and writes down what it does.

    Attributes:
        losses: of each batch, this process's.
        rows: indices of each batch, this process's.
        norms: of the whole gradient before each step, before it is clipped.
        gradients: of the first step, by parameter.
        start, end: the weights.
        logged: train/loss of each epoch, as the loggers get it.
        logits: of each test row that this process saw, by index.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rows: list[list[int]] = []
        self.norms: list[float] = []
        self.gradients: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.end: dict[str, Tensor] = {}
        self.logged: list[float] = []
        self.logits: dict[int, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.eval()
        self.start = weights_of(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.end = weights_of(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any
    ) -> None:
        assert not any(part.training for part in pl_module.modules())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any
    ) -> None:
        found = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients = self.gradients or found
        squares = sum(float(gradient.double().square().sum()) for gradient in found.values())
        self.norms.append(math.sqrt(squares))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rows.append(batch["index"].tolist())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.logged.append(float(trainer.callback_metrics["train/loss"]))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def keep(module: Any, arguments: Any, output: SegmentationOutput) -> None:
            self.newest = output.logits.clone()

        pl_module.register_forward_hook(keep)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.logits[int(batch["index"])] = self.newest


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def data_of(root: Path, batch_size: int) -> RefHLSegDataModule:
    return RefHLSegDataModule(
        str(root),
        image_size=SIZE,
        batch_size=batch_size,
        num_workers=0,
        cache=None,
        augmentation="none",
        seed=SEED,
    )


def quiet(home: Path, processes: int) -> dict[str, Any]:
    """Settings of a trainer that writes nothing; a strategy serves one trainer only."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": processes,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": home,
        "precision": "64-true",
    }
    if processes > 1:
        settings["strategy"] = DDPStrategy()  # in the group that `work` has made
        settings["plugins"] = [TorchElasticEnvironment()]
    return settings


def train(name: str, home: Path, processes: int) -> dict[str, Any]:
    """Train one case in this process, which is one of `processes`, and test the checkpoint."""
    case = CASES[name]
    L.seed_everything(SEED, verbose=False)
    model = getattr(textseg.models, case.network)(
        **{**NETWORKS[case.network], **case.model, "lr": 1e-3, "warmup": 0.0}
    )
    recorder = Recorder()
    fitting: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "limit_val_batches": 0,
        "callbacks": [recorder],
    }
    trainer = L.Trainer(**quiet(home, processes), **fitting, **case.trainer)
    trainer.fit(model, data_of(home / "rows", PER_STEP // processes))
    trainer.save_checkpoint(home / f"{name}-{processes}.ckpt")
    written: dict[str, Any] = {part: getattr(recorder, part) for part in RECORDED}
    if name not in NETWORKS:
        return written
    # One process too tests what two have trained; both see one row at a time.
    trainer = L.Trainer(**quiet(home, processes), callbacks=[recorder])
    of_two = str(home / f"{name}-2.ckpt")
    trainer.test(model, data_of(home / "rows", 1), of_two, verbose=False, weights_only=True)
    return {**written, "scored": model.test_cases.compute()._asdict()}


def work(rank: int, processes: int, home: Path, names: list[str]) -> None:
    """All cases one after the other, in one of `processes` processes that share a group."""
    log = os.open(home / f"log-{processes}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "GROUP_RANK": "0"}
    os.environ |= {"WORLD_SIZE": f"{processes}", "LOCAL_WORLD_SIZE": f"{processes}"}
    if processes > 1:
        meeting = f"file://{home / 'meeting'}"
        wait = timedelta(seconds=HANGS)
        torch.distributed.init_process_group("gloo", meeting, wait, processes, rank)
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            if not CASES[name].gathers:
                for module in (textseg.models.tmc.alignment, textseg.models.tmca):
                    patch.setattr(module, "all_gather_with_grad", lambda rows: rows)
            torch.save(train(name, home, processes), home / f"{name}-{processes}-{rank}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()


def run(processes: int, home: Path, names: list[str]) -> list[dict[str, Any]]:
    """`work` in processes of their own; of each case, what each process wrote down."""
    started = [start(work, rank, processes, home, names, daemon=True) for rank in range(processes)]
    for rank, process in enumerate(started):
        process.join(900)  # for all cases, on a busy machine
        hangs = process.is_alive()
        for other in started if hangs else ():
            other.kill()
        log = (home / f"log-{processes}-{rank}.txt").read_text()
        assert not hangs, f"process {rank} hangs:\n{log}"
        assert process.exitcode == 0, log
    return [
        {n: torch.load(home / f"{n}-{processes}-{rank}.pt", weights_only=False) for n in names}
        for rank in range(processes)
    ]


@dataclass(frozen=True, repr=False)  # pytest would spell out all weights where a test fails
class Runs:
    """What one process wrote down of each case, what each of two did, and where they trained."""

    one: dict[str, Any]
    two: list[dict[str, Any]]
    home: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = tmp_path_factory.mktemp("equality")
    write_rows(home / "rows")
    two = run(2, home, list(CASES))
    (one,) = run(1, home, list(CASES))
    return Runs(one, two, home)


# --- what is compared --------------------------------------------------------------------------

# Trained in double precision: in fp32 the order of a sum, about 1e-7 of its largest part, decides
# at a ReLU, and grows from there. Some losses are taken in fp32 all the same.
LOSS, NORM, FIRST = 2e-5, 3e-4, 2e-5
# AdamW divides each gradient by its own size. Where one is nothing but rounding (the bias of an
# attention's keys, which cancels) it may go either way, so weights are compared by distance: that
# between the two results over that from the start.
WAY = 2e-3


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Euclidean distance of all parameters together."""
    assert set(one) == set(two)
    squares = [float((one[n].double() - two[n].double()).square().sum()) for n in one]
    return math.sqrt(sum(squares))


def curves(runs: Runs, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each step: of one process, and the mean over two."""
    return np.array(runs.one[name]["losses"]), np.mean([r[name]["losses"] for r in runs.two], 0)


def masks_of_rank(runs: Runs, rank: int, step: int) -> list[bool]:
    """Of the rows that a process saw in a step: whether there is a lesion."""
    rows = runs.two[rank]["TMCA"]["rows"][step]
    return [bool(np.asarray(Image.open(runs.home / f"rows/masks/{n}.png")).any()) for n in rows]


@pytest.mark.parametrize("name", EQUAL)
def test_in_each_step_two_processes_share_the_rows_of_one(runs: Runs, name: str) -> None:
    halves = zip(*(rank[name]["rows"] for rank in runs.two), strict=True)
    shared = [sorted(first + second) for first, second in halves]
    assert shared == [sorted(rows) for rows in runs.one[name]["rows"]]
    assert len(shared) == STEPS
    assert all(len(set(rows)) == PER_STEP for rows in shared)
    assert shared[:3] != shared[3:6], "each epoch has an order of its own"


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_have_the_loss_curve_of_one_with_twice_the_batch(
    runs: Runs, name: str
) -> None:
    one, two = curves(runs, name)
    assert one.std() > 0.01, "something is learnt"
    np.testing.assert_allclose(two, one, rtol=LOSS)


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_have_the_gradient_of_one_with_twice_the_batch(runs: Runs, name: str) -> None:
    one = runs.one[name]
    for rank in runs.two:
        first = difference(one["gradients"], rank[name]["gradients"])
        assert first < FIRST * one["norms"][0]
        np.testing.assert_allclose(rank[name]["norms"], one["norms"], rtol=NORM)


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_end_with_the_weights_of_one_with_twice_the_batch(
    runs: Runs, name: str
) -> None:
    one, (first, second) = runs.one[name], [rank[name] for rank in runs.two]
    assert difference(first["end"], second["end"]) == 0, "the two never drift apart"
    assert difference(one["start"], first["start"]) == 0
    assert difference(one["end"], first["end"]) < WAY * difference(one["start"], one["end"])


def test_clipping_clips_as_much_in_two_processes(runs: Runs) -> None:
    """The weights are compared above; here that there was something to clip, and not always."""
    limit = CASES["TMC, clipped"].trainer["gradient_clip_val"]
    assert min(runs.one["TMC, clipped"]["norms"]) > limit
    assert difference(runs.one["TMC"]["end"], runs.one["TMC, clipped"]["end"]) > 0.01


@pytest.mark.parametrize("name", [name for name in CASES if name not in EQUAL])
def test_contrastive_rows_that_stay_with_their_process_change_loss_and_gradient(
    runs: Runs, name: str
) -> None:
    """So the tolerances above would notice."""
    one, two = curves(runs, name)
    first = difference(runs.one[name]["gradients"], runs.two[0][name]["gradients"])
    assert abs(two[0] - one[0]) > 100 * LOSS * one[0]
    assert first > 100 * FIRST * runs.one[name]["norms"][0]


@pytest.mark.parametrize("name", list(CASES))
def test_unlike_numbers_of_empty_masks_neither_hang_nor_give_nan(runs: Runs, name: str) -> None:
    assert not any(masks_of_rank(runs, 0, step=0)), "process 0 has only empty masks"
    assert all(masks_of_rank(runs, 1, step=0)), "process 1 has none"
    assert not any(masks_of_rank(runs, 0, step=1) + masks_of_rank(runs, 1, step=1))
    for rank in runs.two:
        assert len(rank[name]["losses"]) == STEPS
        assert np.isfinite(rank[name]["losses"]).all()
        assert np.isfinite(rank[name]["norms"]).all()
        assert all(torch.isfinite(weight).all() for weight in rank[name]["end"].values())


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_logged_training_loss_is_that_of_all_processes(runs: Runs, name: str) -> None:
    np.testing.assert_allclose(runs.two[0][name]["logged"], runs.one[name]["logged"], rtol=LOSS)


# --- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_checkpoint_of_two_processes_has_the_names_and_shapes_of_one(
    runs: Runs, name: str
) -> None:
    one, two = (
        torch.load(runs.home / f"{name}-{processes}.ckpt", weights_only=True)
        for processes in (1, 2)
    )
    assert set(one) == set(two)
    shapes = [
        {key: getattr(value, "shape", value) for key, value in checkpoint["state_dict"].items()}
        for checkpoint in (one, two)
    ]
    assert shapes[0] == shapes[1]
    assert one["hyper_parameters"] == two["hyper_parameters"]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_one_process_scores_the_checkpoint_of_two_as_they_do(runs: Runs, name: str) -> None:
    one, two = runs.one[name], [rank[name] for rank in runs.two]
    both = {**two[0]["logits"], **two[1]["logits"]}
    assert set(both) == set(one["logits"]) == set(range(TESTED))
    for index, logits in one["logits"].items():
        torch.testing.assert_close(both[index], logits, rtol=0, atol=1e-6)
    for rank in two:  # the odd row, which a sampler hands out twice, counts once
        for column, values in one["scored"].items():
            np.testing.assert_array_equal(rank["scored"][column], values)
        assert len(rank["scored"]["index"]) == TESTED
