"""Kinds of findings, how serious each is, and how an audit is printed and written."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from textseg.output import whole_text, write_text
from textseg.tables import spreadsheet_cell

Severity = Literal["error", "warning", "note"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_LOCATIONS = 3  # shown on the screen of one kind


class Kind(NamedTuple):
    """How serious a kind of finding is, and what to do about it unless a finding says otherwise."""

    severity: Severity
    suggestion: str


# error:   training or testing stops here, or the numbers would be false.
# warning: words and pictures disagree, or something is odd; the numbers are what they are.
# note:    a fact, no mistake.
# Warnings, not errors, are files and captions without a counterpart where on_missing=skip leaves
# them out, and what two parts of a published split share (`TextSegDataModule.published_splits`).
KINDS: dict[str, Kind] = {
    "refused by the reader": Kind("error", ""),
    "unreadable table": Kind("error", ""),
    "missing column": Kind("error", "add the column, or give it its name"),
    "several columns": Kind("error", "keep one of them, and rename or remove the others"),
    "invalid row": Kind("error", "fill it in, or delete the row"),
    "invalid split name": Kind("error", "write train, val or test"),
    "outside root": Kind("error", "name files by their path below root"),
    "empty split": Kind("note", "training needs train and val, testing needs test"),
    "empty caption": Kind("error", "write a caption, or delete the row"),
    "caption without image": Kind("error", "complete the download, or delete the row"),
    "image without mask": Kind("error", "complete the download, or delete the row"),
    "mask without image": Kind("error", "complete the download, or remove the mask"),
    "image without caption": Kind("error", "add a row for it, or remove the image"),
    "unreadable image": Kind("error", "replace the file, or delete its row"),
    "unreadable mask": Kind("error", "replace the file, or delete its row"),
    "size mismatch": Kind("error", "is the mask of this image? Save both at the same size"),
    "mask erased by the threshold": Kind(
        "error", "save masks as 0 and 255, or give the values of the foreground: mask_values=[1]"
    ),
    "picture as mask": Kind("error", "name the masks, saved as 0 and 255, in place of pictures"),
    "shaded mask": Kind("warning", "save masks as 0 and 255: values up to 127 are lost"),
    "class map": Kind("error", "give the classes that are foreground: mask_values=[...]"),
    "inverted mask": Kind(
        "error", "invert the masks, or mask_values=[0]; if they are right, mask_values=[255]"
    ),
    "narrow range": Kind(
        "error",
        "scale the whole set alike: 12-bit values by 16, 14-bit ones by 4, others to 0..255",
    ),
    "case in two splits": Kind("error", "give all rows of a patient or study the same split"),
    "image in two splits": Kind("error", "list every image in one split only"),
    "duplicate image across splits": Kind("error", "keep the copies in one split, or one of them"),
    "duplicate image": Kind("warning", "keep one of the copies"),
    "repeated row": Kind("warning", "delete one of the rows"),
    "one caption, two masks": Kind("warning", "write words that tell the lesions apart"),
    "soft mask": Kind("warning", "save masks as 0 and 255; do not interpolate them"),
    "faint areas": Kind("warning", "if they are classes, pick some: mask_values=[...]"),
    "faint mask values": Kind("note", "nothing to do: only values above 127 count"),
    "unusual mask mode": Kind("warning", "save masks as gray (mode L) of 0 and 255"),
    "mask of everything": Kind("warning", "is the mask inverted?"),
    "no foreground": Kind("warning", "check the masks"),
    "turned picture": Kind("warning", "check that its mask fits what viewers show"),
    "unequal spacing": Kind("warning", "write 1.5 or 1.5 1.5 where pixels are square"),
    "unlikely spacing": Kind("warning", "give millimeters a pixel, rows then columns"),
    "constant image": Kind("warning", "replace the file, or delete its row"),
    "odd picture": Kind("note", "check that it belongs to the dataset"),
    "empty mask, caption names lesions": Kind("warning", "check caption and mask"),
    "mask, caption names no lesion": Kind("warning", "check caption and mask"),
    "lesion lost at network size": Kind("warning", "choose a larger image_size"),
    "caption breaks the template": Kind("warning", ""),
    "caption beyond repair": Kind("warning", "write the caption anew from its mask"),
    "extent against lungs": Kind("warning", "write Bilateral of two lungs, Unilateral of one"),
    "caption side against mask": Kind("warning", "check which side the caption means"),
    "named side against mask": Kind("note", "check which side the caption means"),
    "caption count against mask": Kind("warning", "check the count, or whether areas touch"),
    "captions tell empty masks": Kind(
        "warning", "score images with a lesion apart: a network may read the word, not the picture"
    ),
    "truncated caption": Kind("warning", "raise max_tokens, or shorten the caption"),
    "unknown language": Kind("warning", "give --language (data.language in training), or hflip: 0"),
    "unknown words": Kind(
        "warning", "choose a text encoder of their language, or raise vocab_size"
    ),
    "another wording": Kind("note", "nothing to do if this is intended"),
}


@dataclass(frozen=True)
class Finding:
    """One mistake or oddity, with its location.

    Args:
        kind: a key of `KINDS`.
        severity: "error", "warning" or "note".
        split: where its row is; several with commas; "" where no split is concerned.
        where: a file below root, a row's case (`<image stem>__<row>`), a patient, or a table's row.
        detail: what is there.
        suggestion: what to do.
    """

    kind: str
    severity: Severity
    split: str
    where: str
    detail: str
    suggestion: str


def finding(
    kind: str,
    split: str,
    where: str,
    detail: str,
    *,
    severity: Severity | None = None,
    suggestion: str | None = None,
) -> Finding:
    """Make a finding of a kind, with the kind's severity and suggestion by default."""
    usual = KINDS[kind]
    suggestion = usual.suggestion if suggestion is None else suggestion
    return Finding(kind, severity or usual.severity, split, where, detail, suggestion)


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        findings: the most serious first, then in the order of `KINDS`, then as met.
        facts: counts and shares; plain values only.
    """

    findings: list[Finding]
    facts: dict[str, object]

    @property
    def exit_status(self) -> int:
        """1 if there is any error, otherwise 0."""
        return int(any(found.severity == "error" for found in self.findings))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by severity, then in the order of `KINDS`."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (_ORDER.index(f.severity), kinds.index(f.kind)))


# --- shown and written -------------------------------------------------------------------------


def format_audit(audit: Audit) -> str:
    """Format a line for each kind with its count and first locations, and one of what to do.

    The facts follow.
    """
    groups: dict[tuple[Severity, str], list[Finding]] = {}
    for found in audit.findings:
        groups.setdefault((found.severity, found.kind), []).append(found)
    wide = max((len(kind) for _, kind in groups), default=0)
    lines = []
    for (severity, kind), members in groups.items():
        lines.append(f"{severity:<8}{len(members):>6}  {kind:<{wide}}  {_locations(members)}")
        remedies = dict.fromkeys(found.suggestion for found in members if found.suggestion)
        if remedies:
            more = f" (and {len(remedies) - 1} more in findings.csv)" if len(remedies) > 1 else ""
            lines.append(f"{'':<16}{next(iter(remedies))}{more}")
    counts = Counter(found.severity for found in audit.findings)
    lines += [", ".join(f"{counts[severity]} {severity}s" for severity in _ORDER), ""]
    wide = max((len(name) for name in audit.facts), default=0)
    lines += [f"{name:<{wide}}  {_shown(value)}" for name, value in audit.facts.items()]
    return "\n".join(lines)


def _locations(members: list[Finding]) -> str:
    if len(members) == 1:
        return f"{members[0].where}: {members[0].detail}"
    shown = ", ".join(found.where for found in members[:_LOCATIONS])
    return shown + (", ..." if len(members) > _LOCATIONS else "")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_audit(audit: Audit, folder: Path, *, of: Mapping[str, str]) -> None:
    """Write audit.json (what was audited, exit status, counts, facts) and findings.csv."""
    counts = Counter((found.severity, found.kind) for found in audit.findings)
    summary = {
        **of,
        "exit_status": audit.exit_status,
        "kinds": [
            {"kind": kind, "severity": severity, "count": count}
            for (severity, kind), count in counts.items()
        ],
        "facts": audit.facts,
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "audit.json", text + "\n")
    with whole_text(folder / "findings.csv", newline="") as lines:
        table = csv.DictWriter(lines, [field.name for field in fields(Finding)])
        table.writeheader()
        for found in audit.findings:
            table.writerow({k: spreadsheet_cell(v) for k, v in asdict(found).items()})
