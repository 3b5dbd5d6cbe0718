"""MSCAN's weights under SegNeXt's and OpenMMLab's names, and files of another variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.mscan import build, published_shapes, published_weights
from textseg.encoders.recognize import recognize
from textseg.errors import UserError


def by_openmmlab(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmseg 1.x has no module around the depthwise convolution of the MLP."""
    return {name.replace(".dwconv.dwconv.", ".dwconv."): value for name, value in weights.items()}


def in_a_segmenter(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {f"backbone.{name}": value for name, value in weights.items()}
    return {**named, "decode_head.conv_seg.weight": torch.ones(1)}


@pytest.mark.parametrize(
    "wrap",
    [
        by_openmmlab,
        lambda w: {"state_dict": by_openmmlab(w)},
        lambda w: {"state_dict": in_a_segmenter(by_openmmlab(w)), "meta": {"epoch": 1}},
        lambda w: {"model": w},
    ],
    ids=["openmmlab", "openmmlab wrapped", "openmmlab segmenter", "model"],
)
def test_both_ways_to_name_the_weights_fill_all_of_mscan(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path
) -> None:
    weights = published_weights("mscan_tiny")
    torch.save(wrap(weights), tmp_path / "w.pth")
    state = build(weights=str(tmp_path / "w.pth")).state_dict()
    for name in published_shapes("mscan_tiny"):
        assert torch.equal(state[name], weights[name]), name


def test_safetensors_of_openmmlabs_names_load(tmp_path: Path) -> None:
    weights = published_weights("mscan_tiny")
    save_file(by_openmmlab(weights), tmp_path / "w.safetensors")
    state = build(weights=str(tmp_path / "w.safetensors")).state_dict()
    name = "block4.1.mlp.dwconv.dwconv.weight"
    assert torch.equal(state[name], weights[name])


def test_an_encoder_without_some_strips_leaves_theirs_unread(tmp_path: Path) -> None:
    weights = published_weights("mscan_tiny")
    torch.save(weights, tmp_path / "w.pth")
    state = build(weights=str(tmp_path / "w.pth"), strips=(7,)).state_dict()
    for name in published_shapes("mscan_tiny", strips=(7,)):
        assert torch.equal(state[name], weights[name]), name


@pytest.mark.parametrize(
    ("asked", "given"), [("mscan_small", "mscan_tiny"), ("mscan_base", "mscan_small")]
)
def test_a_file_of_another_variant_names_both(asked: str, given: str, tmp_path: Path) -> None:
    torch.save(by_openmmlab(published_weights(given)), tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        build(asked, weights=str(tmp_path / "w.pth"))
    cause = str(caught.value).splitlines()[0]
    assert f"'{asked}'" in cause
    assert given in cause


@pytest.mark.parametrize("variant", ["mscan_tiny", "mscan_small", "mscan_base"])
def test_a_variant_is_recognized_by_its_widths_and_depths(variant: str) -> None:
    shapes = published_shapes(variant)
    assert str(recognize({k: torch.empty(v, device="meta") for k, v in shapes.items()})).startswith(
        variant
    )


@pytest.mark.parametrize("fault", ["one less", "one more", "another shape"])
def test_nothing_may_be_left_over_or_unfilled(fault: str, tmp_path: Path) -> None:
    weights, name = published_weights("mscan_tiny"), "block2.1.norm1.bias"
    if fault == "one less":
        del weights[name]
    elif fault == "one more":
        name = "block2.7.norm1.bias"
        weights[name] = torch.ones(64)
    else:
        weights[name] = torch.ones(65)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match=name):
        build(weights=str(tmp_path / "w.pth"))
