"""Tables of RUN/probe/probe.json, the results of `textseg probe`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.report.blocks import Block, Caution, Cell, Table, Text
from textseg.report.score_tables import number_cell, score_cell
from textseg.runs.results import read_scores

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
    stored = read_scores(file, ["variants"])
    blocks: list[Block] = [Caution(str(text)) for text in stored.get("warnings") or []]
    later = sorted(path.name for path in run.glob("probe_[0-9]*/probe.json"))
    if later:
        blocks.append(Text(f"Probed again {len(later)} times since: the first probe is shown."))
    head = ["captions", "cases", *_SCORES, "masks changed"]
    rows = [_row(name, values) for name, values in stored["variants"].items()]
    blocks += [Text(_MEANING), Table("Changed captions", head, rows)]
    for name, title, count, scores in _MORE:
        values = stored.get(name)
        if values is not None:
            cells = [score_cell(values, score) for score in scores]
            row = [number_cell(values.get(count)), *cells]
            blocks.append(Table(title, [count, *scores], [row]))
    return blocks


def _row(name: str, values: Mapping[str, Any]) -> list[Cell]:
    forms = {"difference": "+.3f"}
    scores = [score_cell(values, score, forms.get(score, ".3f")) for score in _SCORES]
    changed = number_cell(values.get("share_changed"), ".0%")
    return [Cell(name), number_cell(values.get("cases")), *scores, changed]
