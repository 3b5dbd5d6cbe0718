"""Builds networks from experiment files for the benchmark: random weights, frozen text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

import textseg.models
from textseg.encoders import TextEncoderBase
from textseg.errors import UserError, refusing, wrapped_error
from textseg.models.base import SegmentationModule
from textseg.runs.repeated_keys import check_keys

JOINED_BY = "+"
# Settings of every such network, where it has them: times do not depend on weights.
WITHOUT_WEIGHTS = {"pretrained": False, "freeze_text": None, "image_weights": None}


def files_of(entry: str) -> list[str]:
    """The experiment and its overlays: ``a.yaml+cpu/a.yaml`` is two files."""
    return [entry] if Path(entry).is_file() else entry.split(JOINED_BY)


def name_of(entry: str) -> str:
    """The network's name in the table: the files' names without suffixes."""
    return JOINED_BY.join(Path(file).stem for file in files_of(entry))


def freeze_text_encoder(model: SegmentationModule) -> None:
    """Freeze the text encoder if `model` has one, even if its weights are random."""
    encoder = getattr(model, "text_encoder", None)
    if isinstance(encoder, TextEncoderBase):
        encoder.freeze()


def network_of_experiment(entry: str, text_encoder: str | None = None) -> SegmentationModule:
    """The network of an experiment, without published weights, its text encoder frozen.

    Args:
        entry: a YAML file with ``model: {class_path: ..., init_args: {...}}``, or several joined by
            "+", each laid over those before it as a second --config is. The class is a network of
            the suite by its name, or any SegmentationModule that can be imported: own.OwnNet.
        text_encoder: instead of the experiment's, if that has one.

    Raises:
        UserError: a file cannot be read, or the settings do not make a network.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationModule, "model")
    try:
        config = parser.parse_object({"model": _overlaid(entry)})
    except ArgumentError as error:
        raise _refused(entry, str(error)) from error
    settings: Namespace = config.model.init_args
    for name in (name for name in WITHOUT_WEIGHTS if name in settings):
        settings[name] = WITHOUT_WEIGHTS[name]
    # None is an image-only network.
    if text_encoder is not None and settings.get("text_encoder") is not None:
        settings["text_encoder"] = text_encoder
    try:
        model: SegmentationModule = parser.instantiate_classes(config).model
    except Exception as error:
        mistake = wrapped_error(error, UserError)
        if mistake is None:
            raise
        cause, _, remedy = str(mistake).partition("\n")
        raise UserError(f"compare_with: {entry}: {cause}", remedy) from error
    if type(model) is SegmentationModule:
        raise _refused(entry, f"{SegmentationModule.__name__} itself is no network")
    freeze_text_encoder(model)
    return model


def _refused(entry: str, message: str) -> UserError:
    """What jsonargparse says of the network alone, on one line."""
    _, _, inner = message.partition("Errors:")
    reason = " ".join((inner or message).partition("- Expected a <class 'NoneType'>")[0].split())
    names = [name for name in textseg.models.__all__ if name != SegmentationModule.__name__]
    return UserError(
        f"compare_with: {entry}: {reason.removeprefix('- ')[:300]}",
        f"give one of {names}, or a network of your own as module.Class, and settings that it "
        f"takes: textseg fit --model.help {names[0]}",
    )


def _overlaid(entry: str) -> dict[str, Any]:
    """The model section of all files together, key by key; the last to name a class counts."""
    class_path, settings = None, dict[str, Any]()
    for file in files_of(entry):
        named, given = _model_section(file)
        names = {path.rpartition(".")[2] for path in (named, class_path) if path}
        if len(names) > 1:
            raise UserError(
                f"compare_with: {entry}: {file} is of {named}, what it is laid over is of "
                f"{class_path}",
                "give overlays of the same network",
            )
        class_path = named or class_path
        settings |= given
    if class_path is None:
        raise _no_network(entry)
    return {"class_path": class_path, "init_args": settings}


def _model_section(path: str) -> tuple[str | None, dict[str, Any]]:
    """Class and settings of a file's network; an overlay may leave out either."""
    remedy = "give experiment files, for example [experiments/lsms_qata.yaml]"
    broken = (OSError, UnicodeDecodeError, yaml.YAMLError)
    with refusing(broken, f"compare_with: {path} cannot be read as YAML", remedy):
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    check_keys(text, path)
    model = content.get("model", {}) if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise _no_network(path)
    class_path, settings = model.get("class_path"), model.get("init_args") or {}
    if not (isinstance(class_path, str | None) and isinstance(settings, dict)):
        raise _no_network(path)
    return class_path, settings


def _no_network(files: str) -> UserError:
    return UserError(
        f"compare_with: {files} has no model with class_path and init_args",
        "give whole experiments, as in experiments/, overlays after them: a.yaml+cpu/a.yaml",
    )
