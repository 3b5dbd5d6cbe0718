"""What `textseg segment` says after it segmented volumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPORT = "volumes.json"


def volumes_text(folder: Path) -> str:
    """The results of a folder in lines, each with its end; "" of a folder without volumes."""
    file = folder / REPORT
    if not file.is_file():
        return ""
    report = json.loads(file.read_text(encoding="utf-8"))
    lines = [line for volume in report["volumes"] for line in _lines(volume)]
    lines += [f"left out: {entry['file']}: {entry['reason']}" for entry in report["left_out"]]
    if report["copied"]:
        lines.append(f"copied from the source, and nothing else: {', '.join(report['copied'])}")
    return "".join(f"{line}\n" for line in lines)


def _lines(volume: Mapping[str, Any]) -> list[str]:
    size = f"{volume['area_pixels']} pixels"
    if volume["volume_ml"] is not None:
        size = f"{volume['volume_ml']:.2f} ml"
    segmented = volume["segmented"]
    window = f"; window: {volume['window']}" * bool(volume["window"])
    lines = [f"{volume['file']}: {size} in {volume['found_in']} of {len(segmented)} slices{window}"]
    if len(segmented) < volume["slices"]:
        lines.append(
            f"  of its {volume['slices']} slices only {ranges(segmented)} were segmented; "
            "elsewhere the result holds 0"
        )
    if volume["coarse"]:
        lines.append(
            "  it was not acquired in axial slices, so that the axial pictures are coarse: "
            "look at the overlays"
        )
    return lines


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as "3,5-9"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
