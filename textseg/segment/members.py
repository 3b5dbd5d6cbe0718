"""The members of an ensemble: whether they belong together, and what averages them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textseg.checkpoint import ABOUT
from textseg.errors import UserError, check_choice
from textseg.models.base import SegmentationModule
from textseg.models.ensemble import Ensemble, MirrorText, Tta
from textseg.models.tiles import Tiles
from textseg.runs import Run
from textseg.runs.folder import nested

# Settings of data that decide what a network is shown.
_SHOWN = ("image_size", "resize", "normalize_captions")


def averaged(
    networks: Sequence[SegmentationModule],
    paths: Sequence[str | Path],
    *,
    tta: Tta,
    tiles: Tiles | None = None,
    mirror_text: MirrorText | None,
) -> SegmentationModule:
    """The mean of the networks' logits; where there is nothing to average, the one network itself.

    Args:
        networks: with their weights.
        paths: of their checkpoints, which name them in results.
        tta, tiles: as of `Ensemble`.
        mirror_text: as of `Ensemble`.
    """
    check_choice("tta", tta, Tta)
    if len(networks) == 1 and tta == "none" and tiles is None:
        return networks[0]
    names = [checkpoint_name(path) for path in paths]
    return Ensemble(networks, names=names, tta=tta, tiles=tiles, mirror_text=mirror_text)


def check_one_task(
    paths: Sequence[str | Path],
    checkpoints: Sequence[Mapping[str, Any]],
    *,
    image_size_given: bool = False,
) -> None:
    """Check that networks were trained on the same data, which they were shown alike.

    What neither config.yaml of its run nor a checkpoint tells is not compared.

    Args:
        paths: of the checkpoints.
        checkpoints: what `textseg.checkpoint.read_checkpoint` gives for each.
        image_size_given: whether images get another size than any network was trained for.

    Raises:
        UserError: two of them differ, or one is given twice.
    """
    files = [Path(path).resolve() for path in paths]
    twice = [path for number, path in enumerate(files) if path in files[:number]]
    if twice:
        raise UserError(f"ckpt_path gives {twice[0]} twice", "give each network once")
    ignored = {"image_size"} if image_size_given else set()
    first, *others = map(_task, paths, checkpoints)
    for path, other in zip(paths[1:], others, strict=True):
        for name in (k for k in first if k in other and k not in ignored and first[k] != other[k]):
            raise UserError(
                f"an ensemble is of networks for one task, but {path} was trained with "
                f"{name}={other[name]!r} and {paths[0]} with {first[name]!r}",
                "give checkpoints that were trained on the same data with the same settings of it",
            )


def _task(path: str | Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a training's data; paths by their last part, as folders are moved."""
    run = Run.of_checkpoint(path)
    task = run.data_identity() or {}
    for name in (name for name in ("root", "captions") if task.get(name)):
        task[name] = Path(task[name]).name
    shown = {name: nested(run.settings(), "data", "init_args", name) for name in _SHOWN}
    task |= {name: value for name, value in shown.items() if value is not None}
    size = task.get("image_size") or nested(checkpoint.get(ABOUT), "image_size")
    if size is not None:
        task["image_size"] = [size, size] if isinstance(size, int) else list(size)
    return task


def checkpoint_name(path: str | Path) -> str:
    """The end of a checkpoint's path, without what belongs to the machine."""
    return f"{Run.of_checkpoint(path).short_name}/{Path(path).name}"
