"""What every network promises. A test class inherits `NetworkContract`, and gives the name of a
tiny network or overrides `make`.

One whose mask follows the words inherits `TextGuidedContract` too, and says how it learns.

class TestTMC(NetworkContract, TextGuidedContract):
    network_name = "TMC"
    gradient_free = (*NetworkContract.gradient_free, r"stem\\.conv\\.bias")
    learning_rate = 3e-3
    variations = {"no alignment": {"alignment": "none"}}
    bad_settings = {"unknown alignment": ({"alignment": "clip"}, "alignment='clip'")}
    golden = ("tmc_swin_tiny.txt", {"image_encoder_options": None})
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from torch import Tensor

from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    write_bert,
)
from tests.models.tiny import tiny
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.checkpoint import read_checkpoint
from textseg.encoders import masked_mean, restoring
from textseg.errors import UserError
from textseg.models.base import SegmentationModule

GOLDEN = Path(__file__).parents[1] / "golden"


def first_steps(
    model: SegmentationModule, batch: Batch, *, but_for: Sequence[str] = (), most: int = 3
) -> list[dict[str, float | None]]:
    """The largest gradient of every trainable parameter in the first steps, in double precision.

    There are three, or fewer if all parameters `but_for` these have moved before: what lies behind
    a gate that starts at 0 moves with the second. Double, so that a gradient that cancels (1e-17)
    is told from a small one (1e-7).
    """
    model.double().train()
    image, mask = batch["image"].double(), batch["mask"].double()
    groups = model.parameter_groups(lr=1e-3, weight_decay=0.01, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)
    steps: list[dict[str, float | None]] = []
    while len(steps) < most and (not steps or never_moved(steps, but_for=but_for)):
        optimizer.zero_grad(set_to_none=True)
        losses = model.compute_loss(model(image, batch["text"]), {**batch, "mask": mask})
        losses["loss"].backward()
        trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        steps.append(
            {n: None if p.grad is None else p.grad.abs().max().item() for n, p in trainable}
        )
        optimizer.step()
    return steps


def without_gradient(steps: list[dict[str, float | None]]) -> list[str]:
    """Parameters whose gradient is missing at step 1: DDP refuses them."""
    return [name for name, size in steps[0].items() if size is None]


def never_moved(steps: list[dict[str, float | None]], *, but_for: Sequence[str]) -> list[str]:
    """Parameters whose gradient is zero, but for rounding, in every step; `but_for` is allowed."""
    still = [n for n in steps[0] if max(step[n] or 0.0 for step in steps) < 1e-12]
    return [n for n in still if not any(re.search(pattern, n) for pattern in but_for)]


def changed_keys(model: SegmentationModule, golden: str) -> dict[str, list[str]]:
    """Names and shapes of the state_dict that are gone or new beside those of golden/`golden`.

    A renamed weight makes published checkpoints unreadable: mean it, then rewrite the list.
    TEXTSEG_WRITE_GOLDEN=1 rewrites it.
    """
    shapes = {k: list(getattr(v, "shape", ["text"])) for k, v in model.state_dict().items()}
    found = sorted(f"{name} {shape}" for name, shape in shapes.items())
    if os.environ.get("TEXTSEG_WRITE_GOLDEN"):
        (GOLDEN / golden).write_text("\n".join(found) + "\n")
    kept = (GOLDEN / golden).read_text().splitlines()
    return {"gone": sorted(set(kept) - set(found)), "new": sorted(set(found) - set(kept))}


def state_of(network: SegmentationModule) -> dict[str, list[Any]]:
    """Modes of all modules, gradients, and the state_dict."""
    return {
        "modes": [module.training for module in network.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "state": [v.clone() for v in network.state_dict().values() if isinstance(v, Tensor)],
    }


def two_squares() -> Batch:
    """One image with two bright squares, two captions, and the square that each caption names."""
    image, mask = 0.2 * pictures(1), torch.zeros(2, 1, 64, 64)
    mask[0, :, 8:24, 8:24] = 1
    mask[1, :, 36:56, 36:56] = 1
    image = (image + 0.5 * mask.sum(0)).repeat(2, 1, 1, 1)
    return {**make_batch(), "image": image, "mask": mask, "image_id": torch.zeros(2).long()}


def learn(
    model: SegmentationModule,
    batch: Batch,
    *,
    lr: float,
    steps: int,
    learnt: Callable[[], bool] = lambda: False,
) -> None:
    """Learn one batch by heart in at most `steps`; `learnt`, asked at every tenth, ends it."""
    groups = model.parameter_groups(lr=lr, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)
    for step in range(1, steps + 1):
        output = model.train()(batch["image"], batch["text"])
        model.compute_loss(output, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 and learnt():
            return


def ious(model: SegmentationModule, batch: Batch) -> list[float]:
    """Of the masks with the squares that the captions name, as they stand and swapped."""
    mask, found = batch["mask"].bool(), []
    for captions, truth in ((CAPTIONS, mask), (CAPTIONS[::-1], mask.flip(0))):
        with torch.no_grad():
            pred = model.eval()(batch["image"], captions).logits > 0
        found += ((pred & truth).sum((1, 2, 3)) / (pred | truth).sum((1, 2, 3))).tolist()
    return found


class ModeRecorder(L.Callback):
    """Whether the network and its text encoder are in training mode at every training batch."""

    def __init__(self) -> None:
        self.network: list[bool] = []
        self.text: list[bool] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.network.append(pl_module.image_encoder.training)
        self.text += [module.training for module in pl_module.text_encoder.modules()]


class Made:
    """A network to be tested, at its smallest."""

    network_name: str  # its name in tests/models/tiny.py

    def make(self, **settings: Any) -> Any:
        """A tiny network with scratch text, nothing pretrained, no drop path; settings override."""
        return tiny(self.network_name, **settings)

    def taught(self, **settings: Any) -> SegmentationModule:
        """A network that knows its words; without settings a copy of one built once a class."""
        if settings:
            return self._taught(**settings)
        kind = type(self)
        if "first" not in vars(kind):
            kind.first = self._taught(), torch.get_rng_state()
        built, random = kind.first
        torch.set_rng_state(random)
        return copy.deepcopy(built)

    first: ClassVar[tuple[SegmentationModule, Tensor]]  # and the random numbers after it

    def _taught(self, **settings: Any) -> SegmentationModule:
        torch.manual_seed(0)
        model = self.make(**settings)
        model.prepare_captions(CAPTIONS, training=True)
        return model


class TextGuidedContract(Made):
    """The words say which of two lesions is meant: a slice learnt by heart shows it."""

    learning_settings: ClassVar[dict[str, Any]] = {}
    learning_encoder: ClassVar[dict[str, Any]] = {}  # where the smallest one does not learn it
    learning_rate: float

    @pytest.mark.slow
    def test_two_expressions_of_one_image_are_learnt_and_swapping_them_swaps_the_masks(
        self,
    ) -> None:
        """The way there differs by processor, in what a sum rounds: no step is the right one."""
        model = self.taught(**self.learning_settings, **self.learning_encoder)
        batch = two_squares()
        learn(
            model,
            batch,
            lr=self.learning_rate,
            steps=300,  # learnt after 30 to 100
            learnt=lambda: min(ious(model, batch)) > 0.9,
        )
        assert min(ious(model, batch)) > 0.9, f"IoUs of {ious(model, batch)}"

    def test_a_batch_of_one_trains(self) -> None:
        model, batch = self.taught(**self.learning_settings), make_batch(1)
        assert without_gradient(first_steps(model, batch, most=1)) == []
        model = self.taught(**self.learning_settings).train()
        before = model.compute_loss(model(batch["image"], batch["text"]), batch)["loss"].item()
        learn(model, batch, lr=self.learning_rate, steps=4)
        after = model.compute_loss(model(batch["image"], batch["text"]), batch)["loss"].item()
        assert after < before


class NetworkContract(Made):
    # Gradients that are zero by arithmetic: a softmax does not see what is added to every key.
    gradient_free: tuple[str, ...] = (r"text_encoder\..*\.key\.bias",)
    # Name -> settings of further networks, all of whose parameters must train.
    variations: ClassVar[dict[str, dict[str, Any]]] = {}
    # Name -> settings that must be refused, and what the message must name.
    bad_settings: ClassVar[dict[str, tuple[Any, ...]]] = {}
    # A list of names and shapes in tests/golden, and the settings of the network it is of.
    golden: ClassVar[tuple[str, dict[str, Any]] | None] = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cases: dict[str, dict[str, Any]] = {
            "variation": {"default": {}, **self.variations},
            "bad_setting": {"no share of the steps": ({"warmup": 1.0}, "warmup=1.0")}
            | self.bad_settings,
        }
        for name, by_id in cases.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, by_id.values(), ids=by_id)

    def make_frozen(self, folder: Path) -> SegmentationModule:
        """The same with a frozen BERT of the architecture in `folder`."""
        network = self.make(text_encoder=str(folder), pretrained=False)
        network.text_encoder.freeze()
        return network

    @pytest.fixture
    def network(self) -> SegmentationModule:
        return self.taught().eval()

    def logits(self, network: SegmentationModule, image: Tensor, text: list[str]) -> Tensor:
        with torch.no_grad():
            return network(image, text).logits

    # --- forward

    @pytest.mark.parametrize("size", [(64, 64), (64, 96)])
    @pytest.mark.parametrize("training", [True, False])
    def test_logits_have_one_channel_at_input_size(
        self, network: SegmentationModule, size: tuple[int, int], training: bool
    ) -> None:
        output = network.train(training)(pictures(2, *size), CAPTIONS)
        assert type(output) is SegmentationOutput
        assert output.logits.shape == (2, 1, *size)
        assert torch.isfinite(output.logits).all()

    def test_train_and_eval_give_the_same_fields(self, network: SegmentationModule) -> None:
        train = network.train()(pictures(2), CAPTIONS)
        evaluated = network.eval()(pictures(2), CAPTIONS)
        assert set(train.aux) == set(evaluated.aux)
        shapes = [{k: v.shape for k, v in output.aux.items()} for output in (train, evaluated)]
        assert shapes[0] == shapes[1]

    def test_forward_is_forward_features_of_encoded_text(self, network: SegmentationModule) -> None:
        with torch.no_grad():
            whole = network(pictures(2), CAPTIONS)
            parts = network.forward_features(pictures(2), network.encode_text(CAPTIONS))
        assert torch.equal(whole.logits, parts.logits)

    def test_eval_is_deterministic(self, network: SegmentationModule) -> None:
        first, second = (self.logits(network, pictures(2), CAPTIONS) for _ in range(2))
        assert torch.equal(first, second)

    def test_the_words_change_the_mask(self, network: SegmentationModule) -> None:
        first = self.logits(network, pictures(1), CAPTIONS[:1])
        second = self.logits(network, pictures(1), CAPTIONS[1:])
        assert not torch.equal(first, second)

    def test_padding_tokens_do_not_change_the_mask(self, network: SegmentationModule) -> None:
        with torch.no_grad():
            text = network.encode_text(CAPTIONS)
            assert not text.mask.all(), "the captions must leave padding"
            noise = torch.randn(text.tokens.shape, generator=torch.Generator().manual_seed(1))
            tokens = torch.where(text.mask.unsqueeze(-1), text.tokens, 50 * noise)
            other = TextFeatures(tokens, text.mask, masked_mean(tokens, text.mask))
            before, after = (network.forward_features(pictures(2), t) for t in (text, other))
        torch.testing.assert_close(before.logits, after.logits, rtol=0, atol=0)

    def test_more_padding_does_not_change_the_mask(self, network: SegmentationModule) -> None:
        with torch.no_grad():
            text = network.encode_text(CAPTIONS)
            B, _, D = text.tokens.shape
            longer = TextFeatures(
                torch.cat([text.tokens, torch.full((B, 5, D), 9.0)], dim=1),
                torch.cat([text.mask, torch.zeros(B, 5, dtype=torch.bool)], dim=1),
                text.pooled,
            )
            before, after = (network.forward_features(pictures(2), t) for t in (text, longer))
        torch.testing.assert_close(before.logits, after.logits, rtol=1e-4, atol=1e-5)

    def test_a_batch_of_one_is_a_row_of_a_batch_of_two(self, network: SegmentationModule) -> None:
        both = self.logits(network, pictures(2), CAPTIONS)
        alone = self.logits(network, pictures(2)[:1], CAPTIONS[:1])
        assert alone.shape[0] == 1
        torch.testing.assert_close(alone, both[:1], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("caption", ["", "lesion", "lesion " * 200])
    def test_captions_of_any_length_give_finite_logits(
        self, network: SegmentationModule, caption: str
    ) -> None:
        assert torch.isfinite(self.logits(network, pictures(1), [caption])).all()

    def test_bf16_autocast_gives_a_finite_loss_in_fp32(self, network: SegmentationModule) -> None:
        batch = make_batch()
        with torch.autocast("cpu", torch.bfloat16):
            output = network.train()(batch["image"], batch["text"])
            losses = network.compute_loss(output, batch)
        losses["loss"].backward()
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert torch.isfinite(losses["loss"])
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)

    def test_a_step_in_pure_bf16_has_a_finite_loss(self, network: SegmentationModule) -> None:
        batch = make_batch()
        network.to(torch.bfloat16).train()
        output = network(batch["image"].to(torch.bfloat16), batch["text"])
        loss = network.compute_loss(output, batch)["loss"]
        loss.backward()
        assert torch.isfinite(loss)

    # --- parameters

    def test_every_variation_trains_all_of_its_parameters(self, variation: dict[str, Any]) -> None:
        network = self.taught(**variation)
        with torch.no_grad():
            assert network.eval()(pictures(1, 64, 96), CAPTIONS[:1]).logits.shape == (1, 1, 64, 96)
        steps = first_steps(network, make_batch(), but_for=self.gradient_free)
        assert without_gradient(steps) == []
        assert never_moved(steps, but_for=self.gradient_free) == []

    def test_a_bad_setting_is_a_user_error_that_names_it(
        self, bad_setting: tuple[Any, ...]
    ) -> None:
        settings, *named = bad_setting
        with pytest.raises(UserError) as caught:
            self.make(**settings)
        assert [part for part in named if part not in str(caught.value)] == []

    @pytest.mark.parametrize("training", [True, False])
    def test_an_explanation_has_the_images_size_and_changes_nothing(self, training: bool) -> None:
        """Neither modes, a frozen text encoder's among them, nor gradients, nor statistics."""
        network = self.make()
        network.text_encoder.freeze()
        network.train(training)
        network(pictures(2), CAPTIONS).logits.sum().backward()
        before = state_of(network)
        for name, shown in network.explain(pictures(2, 64, 96), CAPTIONS).items():
            assert shown.shape == (2, 64, 96), name
            assert not shown.requires_grad
            assert (shown.amin((1, 2)) == 0).all()
            assert ((shown.amax((1, 2)) - 1).abs() < 1e-6).all() or shown.max() == 0
        assert not network.text_encoder.training
        for name, values in state_of(network).items():
            assert len(values) == len(before[name])
            for old, new in zip(before[name], values, strict=True):
                assert torch.equal(old, new) if isinstance(old, Tensor) else old == new, name

    def test_the_optimizer_holds_every_trainable_parameter_once(
        self, network: SegmentationModule
    ) -> None:
        trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
        trainer.fit(network.train(), datamodule=BatchesInMemory([make_batch()]))
        (optimizer,) = trainer.optimizers
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in network.parameters() if p.requires_grad}

    def test_a_frozen_text_encoder_stays_in_eval_and_unchanged_through_fit(
        self, tmp_path: Path
    ) -> None:
        write_bert(tmp_path / "bert")
        network, recorder = self.make_frozen(tmp_path / "bert"), ModeRecorder()
        before = {k: v.clone() for k, v in network.text_encoder.named_parameters()}
        trainer = quiet_trainer(max_epochs=2, callbacks=[recorder])
        trainer.fit(network, datamodule=BatchesInMemory([make_batch(seed=s) for s in (0, 1)]))
        assert recorder.network == [True] * 4
        assert recorder.text
        assert not any(recorder.text)
        frozen = dict(network.text_encoder.named_parameters())
        assert all(torch.equal(before[k], frozen[k]) for k in before)
        assert not any(p.requires_grad for p in frozen.values())

    # --- checkpoints

    def test_the_names_and_shapes_of_the_state_dict_are_the_golden_ones(self) -> None:
        if self.golden is None:
            pytest.skip("no list of this network is kept")
        file, settings = self.golden
        with torch.device("meta"):  # names and shapes alone
            network = self.taught(**settings)
        assert changed_keys(network, file) == {"gone": [], "new": []}

    trained: ClassVar[tuple[bytes, Tensor]]  # a checkpoint, and the logits of its network

    @pytest.fixture
    def saved(self, tmp_path: Path) -> tuple[Path, Tensor]:
        """The checkpoint of two steps, trained once a class, and the logits of its network."""
        kind, path = type(self), tmp_path / "last.ckpt"
        if "trained" not in vars(kind):
            network = self.taught().train()  # Lightning keeps the mode it finds
            trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
            trainer.fit(network, datamodule=BatchesInMemory([make_batch(), make_batch(seed=1)]))
            trainer.save_checkpoint(path)
            logits = self.logits(network.eval(), pictures(2), CAPTIONS)
            kind.trained = path.read_bytes(), logits
        path.write_bytes(kind.trained[0])
        return path, kind.trained[1]

    def test_a_checkpoint_loads_weights_only_and_gives_equal_masks(
        self, saved: tuple[Path, Tensor]
    ) -> None:
        path, expected = saved
        with restoring(read_checkpoint(path)["state_dict"]):
            restored = self.make()
        data = BatchesInMemory([make_batch()])
        quiet_trainer().validate(
            restored, data, ckpt_path=str(path), weights_only=True, verbose=False
        )
        assert torch.equal(self.logits(restored.eval(), pictures(2), CAPTIONS), expected)

    def test_a_checkpoint_rebuilds_its_network_from_its_own_hyper_parameters(
        self, network: SegmentationModule, saved: tuple[Path, Tensor]
    ) -> None:
        path, expected = saved
        restored = type(network).load_from_checkpoint(path, weights_only=True).eval()
        assert torch.equal(self.logits(restored, pictures(2), CAPTIONS), expected)

    def test_a_checkpoint_of_other_shapes_is_refused_and_changes_nothing(
        self, saved: tuple[Path, Tensor]
    ) -> None:
        path, _ = saved
        checkpoint = torch.load(path, weights_only=True)
        name = next(k for k, v in checkpoint["state_dict"].items() if getattr(v, "ndim", 0) == 4)
        checkpoint["state_dict"][name] = torch.zeros(1, 1, 1, 1)
        torch.save(checkpoint, path)
        fresh = self.taught()
        before = {k: v.clone() for k, v in fresh.named_parameters()}
        with pytest.raises(UserError, match=re.escape(name)):
            quiet_trainer().validate(
                fresh, BatchesInMemory([make_batch()]), ckpt_path=str(path), weights_only=True
            )
        assert all(torch.equal(before[k], v) for k, v in fresh.named_parameters())
