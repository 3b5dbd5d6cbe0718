"""TMCA's gates and modulation by hand, its decoder, and the maps that explain it."""

from __future__ import annotations

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
from textseg.models.tmca import (
    LEVELS,
    TMCA,
    LanguageGuidedTargetEnhancement,
    SubPixelDecoder,
    TargetGate,
)

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


def some_words(count: int = 2) -> TextFeatures:
    mask = torch.tensor([[True, True, True, False, False]]).repeat(count, 1)
    return TextFeatures(torch.randn(count, 5, 12), mask, torch.randn(count, 12))


def test_the_modulation_is_the_one_computed_by_hand() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 12, 0.5)
    block.rho.data.zero_()  # the attention apart
    feature, pixels = torch.randn(2, 8, 7, 7), random_pixels(2)
    vector, text = F.normalize(torch.randn(2, 8), dim=1), some_words()
    with torch.no_grad():
        result = block(feature, pixels, vector, text).numpy()
        scale, shift = np.split(block.film(text.pooled).numpy(), 2, axis=1)
    w = block.project.weight.detach().numpy()[:, :, 0, 0]
    for b in range(2):
        for y, x in ((0, 0), (3, 5), (6, 6)):
            gate = 1 / (1 + np.exp(-10 * (pixels[b, :, y, x] @ vector[b]).item()))
            f = feature[b, :, y, x].numpy()
            expected = f + 0.5 * gate * (scale[b] * (w @ f) + shift[b])
            np.testing.assert_allclose(result[b, :, y, x], expected, rtol=1e-4, atol=1e-5)


def test_the_attention_tells_positions_of_equal_features_apart() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 12, 0.5)
    block.alpha.data.zero_()  # the modulation apart
    feature = torch.ones(1, 8, 4, 6)
    pixels, vector = random_pixels(1, size=4)[..., :1].expand(1, 8, 4, 6), torch.randn(1, 8)
    with torch.no_grad():
        change = (block(feature, pixels, vector, some_words(1)) - feature).flatten(2)[0].T
    gaps = torch.cdist(change, change) + 9 * torch.eye(24)
    assert gaps.min() > 1e-4


def test_the_decoder_sees_every_level() -> None:
    decoder = SubPixelDecoder((8, 12, 16, 20)).eval()
    features = [
        torch.randn(1, c, 16 // 2**i, 24 // 2**i, requires_grad=True)
        for i, c in enumerate((8, 12, 16, 20))
    ]
    logits = decoder(features)
    assert logits.shape == (1, 1, 64, 96)
    logits.square().sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in features)


def test_a_lesion_can_outvote_the_heads_bias_whatever_the_sign_of_its_features() -> None:
    """With a ReLU before the head, features that are all negative leave the bias alone."""
    decoder = SubPixelDecoder((8, 12, 16, 20)).eval()
    torch.nn.init.constant_(decoder.to_subpixels.bias, -5.0)
    features = [torch.randn(1, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate((8, 12, 16, 20))]
    logits = decoder(features)
    assert logits.std() > 1e-3
    assert (logits - decoder.head.bias).abs().min() > 0


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
