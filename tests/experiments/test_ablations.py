"""Every ablation trains a step, and switching a part off does what its name says."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.experiments.test_experiments import (
    ABLATIONS,
    EXPERIMENTS,
    class_named,
    load,
    network_of,
    parse,
)
from tests.models.stand_ins import CAPTIONS, make_batch, pictures
from textseg.models.base import SegmentationModule

# What an ablation takes away from, or adds to, its parent: names of parameters, by their beginnings
# or parts.
LESS = {
    "lsms_qata_no_text": (
        "text_encoder.",
        ".language_attention.",
        ".text_projection1.",
        "contrast.",
    ),
    "lsms_qata_strips_none": (".conv0_1.", ".conv1_1.", ".conv2_1."),
    "lsms_qata_strips_7": (".conv1_1.", ".conv2_1."),
    "lsms_qata_strips_7_11": (".conv2_1.",),
    "lsms_qata_shared": (".language_attention.to_query.1.",),
    "lsms_qata_no_fsd": ("decoder.layers.",),
    "lsms_qata_no_contrast": ("contrast.",),
    "tmc_qata_no_text": ("text_encoder.", "text_projection.", "mcm.", "alignment."),
    "tmc_qata_mcm_only": ("alignment.",),
    "tmc_qata_ma_only": ("mcm.",),
    "tmc_qata_mcm_4": (
        "mcm.blocks.1.",
        "mcm.blocks.2.",
        "mcm.blocks.3.",
        "alignment.project_text.3.",
    ),
    "tmc_qata_mcm_34": ("mcm.blocks.1.", "mcm.blocks.2.", "alignment.project_text.2."),
    "tmc_qata_mcm_234": ("mcm.blocks.1.", "alignment.project_text.1."),
    "tmca_qata_none": ("text_encoder.", "embeddings.", "enhancement."),
    "tmca_qata_global_4": ("embeddings.level3.", "enhancement."),
    "tmca_qata_target_4": ("embeddings.level3.", "enhancement."),
    "tmca_qata_target_1234": ("enhancement.",),
}
MORE = {"tmc_qata_pixel": ("alignment.bias",)}
# The words change the mask of all but these.
DEAF = {
    *("lsms_qata_no_text", "tmc_qata_no_text", "tmc_qata_ma_only"),
    *("tmca_qata_none", "tmca_qata_global_4", "tmca_qata_target_4", "tmca_qata_target_1234"),
}
TERMS = {
    "lsms_qata_no_text": set(),
    "lsms_qata_no_contrast": set(),
    "tmc_qata_no_text": set(),
    "tmc_qata_mcm_only": set(),
    "tmca_qata_none": set(),
    "tmca_qata_enhancement": set(),
}
# The mask of these is computed as their parent's; what they are trained for differs.
LOSS_ALONE = {
    *("tmc_qata_mcm_only", "tmc_qata_pixel", "tmca_qata_enhancement", "lsms_qata_no_contrast"),
}
by_name = pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)


@cache
def built(path: Path) -> Any:
    """The network of an experiment at laptop scale; kept, because every test copies it."""
    overlay = EXPERIMENTS / "cpu" / f"{path.stem.split('_')[0]}.yaml"
    torch.manual_seed(0)
    model = class_named(network_of(path))(**parse(path, overlay).model.init_args.as_dict())
    model.prepare_captions(CAPTIONS, training=True)
    return model


def build(path: Path) -> Any:
    """A copy of a network for one test."""
    return copy.deepcopy(built(path))


def parent_of(path: Path) -> Path:
    return EXPERIMENTS / f"{path.stem.split('_')[0]}_qata.yaml"


def shapes(model: SegmentationModule) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}


def mentions(part: str, names: set[str]) -> bool:
    return any(part in f".{name}" or name.startswith(part) for name in names)


@by_name
def test_an_ablation_trains_one_step_and_every_parameter_takes_part(path: Path) -> None:
    model, batch = build(path).train(), make_batch(2)
    losses = model.compute_loss(model(batch["image"], batch["text"]), batch)
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    extra = {name for name in losses if name not in ("loss", "loss_dice", "loss_bce")}
    assert bool(extra) == (path.stem not in TERMS)


@by_name
def test_an_ablation_differs_from_its_parent_in_what_its_name_says(path: Path) -> None:
    own, whole = shapes(built(path)), shapes(built(parent_of(path)))
    gone, new = set(whole) - set(own), set(own) - set(whole)
    for part in LESS.get(path.stem, ()):
        assert mentions(part, gone), f"{part} is still there"
        assert not mentions(part, set(own)), f"{part} is still there"
    for part in MORE.get(path.stem, ()):
        assert mentions(part, new), f"{part} was not added"
    if path.stem not in {*LESS, *MORE}:
        assert path.stem == "tmca_qata_enhancement", "say above what this ablation changes"
        assert own == whole, "the loss alone differs: the gate keeps its projections"


@by_name
def test_an_ablations_mask_follows_the_words_unless_it_took_them_away(path: Path) -> None:
    model = build(path).eval()
    with torch.no_grad():
        first, second = (model(pictures(1), [text]).logits for text in CAPTIONS)
    assert torch.equal(first, second) == (path.stem in DEAF)


@pytest.mark.parametrize(
    "path", [p for p in ABLATIONS if p.stem not in LOSS_ALONE], ids=lambda path: path.stem
)
def test_an_ablation_gives_another_mask_than_its_parent_with_the_same_weights(path: Path) -> None:
    """Wherever names and shapes agree, the weights are the parent's."""
    model, whole = build(path).eval(), build(parent_of(path)).eval()
    state, own = whole.state_dict(), model.state_dict()
    kept = {
        k: v
        for k, v in state.items()
        if k in own and getattr(v, "shape", None) == getattr(own[k], "shape", None)
    }
    model.load_state_dict(kept, strict=False)
    with torch.no_grad():
        masks = [m(pictures(1), CAPTIONS[:1]).logits for m in (model, whole)]
    assert not torch.equal(*masks)


@by_name
def test_an_ablation_changes_its_parents_network_and_nothing_else(path: Path) -> None:
    own, parent = load(path), load(parent_of(path))
    for config in (own, parent):
        config["model"].pop("init_args", None)
    assert own == parent
