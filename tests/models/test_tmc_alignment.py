"""MA Loss against numpy, what it moves, and that two processes share it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.forked import start
from tests.models.stand_ins import CAPTIONS, BatchesInMemory, make_batch, pictures, quiet_trainer
from tests.models.tiny import tiny
from textseg.batch import Batch, SegmentationOutput, stable_id
from textseg.encoders import masked_mean
from textseg.explain import record_inputs
from textseg.losses import contrastive_targets
from textseg.models.tmc.alignment import info_nce, pooled_lesion
from textseg.models.tmc.network import STAGES, TMC

make = partial(tiny, "TMC")

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


def numpy_linear(x: np.ndarray, linear: nn.Linear) -> np.ndarray:
    y = x @ linear.weight.detach().double().numpy().T
    return y if linear.bias is None else y + linear.bias.detach().double().numpy()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def numpy_code(height: int, width: int, dim: int = 64) -> np.ndarray:
    """[height, width, dim]: sine and cosine of both coordinates, which run over (0, 1)."""
    bands = dim // 4
    code = np.zeros((height, width, dim))
    for y in range(height):
        for x in range(width):
            for band in range(bands):
                frequency = math.pi * 2 ** (band / (bands / 6))
                angles = [(c + 0.5) / n * frequency for c, n in ((y, height), (x, width))]
                waves = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
                code[y, x, band::bands] = waves
    return code


def numpy_cells(x: np.ndarray, side: int) -> np.ndarray:
    """[C, H, W] averaged over cells of `side` positions a side."""
    C, H, W = x.shape
    return x.reshape(C, H // side, side, W // side, side).mean((2, 4))


def numpy_points(feature: np.ndarray, model: TMC, stage: str) -> np.ndarray:
    """z [n, 256] of one image, of length 1."""
    C, H, W = feature.shape
    cells = feature.reshape(C, -1).T
    normed = (cells - cells.mean(1, keepdims=True)) / np.sqrt(cells.var(1, keepdims=True) + 1e-5)
    z = numpy_linear(normed, model.alignment.project_image[stage])
    place = model.alignment.position_embedding[stage]
    z = z + numpy_linear(numpy_code(H, W).reshape(H * W, -1), place)
    return np.stack([unit(row) for row in z])


def numpy_lesion(points: np.ndarray, mask: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Mean of the points [n, 256], weighted by the share of each cell that is lesion."""
    share = numpy_cells(mask[None], mask.shape[0] // cells[0]).reshape(-1)
    return unit(share @ points / share.sum())


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
    for stage in ("2", "4"):
        projected = model.text_projection[stage](text.tokens).detach().double().numpy()
        real = [row[mask.numpy()].mean(0) for row, mask in zip(projected, text.mask, strict=True)]
        words = [unit(numpy_linear(row, model.alignment.project_text[stage])) for row in real]
        maps = features[int(stage) - 1].double().numpy()
        masks = batch["mask"][:, 0].double().numpy()
        lesions = [
            numpy_lesion(numpy_points(one, model, stage), mask, one.shape[1:])
            for one, mask in zip(maps, masks, strict=True)
        ]
        scores = np.stack(lesions) @ np.stack(words).T / 0.07
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
    targets = contrastive_targets(torch.full((B,), 5), torch.arange(B))
    log_tau = torch.tensor(0.07).log()

    def halves(raw: Tensor) -> tuple[Tensor, Tensor]:
        return info_nce(nn.functional.normalize(raw, dim=1), unit_text, log_tau, targets)

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


@pytest.mark.parametrize(("size", "cells"), [((224, 224), (14, 14)), ((128, 192), (8, 12))])
def test_infonce_compares_cells_of_no_more_than_a_14th_of_a_side(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    model = make(alignment_stages=(1,)).eval()
    with torch.no_grad():
        feature = model.encode_image(pictures(1, *size))[0]
        found = model(pictures(1, *size), CAPTIONS[:1]).aux["align_pixels_1"]
    side = feature.shape[-1] // cells[1]
    maps = numpy_cells(feature[0].double().numpy(), side)
    assert found.shape[-2:] == maps.shape[-2:] == cells
    z = nn.functional.normalize(found[0].double().flatten(1), dim=0).T
    np.testing.assert_allclose(z.numpy(), numpy_points(maps, model, "1"), rtol=1e-3, atol=1e-5)


def test_rows_with_an_empty_mask_are_left_out_and_a_batch_of_them_is_connected_and_finite() -> None:
    model = make(alignment_stages=(3,)).eval()
    batch = make_batch(4)
    batch["mask"][2:] = 0
    batch["caption_id"] = torch.arange(4)

    def loss(rows: slice) -> Tensor:
        aux = model(batch["image"][rows], batch["text"][rows]).aux
        return model.alignment.losses(aux, part(batch, rows))["loss_align_3"]

    torch.testing.assert_close(loss(slice(4)), loss(slice(2)))
    empty = loss(slice(2, 4))
    assert empty.item() == 0
    empty.backward()
    grads = [p.grad for p in model.alignment.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("alignment", ["infonce", "pixel"])
def test_only_with_the_position_code_do_equal_features_differ_by_place(alignment: str) -> None:
    for position in (True, False):
        model = make(alignment=alignment, alignment_position=position)
        words = torch.randn(1, 3, 96), torch.ones(1, 3, dtype=torch.bool)
        aux = model.alignment(3, torch.ones(1, 96, 2, 4), *words)
        rows = aux["align_pixels_3"][0].flatten(1).T  # [8, 256]
        gaps = torch.cdist(rows, rows) + 9 * torch.eye(8)
        assert (gaps.min() > 1e-2) == position


@pytest.mark.parametrize("text", ["input", "stage"])
def test_only_the_text_of_a_stage_has_seen_the_image(text: str) -> None:
    model = make(alignment_text=text).eval()
    with torch.no_grad():
        first, second = (model(pictures(2, seed=s), CAPTIONS).aux for s in (0, 1))
    seen = [not torch.equal(first[f"align_text_{i}"], second[f"align_text_{i}"]) for i in STAGES]
    assert seen == [False] + [text == "stage"] * 3
    assert not torch.equal(first["align_pixels_1"], second["align_pixels_1"])


def test_the_text_of_a_stage_is_what_enters_its_block_and_does_not_teach_the_blocks() -> None:
    model = make(alignment_text="stage", mcm_stages=(1, 3), alignment_stages=(1, 2, 3)).eval()
    with record_inputs(dict(model.mcm.blocks.items())) as calls:
        output = model(pictures(2), CAPTIONS)
    mask = model.encode_text(CAPTIONS).mask
    for stage in ("1", "3"):
        expected = model.alignment.project_text[stage](masked_mean(calls[stage][1], mask))
        torch.testing.assert_close(output.aux[f"align_text_{stage}"], expected)
    sum(model.alignment.losses(output.aux, make_batch()).values()).backward()
    assert all(p.grad is None for p in model.mcm.parameters())
    words = next(p for n, p in model.text_encoder.named_parameters() if "word_emb" in n)
    assert words.grad is not None


def test_a_pooled_lesion_is_of_length_1_in_fp32_under_autocast() -> None:
    pixels, mask = torch.randn(2, 256, 4, 4), make_batch()["mask"]
    exact = pooled_lesion(pixels, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pooled_lesion(pixels, mask), exact)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact.norm(dim=1), torch.ones(2))


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
        h, w = aux["align_pixels_3"].shape[2:]
        cells = batch["mask"][row, 0].double().numpy().reshape(h, 64 // h, w, 96 // w)
        m = cells.mean((1, 3)).ravel()
        assert ((m > 0) & (m < 1)).any(), "a soft weight must be among them"
        t, z = aux["align_text_3"][row], aux["align_pixels_3"][row].reshape(256, -1)
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
    processes = [start(work, rank, str(tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    whole = gradients_of_one_process(shared_batch())
    halves = [gradients_of_one_process(part(shared_batch(), s)) for s in (slice(2), slice(2, 4))]
    apart = {n: (halves[0][n] + halves[1][n]) / 2 for n in whole}
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(whole)
        for name, gradient in whole.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8, msg=name)
    name = "alignment.project_image.1.weight"
    assert (apart[name] - whole[name]).norm() > 0.1 * whole[name].norm(), "halves alone differ"
