"""LViT whole: the shared promises, its parts by numpy, where tokens and words go, and its cost."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.contract import NetworkContract, TextGuidedContract
from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.models.tiny import tiny
from tests.tiny_run import call, write_experiment
from textseg.batch import TextFeatures
from textseg.benchmark.cost import count_gflops
from textseg.encoders import TextEncoderBase, masked_mean
from textseg.errors import UserError
from textseg.models import LViT
from textseg.models.lvit import (
    GRID,
    PatchEmbedding,
    PixelLevelAttention,
    TokenConv,
    TransformerBlock,
    WordsToTokens,
)

make = partial(tiny, "LViT")


class TestLViT(NetworkContract, TextGuidedContract):
    network_name = "LViT"
    learning_rate = 1e-3
    learning_encoder: ClassVar = {"width": 16}
    golden = ("lvit.txt", {"width": 64})
    variations: ClassVar = {"dropout": {"dropout": 0.1}}
    bad_settings: ClassVar = {
        "no whole heads": ({"width": 12}, "width=12", "8"),
        "no width": ({"width": 0}, "width=0"),
        "all dropped": ({"dropout": 1.0}, "dropout=1.0"),
        "a norm of its stages": ({"stage_norm": True}, "stage_norm=True", "LViTEncoder"),
        "too few tokens": ({"max_tokens": 2}, "max_tokens=2"),
    }


# --- the paper's parts, by numpy


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """The parameters and buffers of a module, randomized, in double precision."""
    generator = torch.Generator().manual_seed(2)
    module.double().eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(noise.abs() + 0.5 if "running_var" in name else 0.3 * noise)
    return {name: value.numpy() for name, value in module.state_dict().items()}


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x [C, N] and weight [C', C, 3] -> [C', N], zeros beyond the ends."""
    padded = np.pad(x, ((0, 0), (1, 1)))
    return sum(weight[:, :, k] @ padded[:, k : k + x.shape[1]] for k in range(3))


