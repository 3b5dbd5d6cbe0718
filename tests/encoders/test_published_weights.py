"""Weights that come by a name: every one of an encoder is a file's, or the file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models._builder
import timm.models._hub
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.encoders.test_image_weights import Evil, error_of, prefixed, same_weights
from textseg.encoders import ImageEncoder
from textseg.models import ImageBaseline

SMALL = {"depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}
COLORS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def network(name: str = "test_convnext", **options: Any) -> Any:
    """timm's own network, all its weights and running statistics random."""
    torch.manual_seed(7)
    model = timm.create_model(name, **(options or SMALL)).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.1)
    return model


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    name: str = "test_convnext",
    *,
    file: str = "model.safetensors",
    config: Mapping[str, Any] = {},
    **options: Any,
) -> Path:
    """A folder as timm saves it; its `tensors` may be of anything."""
    folder.mkdir(exist_ok=True)
    described = timm.create_model(name).default_cfg
    kept = {key: described[key] for key in ("first_conv", "classifier", "num_classes")}
    kept |= {"input_size": [3, 64, 64], **COLORS, **config}
    description = {"architecture": name, "model_args": options or SMALL, "pretrained_cfg": kept}
    (folder / "config.json").write_text(json.dumps(description))
    if file.endswith(".safetensors"):
        save_file({k: v.clone() for k, v in tensors.items()}, folder / file)
    else:
        torch.save(dict(tensors), folder / file)
    return folder


def by_name(name: str, **settings: Any) -> ImageEncoder:
    return ImageEncoder(name, options=settings)


def by_library(name: str, **settings: Any) -> ImageBaseline:
    return ImageBaseline(image_encoder=f"tu-{name}", image_encoder_options=settings)


BOTH = pytest.mark.parametrize("make", [by_name, by_library])
Make = Callable[..., Any]


def body_of(encoder: Any) -> Any:
    return encoder.body if isinstance(encoder, ImageEncoder) else encoder.network.encoder.model


def same(encoder: Any, reference: nn.Module) -> bool:
    """Whether every weight of an encoder is the network's of the same name."""
    held: Any = nn.Module()
    held.body = body_of(encoder)
    return same_weights(held, reference)


