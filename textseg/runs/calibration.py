"""calibration.json of a run: its one reader, and the threshold and temperature that it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from textseg.errors import UserError, refusing
from textseg.output import is_incomplete
from textseg.runs.folder import Run

CALIBRATION = "calibration"  # the folder, and the file in it
Threshold = float | Literal["best"]
Temperature = float | Literal["fitted"]
_REMEDY = "calibrate the run with this version: textseg calibrate RUN"
_NUMBERS = ("temperature", "threshold", "threshold_scaled", "cases")


class OperatingPoint(NamedTuple):
    """How probabilities are made of logits, logit / temperature, and where masks are cut."""

    threshold: float = 0.5
    temperature: float = 1.0


def operating_point(
    threshold: Threshold, temperature: Temperature, stored: Callable[[], Mapping[str, Any]]
) -> OperatingPoint:
    """Take what was asked for, and from the calibration what was asked for by name.

    The best threshold is one of unscaled probabilities. With a temperature it becomes the one that
    outlines the same pixels.

    Args:
        threshold: a probability, or "best".
        temperature: a number, or "fitted".
        stored: reads the calibration; called only where it is needed.

    Raises:
        UserError: a number is none that can be used, or `stored` raises it.
    """
    if isinstance(threshold, str) and threshold != "best":
        raise UserError(f"threshold={threshold!r} is unknown", "give a probability, or best")
    if isinstance(temperature, str) and temperature != "fitted":
        raise UserError(f"temperature={temperature!r} is unknown", "give a number, or fitted")
    scale = float(stored()["temperature"]) if isinstance(temperature, str) else float(temperature)
    if not 0 < scale < float("inf"):
        raise UserError(
            f"temperature={temperature} is not above 0", "1 leaves probabilities as they are"
        )
    if isinstance(threshold, str):
        from textseg.metrics.calibration import with_temperature

        return OperatingPoint(with_temperature(float(stored()["threshold"]), scale), scale)
    if not 0 < threshold < 1:
        raise UserError(f"threshold={threshold} is not between 0 and 1", "0.5 is the usual one")
    return OperatingPoint(float(threshold), scale)


def find_calibration(
    run: Run, suffix: str, weights: Sequence[str], *, tiled: bool = False
) -> dict[str, Any]:
    """Read the run's newest calibration of these very weights.

    Args:
        run: the run of the checkpoint, of an ensemble that of the first.
        suffix: of the folder's name, which says what logits are averaged over.
        weights: digest of each network, see `textseg.checkpoint.weights_digest`.
        tiled: whether large pictures are seen through tiles, of which there is no calibration.

    Raises:
        UserError: there is none, or its file is broken.
    """
    if tiled:
        raise UserError(
            "a calibration is of whole pictures, and tile_size is given",
            "give threshold and temperature as numbers, or leave tile_size out",
        )
    name = re.compile(rf"{CALIBRATION}{re.escape(suffix)}(?:_(\d+))?")
    numbered = {
        int(match[1] or 1): path
        for path in run.folder.glob(f"{CALIBRATION}*")
        if (match := name.fullmatch(path.name)) and not is_incomplete(path)
    }
    for _, folder in sorted(numbered.items(), reverse=True):
        values = read_calibration(folder)
        if values["weights"] == list(weights):
            return values
    what = f"of these weights in {run.folder / (CALIBRATION + suffix)}"
    raise UserError(
        f"there is no calibration {what}",
        "calibrate them first, with the same --tta: textseg calibrate --ckpt_path CHECKPOINT",
    )


def read_calibration(folder: Path) -> dict[str, Any]:
    """Read calibration.json in its folder.

    Raises:
        UserError: it is missing, broken or of another version.
    """
    file = folder / f"{CALIBRATION}.json"
    with refusing((OSError, ValueError), f"{file} cannot be read as JSON", _REMEDY):
        values = json.loads(file.read_text(encoding="utf-8"))
    wrong = not isinstance(values, dict) or not isinstance(values.get("weights"), list)
    if wrong or not all(isinstance(values.get(name), int | float) for name in _NUMBERS):
        raise UserError(f"{file} has no {', '.join(('weights', *_NUMBERS))}", _REMEDY)
    return dict(values)
