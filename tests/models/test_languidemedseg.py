"""LanGuideMedSeg whole: the shared promises, its layers beside torch's and MONAI's, its size."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from monai.networks.blocks.unetr_block import UnetrUpBlock
from monai.networks.blocks.upsample import SubpixelUpsample
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.models.contract import NetworkContract, TextGuidedContract
from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.models.tiny import tiny
from textseg.batch import TextFeatures
from textseg.benchmark.cost import count_gflops, parameter_counts
from textseg.encoders import masked_mean
from textseg.errors import UserError
from textseg.layers import UpBlock
from textseg.models.languidemedseg import (
    GuideDecoder,
    GuideLayer,
    LanGuideMedSeg,
    SubPixelUpsample,
    WordMixtures,
    leaky_double_conv,
)

make = partial(tiny, "LanGuideMedSeg")


class TestLanGuideMedSeg(NetworkContract, TextGuidedContract):
    network_name = "LanGuideMedSeg"
    learning_rate = 3e-3
    golden = (
        "languidemedseg_convnext_tiny.txt",
        {"image_encoder": "convnext_tiny", "max_tokens": 24},
    )
    variations: ClassVar = {
        "a Swin": {
            "image_encoder": "swin_tiny_patch4_window7_224",
            "image_encoder_options": {
                **{"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
                **{"window_size": 4, "drop_path_rate": 0.0},
            },
        },
        "a ResNet": {
            "image_encoder": "test_resnet",
            "image_encoder_options": {"out_indices": [1, 2, 3, 4]},
        },
        "a norm on each stage": {"stage_norm": True},
    }
    bad_settings: ClassVar = {
        "unknown encoder": ({"image_encoder": "convnext_tny"}, "image_encoder='convnext_tny'"),
        "too few tokens": ({"max_tokens": 2}, "max_tokens=2"),
        "five stages": (
            {"image_encoder": "test_efficientnet"},
            "image_encoder='test_efficientnet'",
            "[2, 4, 8, 16, 32]",
            "out_indices: [1, 2, 3, 4]",
        ),
        "one grid": ({"image_encoder": "test_vit"}, "image_encoder='test_vit'"),
        "widths without a position code": (
            {"image_encoder": "rexnet_100", "image_encoder_options": {"out_indices": [1, 2, 3, 4]}},
            "image_encoder='rexnet_100'",
            "61",
        ),
        "weights out of reach": ({"pretrained": True}, "pretrained"),
    }


# --- size, beside what the public code counts


BERT_TOKENS = 24
PUBLISHED_TRAINABLE_M, PUBLISHED_GFLOPS = 44.0, 21.8


def published_scale(folder: Path) -> LanGuideMedSeg:
    """The defaults without memory, on a frozen BERT of the published width and of two layers."""
    write_bert(folder, hidden=768)
    with torch.device("meta"):
        network = LanGuideMedSeg(text_encoder=str(folder), pretrained=False).eval()
    network.text_encoder.freeze()
    return network


def heads_of_the_public_code() -> int:
    """Parameters of its projection heads of pooled text and image, which no loss reads."""
    text = nn.Sequential(nn.Linear(768, 768), nn.LayerNorm(768), nn.GELU(), nn.Linear(768, 768))
    return sum(p.numel() for p in nn.ModuleList([text, nn.Linear(768, 768)]).parameters())


def test_parameters_and_gflops_are_the_public_codes(tmp_path: Path) -> None:
    """Within 2 and 5 percent; BERT's own GFLOPs from one of its size, without memory."""
    with torch.device("meta"):
        bert = BertModel(BertConfig(), add_pooling_layer=False)
        ids = torch.zeros(1, BERT_TOKENS, dtype=torch.long)
        attend = torch.ones(1, 1, BERT_TOKENS, BERT_TOKENS, dtype=torch.bool)
        text_gflops = count_gflops(lambda: bert(input_ids=ids, attention_mask=attend))
    network = published_scale(tmp_path)
    trained = parameter_counts(network)["trainable_m"] + heads_of_the_public_code() / 1e6
    assert trained == pytest.approx(PUBLISHED_TRAINABLE_M, rel=0.02)
    with torch.device("meta"):
        mask = torch.ones(1, BERT_TOKENS, dtype=torch.bool)
        text = TextFeatures(torch.empty(1, BERT_TOKENS, 768), mask, torch.empty(1, 768))
        image = torch.empty(1, 3, 224, 224)
        gflops = count_gflops(lambda: network.forward_features(image, text))
    assert text_gflops == pytest.approx(4.1, rel=0.05)
    assert gflops + text_gflops == pytest.approx(PUBLISHED_GFLOPS, rel=0.05)


