"""TMCA's gates and modulation by hand, its decoder, and the maps that explain it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.stand_ins import CAPTIONS, pictures, random_pixels
from tests.models.tiny import NO_TEXT, tiny
from textseg.batch import TextFeatures
from textseg.errors import UserError
from textseg.layers import sincos_position_embedding_2d
from textseg.models.tmca.alignment import Shared, SharedEmbedding
from textseg.models.tmca.enhancement import LanguageGuidedTargetEnhancement, TargetGate
from textseg.models.tmca.network import LEVELS, TMCA, ResidualDecoder

make = partial(tiny, "TMCA")

# --- language-guided target enhancement


def test_the_gate_is_a_sigmoid_of_ten_times_the_similarity_at_the_start() -> None:
    pixels, text = random_pixels(2), F.normalize(torch.randn(2, 8), dim=1)
    similarity = np.einsum("bdhw,bd->bhw", pixels.numpy(), text.numpy())
    gate = TargetGate()(pixels, text)
    assert gate.shape == (2, 1, 7, 7)
    np.testing.assert_allclose(
        gate.detach().numpy()[:, 0], 1 / (1 + np.exp(-10 * similarity)), rtol=1e-4
    )


MASK = torch.tensor([[True, True, True, False, False]])


def some_shared(count: int = 2, *, size: int = 7) -> Shared:
    """p_l, t_l and five words, of which three are real."""
    vectors = F.normalize(torch.randn(count, 6, 8), dim=-1)
    return Shared(random_pixels(count, 8, size), vectors[:, 0], vectors[:, 1:])


def numpy_gate(shared: Shared) -> np.ndarray:
    similarity = np.einsum("bdhw,bd->bhw", shared.pixels.numpy(), shared.text.numpy())
    return 1 / (1 + np.exp(-10 * similarity))


def test_the_modulation_is_the_one_computed_by_hand() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 8, 0.5)
    block.rho.data.zero_()  # the attention apart
    feature, shared = torch.randn(2, 8, 7, 7), some_shared()
    with torch.no_grad():
        result = block(feature, shared, MASK.repeat(2, 1)).numpy()
        scale, shift = np.split(block.film(math.sqrt(8) * shared.text).numpy(), 2, axis=1)
    w, gate = block.project.weight.detach().numpy()[:, :, 0, 0], numpy_gate(shared)
    for b in range(2):
        for y, x in ((0, 0), (3, 5), (6, 6)):
            f = feature[b, :, y, x].numpy()
            expected = f + 0.5 * gate[b, y, x] * (scale[b] * (w @ f) + shift[b])
            np.testing.assert_allclose(result[b, :, y, x], expected, rtol=1e-4, atol=1e-5)


def test_the_attention_is_to_the_aligned_words_behind_the_gate() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 8, 0.5)
    block.alpha.data.zero_()  # the modulation apart
    feature, shared = torch.randn(2, 8, 4, 4), some_shared(size=4)
    with torch.no_grad():
        change = (block(feature, shared, MASK.repeat(2, 1)) - feature).numpy()
        position = block.position_embedding(sincos_position_embedding_2d(4, 4, 64, feature))
        query = block.norm(feature.flatten(2).transpose(1, 2)) + position
    p = {name: value.detach().numpy() for name, value in block.attention.named_parameters()}
    for b in range(2):
        words = math.sqrt(8) * shared.words[b, :3].numpy()
        q = query[b].numpy() @ p["to_query.weight"].T + p["to_query.bias"]
        scores = np.exp(q @ (words @ p["to_key.weight"].T).T / np.sqrt(8))
        values = words @ p["to_value.weight"].T + p["to_value.bias"]
        read = (scores / scores.sum(1, keepdims=True)) @ values
        read = (read @ p["proj.weight"].T + p["proj.bias"]).T.reshape(8, 4, 4)
        np.testing.assert_allclose(change[b], 0.5 * numpy_gate(shared)[b] * read, atol=1e-5)


def test_the_attention_tells_positions_of_equal_features_apart() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 8, 0.5)
    block.alpha.data.zero_()  # the modulation apart
    block.gate.gamma.data.zero_()  # it is a half everywhere
    feature = torch.ones(1, 8, 4, 6)
    shared = some_shared(1)._replace(pixels=torch.ones(1, 8, 4, 6))
    with torch.no_grad():
        change = (block(feature, shared, MASK) - feature).flatten(2)[0].T
    gaps = torch.cdist(change, change) + 9 * torch.eye(24)
    assert gaps.min() > 1e-4


def test_the_shared_embedding_of_pixels_knows_place_and_words_take_the_way_of_the_text() -> None:
    torch.manual_seed(0)
    embed = SharedEmbedding(6, 12, 8, position=True)
    feature, tokens = torch.randn(1, 6, 3, 5), torch.randn(1, 4, 12)
    text = TextFeatures(tokens, torch.ones(1, 4, dtype=torch.bool), tokens.mean(1))
    with torch.no_grad():
        shared = embed(feature, text)
        code = sincos_position_embedding_2d(3, 5, 64, feature)[0].numpy()
    p = {name: value.detach().numpy() for name, value in embed.named_parameters()}
    for n in range(15):
        f = feature[0].flatten(1)[:, n].double().numpy()
        f = (f - f.mean()) / np.sqrt(f.var() + 1e-5)
        z = p["phi.weight"] @ f + p["phi.bias"] + p["position_embedding.weight"] @ code[n]
        found = shared.pixels[0].flatten(1)[:, n].numpy()
        np.testing.assert_allclose(found, z / np.linalg.norm(z), rtol=1e-4, atol=1e-5)
    for found, read in ((shared.text[0], text.pooled[0]), (shared.words[0, 2], tokens[0, 2])):
        t = p["psi.weight"] @ read.numpy() + p["psi.bias"]
        np.testing.assert_allclose(found.numpy(), t / np.linalg.norm(t), rtol=1e-4, atol=1e-5)
    assert len(list(SharedEmbedding(6, 12, 8, position=False).parameters())) == len(p) - 1


def test_the_decoder_sees_every_level() -> None:
    decoder = ResidualDecoder((8, 12, 16, 20)).eval()
    features = [
        torch.randn(1, c, 16 // 2**i, 24 // 2**i, requires_grad=True)
        for i, c in enumerate((8, 12, 16, 20))
    ]
    logits = decoder(features)
    assert logits.shape == (1, 1, 64, 96)
    logits.square().sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in features)


def test_words_reach_the_mask_through_every_enhanced_level() -> None:
    for level in LEVELS:
        model = make(alignment="none", enhancement_levels=(level,)).eval()
        with torch.no_grad():
            pair = [model(pictures(1), [text]).logits for text in CAPTIONS]
        assert not torch.equal(*pair)


# --- explanations


def test_explanations_are_each_enhanced_levels_gate_and_attention_and_saliency() -> None:
    model = make(enhancement_levels=(1, 3)).eval()
    maps = model.explain(pictures(2, 64, 96), CAPTIONS)
    kinds = {f"level{n}.{part}" for n in (1, 3) for part in ("gate", "attention")}
    assert set(maps) == kinds | {"saliency"}
    for raw in maps.values():
        assert raw.shape == (2, 64, 96)
        assert raw.min() == 0
        assert raw.max() == 1


def explained(model: TMCA, word: str | None) -> dict[str, Tensor]:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        return model.explanation_maps(pictures(2), text, model.token_mask(CAPTIONS, word))


def test_gates_do_not_depend_on_the_word_and_the_attention_does() -> None:
    model = make().eval()
    every, one = explained(model, None), explained(model, "lesion")
    for n in LEVELS:
        assert every[f"level{n}.gate"].shape == (2, 32 // 2**n, 32 // 2**n)
        assert torch.equal(every[f"level{n}.gate"], one[f"level{n}.gate"])
        assert (every[f"level{n}.attention"] > one[f"level{n}.attention"]).all()


def test_gate_maps_are_the_gate_of_the_aligned_similarity() -> None:
    model = make().eval()
    maps = explained(model, None)
    with torch.no_grad():
        aux = {k: v.numpy() for k, v in model(pictures(2), CAPTIONS).aux.items()}
    for n in LEVELS:
        similarity = np.einsum("bdhw,bd->bhw", aux[f"pixels_{n}"], aux[f"text_{n}"])
        np.testing.assert_allclose(
            maps[f"level{n}.gate"].numpy(), 1 / (1 + np.exp(-10 * similarity)), rtol=1e-4
        )


def test_attention_on_all_real_tokens_is_1_and_on_padding_0() -> None:
    model = make().eval()
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        whole = model.explanation_maps(pictures(2), text, text.mask)
        padding = model.explanation_maps(pictures(2), text, ~text.mask)
    for n in LEVELS:
        attention = whole[f"level{n}.attention"]
        assert attention.shape == (2, 32 // 2**n, 32 // 2**n)
        torch.testing.assert_close(attention, torch.ones_like(attention))
        assert not padding[f"level{n}.attention"].any()


def test_explaining_leaves_the_mode_and_the_next_mask_as_they_were() -> None:
    model = make().train()
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    model.explain(pictures(2), CAPTIONS)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_an_image_only_network_explains_saliency_and_refuses_a_word() -> None:
    model = make(**NO_TEXT["TMCA"])
    assert set(model.explain(pictures(1), CAPTIONS[:1])) == {"saliency"}
    with pytest.raises(UserError, match="lesion"):
        model.explain(pictures(1), CAPTIONS[:1], "lesion")
