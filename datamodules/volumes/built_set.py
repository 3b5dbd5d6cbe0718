"""What sets that are built from volumes share: where they may be written, and their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from datamodules.cache.build_once import IDENTITY
from textseg.errors import UserError

HELD_OUT = 0.15  # of the cases, in val and in test each
FEWEST_CASES = 3


def check_output(source: Path, output: Path, build: str) -> None:
    """Check that a build replaces neither its source nor anything but an earlier build.

    Args:
        source: folder of the volumes.
        output: folder to be written.
        build: the word that its identity begins with.

    Raises:
        UserError: it would.
    """
    if source.resolve().is_relative_to(output.resolve()):
        raise UserError(
            f"source={source} lies in output={output}, which is replaced as a whole",
            "choose an output folder beside the source",
        )
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"output={output} is not a folder", "name a new folder")
    identity = output / IDENTITY
    earlier = identity.is_file() and identity.read_bytes().startswith(f"{build} ".encode())
    if output.exists() and any(output.iterdir()) and not earlier:
        raise UserError(
            f"output={output} is not empty and holds no earlier build",
            "name a new folder, or remove this one if its files are no longer needed",
        )


def divide_cases(cases: Iterable[str]) -> dict[str, str]:
    """The split of each of three cases or more, by rank of the digest of its name; none is empty.

    The first 15 % are val, the next 15 % test. So the split depends on which cases there are, but
    not on their order.
    """
    ordered = sorted(set(cases), key=lambda name: (stable_number(name), name))
    assert len(ordered) >= FEWEST_CASES
    held_out = max(1, round(HELD_OUT * len(ordered)))
    parts = ["val"] * held_out + ["test"] * held_out + ["train"] * (len(ordered) - 2 * held_out)
    return dict(zip(ordered, parts, strict=True))


def stable_number(name: str) -> int:
    """Digest a name to 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
