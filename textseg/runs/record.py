"""What a training records of itself in comments of config.yaml: facts that no setting tells."""

from __future__ import annotations

import re
from dataclasses import dataclass

STARTS = {True: "pretrained weights", False: "scratch"}  # of an image encoder
_ROWS = re.compile(r"^# trained on (\d{1,12}) rows\b", re.MULTILINE)
_CAPTIONS = re.compile(r"^# captions of these rows: sha256 ([0-9a-f]{64})$", re.MULTILINE)
_STEP = re.compile(r"^# (\d{1,12}) images a step$", re.MULTILINE)
_START = re.compile(rf"^# image encoder starts from ({'|'.join(STARTS.values())})$", re.MULTILINE)
_WEIGHTS = re.compile(r"^ *# sha256 ([0-9a-f]{64})$", re.MULTILINE)
_WEIGHTS_SETTING = re.compile(r"^( *)image_weights: ", re.MULTILINE)


@dataclass(frozen=True)
class TrainingRecord:
    """What a training says beside its settings; None where it does not tell.

    Args:
        rows: number of training rows.
        captions: SHA-256 of their cases and captions, which is the same on every machine.
        images_a_step: images of one step of the optimizer, on all devices together.
        pretrained: whether the image encoder started from published or a file's weights.
        weights: SHA-256 of the file that `image_weights` names.
    """

    rows: int | None = None
    captions: str | None = None
    images_a_step: int | None = None
    pretrained: bool | None = None
    weights: str | None = None

    @classmethod
    def read(cls, text: str) -> TrainingRecord:
        """Find the record in the text of a config.yaml."""
        rows, step, start = _ROWS.search(text), _STEP.search(text), _START.search(text)
        captions, weights = _CAPTIONS.search(text), _WEIGHTS.search(text)
        return cls(
            rows=int(rows[1]) if rows else None,
            captions=captions[1] if captions else None,
            images_a_step=int(step[1]) if step else None,
            pretrained=start[1] == STARTS[True] if start else None,
            weights=weights[1] if weights else None,
        )

    def written_into(self, text: str) -> str:
        """The text of a config.yaml with the record, whose last fact stands above its setting."""
        lines = {
            "rows": f"# trained on {self.rows} rows",
            "captions": f"# captions of these rows: sha256 {self.captions}",
            "images_a_step": f"# {self.images_a_step} images a step",
            "pretrained": f"# image encoder starts from {STARTS[bool(self.pretrained)]}",
        }
        head = "".join(f"{x}\n" for name, x in lines.items() if getattr(self, name) is not None)
        if self.weights:
            line = rf"\g<1># sha256 {self.weights}\n\g<0>"
            text = _WEIGHTS_SETTING.sub(line, text, count=1)
        return head + text
