"""Commands that SIGKILL ends at seeded moments: their output is whole, or is taken up again.

Half of the kills come before a change of the file system, spread over all that an undisturbed
command makes; the others after a random time. TEXTSEG_KILLS changes their number for each command.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_cli
from datamodules.cache.build_once import IDENTITY
from tests.crossval.finished import plan_in, write_all
from tests.datamodules.scan_files import ORIENTATIONS, block, scan_values, write_nifti
from tests.faults.kill_at import kill_before_change
from tests.faults.untrained import write_untrained
from tests.forked import start
from tests.report.reported_run import write_reported_run
from tests.run_folder import write_run
from tests.tiny_run import fingerprints, write_refhl
from textseg.crossval import _result
from textseg.output import INCOMPLETE, PART, is_incomplete
from textseg.runs.crossval import Crossval

KILLS = int(os.environ.get("TEXTSEG_KILLS", "3"))
SECONDS = 600


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    Args:
        prepare: writes what it needs into a folder, and gives its words.
        output: what it writes, a file or a folder, below that folder; * for a part of a name.
        new: whether a command after a complete one writes again, beside it.
    """

    prepare: Callable[[Path], list[str]]
    output: str
    new: bool = True


def checkpoint(home: Path) -> str:
    return str(write_untrained(home / "run", write_refhl(home / "set")))


def of_segment(home: Path) -> list[str]:
    given = ["--ckpt_path", checkpoint(home), "--probabilities", "true", "--output", "out"]
    return ["segment", "set/images", *given]


def of_compare(home: Path) -> list[str]:
    runs = [write_run(home / run, [0.5 + i / 9] * 6, seed=i) for i, run in enumerate("ab")]
    return ["compare", *map(str, runs), "--names", "[a,b]", "--output", "out"]


def of_crossval(home: Path) -> list[str]:
    write_all(plan_in(home / "plan"))
    return ["crossval"]  # its trainings are killed in tests/crossval/test_killed.py


def of_prepare(home: Path) -> list[str]:
    write_refhl(home / "set")
    data = ["--data.root", "set", "--data.cache", "cache", "--data.image_size", "32"]
    return ["data", "prepare", "--data", "RefHLSegDataModule", *data]


def of_slice(home: Path) -> list[str]:
    for k, codes in enumerate(ORIENTATIONS):
        write_nifti(home / f"scans/images/p{k}.nii.gz", scan_values(k), codes)
        write_nifti(home / f"scans/labels/p{k}.nii.gz", block(), codes)
    return ["data", "slice", "scans", "out", "--window", "abdomen", "--labels", "{1: block}"]


def of_report(home: Path) -> list[str]:
    write_reported_run(home / "run")
    return ["report", "run"]


def of_card(home: Path) -> list[str]:
    checkpoint(home)
    return ["card", "run"]


def of_checkpoint(command: str) -> Callable[[Path], list[str]]:
    def prepare(home: Path) -> list[str]:
        return [command, "--ckpt_path", checkpoint(home)]

    return prepare


JOBS = {
    "test": Job(of_checkpoint("test"), "run/test/true"),
    "predict": Job(of_checkpoint("predict"), "run/predict"),
    "segment": Job(of_segment, "out"),
    "probe": Job(of_checkpoint("probe"), "run/probe"),
    "compare": Job(of_compare, "out"),
    "report": Job(of_report, "run/report.html"),
    "card": Job(of_card, "card"),
    "crossval": Job(of_crossval, "plan/report", new=False),
    "data prepare": Job(of_prepare, "cache/*", new=False),
    "data slice": Job(of_slice, "out", new=False),
}


def work(home: Path, words: list[str], number: int, count: Path | None) -> None:
    """The command in a process of its own, killed before a change; or its changes are counted."""
    os.chdir(home)
    torch.set_num_threads(1)
    changes = kill_before_change(number, home)
    with suppress(SystemExit):
        if words == ["crossval"]:
            plan = Crossval.in_folder("plan")
            assert plan is not None
            _result(plan)
        else:
            lightning_cli.main(words)
    if count is not None:
        count.write_text(str(changes()))


def run(home: Path, words: list[str], *, number: int = -1, after: float = SECONDS) -> bool:
    """Run a command that is perhaps killed; returns whether it was."""
    process = start(work, home, words, number, None)
    process.join(after)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def outputs(home: Path, job: Job) -> list[Path]:
    """What there is of a command's output, without what is being written."""
    place = Path(job.output)
    pattern = "*" if place.stem == "*" else f"{place.stem}*{place.suffix}"
    found = (home / place.parent).glob(pattern)
    return [path for path in sorted(found) if not path.name.startswith(".")]


def state(path: Path) -> dict[str, str]:
    """The files of an output with their digests."""
    if path.is_file():
        return {"": fingerprints(path.parent)[path.name]}
    found = fingerprints(path)
    found.pop(IDENTITY, None)  # of the files' times
    return {k: v for k, v in found.items() if k not in ("index.json", "slices.json")}


def moments(job: Job, words: list[str], home: Path, seed: int) -> Iterator[dict[str, Any]]:
    """When to kill."""
    count = home.parent / "count"
    start(int).join()  # else the time has the imports of the process that all are forked from
    begun = time.monotonic()
    process = start(work, home, words, -1, count)
    process.join(SECONDS)
    assert process.exitcode == 0
    seconds, changes = time.monotonic() - begun, int(count.read_text())
    generator = random.Random(seed)
    for kill in range(KILLS):
        if kill % 2:
            yield {"after": generator.uniform(seconds / 5, seconds * 0.7)}
        else:
            first, last = kill * changes // KILLS, (kill + 2) * changes // KILLS
            yield {"number": generator.randrange(first, max(last, first + 1))}


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_what_a_killed_command_leaves_is_whole_or_taken_up(tmp_path: Path, name: str) -> None:
    job, home = JOBS[name], tmp_path / "home"
    home.mkdir()
    words = job.prepare(home)
    before = shutil.copytree(home, tmp_path / "before")
    kills = 0
    when = moments(job, words, home, seed=len(name))
    first = next(when)
    (whole,) = outputs(home, job)
    expected = state(whole)
    assert expected
    for moment in [first, *when]:
        clear(home, before)
        killed = run(home, words, **moment)
        kills += killed
        for path in outputs(home, job):
            assert is_incomplete(path) or state(path) == expected, f"{moment}: {path} is half"
        done = [path for path in outputs(home, job) if not is_incomplete(path)]
        if done and job.new:
            continue  # the next one would be written beside it
        assert not run(home, words)
        assert outputs(home, job) == [whole], f"{moment}: not taken up"
        assert state(whole) == expected, moment
        left = [path for path in home.rglob("*") if path.name.startswith((PART, INCOMPLETE))]
        assert [path for path in left if path.parent != whole.parent] == [], moment
    print(f"{name}: {kills} of {KILLS} were killed, seed {len(name)}")
    assert kills, "all had ended before they were killed"


def clear(home: Path, before: Path) -> None:
    """A command's folder as it was before; files keep their times."""
    shutil.rmtree(home)
    shutil.copytree(before, home)
