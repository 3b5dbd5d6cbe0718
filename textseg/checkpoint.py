"""Reads checkpoints: tensors and plain values, never code."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from textseg.errors import UserError, refusing
from textseg.limits import CHECKPOINT_BYTES

ABOUT = "textseg"  # the key of a checkpoint under which class, input size and precision stand
EXPORT_MANIFEST = "manifest.json"  # a file that the folder of `textseg export` is known by
CARD_DESCRIPTION = "textseg.json"  # and that of `textseg card`
_MADE_BY = {EXPORT_MANIFEST: "textseg export", CARD_DESCRIPTION: "textseg card"}
_CHECKPOINT = "runs/<config>/<time>/checkpoints/best.ckpt"


def load_plain(path: str | Path, *, field: str, wanted: str) -> Any:
    """Read a .ckpt or .pth file that holds tensors and plain values only.

    Args:
        path: the file.
        field: the setting that names it, for messages.
        wanted: what to give instead, for messages.

    Raises:
        UserError: the file is missing, cut short, unpacks to too much, or holds code, which is
            never run.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{field}={str(path)!r} does not exist", f"give {wanted}")
    cause = f"{field}={str(path)!r} cannot be read as weights"
    remedy = f"it is cut short, or holds code, which is never run: give {wanted}"
    with refusing(Exception, cause, remedy):  # a file fails in as many ways as it can be broken
        _check_unpacked(file)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # torch says how to run the code, which none should
            raise UserError(cause, remedy) from error


def _check_unpacked(path: Path) -> None:
    """Check by an archive's directory that it unpacks to no more than it is, or than is allowed.

    torch compresses nothing, so only a file that was made to grow does; records that lie over each
    other grow too.
    """
    if not zipfile.is_zipfile(path):  # torch's older form, which has no directory
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > path.stat().st_size:
        CHECKPOINT_BYTES.check(unpacked, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint that holds tensors and plain values only; no code in it is run.

    Raises:
        UserError: the file is missing, is no checkpoint, holds more than weights and settings, or
            weights that are not finite.
    """
    refuse_folder(path)
    checkpoint = load_plain(path, field="ckpt_path", wanted=f"a file such as {_CHECKPOINT}")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} holds no state_dict", "give a checkpoint that textseg wrote")
    check_finite(checkpoint, path)
    return checkpoint


def refuse_folder(path: str | Path) -> None:
    """Refuse a folder in place of a checkpoint, with what it is and what takes it.

    Raises:
        UserError: it is a folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return
    cause, remedy = f"ckpt_path={str(path)!r} is a folder", f"give a file such as {_CHECKPOINT}"
    for file, command in _MADE_BY.items():
        if (folder / file).is_file():
            cause += f" that {command} wrote, which textseg segment and textseg.load alone take"
            remedy = f"give the checkpoint that it was made of, such as {_CHECKPOINT}"
    own = folder / "checkpoints/best.ckpt"
    if own.is_file():
        cause, remedy = f"{cause}, that of a run", f"give its checkpoint: {own}"
    raise UserError(cause, remedy)


def check_finite(checkpoint: Mapping[str, Any], path: str | Path = "the checkpoint") -> None:
    """Check that weights and optimizer states hold no NaN and no infinity.

    Args:
        checkpoint: a Lightning checkpoint.
        path: of it, for the message.

    Raises:
        UserError: they do.
    """
    odd = not_finite(checkpoint)
    if odd is not None:
        raise UserError(
            f"{path} holds weights that are not finite: {odd}",
            "the training that wrote it had failed: give an earlier checkpoint, or train again "
            "with a lower model.lr",
        )


def not_finite(checkpoint: Mapping[str, Any]) -> str | None:
    """The first tensor of a checkpoint's weights or optimizer states with NaN or infinity.

    A mask of attention, of 0 and -inf alone, is meant to be so.

    Returns:
        its name, such as ``state_dict.head.weight``; None where all are finite.
    """
    named = [
        (name, value)
        for part in ("state_dict", "current_model_state", "optimizer_states")
        for name, value in _tensors(checkpoint.get(part), part)
    ]
    if not named:
        return None
    # One read for all of them, where they are on a GPU.
    first = named[0][1].device
    finite = torch.stack([value.isfinite().all().to(first) for _, value in named]).tolist()
    odd = (named[place] for place, sound in enumerate(finite) if not sound)
    return next((name for name, value in odd if not _is_mask(value)), None)


def _tensors(content: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of floating numbers in a nest of mappings and lists, with its path."""
    if isinstance(content, torch.Tensor):
        if content.is_floating_point() and content.element_size() > 1:
            yield name, content.detach()
        return
    entries: Any = ()
    if isinstance(content, Mapping):
        entries = content.items()
    elif isinstance(content, list | tuple):
        entries = enumerate(content)
    for key, value in entries:
        yield from _tensors(value, f"{name}.{key}")


def _is_mask(values: torch.Tensor) -> bool:
    return bool((values.isneginf() | (values == 0)).all()) and bool((values == 0).any())


def is_plain(value: object) -> bool:
    """Whether a value is text, a number, a truth value, None, or a list or dict of such."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def class_path_of(checkpoint: Mapping[str, Any]) -> str | None:
    """The dotted path of the network's class; None where the checkpoint does not name it."""
    settings, about = checkpoint.get("hyper_parameters"), checkpoint.get(ABOUT)
    by_cli = settings.get("_class_path") if isinstance(settings, Mapping) else None
    return by_cli or (about.get("class_path") if isinstance(about, Mapping) else None)


def same_class(path: str, other: str) -> bool:
    """Whether two dotted paths name one class; a package may stand for a module within it."""
    (home, _, name), (other_home, _, other_name) = (p.rpartition(".") for p in (path, other))
    short, long = sorted((f"{home}.", f"{other_home}."), key=len)
    return name == other_name and long.startswith(short)


def subclasses_of(base: type) -> Iterator[type]:
    """Every class below `base` that has been imported."""
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses_of(kind)


def weights_digest(state_dict: Mapping[str, Any]) -> str:
    """A digest of all weights by name, the same for equal ones, whatever file holds them."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(state_dict):
        values = state_dict[name]
        if isinstance(values, torch.Tensor):
            digest.update(name.encode())
            flat = values.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
