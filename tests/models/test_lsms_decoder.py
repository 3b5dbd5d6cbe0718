"""LSMS's decoders alone: grids, kept channels, which stages reach what, and the ablation's sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.models.lsms.decoder import FullScaleDecoder, PositionAlignment, TopDownDecoder

CHANNELS, STRIDES = (8, 12, 20, 32), (4, 8, 16, 32)


def features(height: int = 64, width: int = 96) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, height // s, width // s, generator=generator)
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("grid", [4, 8])
def test_position_alignment_keeps_channels_and_meets_the_grid(grid: int) -> None:
    for feature, c, s in zip(features(), CHANNELS, STRIDES, strict=True):
        aligned = PositionAlignment(c, s, grid)(feature, (64 // grid, 96 // grid))
        assert aligned.shape == (2, c, 64 // grid, 96 // grid)


def test_position_alignment_of_a_coarser_map_is_bilinear_and_of_an_equal_one_nothing() -> None:
    coarse, equal = features()[2], features()[1]
    aligned = PositionAlignment(CHANNELS[2], 16, 8)(coarse, (8, 12))
    expected = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(aligned, expected)
    assert torch.equal(PositionAlignment(CHANNELS[1], 8, 8)(equal, (8, 12)), equal)


def decoder(kind: type, stages: tuple[int, ...], stride: int = 8) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(CHANNELS, STRIDES, stages=stages, stride=stride, dim=32).eval()


@pytest.mark.parametrize("kind", [FullScaleDecoder, TopDownDecoder])
@pytest.mark.parametrize("stages", [(2, 3, 4), (1, 2, 3, 4), (3,)])
@pytest.mark.parametrize("stride", [4, 8])
def test_a_decoder_reads_its_stages_and_no_other(
    kind: type, stages: tuple[int, ...], stride: int
) -> None:
    maps = [f.requires_grad_() for f in features()]
    out = decoder(kind, stages, stride)(maps, (64, 96))
    # Boundaries are drawn on the grid of the first stage.
    cell = 4 if kind is FullScaleDecoder and 1 in stages else stride
    assert out.shape == (2, 32, 64 // cell, 96 // cell)
    out.square().sum().backward()
    assert tuple(i for i, f in enumerate(maps, 1) if f.grad is not None) == stages


@pytest.mark.parametrize("stride", [4, 8])
def test_the_joint_map_is_the_squeeze_of_the_aligned_stages_side_by_side(stride: int) -> None:
    model, maps = decoder(FullScaleDecoder, (2, 3, 4), stride).double(), features()[1:]
    maps = [feature.double() for feature in maps]
    grid = (64 // stride, 96 // stride)
    aligned = [
        F.interpolate(feature, size=grid, mode="bilinear", align_corners=False) for feature in maps
    ]
    expected = model.squeeze(torch.cat(aligned, dim=1))
    torch.testing.assert_close(model._joint(maps, grid), expected)


def test_the_full_scale_decoder_lets_every_place_see_every_other() -> None:
    model, maps = decoder(FullScaleDecoder, (2, 3, 4)), features()
    with torch.no_grad():
        before = model(maps, (64, 96))
        maps[1][:, :, 0, 0] += 3
        change = (model(maps, (64, 96)) - before).abs().amax(1)
    assert (change > 0).all()
    assert change[:, 0, 0].min() > change[:, -1, -1].max()


def test_the_first_stage_joins_after_the_global_layers_and_stays_local() -> None:
    model, maps = decoder(FullScaleDecoder, (1, 2, 3, 4), 4), features()
    with torch.no_grad():
        before = model(maps, (64, 96))
        maps[0][:, :, 0, 0] += 3
        change = (model(maps, (64, 96)) - before).abs().amax(1)
    assert (change[:, :2, :2] > 0).all()
    assert change[:, 4:, 4:].max() == 0


def test_the_ablation_is_a_sum_of_projected_and_resized_stages() -> None:
    model, maps = decoder(TopDownDecoder, (2, 3, 4)), features()
    with torch.no_grad():
        total = torch.zeros(2, 32, 8, 12)
        for i in (2, 3, 4):
            resized = F.interpolate(maps[i - 1], size=(8, 12), mode="bilinear", align_corners=False)
            lateral = model.lateral[str(i)]  # type: ignore[index]
            total += torch.einsum("oc,bchw->bohw", lateral.weight[:, :, 0, 0], resized)
            total += lateral.bias.view(-1, 1, 1)
        torch.testing.assert_close(model(maps, (64, 96)), total, rtol=1e-4, atol=1e-5)


def test_the_order_in_which_stages_are_named_is_irrelevant() -> None:
    a, b = decoder(FullScaleDecoder, (2, 3, 4)), decoder(FullScaleDecoder, (4, 2, 3))
    with torch.no_grad():
        assert torch.equal(a(features(), (64, 96)), b(features(), (64, 96)))
