"""ImageBaseline: the shared promises as they hold without words, and what smp is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

from tests.models.contract import (
    NetworkContract,
)
from tests.models.stand_ins import CAPTIONS, BatchesInMemory, make_batch, pictures, quiet_trainer
from textseg.checkpoint import read_checkpoint
from textseg.encoders import restoring
from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.models.baseline import ImageBaseline

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"decoder_channels": [32, 16, 16, 8, 8]},
    "unetplusplus": {"decoder_channels": [32, 16, 16, 8, 8]},
    "deeplabv3plus": {"decoder_channels": 32},
    "segformer": {"decoder_segmentation_channels": 32},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
}


def make(**settings: Any) -> ImageBaseline:
    defaults: dict[str, Any] = {
        "image_encoder": "tu-convnext_atto",
        "pretrained": False,
        "decoder_options": SMALL.get(settings.get("architecture", "unet")),
    }
    torch.manual_seed(0)
    return ImageBaseline(**{**defaults, **settings})


# A bias that 1x1 maps carry into a batch norm, which takes out what is the same everywhere.
# DeepLab's dilated kernels are 1x1 too where the map is smaller than their dilation, as it is here.
LAST_BIAS = r"encoder\.model\.stages_3\.blocks\.1\.mlp\.fc2\.bias"
LINEAR_BIAS = r"decoder\.mlp_stage\.\d\.linear\.bias"


class BaselineContract(NetworkContract):
    """The promises without words: no caption changes a mask, and no text encoder is trained."""

    architecture: str
    gradient_free: tuple[str, ...] = ()

    def make(self, **settings: Any) -> ImageBaseline:
        smallest = {"architecture": self.architecture, "image_encoder": "tu-test_convnext"}
        return make(**{**smallest, **settings})

    def test_the_words_change_the_mask(self, network: SegmentationModule) -> None:
        """They do not, bit for bit."""
        first, *others = (
            self.logits(network, pictures(1), [caption]) for caption in (*CAPTIONS, "", "x " * 99)
        )
        assert all(torch.equal(first, other) for other in others)

    def test_padding_tokens_do_not_change_the_mask(self, network: SegmentationModule) -> None:
        text = network.encode_text(CAPTIONS)
        assert text.tokens.shape == (2, 1, 0)
        assert text.mask.all(), "there is no padding"

    def test_more_padding_does_not_change_the_mask(self, network: SegmentationModule) -> None:
        text = network.encode_text(CAPTIONS)
        longer = text._replace(tokens=torch.randn(2, 7, 9), mask=torch.rand(2, 7) > 0.5)
        with torch.no_grad():
            first, second = (
                network.forward_features(pictures(2), t).logits for t in (text, longer)
            )
        assert torch.equal(first, second)

    def test_a_frozen_text_encoder_stays_in_eval_and_unchanged_through_fit(
        self, tmp_path: Path
    ) -> None:
        """There is none: nothing of a baseline is named or shaped after words."""
        network = self.make()
        assert list(network.text_encoder.parameters()) == []
        assert not [name for name in network.state_dict() if "text" in name]


LIBRARY: dict[str, dict[str, Any]] = {
    "an encoder of the library": {"image_encoder": "resnet18"},
}


class TestUnet(BaselineContract):
    architecture = "unet"
    variations: ClassVar = LIBRARY
    bad_settings: ClassVar = {
        "architecture": ({"architecture": "unett"}, "unett", "'unet'"),
        "own encoder": ({"image_encoder": "resnet43"}, "resnet43", "resnet34"),
        "without tu-": ({"image_encoder": "convnext_tiny"}, "tu-convnext_tiny"),
        "timm encoder": ({"image_encoder": "tu-convnext_tinyy"}, "tinyy", "tu-convnext_tiny"),
        "decoder option": ({"decoder_options": {"chanels": 3}}, "chanels", "decoder_channels"),
        "classes": ({"decoder_options": {"classes": 3}}, "classes"),
        "too few channels": ({"decoder_options": {"decoder_channels": [8, 8]}}, "2 blocks"),
        "encoder option": ({"image_encoder_options": {"drop_paths": 0.1}}, "drop_paths"),
        "classes of the encoder": ({"image_encoder_options": {"classes": 2}}, "classes"),
        "option of an own encoder": (
            {"image_encoder": "resnet18", "image_encoder_options": {"drop_path_rate": 0.1}},
            "drop_path_rate",
        ),
        "encoder that does not fit": ({"image_encoder": "tu-vit_tiny_patch16_224"}, "vit_tiny"),
        "weights that do not exist": (
            {"image_encoder": "dpn68b", "pretrained": True},
            "imagenet+5k",
        ),
    }


class TestUnetPlusPlus(BaselineContract):
    architecture = "unetplusplus"


class TestDeepLabV3Plus(BaselineContract):
    architecture = "deeplabv3plus"
    gradient_free = (LAST_BIAS,)
    variations: ClassVar = LIBRARY  # whose last stage it dilates


class TestSegformer(BaselineContract):
    architecture = "segformer"
    gradient_free = (LAST_BIAS, LINEAR_BIAS)


class TestFPN(BaselineContract):
    architecture = "fpn"


def test_options_from_yaml_make_a_small_unet_that_trains() -> None:
    settings = yaml.safe_load(
        "image_encoder_options: {drop_path_rate: 0.1}\n"
        "decoder_options: {decoder_channels: [128, 64, 32, 16, 16], decoder_use_norm: batchnorm}\n"
    )
    model = make(**settings)
    assert sum(p.numel() for p in model.parameters()) < 5e6
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=BatchesInMemory([make_batch(), make_batch(seed=1)]))
    assert trainer.global_step == 2


def test_the_network_is_smps_own_on_normalized_pixels() -> None:
    model = make().eval()
    image = pictures(2, 64, 96)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = model.network((image - mean) / std)
        assert torch.equal(model(image, CAPTIONS).logits, expected)
    assert type(model.network) is smp.Unet


# --- published weights, without a hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the hub: tells what weights are asked for and gives odd colors."""
    asked: list[Any] = []
    create = smp.create_model

    def create_model(*names: str, encoder_weights: Any, **settings: Any) -> Any:
        asked.append(encoder_weights)
        return create(*names, encoder_weights=None, **settings)

    def colors(encoder_name: str, pretrained: str = "imagenet") -> dict[str, Any]:
        asked.append("colors")
        return {"input_space": "RGB", "input_range": [0, 1], "mean": [0.5] * 3, "std": [0.25] * 3}

    monkeypatch.setattr(smp, "create_model", create_model)
    monkeypatch.setattr(smp.encoders, "get_preprocessing_params", colors)
    return asked


