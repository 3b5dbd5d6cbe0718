"""LSMS's language branch: what it asks the words, from which maps, and what padding changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.mscan import PUBLISHED, TEXT_DIM, WITHOUT_MEMORY, build, words
from tests.models.stand_ins import pictures
from textseg.batch import TextFeatures
from textseg.models.lsms.encoder import LanguageGuidedVisionEncoder
from textseg.models.lsms.language import Heads, LanguageAttention, StageTextProjection


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
    with WITHOUT_MEMORY:
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
    place = position[0]
    part = place.shape[1] // len(maps)  # width of one map's heads
    d = place.shape[1] // attention.heads
    out = torch.zeros(place.shape)
    for number, x in enumerate(maps):
        mine = slice(number * part, (number + 1) * part)
        ask = attention.to_query[number]
        normed = [(v - v.mean()) / (v.var(unbiased=False) + 1e-5) ** 0.5 for v in x[0].flatten(1).T]
        query = torch.stack([ask.weight @ v + ask.bias for v in normed]) + place[:, mine]
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
    maps = list(5 * torch.randn(heads.scales, 1, 16, 3, 2) + 1)
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


def test_a_map_ten_times_as_large_asks_the_same() -> None:
    """Else place, which is added to what a map asks, would count less in a louder map."""
    torch.manual_seed(5)
    heads = Heads(4, 1, 32)
    attention, stage = LanguageAttention(32, heads), StageTextProjection(TEXT_DIM, heads)
    maps = list(torch.randn(heads.scales, 1, 32, 4, 4))
    with torch.no_grad():
        text, position = stage(words(), maps[0])
        quiet = attention.weights(maps, text, position)
        loud = attention.weights([10 * x for x in maps], text, position)
    torch.testing.assert_close(loud, quiet, rtol=1e-3, atol=1e-5)


def test_from_scratch_no_word_has_most_of_the_attention_at_first() -> None:
    """Mean share of the word that gets most, of four: 0.36 to 0.39; 1 would be one word alone."""
    torch.manual_seed(6)
    encoder = build()
    shares: list[Tensor] = []
    for attention in attentions_of(encoder):
        attention.register_forward_pre_hook(
            lambda module, args: shares.append(module.weights(*args).amax(-1).mean())
        )
    with torch.no_grad():
        encoder(pictures(2), words(2))
    assert len(shares) == sum(encoder.depths)
    assert max(shares) < 0.45


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
