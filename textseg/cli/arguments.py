"""The command line before the parser sees it: which files it names, and what they bring along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from textseg.checkpoint import read_checkpoint
from textseg.cli.messages import broken_yaml
from textseg.errors import UserError
from textseg.runs import Run

NEED_CHECKPOINT = ("validate", "test", "predict", "probe")
# What a network goes by, whatever it is tested on.
KEPT_FOR_OTHER_DATA = (
    *("image_size", "batch_size", "num_workers", "caption_mode", "normalize_captions"),
    *("cache", "seed"),
)


def option(arguments: Sequence[str], *names: str) -> str | None:
    """The first value given to an option, as `--name value` or `--name=value`."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[position + 1 :]), None)
    return None


def with_checkpoint_of_run(arguments: Sequence[str]) -> list[str]:
    """`textseg probe RUN ...` as `textseg probe --ckpt_path RUN/checkpoints/best.ckpt ...`.

    Raises:
        UserError: RUN has no such checkpoint.
    """
    if arguments[:1] != ["probe"] or not arguments[1:2] or arguments[1].startswith("-"):
        return list(arguments)
    checkpoint = Path(arguments[1]).expanduser() / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        raise UserError(
            f"{checkpoint} does not exist",
            "give the folder of a run, runs/<config>/<time>; or --ckpt_path and a checkpoint",
        )
    return ["probe", "--ckpt_path", str(checkpoint), *arguments[2:]]


def config_name(arguments: Sequence[str]) -> str:
    config = option(arguments, "--config", "-c")
    return Path(config).stem if config else "run"


def with_run_config(arguments: Sequence[str]) -> list[str]:
    """With a checkpoint, the model and data settings of its run, unless a config gives a model.

    Raises:
        UserError: the run's config is missing or broken, or the run's captions would be read for
            the pictures of another root.
    """
    checkpoint = option(arguments, "--ckpt_path")
    takes_it = arguments[:1] and arguments[0] in NEED_CHECKPOINT
    given = _given_settings(arguments)
    if not takes_it or checkpoint is None or "model" in given:
        return list(arguments)
    run, remedy = Run.of_checkpoint(checkpoint), "give --config with the experiment's file"
    stored = run.settings(remedy)
    if not stored:
        read_checkpoint(checkpoint)  # a missing checkpoint is the better error
        raise UserError(
            f"{run.config} does not exist, so the settings of {checkpoint} are unknown", remedy
        )
    kept: dict[str, Any] = {
        key: stored[key] for key in ("seed_everything", "model", "data") if key in stored
    }
    kept["trainer"] = {"precision": _dict(stored.get("trainer")).get("precision")}
    if "data" in kept:
        kept["data"] = _data_of_test(_dict(kept["data"]), _asked_data(arguments, given))
    return [arguments[0], "--config", yaml.safe_dump(kept), *arguments[1:]]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _asked_data(arguments: Sequence[str], given: dict[str, Any]) -> dict[str, str | None]:
    """Class, root and captions that the command line names, itself or in its configs."""
    data = _dict(given.get("data"))
    settings = _dict(data.get("init_args"))
    asked = {"class": option(arguments, "--data", "--data.class_path") or data.get("class_path")}
    for name in ("root", "captions"):
        flag = option(arguments, f"--data.{name}", f"--data.init_args.{name}")
        asked[name] = flag or settings.get(name)
    return asked


def _data_of_test(stored: dict[str, Any], asked: dict[str, str | None]) -> dict[str, Any]:
    """The run's data settings that a test starts from.

    Other data, which are another class or another root given with a class, bring their own root,
    captions and split: a split of the run's must not fall back to the default unasked.
    """
    settings = _dict(stored.get("init_args"))
    same_class = _short(asked["class"]) in (None, _short(stored.get("class_path")))
    same_root = asked["root"] is None or _same_path(asked["root"], settings.get("root"))
    if not same_class or (asked["class"] is not None and not same_root):
        kept = {k: v for k, v in settings.items() if k in KEPT_FOR_OTHER_DATA}
        return {**stored, "init_args": kept}
    if asked["root"] is None:
        return stored
    captions = settings.get("captions")
    outside = captions and not Path(captions).resolve().is_relative_to(
        Path(asked["root"]).expanduser().resolve()
    )
    if not same_root and outside and asked["captions"] is None and not settings.get("synthesize"):
        raise UserError(
            f"root={asked['root']} is not the run's, but the captions would be: {captions}",
            "add --data.captions with those of this root (null if they lie in it)",
        )
    # Phantoms would be taken instead of root.
    return {**stored, "init_args": {**settings, "synthesize": False}}


def _short(class_path: str | None) -> str | None:
    return None if class_path is None else class_path.rpartition(".")[2]


def _same_path(one: str, other: str | None) -> bool:
    return (
        other is not None and Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    )


def _given_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """What the config files on the command line set, by group ("model", "data", ...)."""
    groups: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        file = option(arguments[position : position + 2], "--config", "-c")
        if file is None or not argument.startswith(("--config", "-c")):
            continue
        try:
            settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return {"model": None}  # the parser says what is wrong with the file
        groups |= _dict(settings)
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
