"""Where timm's models come from: their descriptions, their weights, and what these leave random.

A hub or a local folder describes a model by its config.json: ``hf-hub:ORG/NAME``,
``local-dir:FOLDER``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from textseg.encoders.hub import hub_or_cache, hub_reason
from textseg.encoders.restore import is_restoring, restored_image_source
from textseg.encoders.weights import COUNTER, Mismatch, misfit, mismatch, names_in
from textseg.errors import UserError, first_line

HUB, FOLDER = "hf-hub:", "local-dir:"
# Files of weights in a folder, in the order in which timm takes them.
USUAL_FILES = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
)
OTHER_FILES = ("*.safetensors", "*.pth", "*.pth.tar", "*.bin")
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


# --- weights of a described model


def weights_file(name: str, config: Mapping[str, Any], *, asked: str) -> Path:
    """The file of weights beside a model's description, fetched if it is a hub's.

    Args:
        name: ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.
        config: what the description says of the weights.
        asked: what messages call the network.

    Raises:
        UserError: there is none, or several without a usual name, or the hub is out of reach.
    """
    place = name.partition(":")[2]
    if name.startswith(FOLDER):
        return _file_in(Path(place), asked)
    try:
        with hub_or_cache(name):
            return _file_of_hub(place, config.get("hf_hub_filename"))
    except Exception as error:  # an absent hub and an absent file share no class
        raise UserError(
            f"the weights of image_encoder={asked!r} could not be fetched ({hub_reason(error)})",
            "connect to the hub once so that the weights are cached, or set pretrained: false",
        ) from error


def _file_in(folder: Path, asked: str) -> Path:
    """The file of a folder that timm takes, or the only one there is."""
    usual = [folder / file for file in USUAL_FILES if (folder / file).is_file()]
    if usual:
        return usual[0]
    others = next(filter(None, (sorted(folder.glob(files)) for files in OTHER_FILES)), [])
    if len(others) == 1:
        return others[0]
    found = (
        f"several files of weights, {[file.name for file in others]},"
        if others
        else "no file of weights"
    )
    raise UserError(
        f"image_encoder={asked!r} has {found} beside its config.json",
        f"name the file of its weights {USUAL_FILES[0]} or {USUAL_FILES[1]}, or set "
        "pretrained: false",
    )


def _file_of_hub(place: str, file: str | None) -> Path:
    """The file that the description names, or one of timm's two."""
    from huggingface_hub.errors import EntryNotFoundError
    from timm.models._hub import download_from_hf

    *others, last = [file] if file else USUAL_FILES[:2]
    for other in others:
        try:
            return Path(download_from_hf(place, other))
        except EntryNotFoundError:
            continue
    return Path(download_from_hf(place, last))


# --- weights that timm publishes under its own names


class Loading:
    """What timm's loader found for a network, and what of the network it left random.

    timm loads a feature pyramid with ``strict=False`` and only logs what the file lacks.

    Args:
        asked: the network's name, for messages.
    """

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self._network: nn.Module | None = None  # before a pyramid is made of it
        self._stored: dict[str, Tensor] | None = None  # by the file's names, then by timm's
        self._missing: dict[str, Tensor] = {}  # the network's own tensors

    def watch(self, load: Callable[..., None], network: nn.Module, **settings: Any) -> None:
        """Run timm's loader on a network.

        Raises:
            UserError: the file is of another network, or broken.
        """
        self._network = network
        hooks = (
            network.register_load_state_dict_pre_hook(
                lambda module, stored, *rest: self._keep(stored)
            ),
            network.register_load_state_dict_post_hook(self._keep_missing),
        )
        translate = settings.pop("filter_fn", None)
        try:
            load(network, filter_fn=translate and self._noting(translate), **settings)
        except Exception as error:  # timm presumes the right network, and fails in many ways
            mended = self._explained(error)
            if mended is None:
                raise
            raise mended from error
        finally:
            for hook in hooks:
                hook.remove()

    def check(self, network: nn.Module) -> None:
        """Check that every weight of the finished network came from the file.

        Raises:
            UserError: some are random.
        """
        own = {id(value) for value in (*network.parameters(), *network.buffers())}
        gaps = [name for name in self._needed(self._missing) if id(self._missing[name]) in own]
        if gaps:
            raise self._misfit(Mismatch([], gaps, []))

    def _keep(self, stored: Mapping[str, Any]) -> None:
        self._stored = {n: value for n, value in stored.items() if isinstance(value, Tensor)}

    def _keep_missing(self, network: nn.Module, keys: Any) -> None:
        own = network.state_dict(keep_vars=True)
        self._missing = {name: own[name] for name in keys.missing_keys if name in own}

    def _noting(self, translate: Callable[..., Any]) -> Callable[..., Any]:
        """timm's function that renames a file's tensors, with a note of what it is given."""

        def noting(stored: Mapping[str, Any], *rest: Any) -> Any:
            self._keep(stored)
            return translate(stored, *rest)

        return noting

    def _needed(self, names: Iterable[str]) -> list[str]:
        """Those that no network can do without: not a classifier's, nor counters."""
        config = getattr(self._network, "pretrained_cfg", {})
        heads = tuple(f"{module}." for module in names_in(config, "classifier"))
        return [name for name in names if not name.startswith(heads) and not name.endswith(COUNTER)]

    def _explained(self, error: Exception) -> UserError | None:
        """What an error of the loader means; None where no file was read, as without a hub."""
        if self._stored is None:
            if isinstance(error, (OSError, RuntimeError)):
                return None
            return UserError(
                f"the published weights of image_encoder={self.asked!r} cannot be read "
                f"({first_line(error)})",
                "delete the hub's cached copy, or set pretrained: false",
            )
        shapes = self._shapes()
        found = mismatch(self._stored, shapes, self._needed(shapes))
        return self._misfit(found) if found.total else None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        own = {} if self._network is None else self._network.state_dict()
        return {name: tuple(value.shape) for name, value in own.items()}

    def _misfit(self, found: Mismatch) -> UserError:
        stored = self._stored or {}
        return misfit(
            "the published file",
            self.asked,
            stored,
            stored,
            self._shapes(),
            found,
            "leave out of image_encoder_options what changes the network, or set "
            "pretrained: false; a broken file is fetched anew if the hub's cached copy is deleted",
        )


@contextmanager
def watched_loading(asked: str) -> Iterator[Loading]:
    """Within it, published weights that timm loads are watched; `Loading.check` the result.

    Args:
        asked: the network's name, for messages.
    """
    from timm.models import _builder

    loading, load = Loading(asked), _builder.load_pretrained

    def watch(network: nn.Module, **settings: Any) -> None:
        loading.watch(load, network, **settings)

    _builder.load_pretrained = watch
    try:
        yield loading
    finally:
        _builder.load_pretrained = load
