"""What networks inherit: settings and their record, and checkpoints that rebuild them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import textseg
import textseg.models
from datamodules import RefHLSegDataModule
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    write_bert,
)
from tests.models.tiny import NETWORKS, PUBLIC, smallest, tiny
from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import TextEncoder, TextEncoderBase, masked_mean
from textseg.errors import UserError
from textseg.models.base import SegmentationModule, settings_of

TRAINING = {
    "lr": 3e-4,
    "weight_decay": 0.05,
    "pretrained_lr_scale": 1.0,
    "text_lr_scale": 0.1,
    "unfreeze_text_layers": 0,
    "vocab_size": 512,
    "stage_norm": False,
    "schedule": "poly",
    "warmup": 0.05,
    "min_lr_scale": 0.0,
    "segmentation_loss": {"dice": 1.0, "bce": 1.0},
    "auxiliary_weight": 0.0,
    "protocol": "standard",
    "nsd_tolerance": 2.0,
}


def test_every_public_network_has_smallest_settings_for_the_tests() -> None:
    for name in PUBLIC:
        assert smallest(name)
    assert set(NETWORKS) <= set(PUBLIC)


def test_a_network_without_smallest_settings_is_told_where_to_add_them() -> None:
    with pytest.raises(AssertionError, match=r"FiLMUNet.*NETWORKS in tests/models/tiny\.py"):
        tiny("FiLMUNet")


# --- a network and a text encoder of a user's own


class BagOfWords(TextEncoderBase):
    """One token for each of four known words."""

    words = ("lesion", "left", "right", "upper")
    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(self.words), self.dim)

    def forward(self, text: Sequence[str]) -> TextFeatures:
        mask = self.word_mask(text, None)
        tokens = self.table.weight.expand(len(text), -1, -1)
        return TextFeatures(tokens, mask, masked_mean(tokens, mask))

    def word_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        wanted = self.words if word is None else (word,)
        rows = [[w in caption and w in wanted for w in self.words] for caption in text]
        return torch.tensor(rows, device=self.table.weight.device)


class OwnNetwork(TextImageBackboneMixin, SegmentationModule):
    """The pooled text scales the coarsest feature; a linear head."""

    def __init__(
        self, width: int = 4, *, text_encoder: Any = BagOfWords, lr: float = 1e-2, **kwargs: Any
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.build_backbone("test_convnext", text_encoder, pretrained=False)
        self.scale = nn.Linear(self.text_encoder.dim, self.image_encoder.channels[-1])
        self.head = nn.Conv2d(self.image_encoder.channels[-1], 1, 1)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        coarse = self.encode_image(image)[-1] * self.scale(text.pooled)[..., None, None]
        return SegmentationOutput(
            nn.functional.interpolate(self.head(coarse), image.shape[-2:]), {}
        )


class FixedNetwork(OwnNetwork):
    """A network that fixes settings of its bases and takes none but its own."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__(schedule="cosine")


# --- settings


def test_settings_are_those_of_the_class_and_of_what_it_passes_on_to() -> None:
    assert settings_of(OwnNetwork) == {"width", "text_encoder", *TRAINING}
    assert settings_of(FixedNetwork) == {"depth"}
    assert settings_of(type("Heir", (OwnNetwork,), {})) == settings_of(OwnNetwork)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_effective_settings_are_recorded_also_those_that_nobody_gave(name: str) -> None:
    network = tiny(name, warmup=0.25)
    assert set(network.hparams) == settings_of(type(network))
    recorded = {setting: network.hparams[setting] for setting in TRAINING}
    assert recorded | {"lr": 3e-4} == TRAINING | {"warmup": 0.25}
    assert network.lr == network.hparams["lr"]


def test_what_a_class_fixes_for_its_bases_is_not_recorded() -> None:
    network = FixedNetwork(depth=3)
    assert dict(network.hparams) == {"depth": 3}
    assert network.schedule == "cosine"


@pytest.mark.parametrize(("setting", "value"), [("schedule", "step"), ("protocol", "mine")])
def test_an_unknown_choice_of_a_shared_setting_is_named(setting: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{setting}='{value}'"):
        OwnNetwork(**{setting: value})


def test_a_negative_rate_of_the_text_encoder_is_refused() -> None:
    with pytest.raises(UserError, match=r"text_lr_scale=-0\.1"):
        OwnNetwork(text_lr_scale=-0.1)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_floor_of_the_learning_rate_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"min_lr_scale={value}"):
        OwnNetwork(min_lr_scale=value)


@pytest.mark.parametrize(("given", "scale"), [({}, 0.1), ({"text_lr_scale": 0.3}, 0.3)])
def test_the_text_encoders_own_rate_reaches_the_optimizer_of_a_fit(
    given: dict[str, float], scale: float, tmp_path: Path
) -> None:
    """By default it is a tenth, while a pretrained image encoder has the rate of the new parts."""
    write_bert(tmp_path / "bert")
    text = TextEncoder(str(tmp_path / "bert"), max_tokens=12)
    network = OwnNetwork(text_encoder=lambda: text, schedule="constant", **given)
    text.requires_grad_(True)
    trainer = quiet_trainer(max_steps=20, limit_train_batches=1, limit_val_batches=0, max_epochs=1)
    trainer.fit(network, BatchesInMemory([make_batch()]))
    (optimizer,) = trainer.optimizers
    rates = {group["name"].partition("/")[0]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"new": pytest.approx(1e-2), "text": pytest.approx(scale * 1e-2)}
    held = {id(p) for g in optimizer.param_groups if "text" in g["name"] for p in g["params"]}
    assert held == {id(p) for p in text.parameters()}


