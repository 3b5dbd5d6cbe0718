"""Image encoders from timm: pyramids, stepping stage by stage, and what a user is told."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.models.stand_ins import pictures
from textseg.encoders import ImageEncoder, Normalize
from textseg.errors import UserError

SWIN = {
    "embed_dim": 24,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
ENCODERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "convnext": ("test_convnext", {}, (24, 32, 48, 64), (4, 8, 16, 32)),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, (24, 48, 96, 192), (4, 8, 16, 32)),
    "resnet": ("test_resnet", {}, (32, 32, 48, 192, 96), (2, 4, 8, 16, 32)),
    "efficientnet": ("test_efficientnet", {}, (16, 24, 32, 48, 64), (2, 4, 8, 16, 32)),
}


def build(kind: str) -> ImageEncoder:
    torch.manual_seed(0)
    name, options, _, _ = ENCODERS[kind]
    return ImageEncoder(name, pretrained=False, options=options).eval()


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_every_pyramid_is_channels_first_with_the_strides_it_announces(
    kind: str, size: tuple[int, int]
) -> None:
    encoder, (_, _, channels, strides) = build(kind), ENCODERS[kind]
    assert (encoder.channels, encoder.strides) == (channels, strides)
    with torch.no_grad():
        features = encoder(pictures(2, *size))
    assert [tuple(f.shape) for f in features] == [
        (2, c, size[0] // s, size[1] // s) for c, s in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize("kind", ENCODERS)
def test_stepping_with_an_idle_fuse_equals_the_plain_forward_bit_for_bit(kind: str) -> None:
    encoder = build(kind)
    with torch.no_grad():
        plain = encoder(pictures(2, 64, 96))
        stepped = encoder(pictures(2, 64, 96), lambda i, x: x)
    assert len(plain) == len(stepped)
    assert all(torch.equal(a, b) for a, b in zip(plain, stepped, strict=True))


@pytest.mark.parametrize("kind", ["convnext", "swin", "efficientnet"])
def test_fuse_sees_every_stage_in_order_and_feeds_the_next(kind: str) -> None:
    encoder, seen = build(kind), []

    def fuse(i: int, x: Tensor) -> Tensor:
        seen.append((i, tuple(x.shape[:2])))
        return 2 * x + 1 if i == 1 else x

    with torch.no_grad():
        plain = encoder(pictures(2))
        fused = encoder(pictures(2), fuse)
    assert seen == [(i, (2, c)) for i, c in enumerate(encoder.channels)]
    assert torch.equal(fused[0], plain[0])
    assert torch.equal(fused[1], 2 * plain[1] + 1)
    assert not torch.allclose(fused[2], plain[2])
    assert not torch.allclose(fused[3], plain[3])


def test_a_fuse_after_the_last_stage_only_changes_the_last_feature() -> None:
    encoder = build("swin")
    with torch.no_grad():
        plain = encoder(pictures(1))
        fused = encoder(pictures(1), lambda i, x: x * 0 if i == 3 else x)
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], fused[:3], strict=True))
    assert fused[3].abs().max() == 0


@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_pixels_are_normalized_as_the_encoder_was_trained(kind: str) -> None:
    encoder, config = build(kind), timm.get_pretrained_cfg(ENCODERS[kind][0])
    assert config is not None
    image = pictures(1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    torch.testing.assert_close(encoder.normalize(image), (image - mean) / std)
    assert not [name for name in encoder.state_dict() if "normalize" in name]


def test_normalization_is_imagenets_by_default() -> None:
    gray = Normalize()(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    assert gray.abs().max() == 0


@pytest.mark.parametrize("name", ["convnxt_tiny", "", "microsoft/swin"])
def test_an_unknown_name_is_a_user_error(name: str) -> None:
    with pytest.raises(UserError, match=f"image_encoder='{name}'"):
        ImageEncoder(name, pretrained=False)


def test_a_slip_of_the_pen_is_answered_with_names_that_exist() -> None:
    with pytest.raises(UserError) as caught:
        ImageEncoder("convnxt_tiny", pretrained=False)
    assert "convnext" in str(caught.value)


def test_an_unknown_option_is_a_user_error_that_names_it() -> None:
    with pytest.raises(UserError, match="nonsense"):
        ImageEncoder("test_convnext", pretrained=False, options={"nonsense": 1})


def test_weights_that_cannot_be_fetched_are_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match="no connection"):
        ImageEncoder("test_convnext", pretrained=True)


def test_an_encoder_without_stages_refuses_to_be_stepped() -> None:
    encoder = ImageEncoder("test_vit", pretrained=False, options={"img_size": 64})
    with pytest.raises(UserError, match="image_encoder"):
        encoder(pictures(1), lambda i, x: x)
