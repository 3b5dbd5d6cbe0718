"""The command line before the parser reads it: which files it names, and what they bring along."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from textseg.cli.messages import broken_yaml, options
from textseg.errors import UserError
from textseg.runs import Run

# Data settings that a test on other data takes from the run: they belong to the network.
KEPT_FOR_OTHER_DATA = (
    *("image_size", "resize", "batch_size", "num_workers", "caption_mode", "normalize_captions"),
    *("cache", "seed"),
)


# Options that may be given again: the later one adds to the earlier, or is meant to take its place,
# as the last two that a cross-validation puts behind what was typed.
_GIVEN_AGAIN = (
    *("--config", "--trainer", "--model", "--data", "--results_writer", "--explain", "--restart"),
    *("--seed_everything", "--test_after_fit"),
)

# Options whose values are files: ~ stands for the home folder at the beginning of each, also of one
# in a list.
_OF_FILES = (
    *("--config", "-c", "--ckpt_path", "--ckpt_path+", "--output", "--trainer.default_root_dir"),
)
_HOME = re.compile(r"(^|[\[,]\s*[\"']?)~(?=/|$)")

# Packages whose classes a run's config may name; the last has the transforms of training images.
_SUITE = ("textseg", "datamodules", "albumentations")


def add_working_folder() -> None:
    """Make modules of the working folder importable, as `python -m` does, after all others."""
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append("")


def with_home(arguments: Sequence[str]) -> list[str]:
    """The arguments with ~ written out where a file is named.

    A shell does so for a word of its own, and not in ``--option=~/file``, in quotes or in a list.
    """

    def written_out(text: str) -> str:
        return _HOME.sub(lambda found: f"{found[1]}{Path('~').expanduser()}", text)

    written = list(arguments)
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in _OF_FILES:
            continue
        if equals:
            written[position] = f"{name}={written_out(value)}"
        elif position + 1 < len(written):
            written[position + 1] = written_out(written[position + 1])
    return written


def option(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option, written as `--name value` or `--name=value`; the last one counts."""
    return next((value for name, value in [*options(arguments)][::-1] if name in names), None)


def check_given_once(arguments: Sequence[str]) -> None:
    """Check that no option of the suite's has two values, of which one would be dropped unsaid.

    Settings of a group, such as ``--data.root``, may be given again: the last counts, as for files.

    Raises:
        UserError: one has.
    """
    values: dict[str, str] = {}
    for name, value in options(arguments):
        if not re.fullmatch(r"--[a-z_]+", name) or name in _GIVEN_AGAIN:
            continue
        if values.setdefault(name, value) != value:
            raise UserError(f"{name} is given twice: {values[name]} and {value}", "leave one out")


def experiment_name(arguments: Sequence[str]) -> str:
    """The name of the experiment, which all results bear: ``--name``, or that of its config.

    A later config that brings a dataset of its own adds its name, and so does another class of
    data: ``unet_refhl`` on ``my_data.yaml`` is ``unet_refhl+my_data``. Without a config: "run".

    Raises:
        UserError: ``--name`` could not be the name of a folder everywhere.
    """
    given = option(arguments, "--name")
    if given is not None and not re.fullmatch(r"\w[\w.+-]{0,99}", given):
        raise UserError(
            f"--name {given!r} is no name for a folder",
            "use up to 100 letters, digits, '_', '-', '+' and '.', the first no sign",
        )
    files = [file for _, file in _configs(arguments)]
    if given or not files:
        return given or "run"
    first, *others = files
    data = [_dict((_settings_of(file) or {}).get("data")) for file in (first, *others)]
    added = [
        Path(file).stem
        for file, own in zip(others, data[1:], strict=True)
        if "class_path" in own or "root" in _dict(own.get("init_args"))
    ]
    other_class = _short(option(arguments, "--data", "--data.class_path"))
    if other_class not in (None, _short(data[0].get("class_path"))):
        added.append(str(other_class))
    return "+".join([Path(first).stem, *added[-1:]])