def test_the_decoders_parameters_are_those_of_torchs_and_monais_blocks() -> None:
    channels, dim, tokens = (96, 192, 384, 768), 768, 24
    with torch.device("meta"):
        decoder = GuideDecoder(channels, dim, max_tokens=tokens)
        parts: list[nn.Module] = [SubpixelUpsample(2, 96, 24, 4), nn.Conv2d(24, 1, 1)]
        for (coarse, fine), mixtures in zip(
            ((768, 384), (384, 192), (192, 96)), (24, 12, 9), strict=True
        ):
            parts += [nn.MultiheadAttention(coarse, heads) for heads in (1, 4)]
            parts += [nn.LayerNorm(coarse) for _ in range(4)]
            parts += [nn.Conv1d(tokens, mixtures, 1), nn.Linear(dim, coarse)]
            parts.append(UnetrUpBlock(2, coarse, fine, 3, 2, norm_name="BATCH"))
    ours = sum(p.numel() for p in decoder.parameters())
    theirs = sum(p.numel() for part in parts for p in part.parameters())
    scales, key_biases = 3, 2 * (768 + 384 + 192)
    assert ours == theirs + scales - key_biases


# --- its layers, beside other implementations


def some_words(batch: int, length: int, dim: int, real: list[int]) -> TextFeatures:
    tokens = torch.randn(batch, length, dim, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor(real)[:, None]
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def numpy_mixtures(words: WordMixtures, tokens: np.ndarray, real: int) -> np.ndarray:
    """T [S, C] of one caption: sums over its real tokens alone."""
    p = {name: value.detach().numpy() for name, value in words.named_parameters()}
    mixed = p["mix.weight"][:, :real] @ tokens[:real] + p["mix.bias"][:, None]  # [S, D]
    erf = np.vectorize(math.erf)
    hidden = mixed * (1 + erf(mixed / np.sqrt(2))) / 2  # GELU
    projected = hidden @ p["project.weight"].T + p["project.bias"]
    return np.where(projected > 0, projected, 0.01 * projected)


def test_the_mixtures_are_the_formula_over_the_real_tokens() -> None:
    torch.manual_seed(1)
    words = WordMixtures(6, 8, max_tokens=7, mixtures=4).double()
    text, real = some_words(2, 7, 6, [5, 3]), [5, 3]
    found = words(text).detach().numpy()
    for b in range(2):
        expected = numpy_mixtures(words, text.tokens[b].numpy(), real[b])
        np.testing.assert_allclose(found[b], expected, rtol=1e-10, atol=1e-12)


def torchs(attention: Any, heads: int) -> nn.MultiheadAttention:
    """torch's own attention with the weights of ours."""
    parts = attention.to_query, attention.to_key, attention.to_value
    width = attention.proj.out_features
    theirs = nn.MultiheadAttention(width, heads, batch_first=True).double()
    biases = [torch.zeros(width) if part.bias is None else part.bias for part in parts]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat(biases))
    theirs.out_proj = attention.proj
    return theirs


def numpy_code(height: int, width: int, dim: int) -> np.ndarray:
    """[H*W, dim]: sine and cosine of both coordinates, each at dim / 4 octaves."""
    bands = dim // 4
    frequency = np.pi * 2 ** (np.arange(bands) / max(1, bands / 6))
    y, x = np.divmod(np.arange(height * width), width)
    angles = [((y + 0.5) / height)[:, None] * frequency, ((x + 0.5) / width)[:, None] * frequency]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)


