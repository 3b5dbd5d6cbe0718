"""What `ckpt_path` may name, a checkpoint or the folder of an export, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textseg.checkpoint import ABOUT, read_checkpoint, weights_digest
from textseg.errors import UserError, check_choice
from textseg.output import check_complete
from textseg.preprocess import Resize, Size, checked_size
from textseg.runs import Run
from textseg.runs.folder import nested
from textseg.segment.exported import MANIFEST, is_export, read_manifest
from textseg.segment.published import DESCRIPTION, is_published, read_published

EXPORT = "textseg_export"  # the key under which an export's manifest stands


def read_stored(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or an export as if it were one: its weights are not among it.

    Raises:
        UserError: it cannot be read, or is a folder of another kind or incomplete.
    """
    if not Path(path).expanduser().is_dir():
        return read_checkpoint(path)
    path = Path(path).expanduser()
    check_complete(path)
    if is_published(path):
        return read_published(path)
    if not is_export(path):
        raise UserError(
            f"ckpt_path={str(path)!r} is a folder without {MANIFEST} or {DESCRIPTION}",
            "give a checkpoint such as runs/<config>/<time>/checkpoints/best.ckpt, or the folder "
            "of textseg export or textseg card",
        )
    manifest = read_manifest(path)
    image = manifest["image"]
    about = {"image_size": image["size"], "resize": image["resize"]}
    return {"state_dict": {}, ABOUT: about, EXPORT: manifest}


def digest_of(stored: Mapping[str, Any]) -> str:
    """The digest of the weights, of an export those of the checkpoint that it was made of."""
    if EXPORT in stored:
        return str(stored[EXPORT]["weights"])
    return weights_digest(stored["state_dict"])


class Shown(NamedTuple):
    """How a network was shown images: their size, how they came to it, and the precision."""

    size: Size
    resize: Resize
    precision: str | int | None


def shown_images(
    checkpoint: Mapping[str, Any], path: str | Path, image_size: int | Sequence[int] | None
) -> Shown:
    """What a checkpoint's run tells of its images, or where there is no config.yaml it itself.

    Args:
        checkpoint: what `read_stored` gives.
        path: of the checkpoint.
        image_size: another size than that of the training.

    Raises:
        UserError: nothing tells the size.
    """
    run = Run.of_checkpoint(path)
    if run.config.is_file():
        trained_size, resize, precision = _run_settings(run)
    else:
        about = checkpoint.get(ABOUT) or {}  # of a Trainer, or an export
        trained_size, precision = about.get("image_size"), about.get("precision")
        resize = about.get("resize", "stretch")
    size = trained_size if image_size is None else image_size
    if size is None:
        raise UserError(
            f"the input size of {path} is unknown: neither {run.config} nor the checkpoint "
            "sets image_size",
            "put the run's config.yaml there, or give image_size",
        )
    return Shown(checked_size(size if isinstance(size, int) else list(size)), resize, precision)


def _run_settings(run: Run) -> tuple[int | list[int] | None, Resize, str | int | None]:
    """Image size, resize and precision of a run; None for what its config.yaml does not tell."""
    stored = run.settings("restore it, or move it away and give image_size")
    size = nested(stored, "data", "init_args", "image_size")
    sides = size if isinstance(size, list) else [size]
    if size is not None and not all(isinstance(side, int) for side in sides):
        raise UserError(
            f"{run.config}: image_size={size!r} is no size", "write one side or [height, width]"
        )
    resize: Any = nested(stored, "data", "init_args", "resize") or "stretch"
    check_choice(f"{run.config}: resize", resize, Resize)
    return size, resize, nested(stored, "trainer", "precision")
