"""TMC: the shared promises, MCM and MA Loss against numpy, its settings, and that words steer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.models.contract import (
    NetworkContract,
    never_moved,
    train_three_steps,
    without_gradient,
)
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    write_bert,
)
from textseg.batch import Batch, SegmentationOutput, TextFeatures, stable_id
from textseg.encoders import NoText, masked_mean
from textseg.errors import UserError
from textseg.explain import recorded, to_picture
from textseg.losses import caption_matches
from textseg.models.tmc import (
    TMC,
    EntryCondition,
    MultiStageCrossAttention,
    StageCrossAttention,
    info_nce_halves,
)

TINY_SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
NO_TEXT: dict[str, Any] = {"mcm_stages": (), "alignment": "none"}


def make(**settings: Any) -> TMC:
    defaults: dict[str, Any] = {
        "image_encoder": "swin_tiny_patch4_window7_224",
        "image_encoder_options": TINY_SWIN,
        "text_encoder": "scratch",
        "pretrained": False,
        "max_tokens": 16,
    }
    torch.manual_seed(0)
    model = TMC(**{**defaults, **settings})
    model.on_captions(CAPTIONS, training=True)
    return model


class TestTMC(NetworkContract):
    def make(self, **settings: Any) -> TMC:
        return make(**settings)


VARIATIONS: dict[str, dict[str, Any]] = {
    "no text": NO_TEXT,
    "MCM only": {"alignment": "none"},
    "MA Loss only": {"mcm_stages": (), "alignment_stages": (1, 2, 3, 4)},
    "MA Loss only, by pixel": {
        "mcm_stages": (),
        "alignment": "pixel",
        "alignment_stages": (1, 2, 3, 4),
    },
    "pixel": {"alignment": "pixel"},
    "stage 4": {"mcm_stages": (4,)},
    "stages 3 and 4": {"mcm_stages": (3, 4)},
    "stages 2 to 4, gates closed": {"mcm_stages": (2, 3, 4), "gate": 0.0},
    "stages 1 and 2": {"mcm_stages": (1, 2)},
    "stages in any order": {"mcm_stages": (3, 1)},
    "other stages aligned": {"mcm_stages": (1, 4), "alignment_stages": (2, 3)},
    "no stage aligned": {"alignment_stages": ()},
    "all, gates closed": {"gate": 0.0},
    "a ConvNeXt": {"image_encoder": "test_convnext", "image_encoder_options": None},
}


@pytest.mark.parametrize("settings", VARIATIONS.values(), ids=VARIATIONS)
def test_every_variation_trains_all_of_its_parameters(settings: dict[str, Any]) -> None:
    model = make(**settings)
    with torch.no_grad():
        assert model.eval()(pictures(1, 64, 96), CAPTIONS[:1]).logits.shape == (1, 1, 64, 96)
    steps = train_three_steps(model, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=TestTMC.gradient_free) == []


def test_lists_as_yaml_gives_them_build_the_network_of_tuples() -> None:
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in TINY_SWIN.items()}
    one = make(mcm_stages=(2, 4), alignment_stages=(1,)).state_dict()
    other = make(mcm_stages=[2, 4], alignment_stages=[1], image_encoder_options=lists).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[k], other[k]) for k in one if isinstance(one[k], Tensor))


def test_the_default_encoder_has_the_channels_and_strides_of_swin_tiny() -> None:
    model = make(image_encoder_options=None)
    assert model.image_encoder.channels == (96, 192, 384, 768)
    assert model.image_encoder.strides == (4, 8, 16, 32)
    assert [block.words_ask.heads for block in model.mcm.blocks.values()] == [3, 6, 12, 24]


# --- MCM


def words(count: int, dim: int, *, length: int = 5, real: int = 3, seed: int = 0) -> TextFeatures:
    tokens = torch.randn(count, length, dim, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length) < real).expand(count, length)
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def randomised(module: nn.Module, seed: int = 3) -> nn.Module:
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
        self, vision: np.ndarray, said: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V [C, H, W] and the real words' L [L, C] -> F_V, F_L, and the words' places [L, H, W]."""
        C, H, W = vision.shape
        seen = vision.reshape(C, -1).T
        v, l_ = self.norm("norm_vision", seen), self.norm("norm_words", said)
        placed = v + self.position_code(H, W, C)
        f_v = seen + self.p["g1"] * self.attention("vision_asks", placed, l_, l_)
        f_l = said + self.p["g2"] * self.attention("words_ask", l_, placed, v)
        places = np.mean(self.weights("words_ask", l_, placed), 0).reshape(-1, H, W)
        f_v = f_v + self.p["g3"] * self.ffn("vision_ffn", f_v)
        f_l = f_l + self.p["g4"] * self.ffn("words_ffn", f_l)
        return f_v.T.reshape(C, H, W), f_l, places


