#!/usr/bin/env python3
"""Makes the pictures of the documentation from a run of the quick start.

    textseg fit --config experiments/quickstart.yaml
    python docs/pictures.py            (takes the newest run; or: python docs/pictures.py RUN)

Writes docs/pictures/, which is not committed but for words.png, the picture of the README. The
commands are those of docs/tutorial.md, so that a page never shows what a reader would not get.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import textseg
from datamodules import RefHLSegDataModule
from textseg.preprocess.pixel_files import read_image
from textseg.visualize.overlay import PREDICTION, painted
from textseg.visualize.sheet import sheet_for

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTH = 256  # of a panel, pixels


def command(*arguments: str | Path) -> None:
    """Run a command of the suite from the repository's root; its error ends the build."""
    line = [sys.executable, "-m", "lightning_cli", *map(str, arguments)]
    print("textseg", *map(str, arguments), flush=True)
    subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def newest_run() -> Path:
    """The quick start's newest run that was tested."""
    runs = sorted((ROOT / "runs" / "quickstart").glob("*/test/true/metrics.json"))
    if not runs:
        sys.exit(
            "no run of the quick start in runs/: textseg fit --config experiments/quickstart.yaml"
        )
    return runs[-1].parents[2]


def draw_words(run: Path) -> None:
    """One phantom, two expressions, two masks: the first test image with a lesion on each side."""
    network = textseg.load(run / "checkpoints" / "best.ckpt", device="cpu")
    data = RefHLSegDataModule(synthesize=320, cache=None)
    folder = data.folder()  # phantoms that the run was trained on, under data/phantoms
    by_image: dict[str, list[str]] = {}
    for row in data.records("test"):
        by_image.setdefault(str(row.image), []).append(row.text)
    name, (first, second) = next(
        (name, texts[:2]) for name, texts in by_image.items() if _tell_sides_apart(texts)
    )
    picture = read_image(folder / name)
    factor = -(-WIDTH // picture.shape[1])
    large = np.kron(picture, np.ones((factor, factor, 1), dtype=np.uint8))
    panels = [("image", large)]
    for number, text in enumerate((first, second), start=1):
        mask = np.kron(network.segment(str(folder / name), text).mask, np.ones((factor, factor)))
        panels.append((f"mask {number}", painted(large, mask > 0, PREDICTION)))
    sheet = sheet_for(panels, 3, [])
    sheet.panels(panels)
    sheet.text(f'1: "{first}"')
    sheet.text(f'2: "{second}"')
    sheet.save(PICTURES / "words.png")


def _tell_sides_apart(texts: list[str]) -> bool:
    return len(texts) > 1 and "right" in texts[0] and "left" in texts[1]


def first(folder: Path) -> Path:
    """The first picture of a folder, by name."""
    return min(folder.glob("*.png"))


def main() -> None:
    """Make every picture anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="a run of the quick start (the newest)")
    run = parser.parse_args().run or newest_run()
    PICTURES.mkdir(exist_ok=True)
    for made in (PICTURES / "report.html", PICTURES / "words.png"):
        made.unlink(missing_ok=True)
    draw_words(run)
    best = run / "checkpoints" / "best.ckpt"
    for name in ("probe", "calibration"):
        shutil.rmtree(run / name, ignore_errors=True)
    command("probe", run, "--pictures", "1", "--trainer.enable_progress_bar", "false")
    command("calibrate", run, "--trainer.enable_progress_bar", "false")
    explained = ["--explain.pictures", "1", "--explain.word", "lesion"]
    command("predict", "--ckpt_path", best, *explained, "--trainer.enable_progress_bar", "false")
    command("report", run, "--output", PICTURES / "report.html")
    copied = {
        "overlay.png": first(run / "test" / "true" / "overlays"),
        "probe.png": first(run / "probe" / "pictures"),
        "reliability.png": run / "calibration" / "reliability.png",
        "explanation.png": first(run / "explain"),
    }
    for name, source in copied.items():
        shutil.copyfile(source, PICTURES / name)


if __name__ == "__main__":
    main()
