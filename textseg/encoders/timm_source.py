"""timm models that a hub or a local folder describes: ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

from torch import nn

from textseg.encoders.hub import hub_or_cache, hub_reason
from textseg.encoders.restore import is_restoring, restored_image_source
from textseg.errors import UserError, first_line

HUB, FOLDER = "hf-hub:", "local-dir:"
# Of timm's description: where it was found, which may be gone tomorrow, and names of classes.
NOT_KEPT = ("source", "file", "labels", "label_names", "label_descriptions")


class TimmSource(nn.Module):
    """What a config.json says of a timm model; it is kept as text in the ``state_dict``.

    So a checkpoint is rebuilt without the hub or the folder. It has no weights of its own.

    Attributes:
        architecture: the timm name.
        options: arguments of ``timm.create_model`` that belong to it.
    """

    def __init__(self, architecture: str, options: dict[str, Any], config: dict[str, Any]) -> None:
        super().__init__()
        self.architecture = architecture
        self.options = {**options, "pretrained_cfg": config}
        kept = {key: value for key, value in config.items() if key not in NOT_KEPT}
        self._text = json.dumps({"architecture": architecture, "options": options, "config": kept})

    def get_extra_state(self) -> str:
        """The description, as JSON."""
        return self._text

    def set_extra_state(self, state: str) -> None:
        """Nothing: the network was built by it already (`restoring`)."""


def timm_source(name: str, *, with_weights: bool = False) -> TimmSource | None:
    """The description of a hub's or folder's timm model; None for a plain timm name.

    Args:
        name: a timm name, which may be of a hub or folder.
        with_weights: the weights come from a local file, so that no hub may be asked.

    Raises:
        UserError: there is no description, or it is of no timm model.
    """
    if not name.startswith((HUB, FOLDER)):
        return None
    if is_restoring():
        kept = json.loads(restored_image_source())
        return TimmSource(kept["architecture"], kept["options"], kept["config"])
    if with_weights and name.startswith(HUB):
        raise UserError(
            f"image_encoder={name!r} asks the hub what the network is, and image_weights asks none",
            "give the timm name of the architecture beside image_weights, or leave these out",
        )
    import timm
    from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

    read = load_model_config_from_hf if name.startswith(HUB) else load_model_config_from_path
    asked = name.startswith(HUB)
    try:
        with hub_or_cache(name) if asked else nullcontext():
            config, architecture, options = read(name.partition(":")[2])
    except Exception as error:  # a missing file, a broken one and an absent hub share no class
        reason = hub_reason(error) if asked else first_line(error)
        raise UserError(
            f"image_encoder={name!r} has no readable description ({reason})",
            "connect to the hub once so that it is cached, or give a folder with timm's "
            f"config.json as {FOLDER}FOLDER",
        ) from error
    if not timm.is_model(architecture):
        raise UserError(
            f"image_encoder={name!r} is of {architecture!r}, which is no timm model",
            "give a model that was saved by timm",
        )
    return TimmSource(architecture, dict(options or {}), config)
