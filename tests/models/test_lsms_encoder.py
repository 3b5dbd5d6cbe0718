"""LSMS's encoder against a plain MSCAN written from SegNeXt's paper, and the weights it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.mscan import (
    PUBLISHED,
    WITHOUT_MEMORY,
    FunctionalMSCAN,
    build,
    plain,
    published_shapes,
    published_weights,
    words,
)
from tests.models.stand_ins import pictures
from textseg.errors import UserError
from textseg.models.lsms.encoder import LanguageGuidedVisionEncoder
from textseg.models.lsms.language import LanguageAttention


def silence_language(encoder: LanguageGuidedVisionEncoder) -> None:
    """Make the language branch's output, O * tanh(gate(O)), exactly zero."""
    for module in encoder.modules():
        if isinstance(module, LanguageAttention):
            torch.nn.init.zeros_(module.norm.weight)
            torch.nn.init.zeros_(module.norm.bias)


# --- shapes and parameters


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (480, 480), (64, 160)])
def test_stages_have_the_strides_and_channels_they_announce(size: tuple[int, int]) -> None:
    encoder = build()
    with torch.no_grad():
        features = encoder(pictures(1, *size), words())
    assert encoder.strides == (4, 8, 16, 32)
    assert encoder.channels == PUBLISHED["mscan_tiny"][0]
    expected = [
        (1, c, size[0] // s, size[1] // s)
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [tuple(f.shape) for f in features] == expected


@pytest.mark.parametrize("variant", PUBLISHED)
def test_vision_only_parameters_are_within_one_percent_of_the_table(variant: str) -> None:
    with WITHOUT_MEMORY:
        count = sum(p.numel() for p in plain(variant).parameters()) / 1e6
    published = PUBLISHED[variant][2]
    # The table rounds to one decimal: for 3.9 M that alone is 1.3%.
    assert abs(count - published) <= max(0.01 * published, 0.05)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_plain_encoder_has_exactly_the_published_names_and_shapes(variant: str) -> None:
    with WITHOUT_MEMORY:
        own = {k: tuple(v.shape) for k, v in plain(variant).state_dict().items()}
    assert own == published_shapes(variant)


@pytest.mark.parametrize("strips", [(), (7,), (7, 11), (21,), (21, 7)])
def test_a_subset_of_strips_keeps_the_names_of_those_it_has(strips: tuple[int, ...]) -> None:
    with WITHOUT_MEMORY:
        own = {k: tuple(v.shape) for k, v in plain(strips=strips).state_dict().items()}
    assert own == published_shapes("mscan_tiny", strips=strips)


def test_drop_path_rises_linearly_from_0_to_its_rate() -> None:
    encoder = plain(drop_path=0.24)
    rates = [b.drop_path.rate for i in range(1, 5) for b in getattr(encoder, f"block{i}")]
    assert rates == pytest.approx([0.24 * i / 12 for i in range(13)])


# --- against MSCAN


def test_the_plain_encoder_equals_mscan_written_from_the_paper(tmp_path: Path) -> None:
    weights = published_weights("mscan_tiny")
    torch.save(weights, tmp_path / "mscan_t.pth")
    encoder = plain(weights=str(tmp_path / "mscan_t.pth")).double()
    reference = FunctionalMSCAN({k: v.double() for k, v in weights.items()}, (3, 3, 5, 2))
    image = pictures(1, 64, 96).double()
    with torch.no_grad():
        for ours, expected in zip(encoder(image), reference(image), strict=True):
            torch.testing.assert_close(ours.contiguous(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("branch", ["shared", "per_scale"])
def test_a_silent_language_branch_gives_the_plain_encoder_bit_for_bit(branch: str) -> None:
    guided, alone = build(language_branch=branch), plain()
    missing, unexpected = alone.load_state_dict(guided.state_dict(), strict=False)
    assert missing == []
    assert all(".language_attention." in k or k.startswith("text_projection") for k in unexpected)
    image = pictures(2, 64, 96)
    with torch.no_grad():
        spoken = guided(image, words(2))
        silence_language(guided)
        silent, expected = guided(image, words(2)), alone(image)
    assert all(torch.equal(a, b) for a, b in zip(silent, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(spoken, expected, strict=True))


@pytest.mark.parametrize("wrap", [dict, lambda w: {"state_dict": w}], ids=["bare", "wrapped"])
def test_published_weights_load_by_name_and_leave_only_language_parts_new(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    weights = published_weights("mscan_tiny")
    torch.save(wrap(weights), tmp_path / "mscan_t.pth")
    encoder = build(weights=str(tmp_path / "mscan_t.pth"))
    state = encoder.state_dict()
    for name in published_shapes("mscan_tiny"):
        assert torch.equal(state[name], weights[name]), name
    rest = set(state) - set(weights)
    assert rest
    assert all(".language_attention." in k or k.startswith("text_projection") for k in rest)


def test_openmmlabs_copies_load_whose_depthwise_convolutions_have_no_wrapper(
    tmp_path: Path,
) -> None:
    weights = published_weights("mscan_tiny")
    copy = {k.replace(".dwconv.dwconv.", ".dwconv."): v for k, v in weights.items()}
    assert "block1.0.mlp.dwconv.weight" in copy
    torch.save({"meta": {}, "state_dict": copy}, tmp_path / "mscan_t_20230227.pth")
    state = build(weights=str(tmp_path / "mscan_t_20230227.pth")).state_dict()
    assert [
        k for k in published_shapes("mscan_tiny") if not torch.equal(state[k], weights[k])
    ] == []


@pytest.mark.parametrize(
    ("asked", "stored"),
    [("mscan_small", "mscan_tiny"), ("mscan_small", "mscan_base"), ("mscan_base", "mscan_small")],
)
def test_weights_of_another_variant_are_a_user_error_that_names_both(
    tmp_path: Path, asked: str, stored: str
) -> None:
    """Small's names are among base's, and their widths are equal: the depths tell."""
    shapes = published_shapes(stored)
    torch.save({k: torch.zeros(()).expand(s) for k, s in shapes.items()}, tmp_path / "weights.pth")
    with pytest.raises(UserError) as caught:
        build(asked, weights=str(tmp_path / "weights.pth"))
    assert all(part in str(caught.value) for part in (asked, stored, "weights.pth"))


def test_weights_of_all_strips_load_into_an_encoder_of_some(tmp_path: Path) -> None:
    weights = published_weights("mscan_tiny")
    torch.save(weights, tmp_path / "mscan_t.pth")
    state = build(strips=(7,), weights=str(tmp_path / "mscan_t.pth")).state_dict()
    kept = published_shapes("mscan_tiny", strips=(7,))
    assert [k for k in kept if not torch.equal(state[k], weights[k])] == []


def test_a_missing_file_is_a_user_error_that_says_where_to_get_it_and_how_to_do_without(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError) as caught:
        build("mscan_small", weights=str(tmp_path / "mscan_s.pth"))
    for part in ("image_weights", "mscan_s.pth", "mscan_small", "https://", "null"):
        assert part in str(caught.value)


@pytest.mark.parametrize("branch", ["shared", "per_scale"])
def test_over_loaded_weights_the_features_are_the_plain_mscans_until_the_text_is_learnt(
    tmp_path: Path, branch: str
) -> None:
    path = tmp_path / "mscan_t.pth"
    torch.save(published_weights("mscan_tiny"), path)
    guided, alone = build(language_branch=branch, weights=str(path)), plain(weights=str(path))
    image = pictures(2, 64, 96)
    with torch.no_grad():
        pairs = list(zip(guided(image, words(2)), alone(image), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    optimizer = torch.optim.SGD(guided.parameters(), lr=1.0)
    for seed in (0, 1):  # opposite errors: the second step's loss depends on what was learnt
        guided(image, words(2, seed=seed))[-1].square().sum().backward()
        moved = [
            m.gate[2].weight.grad for m in guided.modules() if isinstance(m, LanguageAttention)
        ]
        assert all(grad is not None and grad.abs().max() > 0 for grad in moved)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert not torch.equal(guided(image, words(2))[-1], guided(image, words(2, seed=1))[-1])


@pytest.mark.parametrize(("given", "expected"), [(None, 0.01), (0.3, 0.3)])
def test_layer_scales_start_at_a_hundredth_from_scratch_or_at_what_is_given(
    given: float | None, expected: float
) -> None:
    scales = [p for n, p in build(layer_scale=given).named_parameters() if "layer_scale" in n]
    assert scales
    assert all((p == expected).all() for p in scales)


FOREIGN = {"norm1.weight": torch.tensor(1.0), "block": torch.zeros(2), "block1.x": torch.zeros(2)}


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"state_dict": {"a": "b"}}, FOREIGN])
def test_a_file_that_holds_no_mscan_is_a_user_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other"):
        build(weights=str(tmp_path / "other.pth"))


def test_a_weights_file_whose_entries_are_no_tensors_is_a_user_error(tmp_path: Path) -> None:
    torch.save(dict.fromkeys(published_shapes("mscan_tiny"), 1.0), tmp_path / "other.pth")
    with pytest.raises(UserError, match="other"):
        build(weights=str(tmp_path / "other.pth"))
