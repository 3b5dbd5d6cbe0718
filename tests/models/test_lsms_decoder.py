"""LSMS's decoders alone: grids, kept channels, which stages reach what, and the ablation's sum."""

from __future__ import annotations

from typing import Any

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


def decoder(kind: type, stages: tuple[int, ...] = (1, 2, 3, 4), stride: int = 4) -> torch.nn.Module:
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
    assert out.shape == (2, 32, 64 // stride, 96 // stride)
    out.square().sum().backward()
    assert tuple(i for i, f in enumerate(maps, 1) if f.grad is not None) == stages


def resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("stride", [4, 8])
def test_a_squeeze_is_that_of_the_aligned_maps_side_by_side(stride: int) -> None:
    """P_2..P_4 before the global layers, and the global map with P_1 after them."""
    model: Any = decoder(FullScaleDecoder, stride=stride).double()
    maps, seen = [feature.double() for feature in features()], {}
    for name, layer in (("joint", model.squeeze[1]), ("boundary", model.boundary.reduce[1])):
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    model.norm.register_forward_hook(lambda *call: seen.update(modeled=call[-1]))
    with torch.no_grad():
        model(maps, (64, 96))
        cells, grid = (8, 12), (64 // stride, 96 // stride)
        joint = model.squeeze[0](torch.cat([resized(x, cells) for x in maps[1:]], dim=1))
        fine = model.align(maps[0], grid)
        boundary = torch.cat([resized(seen["modeled"], grid), fine], dim=1)
        torch.testing.assert_close(seen["joint"], joint)
        torch.testing.assert_close(seen["boundary"], model.boundary.reduce[0](boundary))


def test_without_the_first_stage_the_result_is_the_global_map_on_the_decoders_grid() -> None:
    coarse, fine = (decoder(FullScaleDecoder, (2, 3, 4), stride) for stride in (8, 4))
    with torch.no_grad():
        expected = resized(coarse(features(), (64, 96)), (16, 24))
        torch.testing.assert_close(fine(features(), (64, 96)), expected)


def test_the_full_scale_decoder_lets_every_place_see_every_other() -> None:
    model, maps = decoder(FullScaleDecoder, (2, 3, 4), 8), features()
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
    model, maps = decoder(TopDownDecoder, (2, 3, 4), 8), features()
    with torch.no_grad():
        total = torch.zeros(2, 32, 8, 12)
        for i in (2, 3, 4):
            lateral = model.lateral[str(i)]  # type: ignore[index]
            weight, here = lateral.weight[:, :, 0, 0], resized(maps[i - 1], (8, 12))
            total += torch.einsum("oc,bchw->bohw", weight, here)
            total += lateral.bias.view(-1, 1, 1)
        torch.testing.assert_close(model(maps, (64, 96)), total, rtol=1e-4, atol=1e-5)


def test_the_order_in_which_stages_are_named_is_irrelevant() -> None:
    a, b = decoder(FullScaleDecoder, (2, 3, 4)), decoder(FullScaleDecoder, (4, 2, 3))
    with torch.no_grad():
        assert torch.equal(a(features(), (64, 96)), b(features(), (64, 96)))
