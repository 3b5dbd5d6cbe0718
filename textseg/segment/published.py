"""The folder of `textseg card`: a network's weights and what rebuilds it, read back.

| file | what it is |
|---|---|
| model.safetensors | all weights by name |
| textseg.json | class, settings, image size and precision, and what encoders keep as text |
| tokenizer.json | of the package tokenizers; not of an image-only network |
| config.yaml | the run's settings, without paths of the machine |
| README.md | the card |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from textseg.checkpoint import ABOUT
from textseg.checkpoint import CARD_DESCRIPTION as DESCRIPTION
from textseg.encoders.weights import read_tensors
from textseg.errors import UserError, refusing

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
KEPT = ("class_path", "hyper_parameters", ABOUT, "states")  # of textseg.json
TOKENIZER_STATE = "tokenizer"  # the part of a text encoder's state that is a file of its own
_REMEDY = "make the card again: textseg card RUN"


def is_published(path: str | Path) -> bool:
    """Whether a path is a folder of `textseg card`."""
    return (Path(path) / DESCRIPTION).is_file()


def read_published(folder: Path) -> dict[str, Any]:
    """The checkpoint that a card's folder was made of, but for what only a training needs.

    Raises:
        UserError: a file is missing or broken.
    """
    file = folder / DESCRIPTION
    with refusing((OSError, ValueError), f"{file} cannot be read as JSON", _REMEDY):
        stored = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or any(name not in stored for name in KEPT):
        raise UserError(f"{file} lacks one of {', '.join(KEPT)}", _REMEDY)
    weights: dict[str, Any] = dict(read_tensors(folder / WEIGHTS, field="ckpt_path"))
    for name, state in stored["states"].items():
        if isinstance(state, dict) and TOKENIZER_STATE in state:
            tokenizer = folder / TOKENIZER
            with refusing((OSError, UnicodeDecodeError), f"{tokenizer} cannot be read", _REMEDY):
                state[TOKENIZER_STATE] = tokenizer.read_text(encoding="utf-8")
        weights[name] = state
    settings = {**stored["hyper_parameters"], "_class_path": stored["class_path"]}
    return {"state_dict": weights, "hyper_parameters": settings, ABOUT: stored[ABOUT]}
