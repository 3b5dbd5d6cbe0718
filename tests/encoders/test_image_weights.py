"""Image encoders from local files: what loads, what it equals, and every file that is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.encoders.test_encoders import SWIN
from tests.models.stand_ins import pictures, write_bert
from tests.models.tiny import ON_TIMM, tiny
from textseg.encoders import ImageEncoder, restoring
from textseg.encoders.recognize import FAMILIES, recognize
from textseg.encoders.weights import sha256_of
from textseg.errors import UserError
from textseg.models import ImageBaseline

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("test_convnext", {}),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "resnet": ("test_resnet", {}),
    "efficientnet": ("test_efficientnet", {}),
}


def whole(kind: str, *, seed: int = 3) -> Any:
    """timm's own network in eval, all its weights and running statistics random."""
    name, options = KINDS[kind]
    sizes = {"strict_img_size": False} if kind == "swin" else {}
    model = timm.create_model(name, pretrained=False, **options, **sizes).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if key.endswith("running_var") else 0.2 * (noise - 0.4))
    return model


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def load(kind: str, path: str, **options: Any) -> ImageEncoder:
    name, own = KINDS[kind]
    return ImageEncoder(name, pretrained=False, weights=path, options={**own, **options}).eval()


def error_of(action: Callable[[], Any]) -> tuple[str, str]:
    """Cause and remedy of a UserError, a line each."""
    with pytest.raises(UserError) as caught:
        action()
    cause, remedy = str(caught.value).splitlines()
    return cause, remedy


def same_weights(encoder: ImageEncoder, reference: nn.Module) -> bool:
    """Whether every weight of a pyramid is the network's of the same name."""
    wanted = reference.state_dict()
    names = {
        n: re.sub(r"^(stages|layers|stem)_(\d)", r"\1.\2", n) for n in encoder.body.state_dict()
    }
    return all(torch.equal(v, wanted[names[n]]) for n, v in encoder.body.state_dict().items())


# --- what loads