def with_checkpoint_of_run(arguments: Sequence[str]) -> list[str]:
    """``RUN ...`` as ``--ckpt_path RUN/checkpoints/best.ckpt ...``.

    Raises:
        UserError: RUN has no such checkpoint, or another one is given beside it.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    other = option(arguments, "--ckpt_path", "--ckpt_path+")
    if other is not None:
        raise UserError(
            f"the run {arguments[0]} and --ckpt_path {other} are both given",
            "give one of the two: a run stands for its checkpoints/best.ckpt",
        )
    checkpoint = Path(arguments[0]).expanduser() / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        from textseg.checkpoint import refuse_folder

        refuse_folder(Path(arguments[0]).expanduser())  # of an export or a card, it says so
        raise UserError(
            f"{checkpoint} does not exist",
            "give the folder of a run, runs/<config>/<time>; or --ckpt_path and a checkpoint",
        )
    return ["--ckpt_path", str(checkpoint), *arguments[1:]]


def with_first_checkpoint(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """``--ckpt_path [A,B,...]`` as ``--ckpt_path A``, and the others of an ensemble.

    Raises:
        UserError: it is no list of files.
    """
    given = option(arguments, "--ckpt_path")
    if given is None or not given.startswith("["):
        return list(arguments), []
    try:
        listed = yaml.safe_load(given)
    except yaml.YAMLError:
        listed = None
    if not isinstance(listed, list) or not listed or not all(isinstance(p, str) for p in listed):
        raise UserError(
            f"ckpt_path={given!r} is no list of checkpoints", "give --ckpt_path '[A.ckpt,B.ckpt]'"
        )
    first, *others = listed
    kept = [first if argument == given else argument for argument in arguments]
    return [f"--ckpt_path={first}" if a == f"--ckpt_path={given}" else a for a in kept], others


def with_run_config(arguments: Sequence[str]) -> list[str]:
    """With a checkpoint, the model and data settings of its run, unless a config has a model.

    Raises:
        UserError: the checkpoint is a folder, the run's config is missing or broken, it names a
            class that is neither the suite's nor named on the command line, or the run's captions
            would be read for the images of another root.
    """
    checkpoint, configs = option(arguments, "--ckpt_path"), _settings_of_configs(arguments)
    if checkpoint is None or configs is None or "model" in configs:
        return list(arguments)
    if Path(checkpoint).is_dir():  # perhaps with a config.yaml of its own, as a card's
        from textseg.checkpoint import refuse_folder

        refuse_folder(checkpoint)
    run, remedy = Run.of_checkpoint(checkpoint), "give --config with the experiment's file"
    stored = run.settings(remedy)
    if not stored:
        from textseg.checkpoint import read_checkpoint

        read_checkpoint(checkpoint)  # a missing checkpoint is the better error
        raise UserError(
            f"{run.config} does not exist, so the settings of {checkpoint} are unknown", remedy
        )
    kept: dict[str, Any] = {
        key: stored[key] for key in ("seed_everything", "model", "data") if key in stored
    }
    kept["trainer"] = {"precision": _dict(stored.get("trainer")).get("precision")}
    _check_shape(kept, run.config, remedy)
    _check_classes_named(kept, arguments, configs, run.config)
    if "data" in kept:
        kept["data"] = _data_of_test(_dict(kept["data"]), _requested_data(arguments, configs))
    return ["--config", yaml.safe_dump(kept), *arguments]


def _check_shape(kept: dict[str, Any], file: Path, remedy: str) -> None:
    """Check that model and data are classes with settings, as a training writes them.

    Raises:
        UserError: they are not.
    """
    for group in ("model", "data"):
        settings = kept.get(group, {})
        own = _dict(settings).get("init_args") or {}
        wrong = {group: settings} if not isinstance(settings, dict | str | None) else {}
        if not isinstance(own, dict):
            wrong = {f"{group}.init_args": own}
        texts = {"class_path": _dict(settings).get("class_path")}
        if group == "data":
            texts |= {name: _dict(own).get(name) for name in ("root", "captions")}
        wrong |= {f"{group}.{k}": v for k, v in texts.items() if not isinstance(v, str | None)}
        for name, value in wrong.items():
            raise UserError(f"{file}: {name} is {str(value)[:60]!r}", remedy)


def _check_classes_named(
    kept: Any, arguments: Sequence[str], configs: dict[str, Any], file: Path
) -> None:
    """Check that no class is imported by the word of a run's config alone, which may be anybody's.

    Raises:
        UserError: it names a class that is neither the suite's, nor on the command line or in a
            config that is given there.
    """
    named = {value for _, value in options(arguments)} | set(_class_paths(configs))
    named |= {value for value in configs.values() if isinstance(value, str)}
    for group in ("model", "data"):
        for path in _class_paths({"class_path": kept.get(group)}):
            if "." in path and path.split(".")[0] not in _SUITE and path not in named:
                raise UserError(
                    f"{file} names the class {path}, which is none of the suite's, and no file "
                    "decides what is imported",
                    f"if you know it, name it on the command line: --{group} {path}, or --config "
                    "with its experiment",
                )


def _class_paths(settings: Any, key: str = "") -> Iterator[str]:
    """Every class that settings name, at any depth."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _class_paths(value, name)
    elif isinstance(settings, list):
        for value in settings:
            yield from _class_paths(value)
    elif isinstance(settings, str) and key == "class_path":
        yield settings


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _requested_data(arguments: Sequence[str], configs: dict[str, Any]) -> dict[str, str | None]:
    """Class, root and captions that the command line sets, itself or in its configs."""
    data = _dict(configs.get("data"))
    settings = _dict(data.get("init_args"))
    name = option(arguments, "--data", "--data.class_path") or data.get("class_path")
    requested = {"class": name}
    for key in ("root", "captions"):
        value = option(arguments, f"--data.{key}", f"--data.init_args.{key}")
        requested[key] = value or settings.get(key)
    return requested