def norm_relu(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """x [C, N] through the batch norm in eval, and ReLU."""
    mean, variance, weight, bias = (
        p[f"norm.{k}"][:, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    centered = x - x.mean(1, keepdims=True)
    spread = np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
    return centered / spread * p[f"{name}.weight"] + p[f"{name}.bias"]


def test_a_block_is_attention_of_eight_heads_and_an_mlp_with_two_gelus() -> None:
    block = TransformerBlock(16, dropout=0.1)
    p, x = arrays(block), random(1, 5, 16)
    z = x[0].numpy()
    q, k, v = np.split(layer_norm(z, p, "norm1") @ p["qkv.weight"].T + p["qkv.bias"], 3, axis=1)
    heads = []
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(2))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
    z = z + np.concatenate(heads, 1) @ p["proj.weight"].T + p["proj.bias"]
    hidden = gelu(layer_norm(z, p, "norm2") @ p["mlp.0.weight"].T + p["mlp.0.bias"])
    expected = z + gelu(hidden @ p["mlp.3.weight"].T + p["mlp.3.bias"])
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_tokens_are_convolved_along_the_sequence() -> None:
    conv = TokenConv(6, 3)
    p, x = arrays(conv), random(1, 7, 6)
    expected = norm_relu(convolve(x[0].numpy().T, p["conv.weight"]), p).T
    np.testing.assert_allclose(conv(x)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_factor_of_a_pixel_is_an_mlp_of_mean_maximum_and_their_sum() -> None:
    attention = PixelLevelAttention(4)
    p, x = arrays(attention), random(1, 4, 3, 5)
    flat = x[0].flatten(1).numpy()
    mean = np.maximum(p["to_mean.weight"][:, :, 0, 0] @ flat, 0).mean(0)
    maximum = np.maximum(p["to_maximum.weight"][:, :, 0, 0] @ flat, 0).max(0)
    hidden = p["mlp.0.weight"][:, :, 0, 0] @ np.stack([mean, maximum, mean + maximum])
    hidden = np.maximum(hidden + p["mlp.0.bias"][:, None], 0)
    factor = p["mlp.2.weight"][:, :, 0, 0] @ hidden + p["mlp.2.bias"][:, None]
    found = attention(x)[0].flatten(1).detach().numpy()
    np.testing.assert_allclose(found, factor * flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("real", [1, 3, 6])
def test_words_are_convolved_to_what_is_added_to_the_tokens(real: int) -> None:
    """Only the real words by numpy, however many there are: what is beyond them is nothing."""
    layer = WordsToTokens(10, (8, 4, 2), max_tokens=6)
    p, words = arrays(layer), random(1, 6, 10)
    x = words[0, :real].numpy().T  # [D, real]
    for i in range(3):
        x = convolve(x, p[f"chain.{i}.weight"]) + p[f"chain.{i}.bias"][:, None]
    x = np.pad(x, ((0, 0), (0, 6 - real))).T  # [6, 2]
    expected = norm_relu(convolve(x, p["conv.weight"]), p)  # [196, 2]
    mask = (torch.arange(6) < real)[None]
    found = layer(words, mask, (GRID, GRID))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_words_beyond_max_tokens_are_not_read() -> None:
    layer = WordsToTokens(10, (4, 2), max_tokens=4)
    arrays(layer)
    words, mask = random(1, 7, 10), torch.ones(1, 7, dtype=torch.bool)
    changed = words.clone()
    changed[:, 6] = 9.0  # two steps of the chain beyond the last that is read
    before, after = (layer(w, mask, (2, 2)) for w in (words, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1, 2])
def test_patches_get_the_position_embedding_of_224_or_a_bilinear_one(factor: int) -> None:
    """Twice as fine, a new position lies a quarter of a step from the nearest learned one."""
    embed = PatchEmbedding(2, patch=2, dropout=0.1)
    p = arrays(embed)
    side = factor * GRID
    x = random(1, 2, 2 * side, 2 * side)
    cut = x[0].numpy().reshape(2, side, 2, side, 2)  # [C, row, in it, column, in it]
    patches = np.einsum("ocij,crisj->ors", p["patches.weight"], cut)
    table = p["positions"][0]
    if factor == 2:
        for axis in (1, 2):
            near, size = np.repeat(table, 2, axis), table.shape[axis]
            before = np.maximum(np.arange(size) - 1, 0)
            after = np.minimum(np.arange(size) + 1, size - 1)
            other = np.stack([before, after], 1).flatten()  # of each half position
            table = 0.75 * near + 0.25 * np.take(table, other, axis)
    expected = patches + p["patches.bias"][:, None, None] + table
    found = embed(x)[0].T.detach().numpy().reshape(2, side, side)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_position_embeddings_do_not_decay() -> None:
    model = make()
    groups = model.parameter_groups(lr=1.0, weight_decay=0.1, pretrained_lr_scale=0.1)
    still = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    matrices = [n for n, p in model.named_parameters() if p.ndim >= 2 and id(p) in still]
    assert matrices == [f"image_encoder.embed.{i}.positions" for i in range(4)]


# --- where maps and tokens go


def upsampled(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def test_tokens_go_down_by_concatenation_up_by_addition_and_back_into_the_maps() -> None:
    """Every module's inputs and results in one forward, put together by hand."""
    model = make().eval()
    encoder = model.image_encoder
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        module.register_forward_hook(lambda m, inputs, result: seen.update({m: (inputs, result)}))
    with torch.no_grad():
        model(pictures(2, 64, 96), CAPTIONS)

    def read(module: nn.Module) -> Any:
        return seen[module][0][0]

    def gave(module: nn.Module) -> Any:
        return seen[module][1]

    maps = [gave(encoder.stem), *map(gave, encoder.down)]
    assert [read(embed) is x for embed, x in zip(encoder.embed, maps[:4], strict=True)] == [
        True
    ] * 4
    assert torch.equal(read(encoder.down_blocks[0]), gave(encoder.embed[0]) + gave(encoder.words))
    y = [gave(encoder.down_blocks[0])]
    for i in (1, 2, 3):
        assert read(encoder.down_blocks[i]) is gave(encoder.embed[i]), "words enter the first alone"
        y.append(torch.cat([gave(encoder.down_convs[i - 1]), y[-1]], dim=2))
        assert read(encoder.down_convs[i - 1]) is gave(encoder.down_blocks[i])
    for i in range(4):
        assert torch.equal(read(encoder.up_blocks[i]), y[i])
    y = [gave(block) for block in encoder.up_blocks]
    for i in (2, 1, 0):
        assert torch.equal(read(encoder.up_convs[i]), y[i + 1])
        y[i] = y[i] + gave(encoder.up_convs[i])
    x = maps[4]
    for i, step in zip((3, 2, 1, 0), model.decoder, strict=True):
        tokens = read(encoder.to_maps[i]).flatten(2).transpose(1, 2)
        assert torch.equal(tokens, y[i])
        added = upsampled(gave(encoder.to_maps[i]), 16 >> i)
        assert torch.equal(seen[step][0][1], maps[i] + added)
        assert torch.equal(read(step), x)
        both = torch.cat([gave(step.attention), upsampled(x, 2)], dim=1)
        assert torch.equal(read(step.convolutions), both)
        x = gave(step)
    assert torch.equal(read(model.head), x)


def test_a_map_before_the_upsampling_is_one_behind_it() -> None:
    layer = make().image_encoder.to_maps[0].double().train()
    tokens = random(2, 8, 3, 4)
    before, behind = upsampled(layer(tokens), 16), layer(upsampled(tokens, 16))
    torch.testing.assert_close(before, behind)


# --- cost


class PublishedWords(TextEncoderBase):
    """Stands in for BERT, which is counted apart."""

    dim = 768

    def forward(self, text: Any) -> TextFeatures:
        tokens = torch.ones(len(text), 10, self.dim)
        mask = torch.ones(len(text), 10, dtype=torch.bool)
        return TextFeatures(tokens, mask, masked_mean(tokens, mask))

    def word_mask(self, text: Any, word: str | None) -> Tensor:
        return self(text).mask


def never_run() -> int:
    """Parameters that the public code makes and its forward never reads, by its shapes."""
    count = 0
    for width, patch in ((64, 16), (128, 8), (256, 4), (512, 2)):
        embedding = width * width * patch**2 + width + 196 * width
        halving = 3 * width * (width // 2) + 3 * (width // 2)  # weight; bias and norm
        rising = 3 * 2 * width * width + 3 * width
        of_words = 3 * 10 * 196 + 3 * 196
        norm_and_classifier = 2 * width + width + 1
        count += embedding  # of the upward blocks, which read tokens
        count += halving * (2 if width == 64 else 1)  # going up; the finest going down too
        count += rising * (2 if width == 512 else 1)  # going down; the coarsest going up too
        count += of_words * (1 if width == 64 else 2)  # of all blocks but the first
        count += 2 * norm_and_classifier  # of each block
        attention = 2 * width**2 + (3 * 6 + 6) + (6 + 1)
        spare = width**2 + width  # a third map of pixel-level attention
        count += attention + 2 * spare  # a second pixel-level attention for each scale
    return count


def test_parameters_and_gflops_are_the_public_codes_without_what_never_runs() -> None:
    """39.93 M and 54.2 GFLOPs at 224 x 224 without BERT were measured on the public code."""
    with torch.device("meta"):  # no memory, and no arithmetic
        model = LViT(PublishedWords, max_tokens=10).eval()  # type: ignore[arg-type]
        text = model.encode_text([""])
        image = torch.empty(1, 3, 224, 224)
        gflops = count_gflops(lambda: model.forward_features(image, text))
    ours = sum(p.numel() for p in model.parameters())
    assert ours + never_run() == pytest.approx(39.93e6, rel=1e-3)
    assert gflops == pytest.approx(54.2, rel=0.05)


# --- sizes


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (96, 160), (16, 48)])
def test_multiples_of_sixteen_are_taken(size: tuple[int, int]) -> None:
    model = make().eval()
    with torch.no_grad():
        logits = model(pictures(1, *size), CAPTIONS[:1]).logits
    assert logits.shape == (1, 1, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [(64, 72), (100, 100), (8, 64)])
def test_a_size_it_cannot_take_is_a_user_error_that_names_it(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}(.|\n)*data\.image_size(.|\n)*16"):
        make().eval()(pictures(1, *size), CAPTIONS[:1])


# --- settings


def test_only_a_pretrained_text_encoder_learns_more_slowly(tmp_path: Path) -> None:
    write_bert(tmp_path)
    published: dict[str, Any] = {"text_encoder": str(tmp_path), "pretrained": True}
    assert make(**published).text_encoder.frozen
    tuned = make(**published, freeze_text=False)
    groups = tuned.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    assert slow == {id(p) for p in tuned.text_encoder.parameters()}


@pytest.mark.parametrize("setting", ["image_weights", "image_encoder"])
def test_an_image_encoder_of_anothers_is_refused_by_name(setting: str, tmp_path: Path) -> None:
    model = {"class_path": "LViT", "init_args": {"text_encoder": "scratch", setting: "w.pth"}}
    write_experiment(tmp_path, model=model)
    outcome = call("fit", "--config", "tiny.yaml", cwd=tmp_path)
    assert outcome.status == 2
    assert setting in outcome.message()[0]


# --- explanations


def test_the_words_map_is_what_the_chosen_words_add_and_empty_without_any() -> None:
    model = make().eval()
    image = pictures(2, 64, 96)
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        one = model.token_mask(CAPTIONS, "lesion")
        chosen, none = (
            model.explanation_maps(image, text, words)["stage1.words"]
            for words in (one, torch.zeros_like(one))
        )
        without = text._replace(mask=text.mask & ~one)
        added = [model.image_encoder.words(t.tokens, t.mask, (4, 6)) for t in (text, without)]
    assert chosen.shape == (2, 4, 6)
    assert chosen.max() > 0
    assert not none.any()
    expected = np.abs(added[0].numpy() - added[1].numpy()).mean(2).reshape(2, 4, 6)
    np.testing.assert_allclose(chosen.numpy(), expected, rtol=1e-6)


def test_the_gates_are_what_skips_are_multiplied_by() -> None:
    model = make().eval()
    passed: list[tuple[Tensor, Tensor]] = []
    for step in model.decoder:
        step.attention.register_forward_hook(lambda m, x, result: passed.append((x[0], result)))
    with torch.no_grad():
        text = model.encode_text(CAPTIONS[:1])
        maps = model.explanation_maps(pictures(1), text, text.mask)
    assert list(maps) == ["stage1.words", *(f"stage{i}.gate" for i in range(1, 5))]
    for i, (skip, result) in zip((4, 3, 2, 1), passed, strict=True):
        gate = maps[f"stage{i}.gate"]
        assert gate.shape == (1, 64 >> (i - 1), 64 >> (i - 1))
        torch.testing.assert_close(gate[:, None] * skip, result)