@pytest.mark.parametrize("kind", KINDS)
def test_every_feature_equals_timms_own_on_the_same_image(kind: str, tmp_path: Path) -> None:
    reference = whole(kind)
    encoder = load(kind, saved(tmp_path / "w.pth", reference.state_dict()))
    image = pictures(2, 64, 96)
    colors = [torch.tensor(reference.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std")]
    with torch.no_grad():
        expected = reference.forward_intermediates(
            (image - colors[0]) / colors[1], intermediates_only=True
        )[-len(encoder.channels) :]
        features = encoder(image)
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert encoder.pretrained
    assert len(encoder.pretrained_parameters()) == len(list(encoder.body.parameters()))


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def beside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A segmenter's file: the encoder as its backbone, and a decoder."""
    return {**prefixed("backbone.", tensors), "decode_head.conv.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w},
        lambda w: {"state_dict": prefixed("module.", w)},
        lambda w: {"state_dict": beside(w)},
        lambda w: dict(random.Random(0).sample(sorted(w.items()), len(w))),
        lambda w: {k: v for k, v in w.items() if not k.startswith("head.fc")},
        lambda w: {**w, "head.fc.weight": torch.ones(7, 64), "head.fc.bias": torch.ones(7)},
    ],
    ids=["state_dict", "model", "ddp", "segmenter", "shuffled", "no head", "seven classes"],
)
def test_wrappers_orders_and_classifiers_do_not_matter(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path
) -> None:
    reference = whole("convnext")
    encoder = load("convnext", saved(tmp_path / "w.pt", wrap(reference.state_dict())))
    assert same_weights(encoder, reference)


def test_safetensors_load_and_half_precision_is_widened(tmp_path: Path) -> None:
    reference = whole("convnext").half()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    encoder = load("convnext", str(tmp_path / "w.safetensors"))
    assert same_weights(encoder, reference.float())
    assert {v.dtype for v in encoder.state_dict().values()} == {torch.float32}


def test_batch_norm_counters_may_be_absent_as_in_old_files(tmp_path: Path) -> None:
    reference = whole("resnet")
    old = {k: v for k, v in reference.state_dict().items() if "num_batches" not in k}
    assert same_weights(load("resnet", saved(tmp_path / "w.pth", old)), reference)


def convnext_by_its_authors(name: str) -> str:
    """A name of timm's ConvNeXt as facebookresearch/ConvNeXt has it."""
    name = re.sub(r"^stem\.", "downsample_layers.0.", name)
    name = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", name)
    name = re.sub(r"^stages\.(\d)\.blocks", r"stages.\1", name)
    name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return name.replace("head.norm", "norm").replace("head.fc", "head")


def test_the_names_of_convnexts_authors_load(tmp_path: Path) -> None:
    reference = whole("convnext")
    theirs = {convnext_by_its_authors(k): v for k, v in reference.state_dict().items()}
    assert "downsample_layers.3.1.weight" in theirs
    encoder = load("convnext", saved(tmp_path / "w.pth", {"model": theirs}))
    assert same_weights(encoder, reference)


def test_the_names_of_swins_authors_load(tmp_path: Path) -> None:
    reference = whole("swin")
    theirs = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16)}
    for name, value in reference.state_dict().items():
        moved = re.sub(
            r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        theirs[moved.replace("head.fc", "head")] = value
    assert "layers.0.downsample.reduction.weight" in theirs
    encoder = load("swin", saved(tmp_path / "w.pth", {"model": theirs}))
    assert same_weights(encoder, reference)


def test_a_file_leaves_the_random_numbers_of_the_rest_as_they_were(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", whole("convnext").state_dict())
    drawn = []
    for weights in (None, path):
        torch.manual_seed(0)
        ImageEncoder("test_convnext", pretrained=False, weights=weights)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_while_a_checkpoint_is_restored_the_file_is_not_read() -> None:
    with restoring({}):
        encoder = load("convnext", "gone.pth")
    assert encoder.pretrained


def test_colors_that_the_options_tell_win_over_the_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", whole("convnext").state_dict())
    colors = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    encoder = load("convnext", path, pretrained_cfg_overlay=colors)
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx(colors["mean"])
    assert encoder.normalize.std.flatten().tolist() == pytest.approx(colors["std"])


# --- in every network


@pytest.mark.parametrize("name", ON_TIMM)
@pytest.mark.parametrize("pretrained", [True, False])
def test_text_guided_networks_take_the_file_and_train_it_at_its_own_rate(
    name: str, pretrained: bool, tmp_path: Path
) -> None:
    """Also with pretrained: true, no hub is asked: conftest's guard would fail."""
    reference = whole("convnext")
    write_bert(tmp_path / "bert")
    model = tiny(
        name,
        image_encoder="test_convnext",
        image_encoder_options=None,
        image_weights=saved(tmp_path / "w.pth", reference.state_dict()),
        text_encoder=str(tmp_path / "bert"),
        pretrained=pretrained,
        freeze_text=None,
    )
    assert same_weights(model.image_encoder, reference)
    groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    assert slow == {id(p) for p in model.image_encoder.parameters()}
    assert model.text_encoder.frozen is pretrained


def test_a_baseline_takes_timms_file_for_a_timm_encoder(tmp_path: Path) -> None:
    reference = whole("convnext")
    path = saved(tmp_path / "w.pth", reference.state_dict())
    model = ImageBaseline(image_encoder="tu-test_convnext", image_weights=path).eval()
    image = pictures(1)
    with torch.no_grad():
        normal = model.normalize(image)
        features = model.network.encoder(normal)[-4:]
        expected = reference.forward_intermediates(normal, intermediates_only=True)
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    mean, std = (torch.tensor(reference.default_cfg[k]) for k in ("mean", "std"))
    torch.testing.assert_close(normal[0, :, 0, 0], (image[0, :, 0, 0] - mean) / std)
    again = ImageBaseline(
        image_encoder="tu-test_convnext",
        image_weights=saved(tmp_path / "own.pth", model.network.encoder.state_dict()),
    )
    pairs = zip(model.network.encoder.parameters(), again.network.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the library's own names of the same encoder"


@pytest.mark.parametrize("head", [{}, {"fc.weight": torch.ones(5, 512), "fc.bias": torch.ones(5)}])
def test_a_baseline_takes_the_librarys_file_for_its_own_encoder(
    head: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(4)
    theirs = smp.encoders.get_encoder("resnet18", weights=None)
    path = saved(tmp_path / "w.pth", {**theirs.state_dict(), **head})
    model = ImageBaseline(image_encoder="resnet18", image_weights=path)
    own = model.network.encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.state_dict().items())
    groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    assert slow == {id(p) for p in model.network.encoder.parameters()}
    colors = model.normalize(torch.full((1, 3, 1, 1), 0.5)).flatten()
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    assert colors.tolist() == pytest.approx(expected)


def test_an_own_encoder_of_unknown_colors_takes_no_file() -> None:
    cause, remedy = error_of(
        lambda: ImageBaseline(image_encoder="xception", image_weights="any.pth", pretrained=False)
    )
    assert "xception" in cause
    assert "tu-" in remedy


# --- what is refused


def test_a_file_of_another_network_names_both_and_counts(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", whole("resnet").state_dict())
    cause, remedy = error_of(lambda: load("convnext", path))
    assert "w.pth" in cause
    assert "'test_convnext'" in cause
    assert "ResNet" in cause
    assert f"of its {len(whole('resnet').state_dict())} tensors" in cause
    assert "conv1" in cause
    assert "stem.0.weight" in cause
    assert "test_convnext" in remedy


def test_a_file_of_a_deeper_variant_names_what_is_left_over(tmp_path: Path) -> None:
    tensors = whole("convnext").state_dict()
    extra = {
        k.replace("stages.3.blocks.0", "stages.3.blocks.9"): v
        for k, v in tensors.items()
        if k.startswith("stages.3.blocks.0")
    }
    cause, _ = error_of(lambda: load("convnext", saved(tmp_path / "w.pth", {**tensors, **extra})))
    assert f"{len(extra)} of its {len(tensors) + len(extra)} tensors" in cause
    assert "stages.3.blocks.9" in cause


def test_a_truncated_set_of_weights_names_the_first_that_is_missing(tmp_path: Path) -> None:
    kept = {k: v for k, v in whole("swin").state_dict().items() if not k.startswith("layers.3")}
    cause, _ = error_of(lambda: load("swin", saved(tmp_path / "w.pth", kept)))
    assert "layers.3" in cause
    assert "unknown" not in cause


def test_a_file_of_another_width_lists_both_shapes(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", whole("swin").state_dict())
    wider = {"embed_dim": 32}
    cause, remedy = error_of(lambda: load("swin", path, **wider))
    assert "24x3x4x4 for 32x3x4x4" in cause
    assert "image_encoder_options" in remedy


@pytest.mark.parametrize("axes", [(2, 3, 1, 0), (0, 2, 3, 1)], ids=["HWIO", "OHWI"])
def test_kernels_with_their_axes_in_another_order_are_named_as_such(
    axes: tuple[int, ...], tmp_path: Path
) -> None:
    moved = {
        k: v.permute(axes).contiguous() if v.ndim == 4 else v
        for k, v in whole("efficientnet").state_dict().items()
    }
    cause, remedy = error_of(lambda: load("efficientnet", saved(tmp_path / "w.pth", moved)))
    assert "axes" in cause
    assert "test_efficientnet" in cause
    assert "blocks.1.0.conv_exp.weight" in cause
    assert "order" in remedy


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path(self.path).touch, ())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_a_pickle_that_holds_code_is_refused_and_not_run(suffix: str, tmp_path: Path) -> None:
    trap = tmp_path / "was_here"
    content = {**whole("convnext").state_dict(), "extra": Evil(str(trap))}
    path = saved(tmp_path / f"w{suffix}", content)
    cause, _ = error_of(lambda: load("convnext", path))
    assert f"w{suffix}" in cause
    assert not trap.exists()


def test_a_file_that_is_cut_short_absent_empty_or_without_names_is_refused(tmp_path: Path) -> None:
    tensors = whole("convnext").state_dict()
    for name in ("cut.pth", "cut.safetensors"):
        path = tmp_path / name
        torch.save(tensors, path) if name.endswith("pth") else save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:-200])
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pth").touch()
    saved(tmp_path / "list.pth", [torch.ones(2)])
    saved(tmp_path / "numbers.pth", {"state_dict": {"lr": 0.1}})
    for name in (
        *("cut.pth", "cut.safetensors", "folder", "empty.pth", "list.pth", "numbers.pth"),
        *("absent.pth", "absent.safetensors"),
    ):
        cause, remedy = error_of(lambda name=name: load("convnext", str(tmp_path / name)))
        assert "image_weights" in cause
        assert name in cause
        assert ".safetensors" in remedy


def test_a_librarys_encoder_lists_what_does_not_fit(tmp_path: Path) -> None:
    theirs = smp.encoders.get_encoder("resnet34", weights=None).state_dict()
    path = saved(tmp_path / "w.pth", theirs)
    cause, _ = error_of(
        lambda: ImageBaseline(image_encoder="resnet18", image_weights=path, pretrained=False)
    )
    assert "'resnet18'" in cause
    assert "resnet34" in cause
    assert "layer1.2.conv1.weight" in cause


def test_an_image_encoder_of_a_function_loads_its_own_weights() -> None:
    from textseg.backbone import TextImageBackboneMixin

    cause, _ = error_of(
        lambda: TextImageBackboneMixin().build_backbone(
            lambda dim: nn.Identity(), None, image_weights="w.pth"
        )
    )
    assert "w.pth" in cause


# --- what a file is likely of


@pytest.mark.slow  # builds the large ones
def test_the_variants_are_those_of_timm() -> None:
    names = {
        "swin_tiny": "swin_tiny_patch4_window7_224",
        "swin_small": "swin_small_patch4_window7_224",
        "swin_base": "swin_base_patch4_window7_224",
        "swin_large": "swin_large_patch4_window7_224",
        **{f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in (0, 3, 4)},
    }
    variants = [v for family in FAMILIES for v in family.variants.values() if "mscan" not in v]
    for variant in variants:
        with torch.device("meta"):
            tensors = timm.create_model(names.get(variant, variant)).state_dict()
        assert str(recognize(tensors)).split(" ")[0] == variant


def test_a_text_encoder_is_recognized_and_what_is_unknown_is_not() -> None:
    assert recognize({"embeddings.word_embeddings.weight": torch.ones(1)}) == "a text encoder"
    assert recognize({"a": torch.ones(1)}) is None


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == known