@pytest.mark.parametrize("size", [(7, 5), (1, 3), (8, 8)])
def test_the_cross_attention_of_a_stage_equals_numpy(size: tuple[int, int]) -> None:
    block = randomised(StageCrossAttention(64, gate=0.1))
    vision, text = pictures(2, *size).repeat(1, 22, 1, 1)[:, :64].double(), words(2, 64)
    vision = vision + torch.randn(vision.shape, generator=torch.Generator().manual_seed(1))
    said = text.tokens.double()
    with torch.no_grad():
        F_V, F_L = block(vision, said, text.mask)
        places = block.places_of_words(vision, said, text.mask).mean(1)
    real = int(text.mask[0].sum())
    for row in range(2):
        expected = NumpyStage(block)(vision[row].numpy(), said[row, :real].numpy())
        found = (F_V[row], F_L[row, :real], places[row, :real])
        for tensor, array in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                tensor.numpy(), array, rtol=1e-4, atol=2e-5
            )  # the code is fp32


def test_the_entry_condition_scales_and_shifts_by_the_mean_of_the_real_words() -> None:
    condition = randomised(EntryCondition(6, 4, gate=0.1))
    entry, text = torch.rand(1, 4, 2, 3).double(), words(1, 6)
    with torch.no_grad():
        out = condition(entry, text.tokens.double(), text.mask)[0].numpy()
    mean = text.tokens[0, :3].double().numpy().mean(0)
    weight, bias = (p.detach().numpy() for p in condition.scale_and_shift.parameters())
    scale, shift = np.split(weight @ mean + bias, 2)
    gate = condition.gate.detach().numpy()
    expected = entry[0].numpy() * (1 + gate * scale)[:, None, None]
    np.testing.assert_allclose(out, expected + (gate * shift)[:, None, None], rtol=1e-6)


def test_the_words_of_a_stage_are_those_of_the_stage_before_plus_what_they_learnt() -> None:
    model = make(mcm_stages=(1, 3, 4)).eval()
    assert isinstance(model.mcm, MultiStageCrossAttention)
    assert set(model.mcm.carry) == {"1", "3"}, "behind the last stage nobody listens"
    with torch.no_grad(), recorded(dict(model.mcm.blocks.items())) as calls:
        text = model.encode_text(CAPTIONS)
        model.forward_features(pictures(2), text)
        tokens = text.tokens
        for stage in ("1", "3", "4"):
            projected = model.words[stage](tokens)
            torch.testing.assert_close(calls[stage][1], projected)
            if stage != "4":
                learnt = model.mcm.blocks[stage](*calls[stage])[1]
                tokens = tokens + model.mcm.carry[stage](learnt)


def test_stages_that_are_not_selected_reach_the_decoder_as_they_are() -> None:
    model = make(mcm_stages=(2,)).eval()
    with torch.no_grad(), recorded({"decoder": model.decoder}) as calls:
        model(pictures(1), CAPTIONS[:1])
        plain = model.encode_image(pictures(1))
    same = [torch.equal(a, b) for a, b in zip(calls["decoder"][0], plain, strict=True)]
    assert same == [True, False, True, False], "the words condition the entry at stage 4"


def test_with_closed_gates_the_decoder_sees_the_plain_pyramid() -> None:
    model = make(gate=0.0).eval()
    with torch.no_grad(), recorded({"decoder": model.decoder}) as calls:
        model(pictures(2, 64, 96), CAPTIONS)
        plain = model.encode_image(pictures(2, 64, 96))
    assert all(torch.equal(a, b) for a, b in zip(calls["decoder"][0], plain, strict=True))


