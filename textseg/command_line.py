"""The command line before the parser sees it: which files it names, and what they bring along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from textseg.checkpoint import RUN_CONFIG, read_checkpoint, run_folder_of
from textseg.cli_errors import broken_yaml
from textseg.errors import UserError

NEED_CHECKPOINT = ("validate", "test", "predict")
# What a network goes by, whatever it is tested on.
KEPT_FOR_OTHER_DATA = (
    *("image_size", "batch_size", "num_workers", "caption_mode", "normalise_captions"),
    *("cache", "seed"),
)


def option(arguments: Sequence[str], *names: str) -> str | None:
    """The first value given to an option, as `--name value` or `--name=value`."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[position + 1 :]), None)
    return None


def config_name(arguments: Sequence[str]) -> str:
    config = option(arguments, "--config", "-c")
    return Path(config).stem if config else "run"


def with_run_config(arguments: Sequence[str]) -> list[str]:
    """With a checkpoint, the model and data settings of its run, unless a config gives a model."""
    checkpoint = option(arguments, "--ckpt_path")
    takes_it = arguments[:1] and arguments[0] in NEED_CHECKPOINT
    given = _given_settings(arguments)
    if not takes_it or checkpoint is None or "model" in given:
        return list(arguments)
    config = run_folder_of(checkpoint) / RUN_CONFIG
    if not config.is_file():
        read_checkpoint(checkpoint)  # a missing checkpoint is the better error
        raise UserError(
            f"{config} does not exist, so the settings of {checkpoint} are unknown",
            "give --config with the experiment's file",
        )
    try:
        stored = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{config} holds no settings", "give --config with the experiment's file")
    kept = {key: stored[key] for key in ("seed_everything", "model", "data") if key in stored}
    kept["trainer"] = {"precision": stored.get("trainer", {}).get("precision")}
    settings = kept.get("data", {}).get("init_args", {})
    if "data" in given or option(arguments, "--data", "--data.class_path"):
        # Other data bring their own root, captions and split.
        kept["data"]["init_args"] = {k: v for k, v in settings.items() if k in KEPT_FOR_OTHER_DATA}
    elif option(arguments, "--data.root", "--data.init_args.root"):
        settings["synthesize"] = False  # phantoms would be taken instead of root
    return [arguments[0], "--config", yaml.safe_dump(kept), *arguments[1:]]


def _given_settings(arguments: Sequence[str]) -> set[str]:
    """The groups ("model", "data", ...) that the config files on the command line set."""
    groups: set[str] = set()
    for position, argument in enumerate(arguments):
        file = option(arguments[position : position + 2], "--config", "-c")
        if file is None or not argument.startswith(("--config", "-c")):
            continue
        try:
            settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return {"model"}  # the parser says what is wrong with the file
        groups |= set(settings) if isinstance(settings, dict) else set()
    return groups


def data_part_of_configs(arguments: Sequence[str]) -> list[str]:
    """Experiments also set network and trainer; of each config the part `data` is kept."""
    kept = list(arguments)
    for position, argument in enumerate(kept):
        file = option(kept[position : position + 2], "--config", "-c")
        if file is None or not argument.startswith(("--config", "-c")):
            continue
        try:
            settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror})", "check --config"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError):
            raise broken_yaml(arguments) or UserError(f"{file} is not YAML", "mend it") from None
        if not isinstance(settings, dict) or "data" not in settings:
            raise UserError(
                f"{file} sets no data", "give an experiment, or --data and its settings"
            )
        text = yaml.safe_dump({"data": settings["data"]})
        if "=" in argument:
            kept[position] = f"--config={text}"
        else:
            kept[position + 1] = text
    return kept
