"""Which DataModule fits a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from datamodules.base import TextSegDataModule
from textseg.errors import UserError


def detect_dataset(
    root: Path, datasets: Collection[type[TextSegDataModule]]
) -> type[TextSegDataModule]:
    """Find the DataModule that reads a folder, by its files' names; nothing is converted.

    Args:
        root: a dataset's folder.
        datasets: the DataModules to choose from.

    Raises:
        UserError: nothing fits, or more than one thing does.
    """
    fitting = [datamodule for datamodule in datasets if datamodule.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    remedy = f"name the dataset: {', '.join(filter(None, (d.name for d in datasets)))}"
    if fitting:
        names = ", ".join(datamodule.__name__ for datamodule in fitting)
        raise UserError(f"root={root} could be more than one dataset: {names}", remedy)
    searched = "; ".join(filter(None, (datamodule.recognized_by for datamodule in datasets)))
    cause = f"root={root} is not recognized as a dataset; looked for {searched}"
    raise UserError(cause, remedy)
