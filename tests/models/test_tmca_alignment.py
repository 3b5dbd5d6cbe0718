"""TMCA's alignment against numpy, what it teaches, and that two processes share it."""

from __future__ import annotations

import math
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.forked import start
from tests.models.contract import learn
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    random_pixels,
)
from tests.models.tiny import tiny
from textseg.batch import Batch, SegmentationOutput, stable_id
from textseg.layers import pool_regions
from textseg.models.tmca.alignment import semantic_distance
from textseg.models.tmca.network import LEVELS, TMCA

make = partial(tiny, "TMCA")

# --- target-sensitive semantic distance


@pytest.mark.parametrize("place", [(0, 0), (110, 31), (223, 223)])
def test_a_lesion_of_one_pixel_is_seen_on_a_grid_of_7(place: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[0, 0, place[0], place[1]] = 1
    pixels = random_pixels(1)
    lesion, background = pool_regions(pixels, mask)
    torch.testing.assert_close(lesion[0], pixels[0, :, place[0] // 32, place[1] // 32])
    torch.testing.assert_close(background, pixels.mean((2, 3)), rtol=0, atol=1e-4)


def test_an_empty_and_a_full_mask_give_a_region_of_zeros_with_finite_gradients() -> None:
    pixels = random_pixels(2).requires_grad_(True)
    mask = torch.zeros(2, 1, 64, 64)
    mask[1] = 1
    lesion, background = pool_regions(pixels, mask)
    assert not lesion[0].any()
    assert not background[1].any()
    torch.testing.assert_close(lesion[1], pixels[1].mean((1, 2)))
    (lesion.sum() + background.sum()).backward()
    assert pixels.grad is not None
    assert torch.isfinite(pixels.grad).all()


def distances(model: TMCA, batch: Batch) -> dict[int, Tensor]:
    """d_l [B, B] of every level."""
    with torch.no_grad():
        aux = model(batch["image"], batch["text"]).aux
    return {
        n: semantic_distance(pool_regions(aux[f"pixels_{n}"], batch["mask"])[0], aux[f"text_{n}"])
        for n in LEVELS
    }


def test_permuting_the_batch_permutes_rows_and_columns_of_every_distance() -> None:
    model, batch = make().eval(), make_batch(4)
    order = torch.tensor([2, 0, 3, 1])
    permuted: Batch = {
        **batch,
        "image": batch["image"][order],
        "mask": batch["mask"][order],
        "text": [batch["text"][i] for i in order],
    }
    before, after = distances(model, batch), distances(model, permuted)
    for n in LEVELS:
        assert before[n].std() > 0
        torch.testing.assert_close(after[n], before[n][order][:, order], rtol=1e-4, atol=1e-5)


# --- multi-level contrastive alignment


def random_output(count: int, levels: tuple[int, ...] = LEVELS) -> SegmentationOutput:
    """Places and texts of unit length at 64 x 64, leaves of the graph."""
    aux = {}
    for n in levels:
        aux[f"pixels_{n}"] = random_pixels(count, 16, 32 // 2**n)
        aux[f"text_{n}"] = F.normalize(torch.randn(count, 16), dim=1)
    leaves = {name: value.requires_grad_(True) for name, value in aux.items()}
    return SegmentationOutput(torch.randn(count, 1, 64, 64), leaves)


def labeled(masks: Tensor, captions: list[str], images: list[int]) -> Batch:
    return {
        **make_batch(len(captions)),
        "mask": masks,
        "text": captions,
        "caption_id": torch.tensor([stable_id(c) for c in captions]),
        "image_id": torch.tensor(images),
    }


def numpy_region(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    h, w = pixels.shape[1:]
    cells = weight.reshape(h, len(weight) // h, w, weight.shape[1] // w).mean(axis=(1, 3))
    if cells.sum() == 0:
        return np.zeros(len(pixels))
    return sum(cells[y, x] * pixels[:, y, x] for y in range(h) for x in range(w)) / cells.sum()


def numpy_level(
    pixels: np.ndarray,
    text: np.ndarray,
    masks: np.ndarray,
    captions: list[str],
    images: list[int],
    tau: float,
    target: bool,
) -> float:
    """One level's L_align straight from the specification, anchor by anchor."""
    rows = [i for i in range(len(masks)) if not target or masks[i].any()]
    if not rows:
        return 0.0
    whole = np.ones_like(masks[0, 0])
    inside = {i: numpy_region(pixels[i], masks[i, 0] if target else whole) for i in rows}
    outside = {i: numpy_region(pixels[i], 1 - masks[i, 0]) for i in rows}
    halves = {"image to text": 0.0, "text to image": 0.0}
    for i in rows:
        others = [j for j in rows if captions[j] == captions[i] or images[j] != images[i]]
        positives = [j for j in rows if captions[j] == captions[i]]
        to_text = {j: math.exp(inside[i] @ text[j] / tau) for j in others}
        to_image = {j: math.exp(inside[j] @ text[i] / tau) for j in others}
        own = math.exp(outside[i] @ text[i] / tau) if target and not masks[i].all() else 0.0
        for j in positives:
            share = to_text[j] / sum(to_text.values())
            halves["image to text"] -= math.log(share) / len(positives)
            share = to_image[j] / (sum(to_image.values()) + own)
            halves["text to image"] -= math.log(share) / len(positives)
    return sum(halves.values()) / 2 / len(rows)


def mixed_rows() -> tuple[Tensor, list[str], list[int]]:
    """Equal captions, one image with two captions, an empty mask and a full one."""
    masks = (torch.rand(6, 1, 64, 64) > 0.8).float()
    masks[:, :, :20] = 0
    masks[2], masks[4] = 0, 1
    return masks, ["left", "right", "left", "left", "upper", "lower"], [0, 1, 2, 3, 1, 5]


@pytest.mark.parametrize("alignment", ["target", "global"])
@pytest.mark.parametrize("levels", [(1, 2, 3, 4), (2, 4)])
def test_the_alignment_is_the_one_computed_by_hand(alignment: str, levels: tuple[int, ...]) -> None:
    model = make(
        alignment=alignment, alignment_levels=levels, temperature=0.2, alignment_weight=0.7
    )
    masks, captions, images = mixed_rows()
    output = random_output(6, levels)
    losses = model.compute_loss(output, labeled(masks, captions, images))
    aux = {name: value.detach().double().numpy() for name, value in output.aux.items()}
    expected = [
        numpy_level(
            aux[f"pixels_{n}"],
            aux[f"text_{n}"],
            masks.double().numpy(),
            captions,
            images,
            0.2,
            alignment == "target",
        )
        for n in levels
    ]
    for n, value in zip(levels, expected, strict=True):
        assert losses[f"loss_align_{n}"].item() == pytest.approx(value, rel=1e-4)
    assert losses["loss_align"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    left_out = 1 / 6 if alignment == "target" else 0
    assert losses["empty_masks"].item() == pytest.approx(left_out, abs=1e-6)
    total = losses["loss_dice"] + losses["loss_bce"] + 0.7 * losses["loss_align"]
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize("levels", [(1, 2, 3, 4), (3,)])
def test_every_aligned_level_is_logged_by_name_in_training_and_validation(
    levels: tuple[int, ...],
) -> None:
    model, batch = make(alignment_levels=levels), make_batch()
    batch["mask"][0] = 0
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=BatchesInMemory([batch]))
    for stage in ("train", "val"):
        found = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith(f"{stage}/loss_align")
        }
        names = {f"{stage}/loss_align_{n}" for n in levels}
        assert set(found) == names | {f"{stage}/loss_align"}
        mean = np.mean([found[name] for name in names])
        assert found[f"{stage}/loss_align"] == pytest.approx(mean, rel=1e-5)
        assert trainer.callback_metrics[f"{stage}/empty_masks"] == 0.5


def test_a_batch_of_empty_masks_has_no_alignment_but_is_connected_and_finite() -> None:
    model, batch = make().train(), make_batch(3)
    batch["mask"].zero_()
    losses = model.compute_loss(model(batch["image"], batch["text"]), batch)
    assert losses["loss_align"].item() == 0
    assert losses["empty_masks"].item() == 1
    losses["loss"].backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_a_caption_that_all_rows_share_teaches_by_the_background_alone() -> None:
    model, output = make(), random_output(4)
    with torch.no_grad():
        for n in LEVELS:
            output.aux[f"text_{n}"][1:] = output.aux[f"text_{n}"][:1]
    batch = labeled(make_batch(4)["mask"], ["left"] * 4, [0, 1, 2, 3])
    batch["mask"][:, :, :8] = 0
    losses = model.compute_loss(output, batch)
    losses["loss_align"].backward()
    for n in LEVELS:
        pixels, mask = output.aux[f"pixels_{n}"], batch["mask"]
        lesion, background = pool_regions(pixels.detach(), mask)
        score = (torch.stack([lesion, background]) * output.aux[f"text_{n}"].detach()).sum(-1) / 0.1
        rivals = torch.cat([score[:1].expand(4, 4), score[1][:, None]], dim=1)
        to_image = (rivals.logsumexp(1) - score[0].mean()).mean()
        both = (math.log(4) + to_image.item()) / 2
        assert losses[f"loss_align_{n}"].item() == pytest.approx(both, rel=1e-5)
        gradient = pixels.grad
        assert gradient is not None
        outside = F.adaptive_max_pool2d(mask, gradient.shape[-2:]) == 0
        assert (gradient * outside).abs().amax() > 1e-6, "the background must be pushed away"


def test_image_to_text_of_one_shared_caption_is_ln_b_without_a_gradient() -> None:
    # A global alignment has no background, so both directions are image to text transposed.
    model, output = make(alignment="global"), random_output(4)
    same = F.normalize(torch.randn(1, 16), dim=1).repeat(4, 1)
    for n in LEVELS:
        output.aux[f"text_{n}"] = same
        pooled = F.normalize(torch.randn(1, 16, 1, 1), dim=1).expand(4, 16, 2, 2)
        output.aux[f"pixels_{n}"] = pooled.clone().requires_grad_(True)
    losses = model.compute_loss(output, labeled(torch.zeros(4, 1, 64, 64), ["a"] * 4, [0, 1, 2, 3]))
    assert losses["loss_align"].item() == pytest.approx(math.log(4), rel=1e-6)
    losses["loss_align"].backward()
    for n in LEVELS:
        gradient = output.aux[f"pixels_{n}"].grad
        assert gradient is not None
        assert gradient.abs().amax() < 1e-6


def test_autocast_does_not_round_the_alignment() -> None:
    model, output, batch = make(), random_output(6), labeled(*mixed_rows())
    exact = model.compute_loss(output, batch)
    with torch.autocast("cpu", torch.bfloat16):
        under = model.compute_loss(output, batch)
    assert {name: exact[name].item() for name in exact} == {n: under[n].item() for n in under}


def test_only_the_target_alignment_reads_the_mask() -> None:
    masks, captions, images = mixed_rows()
    for alignment, reads in (("target", True), ("global", False)):
        model, output = make(alignment=alignment), random_output(6)
        pair = [
            model.compute_loss(output, labeled(m, captions, images))["loss_align"].item()
            for m in (masks, masks.flip(-2))
        ]
        assert (pair[0] != pair[1]) == reads


# --- what is learnt


COLORS = ["the red lesion", "the blue lesion"]


def two_colors(count: int, seed: int) -> Batch:
    """One half red, one half blue; the caption names one color, the mask is its half.

    Each color is the target in half of the images, so a similarity that does not read the text
    has an AUROC of 0.5.
    """
    image, mask = 0.3 * pictures(count, seed=seed), torch.zeros(count, 1, 64, 64)
    text = [COLORS[i % 2] for i in range(count)]
    halves = [slice(None, 32), slice(32, None)]
    for i in range(count):
        red, blue = halves if i // 2 % 2 else halves[::-1]
        image[i, 0, red] += 0.6
        image[i, 2, blue] += 0.6
        mask[i, 0, blue if i % 2 else red] = 1
    batch = labeled(mask, text, list(range(count)))
    batch["image"] = image
    return batch


def alignment_auroc(model: TMCA, batch: Batch) -> dict[int, float]:
    """Of <p_l, t_l> against the mask, all pixels of all images together, by level."""
    with torch.no_grad():
        aux = model.eval()(batch["image"], batch["text"]).aux
    scores = {}
    for n in LEVELS:
        pixels = aux[f"pixels_{n}"]
        similarity = torch.einsum("bdhw,bd->bhw", pixels, aux[f"text_{n}"])
        truth = F.adaptive_avg_pool2d(batch["mask"], pixels.shape[-2:]) > 0.5
        scores[n] = float(roc_auc_score(truth.flatten().numpy(), similarity.flatten().numpy()))
    return scores


def test_alignment_teaches_the_similarity_to_find_the_lesion_that_the_text_names() -> None:
    model = make(COLORS, enhancement_levels=(), alignment_weight=1.0)
    unseen = two_colors(8, seed=1)
    before = alignment_auroc(model, unseen)
    learn(model, two_colors(8, seed=0), lr=1e-3, steps=30)
    after = alignment_auroc(model, unseen)
    for n in LEVELS:
        assert 0.3 < before[n] < 0.7, "level 4 has few pixels: other seeds gave 0.32 to 0.64"
        assert after[n] > 0.85


# --- two processes


def eight_rows() -> Batch:
    """Rows for two processes of four: captions and an image shared across them, empty and full."""
    torch.manual_seed(5)
    masks = (torch.rand(8, 1, 64, 64) > 0.7).float()
    masks[:, :, :16] = 0
    masks[1], masks[6] = 0, 1
    captions = [CAPTIONS[i] for i in (0, 1, 0, 0, 1, 0, 1, 1)]
    batch = labeled(masks, captions, [0, 1, 2, 3, 0, 4, 5, 6])
    batch["image"] = pictures(8, seed=5)
    return batch


def rows_of(batch: Batch, rows: slice) -> Batch:
    return {key: value[rows] for key, value in batch.items()}  # type: ignore[return-value,index]


def gradients(model: torch.nn.Module, inner: TMCA, batch: Batch) -> dict[str, Tensor]:
    """In eval mode, since each process's batch norm would see its own rows."""
    output = model(batch["image"], batch["text"])
    inner.compute_loss(output, batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}


def one_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        model = make(alignment_weight=1.0).double().eval()
        batch = rows_of(in_double(eight_rows()), slice(4 * rank, 4 * rank + 4))
        found = gradients(DistributedDataParallel(model), model, batch)
        torch.save(found, folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def in_double(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].double(), "mask": batch["mask"].double()}


@pytest.fixture
def two_processes(tmp_path: Path) -> Path:
    """This process is rank 0."""
    other = start(one_rank, 1, tmp_path)
    try:
        one_rank(0, tmp_path)
    finally:
        other.join(timeout=120)
        other.kill()
    assert other.exitcode == 0
    return tmp_path


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_all_rows(two_processes: Path) -> None:
    model = make(alignment_weight=1.0).double().eval()
    expected = gradients(model, model, in_double(eight_rows()))
    for rank in (0, 1):
        found = torch.load(two_processes / f"{rank}.pt", weights_only=True)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
