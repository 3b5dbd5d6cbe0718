"""MCM at a stage and from stage to stage, against numpy, and the maps that explain it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.models.tiny import NO_TEXT, tiny
from textseg.batch import TextFeatures
from textseg.encoders import masked_mean
from textseg.explain import normalize_map, record_inputs
from textseg.models.tmc.network import FiLM, MultiStageCrossAttention, StageCrossAttention

make = partial(tiny, "TMC")

# --- MCM


def words(count: int, dim: int, *, length: int = 5, real: int = 3, seed: int = 0) -> TextFeatures:
    tokens = torch.randn(count, length, dim, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length) < real).expand(count, length)
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def randomized(module: nn.Module, seed: int = 3) -> nn.Module:
    """Every parameter drawn anew, so that no gate is alike and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def softmax(scores: np.ndarray) -> np.ndarray:
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


class NumpyStage:
    """MCM at one stage, for one sample, from the text of the specification."""

    def __init__(self, block: StageCrossAttention) -> None:
        self.p = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.p[f"{name}.weight"].T + self.p.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def weights(self, name: str, query: np.ndarray, key: np.ndarray) -> list[np.ndarray]:
        q, k = self.linear(f"{name}.to_query", query), self.linear(f"{name}.to_key", key)
        cuts = [slice(h, h + 32) for h in range(0, q.shape[1], 32)]
        return [softmax(q[:, c] @ k[:, c].T / math.sqrt(32)) for c in cuts]

    def attention(self, name: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        value = self.linear(f"{name}.to_value", v)
        heads = self.weights(name, q, k)
        read = [w @ value[:, 32 * h : 32 * h + 32] for h, w in enumerate(heads)]
        return self.linear(f"{name}.proj", np.concatenate(read, 1))

    def ffn(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = self.linear(f"{name}.1", self.norm(f"{name}.0", x))
        gelu = [0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in hidden.ravel()]
        return self.linear(f"{name}.3", np.array(gelu).reshape(hidden.shape))

    def position_code(self, height: int, width: int, dim: int) -> np.ndarray:
        bands = dim // 4
        code = np.zeros((height, width, dim))
        for y in range(height):
            for x in range(width):
                for b in range(bands):
                    frequency = math.pi * 2 ** (b / max(1, bands / 6))
                    down = (y + 0.5) / height * frequency
                    along = (x + 0.5) / width * frequency
                    waves = (math.sin(down), math.cos(down), math.sin(along), math.cos(along))
                    code[y, x, b::bands] = waves
        return code.reshape(height * width, dim)

    def __call__(
        self, vision: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V [C, H, W] and the real words' L [L, C] -> F_V, F_L, text-to-image weights [L, H, W]."""
        C, H, W = vision.shape
        flat = vision.reshape(C, -1).T
        v, l_ = self.norm("norm_image", flat), self.norm("norm_text", tokens)
        v_pos = v + self.position_code(H, W, C)
        f_v = flat + self.p["g1"] * self.attention("image_to_text", v_pos, l_, l_)
        f_l = tokens + self.p["g2"] * self.attention("text_to_image", l_, v_pos, v)
        positions = np.mean(self.weights("text_to_image", l_, v_pos), 0).reshape(-1, H, W)
        f_v = f_v + self.p["g3"] * self.ffn("image_ffn", f_v)
        f_l = f_l + self.p["g4"] * self.ffn("text_ffn", f_l)
        return f_v.T.reshape(C, H, W), f_l, positions


@pytest.mark.parametrize("size", [(7, 5), (1, 3), (8, 8)])
def test_the_cross_attention_of_a_stage_equals_numpy(size: tuple[int, int]) -> None:
    block = randomized(StageCrossAttention(64, gate=0.1))
    vision, text = pictures(2, *size).repeat(1, 22, 1, 1)[:, :64].double(), words(2, 64)
    vision = vision + torch.randn(vision.shape, generator=torch.Generator().manual_seed(1))
    tokens = text.tokens.double()
    with torch.no_grad():
        F_V, F_L = block(vision, tokens, text.mask)
        positions = block.text_to_image_weights(vision, tokens, text.mask).mean(1)
    real = int(text.mask[0].sum())
    for row in range(2):
        expected = NumpyStage(block)(vision[row].numpy(), tokens[row, :real].numpy())
        found = (F_V[row], F_L[row, :real], positions[row, :real])
        for tensor, array in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                tensor.numpy(), array, rtol=1e-4, atol=2e-5
            )  # the code is fp32


def test_film_scales_and_shifts_by_the_mean_of_the_real_words() -> None:
    film = randomized(FiLM(6, 4, gate=0.1))
    entry, text = torch.rand(1, 4, 2, 3).double(), words(1, 6)
    with torch.no_grad():
        out = film(entry, text.tokens.double(), text.mask)[0].numpy()
    mean = text.tokens[0, :3].double().numpy().mean(0)
    weight, bias = (p.detach().numpy() for p in film.scale_and_shift.parameters())
    scale, shift = np.split(weight @ mean + bias, 2)
    gate = film.gate.detach().numpy()
    expected = entry[0].numpy() * (1 + gate * scale)[:, None, None]
    np.testing.assert_allclose(out, expected + (gate * shift)[:, None, None], rtol=1e-6)


def test_the_words_of_a_stage_are_those_of_the_stage_before_plus_what_they_learnt() -> None:
    model = make(mcm_stages=(1, 3, 4)).eval()
    assert isinstance(model.mcm, MultiStageCrossAttention)
    assert set(model.mcm.propagate) == {"1", "3"}, "the output of the last stage is not used"
    with torch.no_grad(), record_inputs(dict(model.mcm.blocks.items())) as calls:
        text = model.encode_text(CAPTIONS)
        model.forward_features(pictures(2), text)
        tokens = text.tokens
        for stage in ("1", "3", "4"):
            projected = model.text_projection[stage](tokens)
            torch.testing.assert_close(calls[stage][1], projected)
            if stage != "4":
                learnt = model.mcm.blocks[stage](*calls[stage])[1]
                tokens = tokens + model.mcm.propagate[stage](learnt)


def test_stages_that_are_not_selected_reach_the_decoder_as_they_are() -> None:
    model = make(mcm_stages=(2,)).eval()
    with torch.no_grad(), record_inputs({"decoder": model.decoder}) as calls:
        model(pictures(1), CAPTIONS[:1])
        plain = model.encode_image(pictures(1))
    same = [torch.equal(a, b) for a, b in zip(calls["decoder"][0], plain, strict=True)]
    assert same == [True, False, True, False], "FiLM changes stage 4"


def test_with_closed_gates_the_decoder_sees_the_plain_pyramid() -> None:
    model = make(gate=0.0).eval()
    with torch.no_grad(), record_inputs({"decoder": model.decoder}) as calls:
        model(pictures(2, 64, 96), CAPTIONS)
        plain = model.encode_image(pictures(2, 64, 96))
    assert all(torch.equal(a, b) for a, b in zip(calls["decoder"][0], plain, strict=True))


def test_gates_start_closed_only_where_they_stand_in_a_pretrained_image_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create: Callable[..., Any] = timm.create_model

    def without_download(name: str, *, pretrained: bool, **options: Any) -> Any:
        return create(name, pretrained=False, **options)

    monkeypatch.setattr("timm.create_model", without_download)
    write_bert(tmp_path)

    def gates(**settings: Any) -> set[float]:
        model = make(**settings)
        names = ("g1", "g2", "g3", "g4", "gate")
        values = [p for n, p in model.named_parameters() if n.split(".")[-1] in names]
        assert len(values) == 17, "four at each stage, and the decoder's entry"
        return {round(x, 6) for value in values for x in value.tolist()}

    pretrained = {"pretrained": True, "text_encoder": str(tmp_path)}
    assert gates(**pretrained) == {1.0}
    assert gates(**pretrained, mcm_feeds_encoder=True) == {0.0}
    assert gates(**pretrained, mcm_feeds_encoder=True, gate=0.2) == {0.2}
    assert gates(pretrained=False) == gates(pretrained=False, mcm_feeds_encoder=True) == {1.0}


def test_permuting_the_batch_permutes_the_masks() -> None:
    model = make().eval()
    image, text, order = pictures(4), [*CAPTIONS, "lesion", "small lesion right"], [2, 0, 3, 1]
    with torch.no_grad():
        straight = model(image, text).logits
        permuted = model(image[order], [text[i] for i in order]).logits
    torch.testing.assert_close(permuted, straight[order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(permuted, straight, rtol=1e-4, atol=1e-5)


# --- explanations


def test_an_explanation_has_a_map_in_0_to_1_for_each_selected_stage_and_the_saliency() -> None:
    model = make(mcm_stages=(2, 4))
    maps = model.explain(pictures(2, 64, 96), CAPTIONS)
    assert set(maps) == {"stage2.attention", "stage4.attention", "saliency"}
    for picture in maps.values():
        assert picture.shape == (2, 64, 96)
        assert picture.amin((1, 2)).tolist() == [0, 0]
        assert picture.amax((1, 2)).tolist() == [1, 1]


def test_two_words_of_one_caption_have_different_maps() -> None:
    model = make()
    small, left = (model.explain(pictures(1), CAPTIONS[:1], word) for word in ("small", "left"))
    for stage in range(1, 5):
        name = f"stage{stage}.attention"
        assert not torch.allclose(small[name], left[name], atol=1e-3)


def test_the_weights_of_a_word_sum_to_1_before_they_are_stretched_and_words_are_averaged() -> None:
    model = make().eval()
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        each = [
            model.explanation_maps(pictures(2), text, model.token_mask(CAPTIONS, word))
            for word in ("lesion", "in", "the")
        ]
        chosen = sum(model.token_mask(CAPTIONS, word).int() for word in ("lesion", "in", "the"))
        together = model.explanation_maps(pictures(2), text, torch.as_tensor(chosen).bool())
    for i, side in enumerate((16, 8, 4, 2), 1):
        name = f"stage{i}.attention"
        assert together[name].shape == (2, side, side)
        torch.testing.assert_close(together[name].sum((1, 2)), torch.ones(2))
        torch.testing.assert_close(together[name], sum(maps[name] for maps in each) / 3)


def test_the_shown_attention_is_what_numpy_computes_from_what_the_block_read() -> None:
    model = make(mcm_stages=(3,)).double().eval()
    image = pictures(1).double()
    with torch.no_grad(), record_inputs(dict(model.mcm.blocks.items())) as calls:
        shown = model.explain(image, CAPTIONS[:1], "left")["stage3.attention"]
    vision, tokens, mask = (x[0] for x in calls["3"])
    block = NumpyStage(model.mcm.blocks["3"])
    positions = block(vision.detach().numpy(), tokens[mask].detach().numpy())[2]
    chosen = model.token_mask(CAPTIONS[:1], "left")[0][mask].numpy()
    raw = torch.from_numpy(positions[chosen].mean(0))[None]
    torch.testing.assert_close(shown, normalize_map(raw, (64, 64)), rtol=1e-4, atol=1e-4)


def test_without_cross_attention_only_the_saliency_explains() -> None:
    assert set(make(**NO_TEXT["TMC"]).explain(pictures(1), CAPTIONS[:1])) == {"saliency"}