def normed(x: Tensor, norm: Any) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    deviation = (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centered / deviation * norm.weight + norm.bias


def test_the_guide_layer_is_torchs_attention_in_the_public_codes_order() -> None:
    torch.manual_seed(1)
    guide = GuideLayer(8, 6, max_tokens=7, mixtures=5).double()
    for norm in (guide.norm1, guide.self_norm, guide.norm2, guide.cross_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x, text = torch.randn(2, 8, 3, 4, dtype=torch.float64), some_words(2, 7, 6, [5, 7])
    with torch.no_grad():
        code = torch.from_numpy(numpy_code(3, 4, 8))
        words = guide.words(text)
        first = x.flatten(2).mT  # [B, N, C]
        query = normed(first, guide.norm1) + code
        attended, _ = torchs(guide.self_attention, 1)(query, query, normed(first, guide.norm1))
        second = first + normed(attended, guide.self_norm)
        keys = words + torch.from_numpy(numpy_code(1, 5, 8))
        query = normed(second, guide.norm2) + code
        read, _ = torchs(guide.cross_attention, 4)(query, keys, words)
        expected = second + 1.421 * normed(read, guide.cross_norm)
        found = guide(x, text)
    # The code itself is computed in fp32.
    torch.testing.assert_close(found.flatten(2).mT, expected, rtol=1e-4, atol=1e-5)


def test_the_up_block_is_monais() -> None:
    torch.manual_seed(1)
    ours, theirs = (
        UpBlock(12, 8, leaky_double_conv),
        UnetrUpBlock(2, 12, 8, 3, 2, norm_name="BATCH"),
    )
    with torch.no_grad():
        for own, other in zip(ours.parameters(), named_as_ours(theirs), strict=True):
            nn.init.normal_(other)
            own.copy_(other)
    coarse, skip = torch.randn(2, 12, 3, 5), torch.randn(2, 8, 6, 10)
    torch.testing.assert_close(ours(coarse, skip), theirs(coarse, skip))


def named_as_ours(block: UnetrUpBlock) -> list[Tensor]:
    """MONAI's parameters in the order of ours: it lists both convolutions before both norms."""
    conv = block.conv_block
    parts = block.transp_conv, conv.conv1, conv.norm1, conv.conv2, conv.norm2
    return [p for part in parts for p in part.parameters()]


def test_the_sub_pixel_upsampling_is_monais() -> None:
    torch.manual_seed(1)
    ours, theirs = SubPixelUpsample(8, 3, 4), SubpixelUpsample(2, 8, 3, 4)
    theirs.load_state_dict({f"conv_block.{k}": v for k, v in ours.conv.state_dict().items()})
    x = torch.randn(2, 8, 3, 5)
    assert ours(x).shape == (2, 3, 12, 20)
    torch.testing.assert_close(ours(x), theirs(x))


def test_at_the_start_the_pixels_of_a_cell_are_alike() -> None:
    conv = SubPixelUpsample(8, 3, 4).conv
    cells = conv.weight.unflatten(0, (3, 16))
    assert torch.equal(cells, cells[:, :1].expand_as(cells))
    assert conv.weight[0].std() > 0
    assert not torch.equal(cells[0, 0], cells[1, 0])


# --- the network


def test_the_guide_layers_read_the_stages_of_an_encoder_without_text() -> None:
    model = make().eval()
    seen: list[Tensor] = []
    for guide in model.decoder.guides:
        guide.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(pictures(1, 64, 96), CAPTIONS[:1])
        stages = model.encode_image(pictures(1, 64, 96))
    assert torch.equal(seen[0], stages[-1])
    assert [x.shape for x in seen] == [x.shape for x in stages[:0:-1]]


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (32, 32), (64, 160), (96, 64)])
@pytest.mark.parametrize("caption", ["lesion", "lesion " * 200])
def test_any_multiple_of_32_and_captions_of_one_and_of_most_words(
    size: tuple[int, int], caption: str
) -> None:
    model = make().eval()
    with torch.no_grad():
        text = model.encode_text([caption])
        logits = model.forward_features(pictures(1, *size), text).logits
    assert text.mask.sum() == (3 if caption == "lesion" else 16)  # with [CLS] and [SEP]
    assert logits.shape == (1, 1, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [(80, 64), (100, 100)])
