"""timm models of a hub or folder: what describes them, and checkpoints that need neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models._hub
import torch
from safetensors.torch import load_file, save_file

from tests.models.stand_ins import CAPTIONS, BatchesInMemory, make_batch, pictures, quiet_trainer
from tests.models.tiny import tiny
from textseg.checkpoint import read_checkpoint
from textseg.encoders import ImageEncoder, restoring
from textseg.errors import UserError

COLORS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
DESCRIPTION: dict[str, Any] = {
    "architecture": "test_convnext",
    "num_classes": 3,
    "model_args": {"depths": [1, 1, 1, 1]},
    "label_names": ["cat", "dog", "mouse"],
    "pretrained_cfg": {
        **COLORS,
        "input_size": [3, 64, 64],
        "num_classes": 3,
        "first_conv": "stem.0",
        "classifier": "head.fc",
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as timm saves it, of a network unlike the registered one."""
    torch.manual_seed(7)
    model = timm.create_model("test_convnext", num_classes=3, depths=[1, 1, 1, 1])
    (tmp_path / "saved").mkdir()
    save_file(model.state_dict(), tmp_path / "saved/model.safetensors")
    (tmp_path / "saved/config.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path / "saved"


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the hub: ORG/NAME is `folder`; keeps what was asked for."""
    asked: list[str] = []

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "org/name"
        asked.append(filename)
        if not (folder / filename).is_file():
            raise OSError(f"no {filename}")
        return str(folder / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    return asked


def stored_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def is_of(encoder: Any, folder: Path) -> bool:
    own = encoder.body["stages_2"].blocks[0].conv_dw.weight
    return torch.equal(own, stored_in(folder)["stages.2.blocks.0.conv_dw.weight"])


def test_a_hubs_model_has_its_architecture_arguments_colors_and_weights(
    hub: list[str], folder: Path
) -> None:
    encoder = ImageEncoder("hf-hub:org/name")
    assert is_of(encoder, folder)
    assert [len(encoder.body[f"stages_{i}"].blocks) for i in range(4)] == [1, 1, 1, 1]
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx(COLORS["mean"])
    assert encoder.normalize.std.flatten().tolist() == pytest.approx(COLORS["std"])
    assert hub[0] == "config.json"
    assert "model.safetensors" in hub
    random = ImageEncoder("hf-hub:org/name", pretrained=False)
    assert not is_of(random, folder)


def test_a_folders_model_is_that_of_the_hub(hub: list[str], folder: Path) -> None:
    of_hub, of_folder = ImageEncoder("hf-hub:org/name"), ImageEncoder(f"local-dir:{folder}")
    with torch.no_grad():
        pair = [e.eval()(pictures(1)) for e in (of_hub, of_folder)]
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_ones_own_options_win_over_the_descriptions(folder: Path) -> None:
    encoder = ImageEncoder(
        f"local-dir:{folder}", pretrained=False, options={"depths": [1, 2, 1, 1]}
    )
    assert len(encoder.body["stages_1"].blocks) == 2


@pytest.mark.parametrize("name", ["TMCA", "ImageBaseline"])
def test_a_checkpoint_is_rebuilt_after_the_folder_is_gone(
    name: str, folder: Path, tmp_path: Path
) -> None:
    prefix = "tu-" if name == "ImageBaseline" else ""
    model = tiny(name, image_encoder=f"{prefix}local-dir:{folder}", pretrained=False)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(model, datamodule=BatchesInMemory([make_batch()]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    shutil.rmtree(folder)
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    with restoring(checkpoint["state_dict"]):
        restored = type(model).load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    encoder = restored if prefix else restored.image_encoder
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx(COLORS["mean"])
    with torch.no_grad():
        pair = [m.eval()(pictures(1), CAPTIONS[:1]).logits for m in (model, restored)]
    assert torch.equal(*pair)
    kept = str([v for k, v in checkpoint["state_dict"].items() if "source" in k])
    assert "test_convnext" in kept
    assert str(folder) not in kept
    assert "mouse" not in kept, "names of classes are no setting"


def test_a_plain_name_adds_nothing_to_the_checkpoint() -> None:
    assert not [k for k in tiny("TMCA").state_dict() if "source" in k]


def error_of(action: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        action()
    cause, remedy = str(caught.value).splitlines()
    return cause, remedy


def test_a_hub_out_of_reach_and_a_folder_without_a_description_are_user_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(**_: Any) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", unreachable)
    for name in ("hf-hub:org/name", f"local-dir:{tmp_path}"):
        cause, remedy = error_of(lambda name=name: ImageEncoder(name))
        assert name in cause
        assert "local-dir:" in remedy


def test_a_description_of_no_timm_model_is_a_user_error(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**DESCRIPTION, "architecture": "mynet"}))
    assert "'mynet'" in error_of(lambda: ImageEncoder(f"local-dir:{folder}"))[0]


def test_a_hubs_name_beside_a_file_of_weights_is_refused_because_it_would_ask_the_hub(
    hub: list[str],
) -> None:
    cause, _ = error_of(lambda: ImageEncoder("hf-hub:org/name", weights="w.pth"))
    assert "hf-hub:org/name" in cause
    assert "image_weights" in cause
    assert hub == []


def test_a_folders_description_may_stand_beside_another_file_of_weights(
    folder: Path, tmp_path: Path
) -> None:
    changed = {k: v + 1 for k, v in stored_in(folder).items()}
    save_file(changed, tmp_path / "w.safetensors")
    encoder = ImageEncoder(f"local-dir:{folder}", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(encoder.body["stem_0"].weight, changed["stem.0.weight"])
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx(COLORS["mean"])