def without(tensors: Mapping[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(starts)}


# --- folders: what loads


@BOTH
@pytest.mark.parametrize("prefix", ["", "model.", "backbone.", "module.", "_orig_mod."])
def test_a_folders_weights_load_in_full_with_or_without_a_prefix(
    make: Make, prefix: str, tmp_path: Path
) -> None:
    reference = network()
    write_folder(tmp_path / "f", prefixed(prefix, reference.state_dict()))
    encoder = make(f"local-dir:{tmp_path / 'f'}")
    assert same(encoder, reference)
    assert encoder.pretrained
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx(COLORS["mean"])


@BOTH
@pytest.mark.parametrize("head", ["none", "of seven"])
def test_a_folders_classifier_does_not_matter(make: Make, head: str, tmp_path: Path) -> None:
    reference = network()
    tensors = without(reference.state_dict(), "head.fc")
    if head == "of seven":
        tensors |= {"head.fc.weight": torch.ones(7, 64), "head.fc.bias": torch.ones(7)}
    write_folder(tmp_path / "f", tensors)
    assert same(make(f"local-dir:{tmp_path / 'f'}"), reference)


def test_stages_that_no_feature_reads_may_be_absent_and_may_be_there(tmp_path: Path) -> None:
    reference = network()
    for number, left_out in enumerate((("nothing",), ("stages.3", "head"))):
        folder = tmp_path / str(number)
        write_folder(folder, without(reference.state_dict(), *left_out))
        assert same(by_name(f"local-dir:{folder}", out_indices=[0, 1, 2]), reference)


FILES = ["model.safetensors", "pytorch_model.bin", "model.pth", "best.safetensors", "best.pth.tar"]


@pytest.mark.parametrize("file", FILES)
def test_a_folders_file_has_a_usual_name_or_is_alone(file: str, tmp_path: Path) -> None:
    reference = network()
    folder = write_folder(tmp_path, reference.state_dict(), file=file)
    assert same(by_name(f"local-dir:{folder}"), reference)


def test_of_usual_names_the_first_of_timms_order_is_taken(tmp_path: Path) -> None:
    reference = network()
    others = {name: value + 1 for name, value in reference.state_dict().items()}
    for file in ("pytorch_model.bin", "a.safetensors", "model.pth"):
        write_folder(tmp_path, others, file=file)
    write_folder(tmp_path, reference.state_dict())
    assert same(by_name(f"local-dir:{tmp_path}"), reference)


def test_swins_tables_are_resized_as_timm_does(tmp_path: Path) -> None:
    tensors = network("swin_tiny_patch4_window7_224", **SWIN).state_dict()
    folder = write_folder(tmp_path, tensors, "swin_tiny_patch4_window7_224", **SWIN)
    name, other = f"local-dir:{folder}", {"window_size": 8, "img_size": 64}
    theirs = timm.create_model(name, pretrained=True, features_only=True, **other).state_dict()
    table = "layers_0.blocks.0.attn.relative_position_bias_table"
    assert theirs[table].shape[0] == 15 * 15
    own = by_name(name, **other).body.state_dict()
    assert all(torch.equal(own[k], theirs[k]) for k in own)


def test_a_network_for_gray_pictures_is_given_colors_as_timm_does(tmp_path: Path) -> None:
    gray = {**SMALL, "in_chans": 1}
    config = {"input_size": [1, 64, 64]}
    folder = write_folder(tmp_path, network(**gray).state_dict(), config=config, **gray)
    name = f"local-dir:{folder}"
    theirs = timm.create_model(name, pretrained=True, features_only=True, in_chans=3)
    encoder = by_name(name, in_chans=3)
    own, expected = encoder.body.state_dict(), theirs.state_dict()
    assert own["stem_0.weight"].shape[1] == 3
    assert all(torch.equal(own[k], expected[k]) for k in own)


def test_a_folder_leaves_the_random_numbers_of_the_rest_as_they_were(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, network().state_dict())
    drawn = []
    for pretrained in (True, False):
        torch.manual_seed(0)
        ImageEncoder(f"local-dir:{folder}", pretrained=pretrained)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


# --- folders: what is refused


@BOTH
def test_a_folder_that_lacks_weights_is_refused_with_their_number(
    make: Make, tmp_path: Path
) -> None:
    tensors = network().state_dict()
    kept = without(tensors, "stages.1", "stages.2", "stages.3")
    lost = sum(name.startswith(("stages.1", "stages.2", "stages.3")) for name in tensors)
    write_folder(tmp_path, kept)
    cause, remedy = error_of(lambda: make(f"local-dir:{tmp_path}"))
    assert f"local-dir:{tmp_path}" in cause
    assert str(tmp_path / "model.safetensors") in cause
    assert f"{lost} weights" in cause
    assert "stages.1" in cause
    assert "config.json" in remedy


@BOTH
def test_a_folder_of_another_networks_weights_names_both(make: Make, tmp_path: Path) -> None:
    tensors = network("test_resnet", num_classes=3).state_dict()
    write_folder(tmp_path, tensors)
    cause, _ = error_of(lambda: make(f"local-dir:{tmp_path}"))
    assert "ResNet" in cause
    assert f"of its {len(tensors)} tensors" in cause
    assert "stem.0.weight" in cause


@BOTH
def test_a_folder_whose_description_is_shallower_than_its_weights_is_refused(
    make: Make, tmp_path: Path
) -> None:
    write_folder(tmp_path, network(depths=[1, 1, 2, 1]).state_dict())
    assert "stages.2.blocks.1" in error_of(lambda: make(f"local-dir:{tmp_path}"))[0]


@BOTH
def test_options_that_change_the_network_are_refused_beside_a_folder(
    make: Make, tmp_path: Path
) -> None:
    write_folder(tmp_path, network().state_dict())
    cause, remedy = error_of(lambda: make(f"local-dir:{tmp_path}", depths=[1, 1, 3, 1]))
    assert "stages.2.blocks.1" in cause
    assert "image_encoder_options" in remedy


@pytest.mark.parametrize("how", ["cut", "code", "not finite", "no file", "several"])
@BOTH
def test_a_spoilt_folder_is_a_user_error_that_names_it(
    make: Make, how: str, tmp_path: Path
) -> None:
    tensors, trap = network().state_dict(), tmp_path / "was_here"
    file = tmp_path / "f/model.safetensors"
    if how == "not finite":
        tensors["stem.0.weight"] = torch.full_like(tensors["stem.0.weight"], torch.nan)
    write_folder(tmp_path / "f", tensors)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "several":
        for name in ("a.safetensors", "b.safetensors"):
            write_folder(tmp_path / "f", tensors, file=name)
    if how in ("code", "no file", "several"):
        file.unlink()
    if how == "code":
        torch.save({**tensors, "extra": Evil(str(trap))}, tmp_path / "f/pytorch_model.bin")
    cause, _ = error_of(lambda: make(f"local-dir:{tmp_path / 'f'}"))
    assert str(tmp_path / "f") in cause
    assert not trap.exists()


# --- a hub's


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the hub: ORG/NAME is this folder."""

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "org/name"
        if not (tmp_path / "hub" / filename).is_file():
            raise EntryNotFoundError(f"no {filename}")
        return str(tmp_path / "hub" / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    return tmp_path / "hub"


@BOTH
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hubs_model_loads_in_full_or_is_refused(make: Make, file: str, hub: Path) -> None:
    reference = network()
    write_folder(hub, reference.state_dict(), file=file)
    assert same(make("hf-hub:org/name"), reference)
    write_folder(hub, without(reference.state_dict(), "stages.2"), file=file)
    cause, _ = error_of(lambda: make("hf-hub:org/name"))
    assert "hf-hub:org/name" in cause
    assert file in cause
    assert "stages.2" in cause


@BOTH
def test_a_hubs_model_without_weights_is_a_user_error(make: Make, hub: Path) -> None:
    (write_folder(hub, network().state_dict()) / "model.safetensors").unlink()
    cause, remedy = error_of(lambda: make("hf-hub:org/name"))
    assert "hf-hub:org/name" in cause
    assert "pytorch_model.bin" in cause
    assert "pretrained" in remedy


# --- timm's own names


def publish(monkeypatch: pytest.MonkeyPatch, tensors: Mapping[str, Tensor]) -> None:
    """Let the hub hold `tensors` under whatever name timm asks for."""
    monkeypatch.setattr(
        timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: dict(tensors)
    )


TIMMS = ["test_convnext", "test_resnet", "test_efficientnet"]


@BOTH
@pytest.mark.parametrize("name", TIMMS)
def test_timms_own_name_loads_in_full_or_is_refused(
    make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = network(name, num_classes=1000)
    tensors = reference.state_dict()
    publish(monkeypatch, tensors)
    assert same(make(name), reference)
    lost = next(key for key in body_of(make(name)).state_dict() if key.endswith("weight"))
    lost = lost.replace("stem_", "stem.")
    publish(monkeypatch, without(tensors, lost))
    cause, remedy = error_of(lambda: make(name))
    assert name in cause
    assert lost in cause
    assert "1 weights" in cause
    assert "pretrained" in remedy


def test_what_no_feature_reads_may_be_absent_from_timms_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = network("test_resnet", num_classes=1000)
    tensors = without(reference.state_dict(), "layer4", "fc")
    publish(monkeypatch, {k: v for k, v in tensors.items() if "num_batches" not in k})
    encoder = by_name("test_resnet", out_indices=[1, 2, 3])
    own = encoder.body.state_dict()
    assert all(torch.equal(own[k], tensors[k]) for k in own if "num_batches" not in k)


@BOTH
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("test_convnext", {"depths": [1, 2, 9, 2]}),
        ("test_convnext", {"dims": [24, 32, 48, 128]}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 2, 1)}),
    ],
    ids=["depth", "width", "where timm's translation fails"],
)
def test_options_that_change_the_network_are_refused_beside_timms_weights(
    make: Make, name: str, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SWIN, "num_classes": 1000} if "swin" in name else {"num_classes": 1000}
    publish(monkeypatch, network(name, **options).state_dict())
    given = {**SWIN, **changed, "img_size": 64} if "swin" in name else changed
    cause, remedy = error_of(lambda: make(name, **given))
    assert name in cause
    assert "weights" in cause or "shape" in cause
    assert "image_encoder_options" in remedy


def test_timms_loader_is_itself_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    load = timm.models._builder.load_pretrained
    publish(monkeypatch, {})
    error_of(lambda: by_name("test_convnext"))
    assert timm.models._builder.load_pretrained is load


def test_a_broken_copy_of_timms_file_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise EOFError("half of a download")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", broken)
    cause, remedy = error_of(lambda: by_name("test_convnext"))
    assert "'test_convnext'" in cause
    assert "half of a download" in cause
    assert "cache" in remedy


@pytest.mark.parametrize(
    "head", [{}, {"head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)}]
)
def test_a_whole_transformer_under_dpt_takes_a_file_with_any_classifier(
    head: dict[str, Tensor], tmp_path: Path
) -> None:
    reference = network("test_vit", num_classes=3)
    torch.save({**without(reference.state_dict(), "head."), **head}, tmp_path / "w.pth")
    model = ImageBaseline(
        "dpt",
        "tu-test_vit",
        image_weights=str(tmp_path / "w.pth"),
        image_encoder_options={"dynamic_img_size": True},
    )
    own, theirs = model.network.encoder.model.state_dict(), reference.state_dict()
    assert all(torch.equal(own[k], theirs[k]) for k in own if not k.startswith("head."))
