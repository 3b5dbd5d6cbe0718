"""A package outside the repository goes through every command as the suite's own classes do."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.benchmark.tiny_benchmark import skip_costly
from tests.tiny_run import Outcome, call, masks_in, only

PACKAGE = {
    "network.py": '''
        """A network that is none of the suite's: two convolutions, shifted by the text."""
        import torch.nn.functional as F
        from torch import nn
        from textseg.backbone import TextImageBackboneMixin
        from textseg.batch import SegmentationOutput
        from textseg.models import SegmentationModule

        class Stem(nn.Module):
            channels, strides, takes_text = (8,), (4,), False

            def __init__(self, text_dim):
                super().__init__()
                self.conv = nn.Conv2d(3, 8, 4, stride=4)

            def forward(self, image, fuse=None):
                return [self.conv(image)]

            def pretrained_parameters(self):
                return []

        class HospitalNet(TextImageBackboneMixin, SegmentationModule):
            """A network of the hospital's.

            Args:
                width: of its hidden features.
            """

            def __init__(self, width: int = 8, *, lr: float = 1e-3, **kwargs):
                super().__init__(lr=lr, **kwargs)
                self.build_backbone(Stem, "scratch", pretrained=False)
                self.shift = nn.Linear(self.text_encoder.dim, 8)
                self.head = nn.Sequential(nn.Conv2d(8, width, 1), nn.ReLU(), nn.Conv2d(width, 1, 1))

            def forward_features(self, image, text):
                (feature,) = self.encode_image(image)
                logits = self.head(feature + self.shift(text.pooled)[:, :, None, None])
                return SegmentationOutput(F.interpolate(logits, image.shape[-2:]), {})
    ''',
    "data.py": '''
        """A dataset in a layout of its own: <root>/{split}/<number>.{png,mask.png,txt}."""
        import numpy as np
        from PIL import Image
        from datamodules import TextSegDataModule
        from datamodules.records import Record
        from textseg.tables import case_name

        class HospitalDataModule(TextSegDataModule):
            """The hospital's own files."""

            name = "hospital"

            def read_records(self, root, report=None):
                return {
                    split: [
                        Record(
                            image=image,
                            mask=image.with_suffix(".mask.png"),
                            text=image.with_suffix(".txt").read_text(),
                            case=case_name(image, row),
                            case_id=f"{split}-{image.stem}",
                            row=row,
                        )
                        for row, image in enumerate(sorted((root / split).glob("?.png")))
                    ]
                    for split in ("train", "val", "test")
                }

            def write_phantoms(self, folder, rows):
                for split, count in {"train": rows, "val": 2, "test": 3}.items():
                    (folder / split).mkdir(parents=True)
                    for number in range(count):
                        image = np.full((40, 48), 40 * number % 200 + len(split), np.uint8)
                        mask = np.zeros_like(image)
                        mask[4:20, 4 + number : 24] = 255
                        stem = folder / split / str(number)
                        Image.fromarray(image | mask // 4).save(stem.with_suffix(".png"))
                        Image.fromarray(mask).save(stem.with_suffix(".mask.png"))
                        stem.with_suffix(".txt").write_text(f"lesion {number} on the left")
    ''',
    "callback.py": '''
        """A callback of the hospital's."""
        from pathlib import Path
        import lightning as L

        class LeaveNote(L.Callback):
            """Write a note at the end of a fit."""

            def on_fit_end(self, trainer, module):
                Path("note.txt").write_text(type(module).__name__)
    ''',
}
EXPERIMENT = {
    "seed_everything": 1,
    "trainer": {
        **{"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "callbacks": [{"class_path": "hospital.callback.LeaveNote"}],
    },
    "results_writer": {"overlays": 1, "ranked": 0},
    "model": {"class_path": "hospital.network.HospitalNet", "init_args": {"width": 4}},
    "data": {
        "class_path": "hospital.data.HospitalDataModule",
        "init_args": {"synthesize": 4, "image_size": 32, "batch_size": 2, "num_workers": 0},
    },
}


def write_package(home: Path) -> None:
    """The package, in a folder from which it can be imported."""
    (home / "hospital").mkdir()
    (home / "hospital/__init__.py").touch()
    for name, text in PACKAGE.items():
        (home / "hospital" / name).write_text(textwrap.dedent(text).lstrip())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the package and two experiments that differ in one setting."""
    home = tmp_path_factory.mktemp("stranger")
    write_package(home)
    (home / "own.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (home / "wide.yaml").write_text(yaml.safe_dump(EXPERIMENT).replace("width: 4", "width: 8"))
    return home


@pytest.fixture(scope="module")
def outcomes(home: Path) -> dict[str, Outcome]:
    """Every command that takes a network or a dataset, in the order a user would give them."""
    done = {
        name: call("fit", "--config", f"{name}.yaml", "--test_after_fit", "true", cwd=home)
        for name in ("own", "wide")
    }
    run, other = (only(home / "runs" / name).relative_to(home) for name in ("own", "wide"))
    data = only(home / "data/phantoms").relative_to(home)
    image = data / "test/0.png"
    own = ("--model", "hospital.network.HospitalNet")  # no file's word imports it
    named = (*own, "--data", "hospital.data.HospitalDataModule")
    best = ("--ckpt_path", run / "checkpoints/best.ckpt")
    bar, quick = ("--trainer.enable_progress_bar", "false"), ("--rounds", "2")
    commands: dict[str, list[str | Path]] = {
        "validate": ["validate", *best, *named, *bar],
        "test": ["test", *best, *named, *bar],
        "predict": ["predict", *best, "--config", "own.yaml", *bar],
        "segment": ["segment", image, "lesion 0 on the left", *best, *own, "--output", "segmented"],
        "probe": ["probe", run, *named, *bar],
        "benchmark": ["benchmark", "--config", "own.yaml", "--compare_with", "[wide.yaml]", *quick],
        "audit": ["data", "audit", data, "--dataset", "hospital.data.HospitalDataModule"],
        "prepare": ["data", "prepare", "--config", "own.yaml"],
        "compare": ["compare", run, other, "--output", "comparison"],
        "report": ["report", run, "--output", "report.html"],
    }
    with pytest.MonkeyPatch.context() as patch:
        skip_costly(patch, "matrix_product_peak")
        for name, words in commands.items():
            done[name] = call(*words, cwd=home)
    return done


def test_every_command_takes_them(outcomes: dict[str, Outcome]) -> None:
    assert {name: outcome.err for name, outcome in outcomes.items() if outcome.status} == {}


def test_what_they_leave_is_what_the_suites_own_leave(
    outcomes: dict[str, Outcome], home: Path
) -> None:
    run = only(home / "runs/own")
    for mode in ("true", "empty", "shuffled"):
        assert json.loads((run / "test" / mode / "metrics.json").read_text())["cases"] == 3
    assert len(masks_in(run / "predict")) == 3
    assert len(masks_in(home / "segmented/masks")) == 1
    assert (run / "probe/probe.json").is_file()
    assert (home / "comparison/report.html").is_file()
    assert (home / "report.html").is_file()
    assert (home / "note.txt").read_text() == "HospitalNet"


def test_the_benchmark_names_both_networks(outcomes: dict[str, Outcome]) -> None:
    assert "wide" in outcomes["benchmark"].out


def test_the_audit_counts_the_strangers_rows(outcomes: dict[str, Outcome]) -> None:
    assert "HospitalDataModule" in outcomes["audit"].out


def test_a_dataset_that_cannot_be_imported_is_named(home: Path) -> None:
    outcome = call("data", "audit", "hospital", "--dataset", "hospital.nowhere.Data", cwd=home)
    assert outcome.status == 2
    assert len(outcome.message()) == 2
    assert "hospital.nowhere.Data" in outcome.message()[0]


def test_a_network_that_is_none_is_named(home: Path) -> None:
    wrong = {"class_path": "hospital.callback.LeaveNote"}
    (home / "wrong.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "model": wrong}))
    outcome = call("fit", "--config", "wrong.yaml", cwd=home)
    assert outcome.status == 2
    assert len(outcome.message()) == 2
    assert "hospital.callback.LeaveNote" in " ".join(outcome.message())
