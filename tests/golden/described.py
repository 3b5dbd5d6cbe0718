"""Checkpoints of a release as text: what one of each network holds, without its weights.

    python -m tests.golden.described        # at a release, once its version is set

writes releases/<version>.json. A test makes the checkpoints again of each such file and loads them.
Weights are a function of their names, exact on every machine, so that their digest is as well.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

import textseg
from tests.models.tiny import NETWORKS, tiny
from textseg.checkpoint import ABOUT, is_plain, weights_digest

RELEASES = Path(__file__).parent / "releases"
_LEVELS = 251  # a prime, so that neighboring rows of a weight differ


def weight(name: str, shape: list[int], kind: str) -> Tensor:
    """A weight from its name: k / 4096 with k from 1 to 251, zeros where it is of whole numbers."""
    dtype = getattr(torch, kind)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    count = torch.Size(shape).numel()
    steps = (torch.arange(count) * 31 + zlib.crc32(name.encode())) % _LEVELS + 1
    return (steps.double() / 4096).to(dtype).reshape(shape)


def described(network: Any) -> dict[str, Any]:
    """What a checkpoint of a network holds."""
    settings = {k: v for k, v in network.hparams.items() if is_plain(v)}
    weights: dict[str, str] = {}
    texts: dict[str, Any] = {}
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            weights[name] = " ".join([kind, *map(str, value.shape)])
        else:
            texts[name] = value
    kind = type(network)
    content = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}
    content |= {"texts": texts, "weights": weights}
    return content | {"digest": weights_digest(state_of(content))}


def state_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict of a description."""
    state: dict[str, Any] = dict(content["texts"])
    for name, told in content["weights"].items():
        kind, *shape = told.split()
        state[name] = weight(name, [int(side) for side in shape], kind)
    return state


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """Write the checkpoint of a description, as a Trainer leaves it."""
    stored = {"state_dict": state_of(content), "hyper_parameters": content["settings"]}
    about = {"class_path": content["class_path"], "image_size": [64, 64], "precision": "32-true"}
    stored |= {ABOUT: about, "pytorch-lightning_version": L.__version__}
    torch.save(stored | {"epoch": 0, "global_step": 0}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="before it is out, write it anew")
    given = parser.parse_args()
    file = RELEASES / f"{textseg.__version__}.json"
    if file.exists() and not given.again:
        raise SystemExit(f"{file} is there: what a release holds does not change (--again)")
    content = {name: described(tiny(name)) for name in NETWORKS}
    file.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
