"""Readers of results name what an ended command left incomplete, or pass over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crossval.finished import plan_in, write_all
from tests.faults.kill_at import in_child
from tests.report.reported_run import write_reported_run
from tests.run_folder import write_run
from textseg.compare import compare
from textseg.crossval import _result
from textseg.errors import UserError
from textseg.output import INCOMPLETE
from textseg.report import report
from textseg.report.score_tables import probe_blocks
from textseg.runs import Run, read_test
from textseg.runs.calibration import find_calibration


def ended(folder: Path) -> Path:
    """Mark results as those of a command that was ended."""
    text = "told.\ncommand: textseg test \x1b[31m\nbegun: 2026-01-02 03:04:05 UTC\n"
    (folder / INCOMPLETE).write_text(text)
    return folder


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


def test_readers_name_a_test_that_was_ended_with_its_command_and_time(tmp_path: Path) -> None:
    run, other = (write_run(tmp_path / name, [0.5] * 6, seed=i) for i, name in enumerate("ab"))
    folder = ended(run / "test" / "true")
    for call in (
        lambda: read_test(folder),
        lambda: compare([str(run), str(other)]),
        lambda: compare([str(other), str(folder)]),
        lambda: report([str(run)]),
        lambda: report([str(folder)]),
    ):
        told = refused(call)
        assert f"{folder} " in told
        assert "textseg test" in told
        assert "\x1b" not in told
        assert "2026-01-02 03:04:05" in told
    assert Run(run).tests() == {}


def test_a_folder_without_results_is_named_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [0.5] * 6, test="test/empty")
    (run / "test/true").mkdir()
    ended(run / "test/true")
    assert str(run / "test/true") in refused(lambda: report([str(run)]))
    assert str(run / "test/true") in refused(lambda: report([str(run / "test/true")]))


def test_an_ended_second_test_or_probe_does_not_count(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [0.5 + i / 9] * 6, seed=i) for i, name in enumerate("ab")]
    again = write_run(runs[0], [0.4] * 6, test="test/true_2") / "test/true_2"
    given = [str(run) for run in runs]
    assert any("true_2" in text for text in compare(given, names=["a", "b"]).warnings)
    ended(again)
    assert not any("true_2" in text for text in compare(given, names=["a", "b"]).warnings)
    (runs[0] / "probe").mkdir()
    ended(runs[0] / "probe")
    (block,) = probe_blocks(runs[0])
    assert str(runs[0] / "probe") in str(block)


def test_an_ended_calibration_is_passed_over(tmp_path: Path) -> None:
    for name, threshold in (("calibration", 0.25), ("calibration_2", 0.75)):
        values = {"weights": ["w"], "temperature": 1.0, "threshold": threshold}
        values |= {"threshold_scaled": 0.5, "cases": 3}
        (tmp_path / name).mkdir()
        (tmp_path / name / "calibration.json").write_text(json.dumps(values))
    assert find_calibration(Run(tmp_path), "", ["w"])["threshold"] == 0.75
    ended(tmp_path / "calibration_2")
    assert find_calibration(Run(tmp_path), "", ["w"])["threshold"] == 0.25


def test_the_folder_of_other_data_never_lacks_what_it_is_of(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.5] * 6)
    data = {"class": "Other", "split": None, "root": "/data/other"}
    kills = 0
    while in_child(lambda: Run(run).results_dir(data), kills, tmp_path)[0]:
        assert all((path / "data.json").is_file() for path in run.glob("test_on_*"))
        kills += 1
    assert kills > 2
    assert [path.name for path in run.glob("test_on_*")] == ["test_on_other"]


def test_a_report_is_absent_or_whole_wherever_it_is_killed(tmp_path: Path) -> None:
    run = write_reported_run(tmp_path / "run")
    page = report([str(run)])
    whole = page.read_bytes()
    page.unlink()
    kills = 0
    while in_child(lambda: report([str(run)]), kills, tmp_path)[0]:
        assert [*run.glob("report*.html")] in ([], [page]), "its own file may be left"
        assert not page.exists() or page.read_bytes() == whole
        page.unlink(missing_ok=True)
        kills += 1
    assert kills >= 2
    assert page.read_bytes() == whole


def test_a_cross_validation_that_was_ended_before_its_report_writes_it(tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "plan")
    write_all(plan)
    _result(plan)
    pages = [*plan.folder.glob("report*/comparison.json")]
    assert len(pages) == 1
    ended(pages[0].parent)
    (pages[0].parent / INCOMPLETE).write_text("work: comparison\n")
    assert str(pages[0].parent) in _result(plan)
    assert [*plan.folder.glob("report*/comparison.json")] == pages, "in its folder"
    assert "all is finished" in _result(plan)