def _data_of_test(stored: dict[str, Any], requested: dict[str, str | None]) -> dict[str, Any]:
    """The run's data settings that a test starts from.

    Other data, which are another class or another root with a class, bring their own root, captions
    and split: a split of the run's must not fall back to the default unnoticed.
    """
    settings = _dict(stored.get("init_args"))
    kind, root = requested["class"], requested["root"]
    same_class = _short(kind) in (None, _short(stored.get("class_path")))
    same_root = root is None or _same_path(root, settings.get("root"))
    if not same_class or (kind is not None and not same_root):
        kept = {k: v for k, v in settings.items() if k in KEPT_FOR_OTHER_DATA}
        return {**stored, "init_args": kept}
    if root is None:
        return stored
    captions = settings.get("captions")
    outside = captions and not _resolved(captions).is_relative_to(_resolved(root))
    missing = requested["captions"] is None and not settings.get("synthesize")
    if not same_root and outside and missing:
        raise UserError(
            f"root={root} is not the run's, but the captions would be: {captions}",
            "add --data.captions with those of this root (null if they lie in it)",
        )
    # Phantoms would be taken instead of root.
    return {**stored, "init_args": {**settings, "synthesize": False}}


def _short(class_path: str | None) -> str | None:
    return None if class_path is None else class_path.rpartition(".")[2]


def _resolved(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _same_path(one: str, other: str | None) -> bool:
    return other is not None and _resolved(one) == _resolved(other)


def _configs(arguments: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Position and file of each --config."""
    for position, argument in enumerate(arguments):
        if argument.partition("=")[0] in ("--config", "-c"):
            yield position, next(options(arguments[position : position + 2]))[1]


def _settings_of_configs(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What the config files set, by group ("model", "data", ...); None if one cannot be read.

    The parser then says what is wrong with it.
    """
    groups: dict[str, Any] = {}
    for _, file in _configs(arguments):
        found = _settings_of(file)
        if found is None:
            return None
        groups |= found
    return groups


def _settings_of(file: str) -> dict[str, Any] | None:
    """What a config file sets; None if it cannot be read."""
    try:
        return _dict(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None


def data_part_of_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with each experiment cut down to its `data`.

    Raises:
        UserError: a config cannot be read or sets no data.
    """
    kept = list(arguments)
    for position, file in _configs(arguments):
        try:
            settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror})", "check --config"
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError):
            broken = broken_yaml([Path(file)])
            assert broken is not None
            raise broken from None
        if not isinstance(settings, dict) or "data" not in settings:
            raise UserError(
                f"{file} sets no data", "give an experiment, or --data and its settings"
            )
        text = yaml.safe_dump({"data": settings["data"]})
        if "=" in kept[position]:
            kept[position] = f"--config={text}"
        else:
            kept[position + 1] = text
    return kept