def test_a_size_it_cannot_take_is_a_user_error_that_names_it(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}(.|\n)*data\.image_size"):
        make().eval()(pictures(1, *size), CAPTIONS[:1])


def test_as_published_it_has_24_tokens_and_by_default_a_frozen_pretrained_bert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bert(tmp_path)
    # Offline: no image weights are fetched, as when a checkpoint is restored.
    monkeypatch.setattr("textseg.encoders.image.is_restoring", lambda: True)
    model = LanGuideMedSeg("test_convnext", str(tmp_path))
    assert model.text_encoder.frozen
    assert model.encode_text(CAPTIONS).tokens.shape[1] == 24
    assert [guide.words.mix.weight.shape for guide in model.decoder.guides] == [
        *((24, 24), (12, 24), (9, 24))
    ]
    assert all(p.requires_grad for p in model.image_encoder.parameters())


# --- explanations


def test_a_tokens_share_of_a_mixture_is_the_size_of_its_summand() -> None:
    torch.manual_seed(1)
    words = WordMixtures(6, 8, max_tokens=7, mixtures=4).double()
    text, real = some_words(2, 7, 6, [5, 3]), [5, 3]
    found = words.shares(text).detach().numpy()
    for b in range(2):
        sizes = np.zeros((4, 7))
        for s in range(4):
            for t in range(real[b]):
                summand = words.mix.weight[s, t].item() * text.tokens[b, t].numpy()
                sizes[s, t] = np.sqrt((summand**2).sum())
        np.testing.assert_allclose(found[b], sizes / sizes.sum(1, keepdims=True), rtol=1e-10)


def test_the_attention_maps_of_all_words_and_of_one_are_shares_that_add_up() -> None:
    model = make().eval()
    image = pictures(2, 64, 96)
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        one = model.token_mask(CAPTIONS, "lesion")
        maps = {
            name: model.explanation_maps(image, text, words)
            for name, words in (("all", text.mask), ("one", one), ("rest", text.mask & ~one))
        }
    assert set(maps["all"]) == {f"stage{i}.attention" for i in (2, 3, 4)}
    for i in (2, 3, 4):
        name = f"stage{i}.attention"
        assert maps["all"][name].shape == (2, 64 // 2 ** (i + 1), 96 // 2 ** (i + 1))
        torch.testing.assert_close(maps["all"][name], torch.ones_like(maps["all"][name]))
        torch.testing.assert_close(maps["one"][name] + maps["rest"][name], maps["all"][name])
        assert maps["one"][name].min() > 0
        assert maps["one"][name].max() < 1


def test_a_mixture_of_one_token_alone_gives_that_token_its_attention() -> None:
    """The map of a word is then torch's own attention weight of its mixture, mean over heads."""
    model = make().eval()
    guide, kept = model.decoder.guides[0], []
    with torch.no_grad():
        guide.words.mix.weight.zero_()
        guide.words.mix.weight[:4].fill_diagonal_(1.0)  # mixture i is token i,
        guide.words.mix.weight[4:, 0] = 1.0  # and the rest the first
        guide.cross_attention.register_forward_pre_hook(lambda _, inputs: kept.append(inputs))
        text = model.encode_text(CAPTIONS)
        word = torch.zeros_like(text.mask)
        word[:, 2] = True
        found = model.explanation_maps(pictures(2), text, word)["stage4.attention"]
        query, key, value = (x.double() for x in kept[0])
        _, weights = torchs(guide.cross_attention.double(), 4)(query, key, value)
    torch.testing.assert_close(found.flatten(1).double(), weights[..., 2], rtol=1e-4, atol=1e-6)
