"""Pictures that two splits hold under two names: a network is tested on what it has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.checks import preview
from textseg.preprocess import examine_image


class Copies:
    """Remembers digests of the splits' images, and warns of each copy once."""

    def __init__(self) -> None:
        self._digests: dict[str, dict[Path, str]] = {}
        self._told: set[Path] = set()
        self._blank: dict[str, bool] = {}  # by digest: every black picture is every other's copy

    def add(self, split: str, digests: Mapping[Path, str]) -> None:
        """Add a split's images; equal digests are equal files or equal pixels."""
        self._digests.setdefault(split, {}).update(digests)

    def warn(self, published: Collection[str]) -> None:
        """Warn of images of one split that are copies of another split's.

        Args:
            published: splits that may share pictures, as others divided them.
        """
        first: dict[str, tuple[str, Path]] = {}
        pairs = []
        for split, digests in self._digests.items():
            for path, digest in digests.items():
                other, original = first.setdefault(digest, (split, path))
                if other == split or path == original or {split, other} <= set(published):
                    continue
                if path not in self._told and not self._is_blank(path, digest):
                    pairs.append(f"{path.name} = {original.name}")
                self._told.add(path)
        if pairs:
            rank_zero_warn(
                f"{len(pairs)} pictures are in two splits under two names ({preview(pairs)}): a "
                "network is tested on what it has seen; keep the copies in one split"
            )

    def _is_blank(self, path: Path, digest: str) -> bool:
        if digest not in self._blank:
            self._blank[digest] = "constant" in examine_image(path).oddities
        return self._blank[digest]
