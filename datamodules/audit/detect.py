"""Which DataModule fits a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from datamodules.base import TextSegDataModule
from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule
from datamodules.duke_breast_mri.layouts import LayoutName, choose_layout
from datamodules.files.layouts import Layout, images_of
from datamodules.files.manifest import MANIFEST_NAMES
from datamodules.mosmed import layouts as mosmed_layouts
from datamodules.mosmed.datamodule import MosMedDataModule
from datamodules.own_data import ManifestDataModule
from datamodules.qata_cov19 import layouts as qata_layouts
from datamodules.qata_cov19.datamodule import QaTaCov19DataModule
from textseg.errors import UserError
from textseg.tables import match_key

_QATA_NAME = re.compile(r"covid_\d+|sub-s\w+_.+")
_MOSMED_NAME = re.compile(r"bjorke_\d+|jun_.+|morozov_.+")
_DUKE_LAYOUTS: tuple[LayoutName, ...] = ("mamamia", "tcia")
_REMEDY = "name the dataset: qata, mosmed, duke, refhl or manifest"


def detect_dataset(root: Path) -> type[TextSegDataModule]:
    """The DataModule that reads a folder, by its files' names; nothing is converted.

    A manifest decides for `ManifestDataModule`, whatever lies beside it. Some trees of QaTa-COV19
    and MosMedData+ have the same folders, also as other people's data: what counts are the names
    of their pictures.

    Args:
        root: a dataset's folder.

    Raises:
        UserError: root is no folder, nothing fits, or more than one thing does.
    """
    if not root.is_dir():
        raise UserError(f"root={root} is not a folder", "give the unpacked dataset's folder")
    if any((root / name).is_file() for name in MANIFEST_NAMES):
        return ManifestDataModule
    fitting: list[type[TextSegDataModule]] = []
    looked: list[str] = [f"a manifest ({', '.join(MANIFEST_NAMES)})"]
    if any(_is_duke(root, layout) for layout in _DUKE_LAYOUTS):
        fitting.append(DukeBreastMRIDataModule)
    looked.append("Duke (images/ and segmentations/ of DUKE_001 ..., or Breast_MRI_001/ ...)")
    trees: tuple[
        tuple[type[TextSegDataModule], Callable[[], Layout], re.Pattern[str], str], ...
    ] = (
        (
            QaTaCov19DataModule,
            lambda: qata_layouts.find_layout(root, "auto"),
            _QATA_NAME,
            "QaTa-COV19-v2 (covid_1.png or sub-S..., in its folders)",
        ),
        (
            MosMedDataModule,
            lambda: mosmed_layouts.find_layout(root, "auto"),
            _MOSMED_NAME,
            "MosMedData+ (bjorke_..., Jun_... or Morozov_..., in its folders)",
        ),
    )
    for datamodule, find, name, what in trees:
        try:
            layout = find()
        except UserError as error:
            # MosMedData's volumes are often taken for MosMedData+.
            if "a different dataset from" in str(error):
                raise
        else:
            if _has_names(layout, name):
                fitting.append(datamodule)
        looked.append(what)
    return _only(root, fitting, looked)


def _is_duke(root: Path, layout: LayoutName) -> bool:
    try:
        choose_layout(root, layout, None)
    except UserError:
        return False
    if layout == "tcia":
        return True
    # Other people's folders are called images and segmentations too.
    return any(f.name.casefold().startswith("duke_") for f in (root / "images").iterdir())


def _has_names(layout: Layout, name: re.Pattern[str]) -> bool:
    """Whether any picture of the layout is named so."""
    return any(name.fullmatch(match_key(path.name)) for path in images_of(layout))


def _only(
    root: Path, fitting: list[type[TextSegDataModule]], looked: list[str]
) -> type[TextSegDataModule]:
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UserError(
            f"root={root} is not recognized as a dataset; looked for {'; '.join(looked)}", _REMEDY
        )
    names = ", ".join(datamodule.__name__ for datamodule in fitting)
    raise UserError(f"root={root} could be more than one dataset: {names}", _REMEDY)
