"""In place of textseg, a script that notes how it was called and writes what each command would."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_run import load_script
from textseg.metrics.scores import SCORES

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SCRIPT = EXPERIMENTS / "campaign.py"
script = load_script(SCRIPT)  # whose parts are modules of the package `campaign` from now on
from campaign import processes, settings  # noqa: E402
from campaign.work import Worker  # noqa: E402

FILES = sorted(
    {*(EXPERIMENTS / "campaign").glob("*.yaml")} - {EXPERIMENTS / "campaign/published.yaml"}
)
PYTHON = sys.executable  # before the stand-in takes its place

# val/dice is of the network's place in `VALIDATED`, so that the best is known.
FAKE = """#!{python} -IS
import json, os, sys, time
from pathlib import Path

arguments = sys.argv[3:] if sys.argv[1] == "-m" else ["check"]
given = dict(zip(arguments[1::2], arguments[2::2]))
with open({called!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
command, text = arguments[0], " ".join(arguments)
{hook}

def scores(dice):
    names = {names!r}
    found = dict.fromkeys(names, dice)
    found |= {{name + "_ci_low": dice - 0.01 for name in names}}
    found |= {{name + "_ci_high": dice + 0.02 for name in names}}
    more = dict(cases=7, bootstrap_units=5, cases_without_lesion=2, ece=0.011, warnings=["few"])
    return found | more

if command == "check":
    print(json.dumps(dict(torch="2.0", python="3")))
elif command == "fit":
    run = Path(given["--trainer.default_root_dir"]) / "x/2026-01-01_00-00-00"
    run = Path(given["--ckpt_path"]).parents[1] if "--ckpt_path" in given else run
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").touch()
    (run / "checkpoints/last.ckpt").touch()
    places = [number for number, name in enumerate({validated!r}) if "/" + name in text]
    best = 0.5 + 0.1 * max(places, default=0)
    rows = ["epoch,step,val/dice", "0,1,0.4", f"1,2,{{best}}", "2,3,0.45"]
    (run / "metrics.csv").write_text("\\n".join(rows) + "\\n")
elif command in ("test", "probe", "calibrate"):
    run = Path(given["--ckpt_path"]).parents[1]
    mode = "true_flip" if "--tta" in given else given.get("--data.caption_mode", "true")
    folder = run / (f"test/{{mode}}" if command == "test" else "probe")
    folder = run / "calibration" if command == "calibrate" else folder
    folder.mkdir(parents=True)  # which fails where it was done before
    if command == "test":
        dice = dict(true=0.8, empty=0.6, shuffled=0.5, true_flip=0.81)[mode]
        (folder / "metrics.json").write_text(json.dumps(scores(dice)))
    if command == "probe":
        gap = dict(cases=6, difference=-0.125, difference_ci_low=-0.25, difference_ci_high=-0.0625)
        swap = dict(cases=8, share=0.25, share_ci_low=0.125, share_ci_high=0.5)
        found = dict(variants=dict(true=gap, side_swapped=gap), side_swap=swap)
        (folder / "probe.json").write_text(json.dumps(found))
    if command == "calibrate":
        found = dict(measured=dict(ece=0.03), scaled=dict(ece=0.02), temperature=1.5)
        found |= dict(threshold=0.4, dice=0.7, dice_best=0.71)
        (folder / "calibration.json").write_text(json.dumps(found))
elif command == "benchmark":
    row = dict(parameters_m=31.5, trainable_m=9.25, gflops=0.75, gflops_without_text_encoder=0.5)
    row |= dict(step_s=0.5, step_median_s=0.51, speedup=2.0, share_of_peak=0.25)
    row |= dict(peak_memory_mib=None)
    Path(given["--output"]).write_text(json.dumps(dict(networks=[row, row])))
elif command == "compare":
    folder = Path(arguments[-1])
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(
        dict(baseline="U-Net", methods=[], differences=[], warnings=["one seed"])))
"""
VALIDATED = ("unet", "lsms", "tmc_", "tmca")  # from the worst to the best


@dataclass
class FakeSuite:
    """The stand-in and what it was called with."""

    called: Path
    python: Path

    def write(self, hook: str = "") -> None:
        """Write the stand-in; `hook` runs before a command does its work."""
        text = FAKE.format(
            python=PYTHON,
            called=str(self.called),
            hook=hook,
            names=list(SCORES),
            validated=VALIDATED,
        )
        self.python.write_text(text)
        self.python.chmod(0o755)

    def calls(self, command: str | None = None) -> list[list[str]]:
        """The arguments of every call, or of those of one command, since the last time."""
        text = self.called.read_text() if self.called.is_file() else ""
        found: list[list[str]] = [json.loads(line) for line in text.splitlines()]
        return [one for one in found if command in (None, one[0])]

    def forget(self) -> None:
        """Start counting anew."""
        self.called.unlink(missing_ok=True)


def fake_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSuite:
    """The stand-in in place of Python, for all that the script starts."""
    fake = FakeSuite(folder / "called", folder / "python")
    fake.write()
    monkeypatch.setattr(processes.sys, "executable", str(fake.python))
    return fake


SETTINGS: dict[str, Any] = {
    "title": "Phantoms",
    "dataset": "qata",
    "overlay": ["cpu"],
    "synthesize": 8,
    "arguments": {"data.num_workers": 0},
    "stages": {"networks": ["unet", "lsms"]},
}


def campaign_of(tmp_path: Path, **changes: Any) -> Any:
    """SETTINGS as a file that was read; `changes` replace their parts."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | changes, sort_keys=False))
    campaign = settings.read_campaign(file, out=tmp_path / "out", root=None, captions=None)
    campaign.out.mkdir(exist_ok=True)
    return campaign


def worker_of(campaign: Any, *parts: str) -> Worker:
    return Worker(campaign, parts or script.ROW_PARTS)


def row_of(campaign: Any, name: str) -> Any:
    (row,) = (row for row in campaign.rows if row.name == name)
    return row


def cells(lines: list[str], name: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines
        if line.startswith(f"| {name} |")
    ]


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.05)