@pytest.mark.parametrize(
    ("image_encoder", "weights"), [("tu-convnext_atto", True), ("resnet18", "imagenet")]
)
def test_pretrained_asks_for_weights_colors_and_a_slower_rate(
    hub: list[Any], image_encoder: str, weights: Any
) -> None:
    model = make(image_encoder=image_encoder, pretrained=True)
    assert hub == [weights, "colors"]
    assert model.normalize(torch.full((1, 3, 1, 1), 0.75)).flatten().tolist() == [1.0] * 3
    groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    assert slow == {id(p) for p in model.network.encoder.parameters()}


@pytest.mark.parametrize("image_encoder", ["tu-convnext_atto", "resnet18"])
def test_a_checkpoint_of_a_pretrained_network_is_rebuilt_without_the_hub(
    hub: list[Any], image_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(image_encoder=image_encoder, pretrained=True)
    if image_encoder.startswith("tu-"):  # its colors are timm's, which needs no hub
        model.normalize = make().normalize
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(model, datamodule=BatchesInMemory([make_batch()]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.undo()  # the real hub, which no test can reach
    with restoring(read_checkpoint(tmp_path / "last.ckpt")["state_dict"]):
        restored = ImageBaseline.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    with torch.no_grad():
        pair = [m.eval()(pictures(1), CAPTIONS[:1]).logits for m in (model, restored)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("image_encoder", ["tu-convnext_atto", "resnet18"])
def test_weights_out_of_reach_are_a_user_error(
    image_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr(smp, "create_model", unreachable)
    with pytest.raises(UserError, match=rf"{image_encoder}(.|\n)*no route(.|\n)*pretrained: false"):
        make(image_encoder=image_encoder, pretrained=True)


# --- user errors


@pytest.mark.parametrize("size", [(64, 80), (100, 64)])
def test_a_size_it_cannot_take_is_a_user_error_that_names_it(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}(.|\n)*data\.image_size(.|\n)*32"):
        make().eval()(pictures(1, *size), CAPTIONS[:1])


def test_pan_takes_no_image_that_its_poolings_bring_to_nothing() -> None:
    model = make(architecture="pan").eval()
    assert model(pictures(1, 128, 128), CAPTIONS[:1]).logits.shape == (1, 1, 128, 128)
    with pytest.raises(UserError) as caught:
        model(pictures(1, 128, 64), CAPTIONS[:1])
    cause, remedy = str(caught.value).splitlines()
    assert "128 x 64" in cause
    assert "architecture='pan' on image_encoder='tu-convnext_atto'" in cause
    assert "data.image_size" in remedy
    assert "128" in remedy


def test_logits_of_another_size_than_the_image_are_a_user_error_that_names_the_factor() -> None:
    """PSPNet widens by 8 whatever the depth; at depth 5 the encoder leaves 1/32."""
    options: dict[str, Any] = {"encoder_depth": 5, "psp_out_channels": 16}
    settings = {"architecture": "pspnet", "image_encoder": "resnet18"}
    model = make(**settings, decoder_options=options).eval()
    with pytest.raises(UserError) as caught:
        model(pictures(1, 64, 96), CAPTIONS[:1])
    cause, remedy = str(caught.value).splitlines()
    assert "architecture='pspnet' on image_encoder='resnet18'" in cause
    assert "16 x 24" in cause
    assert "64 x 96" in cause
    assert "decoder_options.upsampling by 4" in remedy
    mended = make(**settings, decoder_options={**options, "upsampling": 4 * 8}).eval()
    assert mended(pictures(1, 64, 96), CAPTIONS[:1]).logits.shape == (1, 1, 64, 96)


def test_explain_gives_saliency_and_refuses_a_word() -> None:
    model = make()
    assert set(model.explain(pictures(1), CAPTIONS[:1])) == {"saliency"}
    with pytest.raises(UserError, match="lesion"):
        model.explain(pictures(1), CAPTIONS[:1], "lesion")
