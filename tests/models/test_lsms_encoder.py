"""LSMS's encoder against a plain MSCAN written from SegNeXt's paper, and its language branch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.stand_ins import pictures
from textseg.batch import TextFeatures
from textseg.encoders import masked_mean
from textseg.errors import UserError
from textseg.models.lsms.encoder import LanguageGuidedVisionEncoder
from textseg.models.lsms.language import Heads, LanguageAttention, StageTextProjection

# SegNeXt (arXiv 2209.08575), table 2: channels, depths, MLP ratios, millions of parameters.
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "mscan_tiny": ((32, 64, 160, 256), (3, 3, 5, 2), 3.9),
    "mscan_small": ((64, 128, 320, 512), (2, 2, 4, 2), 13.4),
    "mscan_base": ((64, 128, 320, 512), (3, 3, 12, 3), 26.3),
}
RATIOS = (8, 8, 4, 4)
TEXT_DIM = 24


def build(variant: str = "mscan_tiny", **settings: Any) -> LanguageGuidedVisionEncoder:
    torch.manual_seed(0)
    encoder = LanguageGuidedVisionEncoder(variant, **{"text_dim": TEXT_DIM, **settings})
    return encoder.eval()


def plain(variant: str = "mscan_tiny", **settings: Any) -> LanguageGuidedVisionEncoder:
    return build(variant, text_dim=0, language_branch="none", **settings)


def words(count: int = 1, *, length: int = 6, real: int = 4, seed: int = 0) -> TextFeatures:
    tokens = torch.randn(count, length, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length) < real).expand(count, length)
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def published_shapes(variant: str, *, strips: tuple[int, ...] = (7, 11, 21)) -> dict[str, Any]:
    """Names and shapes of the published state_dict, without its classification head."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inputs: int, *kernel: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs, *(kernel or (1, 1)))
        shapes[f"{name}.bias"] = (out,)

    def batch_norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, c: int, ratio: int) -> None:
        unit = f"{name}.attn.spatial_gating_unit"
        conv(f"{name}.attn.proj_1", c, c), conv(f"{name}.attn.proj_2", c, c)
        conv(f"{unit}.conv0", c, 1, 5, 5), conv(f"{unit}.conv3", c, c)
        for i, k in enumerate((7, 11, 21)):
            if k in strips:
                conv(f"{unit}.conv{i}_1", c, 1, 1, k), conv(f"{unit}.conv{i}_2", c, 1, k, 1)
        conv(f"{name}.mlp.fc1", ratio * c, c), conv(f"{name}.mlp.fc2", c, ratio * c)
        conv(f"{name}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
        batch_norm(f"{name}.norm1", c), batch_norm(f"{name}.norm2", c)
        shapes[f"{name}.layer_scale_1"] = shapes[f"{name}.layer_scale_2"] = (c,)

    channels, depths, _ = PUBLISHED[variant]
    conv("patch_embed1.proj.0", channels[0] // 2, 3, 3, 3)
    conv("patch_embed1.proj.3", channels[0], channels[0] // 2, 3, 3)
    batch_norm("patch_embed1.proj.1", channels[0] // 2)
    batch_norm("patch_embed1.proj.4", channels[0])
    for i, (c, depth) in enumerate(zip(channels, depths, strict=True), 1):
        if i > 1:
            conv(f"patch_embed{i}.proj", c, channels[i - 2], 3, 3)
            batch_norm(f"patch_embed{i}.norm", c)
        for j in range(depth):
            block(f"block{i}.{j}", c, RATIOS[i - 1])
        shapes[f"norm{i}.weight"] = shapes[f"norm{i}.bias"] = (c,)
    return shapes


def published_weights(variant: str, *, seed: int = 5) -> dict[str, Tensor]:
    """Random weights under the published names, with a classification head as ImageNet's have."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in published_shapes(variant).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) == 1:  # small, so that the epsilon of the layer norms shows
            weights[name] = 0.05 * (1 + torch.rand(shape, generator=generator))
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) / fan_in**0.5
    head = PUBLISHED[variant][0][-1]
    return {**weights, "head.weight": torch.randn(1000, head), "head.bias": torch.randn(1000)}


class FunctionalMSCAN:
    """MSCAN in eval, straight from SegNeXt's equations and published weights; returns F_1..F_4."""

    def __init__(self, weights: dict[str, Tensor], depths: tuple[int, ...]) -> None:
        self.weights, self.depths = weights, depths

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        padding = [k // 2 for k in weight.shape[2:]]
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.weights[f"{name}.{part}"] for part in parts))

    def attention(self, name: str, x: Tensor) -> Tensor:
        z = F.gelu(self.conv(f"{name}.proj_1", x))
        unit = f"{name}.spatial_gating_unit"
        first = self.conv(f"{unit}.conv0", z)
        total = first
        for i in range(3):
            total = total + self.conv(f"{unit}.conv{i}_2", self.conv(f"{unit}.conv{i}_1", first))
        return self.conv(f"{name}.proj_2", self.conv(f"{unit}.conv3", total) * z) + x

    def block(self, name: str, x: Tensor) -> Tensor:
        scale = [self.weights[f"{name}.layer_scale_{i}"].view(-1, 1, 1) for i in (1, 2)]
        x = x + scale[0] * self.attention(f"{name}.attn", self.batch_norm(f"{name}.norm1", x))
        hidden = self.conv(f"{name}.mlp.fc1", self.batch_norm(f"{name}.norm2", x))
        hidden = F.gelu(self.conv(f"{name}.mlp.dwconv.dwconv", hidden))
        return x + scale[1] * self.conv(f"{name}.mlp.fc2", hidden)

    def __call__(self, image: Tensor) -> list[Tensor]:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).to(image)
        x = (image - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1).to(image)
        features = []
        for i, depth in enumerate(self.depths, 1):
            if i == 1:
                x = F.gelu(
                    self.batch_norm("patch_embed1.proj.1", self.conv("patch_embed1.proj.0", x, 2))
                )
                x = self.batch_norm("patch_embed1.proj.4", self.conv("patch_embed1.proj.3", x, 2))
            else:
                x = self.batch_norm(f"patch_embed{i}.norm", self.conv(f"patch_embed{i}.proj", x, 2))
            for j in range(depth):
                x = self.block(f"block{i}.{j}", x)
            weight, bias = self.weights[f"norm{i}.weight"], self.weights[f"norm{i}.bias"]
            x = F.layer_norm(x.movedim(1, -1), (len(weight),), weight, bias).movedim(-1, 1)
            features.append(x)
        return features


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
    count = sum(p.numel() for p in plain(variant).parameters()) / 1e6
    published = PUBLISHED[variant][2]
    # The table rounds to one decimal: for 3.9 M that alone is 1.3%.
    assert abs(count - published) <= max(0.01 * published, 0.05)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_plain_encoder_has_exactly_the_published_names_and_shapes(variant: str) -> None:
    own = {k: tuple(v.shape) for k, v in plain(variant).state_dict().items()}
    assert own == published_shapes(variant)


@pytest.mark.parametrize("strips", [(), (7,), (7, 11), (21,), (21, 7)])
def test_a_subset_of_strips_keeps_the_names_of_those_it_has(strips: tuple[int, ...]) -> None:
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
    torch.save(published_weights(stored), tmp_path / "weights.pth")
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


@pytest.mark.parametrize(("given", "expected"), [(None, 0.1), (0.3, 0.3)])
def test_layer_scales_start_at_a_tenth_from_scratch_or_at_what_is_given(
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


# --- language


def attentions_of(encoder: LanguageGuidedVisionEncoder) -> list[LanguageAttention]:
    return [m for m in encoder.modules() if isinstance(m, LanguageAttention)]


@pytest.mark.parametrize(
    ("branch", "strips", "maps"),
    [
        ("shared", (7, 11, 21), 1),
        ("per_scale", (7, 11, 21), 4),
        ("per_scale", (7, 21), 3),
        ("per_scale", (11,), 2),
        ("per_scale", (), 1),
    ],
)
def test_every_block_asks_the_words_from_as_many_maps_as_its_branch_says(
    branch: str, strips: tuple[int, ...], maps: int
) -> None:
    encoder = build(language_branch=branch, strips=strips)
    attentions = attentions_of(encoder)
    assert len(attentions) == sum(encoder.depths)
    assert {len(attention.to_query) for attention in attentions} == {maps}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_four_maps_that_ask_cost_the_parameters_of_one(variant: str) -> None:
    counts = {
        branch: sum(p.numel() for p in build(variant, language_branch=branch).parameters())
        for branch in ("shared", "per_scale")
    }
    assert counts["shared"] == counts["per_scale"]


def test_per_scale_asks_from_the_map_of_each_receptive_field() -> None:
    unit: Any = build().get_submodule("block1.0.attn.spatial_gating_unit")
    seen: list[Tensor] = []
    for query in unit.language_attention.to_query:
        query.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    stage = build().get_submodule("text_projection1")
    z = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unit(z, *stage(words(), z))
        first = unit.conv0(z)
        expected = [first] + [
            getattr(unit, f"conv{i}_2")(getattr(unit, f"conv{i}_1")(first)) for i in range(3)
        ]
    assert len(seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_keys_and_values_are_made_once_a_stage_and_not_once_a_block() -> None:
    encoder = build()
    calls = []
    for module in encoder.modules():
        if isinstance(module, StageTextProjection):
            module.to_key.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        encoder(pictures(1), words())
    assert len(calls) == 4


def attend_by_hand(
    attention: LanguageAttention, maps: list[Tensor], text: Any, position: Tensor
) -> Tensor:
    """softmax(q k / sqrt d) over the words, by loops over maps, heads and positions; then gated."""
    place = position[0].flatten(1).T
    part = place.shape[1] // len(maps)  # width of one map's heads
    d = place.shape[1] // attention.heads
    out = torch.zeros(place.shape)
    for number, x in enumerate(maps):
        mine = slice(number * part, (number + 1) * part)
        query = attention.to_query[number](x)[0].flatten(1).T + place[:, mine]
        for head in range(part // d):
            columns, index = slice(head * d, (head + 1) * d), number * (part // d) + head
            for n in range(len(query)):
                scores = torch.stack([query[n, columns] @ key for key in text.keys[0, index]])
                scores = (scores / d**0.5).masked_fill(~text.mask[0, 0, 0], -torch.inf)
                weights = scores.exp() / scores.exp().sum()
                seen = sum(w * v for w, v in zip(weights, text.values[0, index], strict=True))
                out[n, mine][columns] = seen
    out = attention.norm(out)
    gate = torch.tanh(attention.gate[2](torch.relu(attention.gate[0](out))))
    return ((out * gate) @ attention.proj.weight.T).T.reshape(maps[0][0].shape)


@pytest.mark.parametrize("heads", [Heads(1, 2, 16), Heads(4, 1, 16), Heads(3, 2, 12)])
def test_language_attention_is_a_masked_softmax_over_the_words_times_a_tanh_gate(
    heads: Heads,
) -> None:
    torch.manual_seed(2)
    attention, stage = LanguageAttention(16, heads), StageTextProjection(TEXT_DIM, heads)
    maps = list(torch.randn(heads.scales, 1, 16, 3, 2))
    with torch.no_grad():
        text, position = stage(words(), maps[0])
        expected = attend_by_hand(attention, maps, text, position)
        found = attention(maps, text, position)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_padding_words_change_no_stage() -> None:
    encoder = build()
    text = words(2)
    tokens = torch.where(text.mask.unsqueeze(-1), text.tokens, 1e3)
    with torch.no_grad():
        before = encoder(pictures(2), text)
        after = encoder(pictures(2), text._replace(tokens=tokens))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_language_branch_knows_where_a_position_lies() -> None:
    """On a constant map every position would answer the words alike, were it not for its place."""
    torch.manual_seed(3)
    heads = Heads(1, 1, 32)
    attention, stage = LanguageAttention(32, heads), StageTextProjection(TEXT_DIM, heads)
    torch.nn.init.normal_(stage.position_embedding.weight)
    torch.nn.init.normal_(stage.to_key.weight)
    x = torch.ones(1, 32, 4, 4)
    with torch.no_grad():
        out = attention([x], *stage(words(), x))
    assert out.flatten(2).std(-1).max() > 1e-3


def test_an_image_does_not_depend_on_the_rest_of_its_batch_through_the_language_branch() -> None:
    torch.manual_seed(4)
    heads = Heads(1, 1, 32)
    attention = LanguageAttention(32, heads).train()
    stage = StageTextProjection(TEXT_DIM, heads).train()
    x, text = torch.randn(3, 32, 4, 4), words(3)
    first = TextFeatures(*(field[:1] for field in text))
    with torch.no_grad():
        both, alone = attention([x], *stage(text, x)), attention([x[:1]], *stage(first, x[:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-5, atol=1e-6)
    buffers = [n for n, _ in build().named_buffers() if "language" in n or "text" in n]
    assert buffers == [], "no running statistics"
