"""What the labels of liver volumes mean, as far as their files say."""

from __future__ import annotations

from datamodules.volumes.sources import Source
from textseg.errors import UserError

_NO_LIVER = (
    "set liver_label to the liver's label, or to null where it is not outlined: expressions then "
    "name size and rank, not place or density"
)


def check_names(source: Source, *, lesion_label: int, liver_label: int | None) -> None:
    """Check the settings of labels against the names that the source gives them.

    Raises:
        UserError: dataset.json has another name for the liver's label or none for the lesions', or
            the files are those of MSD Task08, which outlines no liver.
    """
    names = source.names
    file = None if source.description is None else source.description.file
    if names and lesion_label not in names:
        raise UserError(
            f"{file} has the labels {_named(names)}, and no lesion_label={lesion_label}",
            "set lesion_label to the tumors' label",
        )
    if liver_label is None:
        return
    if names and "liver" not in names.get(liver_label, "").casefold():
        raise UserError(
            f"{file} has the labels {_named(names)}, so that liver_label={liver_label} is not the "
            "liver",
            _NO_LIVER,
        )
    vessels = [case for case in source.cases if case.name.casefold().startswith("hepaticvessel")]
    if vessels and not names:
        raise UserError(
            f"{vessels[0].labels} is of MSD Task08, whose label 1 is vessels, not the liver "
            f"(liver_label={liver_label})",
            _NO_LIVER,
        )


def _named(names: dict[int, str]) -> str:
    return ", ".join(f"{label} ({name})" for label, name in sorted(names.items()))
