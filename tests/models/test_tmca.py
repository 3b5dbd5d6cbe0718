"""TMCA: the shared promises, what its settings build, and that words steer."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.models.contract import (
    NetworkContract,
    TextGuidedContract,
)
from tests.models.stand_ins import CAPTIONS, make_batch, pictures, write_bert
from tests.models.tiny import NO_TEXT, tiny
from textseg.encoders import NoText
from textseg.explain import record_inputs
from textseg.models.tmca.network import LEVELS, TMCA

make = partial(tiny, "TMCA")


class TestTMCA(NetworkContract, TextGuidedContract):
    network_name = "TMCA"
    learning_settings: ClassVar[dict[str, Any]] = {"enhancement_scale": 1.0}
    learning_rate = 2e-3
    golden = ("tmca_convnext_tiny.txt", {"image_encoder": "convnext_tiny"})
    variations: ClassVar = {
        "none": NO_TEXT["TMCA"],
        "global alignment at level 4": {
            "alignment": "global",
            "alignment_levels": (4,),
            "enhancement_levels": (),
        },
        "target-sensitive at level 4": {"alignment_levels": (4,), "enhancement_levels": ()},
        "target-sensitive at 1..4": {"enhancement_levels": ()},
        "enhancement without alignment": {"alignment": "none"},
        "enhancement, alignment of weight 0": {"alignment_weight": 0.0},
        "other levels for each": {"alignment_levels": (1, 3), "enhancement_levels": (4, 3)},
        "all, larger residuals": {"enhancement_scale": 1.0},
        "alignment without a position code": {"alignment_position": False},
        "enhanced levels feed the encoder": {"enhancement_feeds_encoder": True},
        "five stages without the finest": {
            "image_encoder": "test_resnet",
            "image_encoder_options": {"out_indices": (1, 2, 3, 4)},
        },
    }
    bad_settings: ClassVar = {
        "unknown alignment": ({"alignment": "local"}, "alignment='local'"),
        "alignment level 5": ({"alignment_levels": (4, 5)}, "alignment_levels=[4, 5]"),
        "alignment level twice": ({"alignment_levels": (4, 4)}, "alignment_levels"),
        "enhancement level 0": ({"enhancement_levels": (0, 1)}, "enhancement_levels=[0, 1]"),
        "enhancement level twice": ({"enhancement_levels": (2, 2)}, "enhancement_levels"),
        "no width": ({"alignment_dim": 0}, "alignment_dim=0"),
        "endless temperature": ({"temperature": float("inf")}, "temperature=inf"),
        "endless scale": ({"enhancement_scale": float("inf")}, "enhancement_scale=inf"),
        "temperature 0": ({"temperature": 0.0}, "temperature=0.0"),
        "negative weight": ({"alignment_weight": -0.1}, "alignment_weight=-0.1"),
        "weight not a number": ({"alignment_weight": math.nan}, "alignment_weight=nan"),
        "scale 0": ({"enhancement_scale": 0.0}, "enhancement_scale=0.0"),
        "no stages to feed": (
            {
                "image_encoder": "hrnet_w18_small",
                "image_encoder_options": {"out_indices": (1, 2, 3, 4)},
                "enhancement_feeds_encoder": True,
            },
            "image_encoder='hrnet_w18_small'",
        ),
        "unknown encoder": ({"image_encoder": "convnext_tinny"}, "convnext_tinny"),
        "five stages": ({"image_encoder": "test_resnet"}, "out_indices"),
        "unknown option": ({"image_encoder_options": {"drop_paths": 1}}, "drop_paths"),
    }


# --- what is built


def parts(model: TMCA) -> set[str]:
    """Every level's part, such as "embeddings.level4", and the encoders and decoder."""
    names = [name.split(".") for name, _ in model.named_parameters()]
    return {".".join(n[:2]) if n[0] in ("embeddings", "enhancement") else n[0] for n in names}