def test_gates_start_closed_over_a_pretrained_image_encoder_only(
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

    assert gates(pretrained=True, text_encoder=str(tmp_path)) == {0.0}
    assert gates(pretrained=True, text_encoder=str(tmp_path), gate=0.2) == {0.2}
    assert gates(pretrained=False) == {0.1}


def test_permuting_the_batch_permutes_the_masks() -> None:
    model = make().eval()
    image, text, order = pictures(4), [*CAPTIONS, "lesion", "small lesion right"], [2, 0, 3, 1]
    with torch.no_grad():
        straight = model(image, text).logits
        permuted = model(image[order], [text[i] for i in order]).logits
    torch.testing.assert_close(permuted, straight[order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(permuted, straight, rtol=1e-4, atol=1e-5)


# --- what is built


def test_without_text_no_text_encoder_is_built_and_words_change_nothing() -> None:
    model = make(**NO_TEXT).eval()
    assert isinstance(model.text_encoder, NoText)
    names = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert names == {"image_encoder", "decoder", "head"}
    with torch.no_grad():
        first, second = (model(pictures(1), [text]).logits for text in CAPTIONS)
    assert torch.equal(first, second)


def test_ma_loss_alone_trains_the_words_and_leaves_the_mask_to_the_image() -> None:
    model = make(mcm_stages=(), alignment_stages=(1, 2, 3, 4)).eval()
    outputs = [model(pictures(2), [text] * 2) for text in CAPTIONS]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    losses = model.compute_loss(model(pictures(2), CAPTIONS), make_batch())
    losses["loss"].backward()
    gradients = [p.grad for p in model.text_encoder.parameters()]
    assert all(g is not None for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients if g is not None)


@pytest.mark.parametrize(
    "settings", [{"alignment": "none"}, {"alignment_weight": 0.0}, {"alignment_stages": ()}]
)
def test_an_alignment_without_weight_builds_no_parameters_and_no_term(
    settings: dict[str, Any],
) -> None:
    with_it, without = make(), make(**settings)
    kept = {n for n, _ in with_it.named_parameters() if not n.startswith("alignment.")}
    assert {n for n, _ in without.named_parameters()} == kept
    output = without(pictures(2), CAPTIONS)
    assert output.aux == {}
    assert set(without.compute_loss(output, make_batch())) == {"loss", "loss_dice", "loss_bce"}


# --- MA Loss


def make_ids(captions: list[int], images: list[int]) -> dict[str, Tensor]:
    return {"caption_id": torch.tensor(captions), "image_id": torch.tensor(images)}


def numpy_half(scores: np.ndarray, captions: list[int], images: list[int]) -> float:
    """Row by row: positives share the caption; a row of the same image alone is left out."""
    total = 0.0
    for i in range(len(scores)):
        same = [j for j in range(len(scores)) if captions[j] == captions[i]]
        others = [j for j in range(len(scores)) if j not in same and images[j] != images[i]]
        partition = sum(math.exp(scores[i, j]) for j in same + others)
        total -= sum(math.log(math.exp(scores[i, j]) / partition) for j in same) / len(same)
    return total / len(scores)


def numpy_embedding(x: np.ndarray, linear: nn.Linear) -> np.ndarray:
    z = x @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.parametrize("weight", [0.1, 2.0])
@pytest.mark.parametrize(
    ("captions", "images"),
    [([1, 2, 3, 4], [1, 2, 3, 4]), ([7, 7, 8, 9], [1, 2, 3, 3]), ([7, 7, 7, 9], [1, 1, 2, 2])],
)
def test_infonce_equals_numpy_from_the_features_on(
    captions: list[int], images: list[int], weight: float
) -> None:
    model = make(alignment_stages=(2, 4), alignment_weight=weight).eval()
    texts = [("lesion " * (caption - 1)) + "left" for caption in captions]
    batch: Batch = {**make_batch(4), **make_ids(captions, images)}  # type: ignore[typeddict-item]
    with torch.no_grad():
        losses = model.compute_loss(model(batch["image"], texts), batch)
        features, text = model.encode_image(batch["image"]), model.encode_text(texts)
    expected = {}
    for stage in (2, 4):
        projected = model.words[str(stage)](text.tokens).detach().double().numpy()
        real = [row[mask.numpy()].mean(0) for row, mask in zip(projected, text.mask, strict=True)]
        seen = features[stage - 1].double().numpy().mean((2, 3))
        v = numpy_embedding(seen, model.alignment.vision[str(stage)])
        t = numpy_embedding(np.stack(real), model.alignment.language[str(stage)])
        scores = v @ t.T / 0.07
        halves = [numpy_half(s, captions, images) for s in (scores, scores.T)]
        expected[f"loss_align_{stage}"] = sum(halves) / 2
        assert losses[f"loss_align_{stage}"].item() == pytest.approx(sum(halves) / 2, rel=1e-4)
    mean = sum(expected.values()) / 2
    assert losses["loss_align"].item() == pytest.approx(mean, rel=1e-4)
    segmentation = (losses["loss_dice"] + losses["loss_bce"]).item()
    assert losses["loss"].item() == pytest.approx(segmentation + weight * mean, rel=1e-4)


def test_one_caption_for_all_moves_images_only_by_the_half_of_the_text_and_only_together() -> None:
    B = 6
    generator = torch.Generator().manual_seed(0)
    vision = torch.randn(B, 8, generator=generator, dtype=torch.double).requires_grad_()
    text = torch.randn(1, 8, generator=generator, dtype=torch.double).repeat(B, 1)
    unit_text = nn.functional.normalize(text, dim=1)
    matches = caption_matches(torch.full((B,), 5), torch.arange(B))
    log_tau = torch.tensor(0.07).log()

    def halves(raw: Tensor) -> tuple[Tensor, Tensor]:
        return info_nce_halves(nn.functional.normalize(raw, dim=1), unit_text, log_tau, matches)

    to_text, to_image = halves(vision)
    assert to_text.item() == pytest.approx(math.log(B), rel=1e-6)
    assert to_image.item() > math.log(B)
    (still,) = torch.autograd.grad(to_text, vision, retain_graph=True)
    assert still.abs().max() < 1e-6
    (pull,) = torch.autograd.grad(to_image, vision)

    def spread(raw: Tensor) -> float:
        return (nn.functional.normalize(raw, dim=1) @ unit_text[0]).std().item()

    with torch.no_grad():
        assert spread(vision - 0.01 * pull) < spread(vision)
        together = vision[:1].repeat(B, 1)
        assert halves(together)[1].item() == pytest.approx(math.log(B), rel=1e-6)


def test_an_embedding_of_words_is_of_the_text_before_any_image_has_touched_it() -> None:
    model = make().eval()
    with torch.no_grad():
        first, second = (model(pictures(2, seed=s), CAPTIONS).aux for s in (0, 1))
    assert torch.equal(first["align_language"], second["align_language"])
    assert not torch.equal(first["align_vision"], second["align_vision"])


def test_embeddings_are_of_length_1_in_fp32_under_autocast() -> None:
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        aux = model(pictures(2), CAPTIONS).aux
    for name in ("align_vision", "align_language"):
        assert aux[name].dtype == torch.float32
        assert aux[name].shape == (2, 4, 256)
        torch.testing.assert_close(aux[name].norm(dim=-1), torch.ones(2, 4))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_pixel_form_equals_numpy_on_soft_masks() -> None:
    model = make(alignment="pixel", alignment_stages=(3,)).eval()
    with torch.no_grad():
        model.alignment.bias.fill_(-0.4)
    batch = make_batch(2, 64, 96)
    output = model(batch["image"], batch["text"])
    found = model.compute_loss(output, batch)["loss_align"].item()
    aux = {k: v.detach().double().numpy() for k, v in output.aux.items()}
    expected = 0.0
    for row in range(2):
        h, w = aux["align_pixel_3"].shape[2:]
        cells = batch["mask"][row, 0].double().numpy().reshape(h, 64 // h, w, 96 // w)
        m = cells.mean((1, 3)).ravel()
        assert ((m > 0) & (m < 1)).any(), "a soft weight must be among them"
        t, z = aux["align_language"][row, 0], aux["align_pixel_3"][row].reshape(256, -1)
        s = t @ z / np.linalg.norm(t) / np.linalg.norm(z, axis=0) / 0.07 - 0.4
        expected -= (m * np.log(sigmoid(s))).sum() / m.sum() / 4
        expected -= ((1 - m) * np.log(sigmoid(-s))).sum() / (1 - m).sum() / 4
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alignment", ["infonce", "pixel"])
def test_a_temperature_beyond_its_range_is_brought_back_in_the_fit_and_still_learns(
    alignment: str,
) -> None:
    model = make(alignment=alignment)
    with torch.no_grad():
        model.alignment.log_temperature.copy_(torch.tensor([5.0, -9.0, -1.0, 0.0]))
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(
        model, datamodule=BatchesInMemory([make_batch()])
    )
    temperature = model.alignment.log_temperature.exp()
    assert temperature[0].item() == pytest.approx(1.0)
    assert temperature[1].item() == pytest.approx(0.01)
    assert temperature[2].item() == pytest.approx(math.exp(-1), abs=1e-3)
    batch = make_batch()
    model.compute_loss(model(batch["image"], batch["text"]), batch)["loss"].backward()
    assert model.alignment.log_temperature.grad[0].abs() > 0


@pytest.mark.parametrize("alignment", ["infonce", "pixel"])
def test_a_batch_of_one_trains(alignment: str) -> None:
    model, batch = make(alignment=alignment).train(), make_batch(1)
    losses = model.compute_loss(model(batch["image"], batch["text"]), batch)
    losses["loss"].backward()
    quiet = [n for n, p in model.named_parameters() if p.grad is None]
    assert quiet == []
    assert torch.isfinite(losses["loss"])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_fit_logs_every_stage_their_mean_and_the_total() -> None:
    model = make(mcm_stages=(2, 4))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=BatchesInMemory([make_batch()]))
    terms = ("loss", "loss_dice", "loss_bce", "loss_align", "loss_align_2", "loss_align_4")
    for stage in ("train", "val"):
        assert {f"{stage}/{term}" for term in terms} <= set(trainer.callback_metrics)
    assert "val/loss_align_1" not in trainer.callback_metrics


# --- two processes


class LossOf(nn.Module):
    """What Lightning hands to DDP: a forward that ends in the loss."""

    def __init__(self, model: TMC) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        output: SegmentationOutput = self.model(batch["image"], batch["text"])
        return self.model.compute_loss(output, batch)["loss"]


def shared_batch() -> Batch:
    """Four rows; a caption is shared by the two processes, and so is an image."""
    texts = [CAPTIONS[0], "lesion left", CAPTIONS[0], "lesion in the lung"]
    batch = make_batch(4)
    batch["text"] = texts
    batch["caption_id"] = torch.tensor([stable_id(text) for text in texts])
    batch["image_id"] = torch.tensor([1, 2, 3, 2])
    return batch


def part(batch: Batch, rows: slice) -> Batch:
    return {k: v[rows] for k, v in batch.items()}  # type: ignore[return-value, index]


def aligned_model() -> TMC:
    """In eval, so that no batch norm sees a half; the alignment weighs as much as the mask."""
    return make(alignment_weight=1.0).double().eval()


def to_double(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].double(), "mask": batch["mask"].double()}


def gradients_of_one_process(batch: Batch) -> dict[str, Tensor]:
    model = aligned_model()
    LossOf(model)(to_double(batch)).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    """One of two processes: its half of the batch, and the gradient that DDP averages."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    model = aligned_model()
    half = part(shared_batch(), slice(2 * rank, 2 * rank + 2))
    wrapped = DistributedDataParallel(LossOf(model))  # its hooks live as long as it does
    wrapped(to_double(half)).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.save(gradients, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_average_to_the_gradient_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    whole = gradients_of_one_process(shared_batch())
    halves = [gradients_of_one_process(part(shared_batch(), s)) for s in (slice(2), slice(2, 4))]
    apart = {n: (halves[0][n] + halves[1][n]) / 2 for n in whole}
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(whole)
        for name, gradient in whole.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8, msg=name)
    name = "alignment.vision.1.weight"
    assert (apart[name] - whole[name]).norm() > 0.1 * whole[name].norm(), "halves alone differ"


# --- words steer


def two_squares() -> Batch:
    """One image with two bright squares, two captions, and the square that each caption names."""
    image, mask = 0.2 * pictures(1), torch.zeros(2, 1, 64, 64)
    mask[0, :, 8:24, 8:24] = 1
    mask[1, :, 36:56, 36:56] = 1
    image = (image + 0.5 * mask.sum(0)).repeat(2, 1, 1, 1)
    return {**make_batch(), "image": image, "mask": mask, "image_id": torch.zeros(2).long()}


def learn(model: TMC, batch: Batch, steps: int) -> TMC:
    groups = model.parameter_groups(lr=3e-3, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(steps):
        model.train().compute_loss(model(batch["image"], batch["text"]), batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("alignment", ["infonce", "pixel"])
def test_two_expressions_of_one_image_are_learnt_and_swapping_them_swaps_the_masks(
    alignment: str,
) -> None:
    batch = two_squares()
    model, mask = learn(make(alignment=alignment), batch, 80), batch["mask"]
    with torch.no_grad():
        straight = model(batch["image"], CAPTIONS).logits > 0
        swapped = model(batch["image"], CAPTIONS[::-1]).logits > 0
    for pred, truth in ((straight, mask), (swapped, mask.flip(0))):
        overlap = (pred & truth.bool()).sum((1, 2, 3)) / (pred | truth.bool()).sum((1, 2, 3))
        assert (overlap > 0.9).all()


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


def test_a_words_places_sum_to_1_before_they_are_stretched_and_words_are_averaged() -> None:
    model = make().eval()
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        each = [
            model.explanation_maps(pictures(2), text, model.select_words(CAPTIONS, word))
            for word in ("lesion", "in", "the")
        ]
        chosen = sum(model.select_words(CAPTIONS, word).int() for word in ("lesion", "in", "the"))
        together = model.explanation_maps(pictures(2), text, torch.as_tensor(chosen).bool())
    for i, side in enumerate((16, 8, 4, 2), 1):
        name = f"stage{i}.attention"
        assert together[name].shape == (2, side, side)
        torch.testing.assert_close(together[name].sum((1, 2)), torch.ones(2))
        torch.testing.assert_close(together[name], sum(maps[name] for maps in each) / 3)


def test_the_shown_attention_is_what_numpy_computes_from_what_the_block_read() -> None:
    model = make(mcm_stages=(3,)).double().eval()
    image = pictures(1).double()
    with torch.no_grad(), recorded(dict(model.mcm.blocks.items())) as calls:
        shown = model.explain(image, CAPTIONS[:1], "left")["stage3.attention"]
    vision, said, mask = (x[0] for x in calls["3"])
    block = NumpyStage(model.mcm.blocks["3"])
    places = block(vision.detach().numpy(), said[mask].detach().numpy())[2]
    chosen = model.select_words(CAPTIONS[:1], "left")[0][mask].numpy()
    raw = torch.from_numpy(places[chosen].mean(0))[None]
    torch.testing.assert_close(shown, to_picture(raw, (64, 64)), rtol=1e-4, atol=1e-4)


def test_without_cross_attention_only_the_saliency_explains() -> None:
    assert set(make(**NO_TEXT).explain(pictures(1), CAPTIONS[:1])) == {"saliency"}


# --- settings


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "stage 5": ({"mcm_stages": (2, 5)}, r"mcm_stages=\[2, 5\]"),
    "stage 0": ({"mcm_stages": (0,)}, r"mcm_stages=\[0\]"),
    "stage twice": ({"mcm_stages": (2, 2)}, r"mcm_stages=\[2, 2\]"),
    "aligned stage 5": ({"alignment_stages": (5,)}, r"alignment_stages=\[5\]"),
    "unknown alignment": ({"alignment": "clip"}, "alignment='clip'"),
    "negative weight": ({"alignment_weight": -0.1}, r"alignment_weight=-0\.1"),
    "alignment without stages": ({"mcm_stages": ()}, "alignment_stages"),
    "five stages": (
        {"image_encoder": "resnet10t", "image_encoder_options": None},
        "image_encoder='resnet10t' has 5 stages",
    ),
    "widths without a position code": (
        {"image_encoder_options": {**TINY_SWIN, "embed_dim": 6, "num_heads": (1, 1, 1, 1)}},
        r"widths \[6, 12, 24, 48\]",
    ),
    "unknown encoder": ({"image_encoder": "swin_huge"}, "swin_huge"),
    "warm-up of all steps": ({"warmup": 1.0}, r"warmup=1\.0"),
}


@pytest.mark.parametrize(("settings", "named"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_a_user_error_that_names_it(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**settings)


def test_the_remedy_for_an_encoder_of_five_stages_works() -> None:
    model = make(image_encoder="resnet10t", image_encoder_options={"out_indices": [1, 2, 3, 4]})
    with torch.no_grad():
        assert model.eval()(pictures(1), CAPTIONS[:1]).logits.shape == (1, 1, 64, 64)


def test_beside_a_frozen_text_encoder_every_parameter_is_trained(tmp_path: Path) -> None:
    write_bert(tmp_path)
    frozen = make(text_encoder=str(tmp_path), freeze_text=True)
    assert not any(p.requires_grad for p in frozen.text_encoder.parameters())
    steps = train_three_steps(frozen, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=()) == []
