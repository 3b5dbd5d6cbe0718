"""CPU time and memory of commands by the number of pictures, rows and cases they are given.

    python experiments/load.py segment predict setup audit compare
    python experiments/load.py workers

Each is run with a quarter, a half and all of its number, in a process of its own that has imported
the suite before; pictures are tiny, the network is untrained. Memory is what the process has at its
largest beyond what it had before. `workers` gives the memory of a loader's workers by epoch.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path

# Before torch: a fork of a process that has OpenMP's threads waits for them for ever.
os.environ["OMP_NUM_THREADS"] = "1"

import lightning as L
import numpy as np
import torch
import yaml
from PIL import Image

import lightning_cli
from datamodules import ManifestDataModule
from datamodules.files.manifest import write_manifest
from textseg.models import ImageBaseline
from textseg.runs import CaseRow, write_cases

SIDES, ROWS_OF_AN_IMAGE = ("left", "right"), 10
SPLITS = ("train",) * 8 + ("val", "test")


# --- what is given ------------------------------------------------------------------------------


def write_set(root: Path, rows: int, *, of_an_image: int = ROWS_OF_AN_IMAGE, side: int = 8) -> None:
    """A manifest of so many rows; each image has several, and no two images are equal."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    listed = []
    for row in range(rows):
        image = row // of_an_image
        name = f"{image:06d}.png"
        if row % of_an_image == 0:
            pixels = random.integers(0, 256, (side, side), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name)
            mask[:] = 0
            mask[: 1 + image % (side - 1), side // 2 * (image % 2) :][:, : side // 2] = 255
            Image.fromarray(mask).save(root / "masks" / name)
        text = f"a lesion of {row % of_an_image + 1} mm on the {SIDES[image % 2]}"
        patient = image // 5
        files = {"image": f"images/{name}", "mask": f"masks/{name}"}
        split = SPLITS[patient % len(SPLITS)]
        listed.append({**files, "text": text, "case_id": f"p{patient}", "split": split})
    write_manifest(root, listed)


def write_run(run: Path, root: Path) -> Path:
    """The checkpoint of an untrained network on a set, with its config."""
    torch.manual_seed(0)
    settings = {"image_encoder": "tu-test_convnext", "pretrained": False}
    channels = {"decoder_channels": [16, 8, 8, 8, 8]}
    model = ImageBaseline(**settings, decoder_options=channels)
    stored = {**model.hparams, "_class_path": "textseg.models.ImageBaseline"}
    content = {"state_dict": model.state_dict(), "hyper_parameters": stored}
    content |= {"pytorch-lightning_version": L.__version__, "epoch": 0, "global_step": 0}
    file = run / "checkpoints/best.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    data = {"root": str(root), "image_size": 32, "batch_size": 8, "num_workers": 0, "cache": None}
    of_trainer = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    config = {
        "seed_everything": 1,
        "trainer": of_trainer,
        "model": {
            "class_path": "textseg.models.ImageBaseline",
            "init_args": {**settings, "decoder_options": channels},
        },
        "data": {"class_path": "datamodules.ManifestDataModule", "init_args": data},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return file


def write_cases_of(run: Path, count: int, *, seed: int) -> None:
    """A run with a test of so many cases, two of each patient."""
    folder = run / "test/true"
    folder.mkdir(parents=True)
    overlaps = np.random.default_rng(seed).beta(8, 2, count)
    one = CaseRow(
        *("", "", "", "a lesion on the left", 0.0, 0.0, 0, 100, 100, 1024),
        *(None, None, None, ""),
        lesions_predicted=None,
        lesions_matched=None,
        lesions_matched_half=None,
        lesion_size="small",
        lesion_number=1,
        lesion_side="left",
        truth="outlines",
    )
    rows = []
    for number, overlap in enumerate(overlaps):
        both = round(100 * overlap)
        patient, scores = f"p{number // 2}", {"dice": both / 100, "iou": both / (200 - both)}
        named = {"case": f"c__{number}", "case_id": patient, "patient": patient}
        sizes = {"intersection": both, "lesion_size": ("small", "medium", "large")[number % 3]}
        rows.append(replace(one, **named, **scores, **sizes))
    write_cases(folder / "cases.csv", rows)
    stored = {"caption_mode": "true", "protocol": "standard", "cases": count, "empty_cases": 0}
    scores = dict.fromkeys(("dice", "miou", "dice_global", "iou_global"), 0.8)
    (folder / "metrics.json").write_text(json.dumps(stored | scores))
    model = {"class_path": "textseg.models.LSMS", "init_args": {"lr": 0.1}}
    data = {"class_path": "datamodules.QaTaCov19DataModule", "init_args": {"cache": None}}
    config = {"seed_everything": seed, "trainer": {"max_epochs": 3}, "model": model, "data": data}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


# --- what is measured ---------------------------------------------------------------------------


def call(*words: str) -> None:
    """Run a command of the suite in this process, in silence; status 1 is no failure."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            lightning_cli.main(list(words))
        except SystemExit as end:
            if end.code not in (0, 1):
                raise RuntimeError(said.getvalue()) from end


def prepare_pictures(home: Path, count: int) -> None:
    write_set(home / "set", 40, side=32)
    write_run(home / "run", home / "set")
    kept = sorted((home / "set/images").iterdir())
    (home / "many").mkdir()
    for number in range(count):
        os.link(kept[number % len(kept)], home / f"many/{number:06d}.png")


def segment(*options: str) -> Callable[[Path], None]:
    def work(home: Path) -> None:
        checkpoint = ["--ckpt_path", str(home / "run/checkpoints/best.ckpt")]
        call("segment", str(home / "many"), *checkpoint, "--output", str(home / "out"), *options)

    return work


def prepare_rows_to_predict(home: Path, count: int) -> None:
    write_set(home / "set", count, of_an_image=1, side=32)
    rows = (home / "set/manifest.jsonl").read_text()
    for split in ("train", "val"):
        rows = rows.replace(f'"split": "{split}"', '"split": "test"')
    (home / "set/manifest.jsonl").write_text(rows)
    write_run(home / "run", home / "set")


def predict(home: Path) -> None:
    checkpoint = ["--ckpt_path", str(home / "run/checkpoints/best.ckpt")]
    call("predict", *checkpoint)


def prepare_rows(home: Path, count: int) -> None:
    write_set(home / "set", count)


def datamodule(home: Path, *, workers: int = 0) -> ManifestDataModule:
    settings = {"image_size": 32, "batch_size": 32, "cache": None}
    return ManifestDataModule(str(home / "set"), num_workers=workers, **settings)


def setup(home: Path) -> None:
    datamodule(home).setup("fit")


def setup_and_epoch(home: Path) -> None:
    data = datamodule(home)
    data.setup("fit")
    loader = data.train_dataloader()
    assert sum(1 for _ in loader.batch_sampler) == len(loader)


def audit(home: Path) -> None:
    call("data", "audit", str(home / "set"), "--output", str(home / "found"))


def prepare_cases(home: Path, count: int) -> None:
    for seed, run in enumerate("ab"):
        write_cases_of(home / run, count, seed=seed)


def compare(home: Path) -> None:
    runs = [str(home / run) for run in "ab"]
    call("compare", *runs, "--names", "[a,b]", "--output", str(home / "compared"))


@dataclass(frozen=True)
class Kind:
    """A command, what it is given, and how many of that."""

    prepare: Callable[[Path, int], None]
    work: Callable[[Path], None]
    full: int
    unit: str


KINDS = {
    "segment": Kind(prepare_pictures, segment(), 5_000, "pictures"),
    "segment-masks": Kind(prepare_pictures, segment("--overlays", "false"), 5_000, "pictures"),
    "predict": Kind(prepare_rows_to_predict, predict, 5_000, "rows"),
    "setup": Kind(prepare_rows, setup, 200_000, "rows"),
    "setup-epoch": Kind(prepare_rows, setup_and_epoch, 200_000, "rows"),
    "audit": Kind(prepare_rows, audit, 200_000, "rows"),
    "compare": Kind(prepare_cases, compare, 100_000, "cases"),
}


# --- measuring ----------------------------------------------------------------------------------


def resident(key: str, process: int | str = "self") -> int:
    """KiB that a process has (VmRSS) or had at most (VmHWM)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def give_back_freed() -> None:
    """Give freed memory back to the system: what is used anew of it would not count as growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def measured(work: Callable[[Path], None], home: Path) -> tuple[float, float, float]:
    """CPU seconds, seconds by the clock and MiB of a function, called in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            os.chdir(home)
            give_back_freed()
            Path("/proc/self/clear_refs").write_text("5")  # forget the largest there was
            before, cpu, begun = resident("VmRSS"), sum(os.times()[:4]), time.monotonic()
            work(home)
            spent = sum(os.times()[:4]) - cpu, time.monotonic() - begun
            told = [*spent, (resident("VmHWM") - before) / 1024]
            os.write(writer, json.dumps(told).encode())
            status = 0
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read()
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"failed in {home}")
    cpu, clock, memory = json.loads(told)
    return cpu, clock, memory


@contextmanager
def folder(parent: Path | None) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="load-", dir=parent))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def report(name: str, full: int | None, parent: Path | None) -> None:
    """Print a row of a table for each number."""
    kind = KINDS[name]
    for count in [(full or kind.full) // part for part in (4, 2, 1)]:
        with folder(parent) as home:
            kind.prepare(home, count)
            cpu, clock, memory = measured(kind.work, home)
        each = f"{1000 * cpu / count:.2f}"
        print(
            f"| {name} | {count:,} {kind.unit} | {cpu:.1f} | {each} | {clock:.1f} | {memory:.0f} |",
            flush=True,
        )


def report_workers(rows: int, epochs: int, parent: Path | None) -> None:
    """Print the memory of a loader's two workers after each epoch."""
    with folder(parent) as home:
        write_set(home / "set", rows)
        data = datamodule(home, workers=2)
        data.setup("fit")
        loader = data.train_dataloader()
        for epoch in range(1, epochs + 1):
            for _ in loader:
                pass
            found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            sizes = [f"{resident('VmRSS', int(child)) / 1024:.0f}" for child in found]
            print(f"| {epoch} | {', '.join(sizes)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "workers"])
    parser.add_argument("--full", type=int, help="the largest number, in place of each kind's own")
    parser.add_argument("--epochs", type=int, default=6, help="of workers")
    parser.add_argument("--home", type=Path, help="where sets are written, and removed again")
    given = parser.parse_args()
    for name in given.kinds:
        if name == "workers":
            report_workers(given.full or 20_000, given.epochs, given.home)
        else:
            report(name, given.full, given.home)


if __name__ == "__main__":
    sys.exit(main())
