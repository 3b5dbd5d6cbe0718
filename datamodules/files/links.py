"""Links among a dataset's files: they stay inside its root, and end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from textseg.errors import UserError

ANYWHERE = "TEXTSEG_LINKS"  # set to "anywhere", links may lead to any file
_SHOWN = 3


def link_fault(file: Path, root: Path) -> str | None:
    """What is wrong with a file that is a link; None where nothing is.

    A link may lead to any file below root, or below the folder in which it really lies: a folder
    of the dataset may itself be a link to another disk. It may also lead to where the hub's cache
    keeps the files of a snapshot.

    Args:
        file: of a dataset; one that is not there, or that a link misses, is no fault here.
        root: the dataset's folder.
    """
    if not os.path.islink(file):  # noqa: PTH114 - of thousands, Path takes seconds
        return None
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        missing = isinstance(error, FileNotFoundError)
        return None if missing else "is a link that leads back to itself"
    if os.environ.get(ANYWHERE) == "anywhere":
        return None
    home, folder = root.resolve(), file.parent.resolve()
    homes = [home, folder]
    snapshots = next((p for p in (home, *home.parents) if p.name == "snapshots"), None)
    if snapshots is not None:
        homes.append(snapshots.parent / "blobs")
    if any(real.is_relative_to(one) for one in homes):
        return None
    return f"is a link to {real}, outside of root"


def check_links(files: Iterable[Path], root: Path) -> None:
    """Check that links stay inside root.

    Raises:
        UserError: with the number of files whose links do not, or do not end, and the first.
    """
    faults = [(file, fault) for file in dict.fromkeys(files) if (fault := link_fault(file, root))]
    if faults:
        raise UserError(
            f"{len(faults)} files of root={root} cannot be used: "
            + "; ".join(f"{file} {fault}" for file, fault in faults[:_SHOWN]),
            f"copy what is meant into root, or set {ANYWHERE}=anywhere in the environment if you "
            "know where the links lead",
        )
