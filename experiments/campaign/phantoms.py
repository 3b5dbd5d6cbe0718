"""A picture of the suite's own phantoms, where the data's terms allow none of patients."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from PIL import Image

from campaign.settings import EXPERIMENTS, Campaign

SHOWN = 3
ROWS = 16  # training images of the phantoms that they are the first test images of


def draw_phantoms(campaign: Campaign, file: Path) -> None:
    """Write image, true mask and words of some phantoms of the campaign's dataset as PNG."""
    import datamodules
    from textseg.preprocess import read_image, read_mask
    from textseg.visualize.overlay import TRUTH, painted
    from textseg.visualize.sheet import sheet_for

    experiment = EXPERIMENTS / f"{campaign.rows[0].network}_{campaign.dataset}.yaml"
    name = yaml.safe_load(experiment.read_text(encoding="utf-8"))["data"]["class_path"]
    kind = getattr(datamodules, name)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "phantoms"
        kind().write_phantoms(folder, ROWS)
        rows = kind(root=str(folder), cache=None).records("test")[:SHOWN]
        images = [read_image(row.image) for row in rows]
        masks = [read_mask(row.mask) > 0 for row in rows if row.mask is not None]
    truths = [painted(image, mask, TRUTH) for image, mask in zip(images, masks, strict=True)]
    panels = {
        "phantom": [(f"phantom {number}", image) for number, image in enumerate(images, start=1)],
        "mask": [(f"its mask {number}", truth) for number, truth in enumerate(truths, start=1)],
    }
    sheet = sheet_for(panels["phantom"], len(rows), [])
    for strip in panels.values():
        sheet.panels(strip)
        sheet.space()
    for number, row in enumerate(rows, start=1):
        sheet.text(f'{number}: "{row.text}"')
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    with Image.open(file) as drawn:  # few colors are needed
        drawn.quantize().save(file, optimize=True)
