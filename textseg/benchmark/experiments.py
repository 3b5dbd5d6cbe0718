"""Networks of experiment files, to be measured beside another: without weights, words frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

import textseg.models
from textseg.cli.messages import explain
from textseg.encoders import TextEncoder
from textseg.errors import UserError
from textseg.models.base import SegmentationModule, settings_of

JOINED_BY = "+"
# Settings of every such network, where it has them: times do not depend on weights.
WITHOUT_WEIGHTS = {"pretrained": False, "freeze_text": None, "image_weights": None}


def files_of(entry: str) -> list[str]:
    """The experiment and its overlays: ``a.yaml+cpu/a.yaml`` is two files."""
    return [entry] if Path(entry).is_file() else entry.split(JOINED_BY)


def name_of(entry: str) -> str:
    """What the table calls it: the files' names without suffixes."""
    return JOINED_BY.join(Path(file).stem for file in files_of(entry))


def freeze_text_encoder(model: SegmentationModule) -> None:
    """Freeze the text encoder if `model` has one, even if its weights are random."""
    encoder = getattr(model, "text_encoder", None)
    if isinstance(encoder, TextEncoder):
        encoder.freeze()


def network_from(entry: str, text_encoder: str | None = None) -> SegmentationModule:
    """The network of an experiment, without published weights, its text encoder frozen.

    Args:
        entry: a YAML file with ``model: {class_path: ..., init_args: {...}}``, or several joined by
            "+", each laid over those before it as a second --config is.
        text_encoder: instead of the experiment's, if that has one.

    Raises:
        UserError: a file cannot be read, or the settings do not make a network.
    """
    files = files_of(entry)
    class_path, settings = _overlaid(entry, files)
    network = _network_class(entry, class_path)
    known = settings_of(network)
    changes: dict[str, Any] = {k: v for k, v in WITHOUT_WEIGHTS.items() if k in known}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationModule, "model")
    full_name = f"{network.__module__}.{network.__qualname__}"
    section = {"class_path": full_name, "init_args": {**settings, **changes}}
    try:
        config = parser.parse_object({"model": section})
        arguments = config.model.init_args.as_dict()
        if text_encoder and arguments.get("text_encoder"):  # an image-only network has none
            arguments["text_encoder"] = text_encoder
        model = network(**arguments)
    except ArgumentError as error:
        command = ["benchmark", *(word for file in files for word in ("--config", file))]
        raise explain(str(error), command, known) from error
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        raise UserError(f"beside: {entry}: {cause}", remedy) from error
    freeze_text_encoder(model)
    return model


def _overlaid(entry: str, files: list[str]) -> tuple[str, dict[str, Any]]:
    """class_path and init_args of all files together, key by key; the last to name one counts."""
    class_path: str | None = None
    settings: dict[str, Any] = {}
    for file in files:
        model = _model_section(file)
        named: str | None = model.get("class_path", class_path)
        if named and class_path and _short(named) != _short(class_path):
            raise UserError(
                f"beside: {entry}: {file} is of {named}, what it is laid over is of {class_path}",
                "give overlays of the same network",
            )
        class_path = named
        settings |= model.get("init_args") or {}
    if class_path is None:
        raise UserError(
            f"beside: {entry} has no model with class_path and init_args",
            "give whole experiments, as in experiments/, overlays after them: a.yaml+cpu/a.yaml",
        )
    return class_path, settings


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _model_section(path: str) -> dict[str, Any]:
    """What a file says of the network; an overlay may say nothing."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"beside: {path} cannot be read as YAML ({reason})",
            "give experiment files, for example [experiments/lsms_qata.yaml]",
        ) from error
    model = content.get("model", {}) if isinstance(content, dict) else None
    sound = isinstance(model, dict) and (
        isinstance(model.get("class_path", ""), str)
        and isinstance(model.get("init_args") or {}, dict)
    )
    if not sound:
        raise UserError(
            f"beside: {path} has no model with class_path and init_args",
            "give whole experiments, as in experiments/, overlays after them: a.yaml+cpu/a.yaml",
        )
    assert isinstance(model, dict)
    return model


def _network_class(entry: str, class_path: str) -> type[SegmentationModule]:
    """A network by its short name, or by a dotted one as in a run's config.yaml."""
    home, _, name = class_path.rpartition(".")
    found = getattr(textseg.models, name, None)
    ours = not home or f"{home}.".startswith("textseg.models.")
    network = isinstance(found, type) and issubclass(found, SegmentationModule)
    if ours and network and found is not SegmentationModule:
        assert found is not None
        return found
    names = [name for name in textseg.models.__all__ if name != SegmentationModule.__name__]
    raise UserError(
        f"beside: {entry}: class_path {class_path!r} is no network of the suite",
        f"choose of {names}",
    )
