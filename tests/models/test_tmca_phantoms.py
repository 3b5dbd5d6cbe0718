"""After training on phantoms, TMCA's similarity of pixels and words finds the lesion they name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning import seed_everything
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datamodules import RefHLSegDataModule
from tests.models.stand_ins import quiet_trainer
from textseg.batch import SegmentationOutput
from textseg.models import TMCA

LEVELS = (1, 2, 3, 4)
TOUCHED = 0.25  # a pixel belongs to the lesion when a quarter of it does


def phantoms() -> RefHLSegDataModule:
    datamodule = RefHLSegDataModule(
        synthesize=200, image_size=96, batch_size=8, num_workers=0, augmentation="none"
    )
    datamodule.prepare_data()
    return datamodule


def similarity(output: SegmentationOutput, level: int) -> Tensor:
    """<p_l, t_l> of every pixel, [B, H_l, W_l]."""
    pixels, words = output.aux[f"pixels_{level}"], output.aux[f"text_{level}"]
    return torch.einsum("bdhw,bd->bhw", pixels, words)


def auroc(model: TMCA, datamodule: RefHLSegDataModule, *, other_rows: bool) -> dict[int, float]:
    """Over all pixels of all test rows; `other_rows` gives each picture its neighbor's words."""
    scores: dict[int, list[Tensor]] = {level: [] for level in LEVELS}
    truths: dict[int, list[Tensor]] = {level: [] for level in LEVELS}
    for loaded in datamodule.test_dataloader():
        batch = datamodule.on_after_batch_transfer(loaded, 0)
        text = batch["text"][1:] + batch["text"][:1] if other_rows else batch["text"]
        with torch.no_grad():
            output = model(batch["image"], text)
        for level in LEVELS:
            found = similarity(output, level)
            share = F.adaptive_avg_pool2d(batch["mask"], found.shape[-2:])
            scores[level].append(found.flatten())
            truths[level].append(share.flatten() > TOUCHED)
    return {
        level: float(roc_auc_score(torch.cat(truths[level]), torch.cat(scores[level])))
        for level in LEVELS
    }


@pytest.mark.slow
def test_trained_on_phantoms_the_similarity_finds_the_lesion_the_words_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seed_everything(1)
    datamodule = phantoms()
    model = TMCA(
        "convnext_atto",
        "scratch",
        pretrained=False,
        image_encoder_options={"ls_init_value": 0.1, "drop_path_rate": 0.0},
        lr=1e-3,
        schedule="cosine",
        warmup=0.1,
    )
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(model, datamodule=datamodule)
    datamodule.setup("test")
    model.eval()
    named, swapped = (auroc(model, datamodule, other_rows=other) for other in (False, True))
    print(f"AUROC with the own words {named}, with another row's {swapped}")
    for level in LEVELS:
        assert named[level] > 0.8
        assert swapped[level] < 0.7
