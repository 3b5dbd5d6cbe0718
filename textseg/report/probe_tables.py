"""Tables of RUN/probe/probe.json, the results of `textseg probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textseg.errors import UserError
from textseg.report.blocks import Block, Caution, Cell, Table, Text
from textseg.report.score_tables import count_cell, score_cell
from textseg.runs.results import mapping_of, number_of, read_json, remedy_for

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
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("variants"), dict):
        raise UserError(f"{file} holds no variants by name", remedy_for(file))
    warnings = stored.get("warnings") or []
    if not isinstance(warnings, list):
        raise UserError(f"{file}: warnings is no list", remedy_for(file))
    blocks: list[Block] = [Caution(str(text)) for text in warnings]
    later = sorted(path.name for path in run.glob("probe_[0-9]*/probe.json"))
    if later:
        blocks.append(Text(f"Probed again {len(later)} times since: the first probe is shown."))
    rows = [_row(name, values, file) for name, values in stored["variants"].items()]
    head = ["captions", "cases", *_SCORES, "masks changed"]
    blocks += [Text(_MEANING), Table("Changed captions", head, rows)]
    for name, title, count, scores in _MORE:
        if stored.get(name) is not None:
            values = mapping_of(stored[name], name, file)
            cells = [score_cell(values, score, file) for score in scores]
            rows = [[count_cell(values, count, file), *cells]]
            blocks.append(Table(title, [count, *scores], rows))
    return blocks


def _row(name: str, given: Any, file: Path) -> list[Cell]:
    values = mapping_of(given, name, file)
    changed = number_of(values, "share_changed", file)
    share = Cell("-") if changed is None else Cell(f"{changed:.0%}", changed)
    forms = {"difference": "+.3f"}
    scores = [score_cell(values, score, file, forms.get(score, ".3f")) for score in _SCORES]
    return [Cell(name), count_cell(values, "cases", file), *scores, share]