def test_the_floor_reaches_the_rates_of_a_fit() -> None:
    network = OwnNetwork(min_lr_scale=0.5, schedule="cosine", warmup=0.0)
    batches = BatchesInMemory([make_batch()] * 2)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(network, batches)
    (optimizer,) = trainer.optimizers
    assert {group["lr"] for group in optimizer.param_groups} == {0.5e-2}


@pytest.mark.parametrize(("bias", "epochs", "said"), [(-9, 5, 1), (-9, 2, 0), (9, 4, 0)])
def test_a_training_whose_masks_stay_empty_is_said_once(
    bias: float, epochs: int, said: int, recwarn: pytest.WarningsRecorder
) -> None:
    network = OwnNetwork(lr=1e-9)
    nn.init.constant_(network.head.bias, bias)  # type: ignore[arg-type]
    trainer = quiet_trainer(max_epochs=epochs)
    trainer.fit(network, BatchesInMemory([make_batch()]))
    found = [str(w.message) for w in recwarn if "nothing is outlined" in str(w.message)]
    assert len(found) == said
    if said:
        assert "validation of epoch 2: for the 3rd time" in found[0]
        assert "any of 2 images, 2 of which have a lesion" in found[0]


# --- a text encoder of a user's own


def test_a_text_encoder_of_ones_own_is_trained_explained_and_frozen_on_demand() -> None:
    network, batch = OwnNetwork(), make_batch()
    before = network.text_encoder.table.weight.clone()
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(network, BatchesInMemory([batch]))
    assert not torch.equal(network.text_encoder.table.weight, before)
    assert network.token_mask(CAPTIONS, "left").tolist() == [
        [False, "left" in caption, False, False] for caption in CAPTIONS
    ]
    assert set(network.explain(pictures(2), CAPTIONS)) == {"saliency"}
    network.text_encoder.freeze()
    assert not network.train().text_encoder.training
    groups = network.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    held = {id(p) for group in groups for p in group["params"]}
    assert id(network.text_encoder.table.weight) not in held


class NoDim(nn.Module):
    """A module that keeps all promises of a text encoder but two."""

    pretrained = frozen = False

    def word_mask(self) -> None: ...

    def prepare_captions(self) -> None: ...


def test_a_text_encoder_that_lacks_promises_is_refused_by_their_names() -> None:
    with pytest.raises(UserError) as caught:
        OwnNetwork(text_encoder=NoDim)
    cause = str(caught.value).splitlines()[0]
    assert "text_encoder" in cause
    assert "NoDim" in cause
    assert cause.endswith("(missing: dim, pretrained_parameters)")


# --- a checkpoint of a plain Trainer


def trained_by_hand(network: SegmentationModule, folder: Path, **settings: Any) -> Path:
    """A checkpoint of a Trainer that no command line configured."""
    data = RefHLSegDataModule(
        synthesize=4,
        batch_size=2,
        num_workers=0,
        augmentation="none",
        root=folder / "data",
        **settings,
    )
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0, precision="bf16-mixed")
    trainer.fit(network, datamodule=data)
    trainer.save_checkpoint(folder / "plain.ckpt")
    return folder / "plain.ckpt"


def test_a_plain_trainers_checkpoint_tells_class_size_and_precision(tmp_path: Path) -> None:
    path = trained_by_hand(OwnNetwork(), tmp_path, image_size=[64, 96])
    stored = torch.load(path, weights_only=True)
    assert stored["textseg"] == {
        "class_path": f"{__name__}.OwnNetwork",
        "image_size": [64, 96],
        "resize": "stretch",
        "precision": "bf16-mixed",
    }


def test_a_plain_trainers_checkpoint_segments_as_the_network_it_was(tmp_path: Path) -> None:
    network = tiny("LSMS")
    path = trained_by_hand(network, tmp_path, image_size=64)
    segmenter = textseg.load(path, device="cpu")
    assert segmenter.image_size == (64, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network.eval()(image, ["a large lesion"]).logits[0, 0].float().sigmoid()
    probs = segmenter.segment(pixels, "a large lesion").probs
    np.testing.assert_allclose(probs, expected.numpy(), atol=1e-2)
    assert probs.std() > 0


def test_lightnings_own_loading_takes_the_checkpoint_too(tmp_path: Path) -> None:
    path = trained_by_hand(tiny("TMCA", weight_decay=0.2), tmp_path, image_size=64)
    again = textseg.models.TMCA.load_from_checkpoint(path, weights_only=True)
    assert again.weight_decay == 0.2


def test_without_a_config_and_without_a_datamodule_the_size_must_be_given(tmp_path: Path) -> None:
    network = OwnNetwork()
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(network, BatchesInMemory([make_batch()]).train_dataloader())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match="image_size"):
        textseg.load(tmp_path / "plain.ckpt")
    assert textseg.load(tmp_path / "plain.ckpt", image_size=32).image_size == (32, 32)
