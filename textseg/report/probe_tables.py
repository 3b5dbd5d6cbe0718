"""Tables of RUN/probe/probe.json, the results of `textseg probe`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.errors import UserError
from textseg.report.blocks import Block, Caution, Cell, Table, Text
from textseg.report.score_tables import score_cell
from textseg.runs.results import number_of, read_json

_AGAIN = "probe the run again with this version: textseg probe RUN"
_SCORES = ("dice", "dice_true", "difference", "mask_change")
_MEANING = (
    "The same cases with changed captions; the truth stays that of the true words, so a network "
    "that follows changed words scores a lower dice. difference: dice less dice_true, which is of "
    "the same cases with true words. mask_change: mean of 1 - Dice between the masks with true and "
    "with changed words; 0 where not a pixel differs. masks changed: share of cases in which at "
    "least one pixel does."
)
_PAIRS = (
    "Two expressions of one image. followed: share of pairs where each mask is nearer to its own "
    "truth; own, other: mean Dice with either"
)
_SIDE_SWAP = "Sides swapped. Of the masks that lay in one half, the share that went to the other"
# A part of probe.json, what its table is of, what it counts, its scores.
_MORE: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("pairs", _PAIRS, "pairs", ("followed", "own", "other")),
    ("side_swap", _SIDE_SWAP, "cases", ("share",)),
)


def probe_blocks(run: Path) -> list[Block]:
    """Build the table of changes and what follows from it; empty where the run was not probed.

    Raises:
        UserError: probe.json is broken or of another version.
    """
    file = run / "probe" / "probe.json"
    if not file.is_file():
        return []
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("variants"), dict):
        raise UserError(f"{file} holds no variants by name", _AGAIN)
    warnings = found.get("warnings") or []
    if not isinstance(warnings, list):
        raise UserError(f"{file}: warnings is no list", _AGAIN)
    blocks: list[Block] = [Caution(str(text)) for text in warnings]
    later = sorted(path.name for path in run.glob("probe_[0-9]*/probe.json"))
    if later:
        blocks.append(Text(f"Probed again {len(later)} times since: the first probe is shown."))
    rows = [_row(name, values, file) for name, values in found["variants"].items()]
    head = ["captions", "cases", *_SCORES, "masks changed"]
    blocks += [Text(_MEANING), Table("Changed captions", head, rows)]
    for name, title, count, scores in _MORE:
        if found.get(name) is not None:
            values = _mapping(found[name], name, file)
            cells = [score_cell(values, score, file) for score in scores]
            rows = [[_count(values, count, file), *cells]]
            blocks.append(Table(title, [count, *scores], rows))
    return blocks


def _row(name: str, given: Any, file: Path) -> list[Cell]:
    values = _mapping(given, name, file)
    changed = number_of(values, "share_changed", file)
    share = Cell("-") if changed is None else Cell(f"{changed:.0%}", changed)
    forms = {"difference": "+.3f"}
    scores = [score_cell(values, score, file, forms.get(score, ".3f")) for score in _SCORES]
    return [Cell(name), _count(values, "cases", file), *scores, share]


def _count(values: Mapping[str, Any], name: str, file: Path) -> Cell:
    count = number_of(values, name, file)
    return Cell("-") if count is None else Cell(f"{count:g}", count)


def _mapping(given: Any, name: str, file: Path) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise UserError(f"{file}: {name} is not of this version's form", _AGAIN)
    return given