@pytest.mark.parametrize(
    ("settings", "aligned", "embedded", "enhanced"),
    [
        ({}, LEVELS, LEVELS, LEVELS),
        ({"alignment": "none"}, (), LEVELS, LEVELS),
        ({"alignment_weight": 0.0, "enhancement_levels": (2,)}, (), (2,), (2,)),
        ({"alignment_levels": (), "enhancement_levels": (3, 4)}, (), (3, 4), (3, 4)),
        ({"alignment_levels": (4,), "enhancement_levels": ()}, (4,), (4,), ()),
        ({"alignment_levels": (4, 1), "enhancement_levels": (2,)}, (1, 4), (1, 2, 4), (2,)),
    ],
)
def test_projections_exist_where_alignment_or_a_gate_uses_them_and_terms_where_aligned(
    settings: dict[str, Any],
    aligned: tuple[int, ...],
    embedded: tuple[int, ...],
    enhanced: tuple[int, ...],
) -> None:
    model, batch = make(**settings), make_batch()
    expected = {f"embeddings.level{n}" for n in embedded} | {
        f"enhancement.level{n}" for n in enhanced
    }
    assert parts(model) == expected | {"image_encoder", "text_encoder", "decoder"}
    output = model(batch["image"], batch["text"])
    assert set(output.aux) == {f"{name}_{n}" for name in ("pixels", "text") for n in aligned}
    terms = {f"loss_align_{n}" for n in aligned}
    terms |= {"loss_align", "empty_masks"} if aligned else set()
    losses = model.compute_loss(output, batch)
    assert set(losses) == terms | {"loss", "loss_dice", "loss_bce"}


@pytest.mark.parametrize(
    "settings",
    [
        NO_TEXT["TMCA"],
        {"alignment_weight": 0.0, "enhancement_levels": ()},
        {"alignment_levels": (), "enhancement_levels": ()},
    ],
)
def test_without_alignment_and_enhancement_it_is_the_plain_encoder_decoder(
    settings: dict[str, Any],
) -> None:
    model = make(**settings).eval()
    assert parts(model) == {"image_encoder", "decoder"}
    assert isinstance(model.text_encoder, NoText)
    with torch.no_grad():
        plain = model.decoder(model.image_encoder(pictures(2)))
        output = model(pictures(2), CAPTIONS)
    assert torch.equal(output.logits, plain)
    assert output.aux == {}


def test_alignment_alone_changes_no_mask_only_the_loss() -> None:
    aligned, plain = make(enhancement_levels=()).eval(), make(**NO_TEXT["TMCA"]).eval()
    own = {k: v for k, v in aligned.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict(own)
    with torch.no_grad():
        pair = [m(pictures(2), CAPTIONS).logits for m in (aligned, plain)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("feeds", [True, False])
def test_the_next_stage_reads_the_enhanced_level_if_and_only_if_asked(feeds: bool) -> None:
    model = make(enhancement_feeds_encoder=feeds, enhancement_levels=(1,)).eval()
    with torch.no_grad(), record_inputs({"decoder": model.decoder}) as calls:
        model(pictures(2), CAPTIONS)
        plain = model.encode_image(pictures(2))
    first, second = calls["decoder"][0][:2]
    assert not torch.equal(first, plain[0])
    assert torch.equal(second, plain[1]) != feeds
    with torch.no_grad():
        by_hand = model.image_encoder.body["stages_1"](first)
    assert torch.allclose(second, by_hand, rtol=1e-5, atol=1e-6) == feeds


def test_forward_takes_no_mask_and_predicting_needs_none() -> None:
    batch = make_batch()
    del batch["mask"]
    preds = make().eval().predict_step(batch, 0)["pred"]
    assert [p.shape for p in preds] == [(64, 64)] * 2


# --- settings


def test_pretrained_goes_to_both_encoders_and_freezes_the_text_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bert(tmp_path)
    # Offline: no image weights are fetched, as when a checkpoint is restored.
    monkeypatch.setattr("textseg.encoders.image.is_restoring", lambda: True)
    frozen = make(text_encoder=str(tmp_path), pretrained=True)
    tuned = make(text_encoder=str(tmp_path), pretrained=True, freeze_text=False)
    assert frozen.text_encoder.frozen
    for model in (frozen, tuned):
        groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
        slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
        names = {n.split(".")[0] for n, p in model.named_parameters() if id(p) in slow}
        assert names == {"image_encoder"} | ({"text_encoder"} if model is tuned else set())
