"""Where a report is written, and the files and settings that it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.report.html_page import read_page
from tests.report.reported_run import edit
from textseg.errors import UserError
from textseg.report import report


def refusal(run: Path, **settings: Any) -> str:
    before = sorted(run.glob("*.html"))
    with pytest.raises(UserError) as caught:
        report([str(run)], **settings)
    cause, _, remedy = str(caught.value).partition("\n")
    assert remedy, "an error says what to do"
    assert sorted(run.glob("*.html")) == before, "nothing is written"
    return cause


# --- where it is written, and what is refused ----------------------------------------------------


def test_a_page_is_never_written_over(run: Path) -> None:
    for name in ("report.html", "report_2.html"):
        (run / name).write_text("mine")
    assert report([str(run)], cases=0) == run / "report_3.html"
    assert [(run / f"report{n}.html").read_text() for n in ("", "_2")] == ["mine", "mine"]


def test_the_folder_of_a_single_test_is_a_run_too(run: Path) -> None:
    text = read_page(report([str(run / "test/shuffled")])).text
    assert "Ranked by Dice with captions shuffled" in text
    assert "unet/2026-01-02_03-04-06" in text


def test_a_run_tested_on_other_data_has_a_page_of_that(run: Path, tmp_path: Path) -> None:
    (run / "test").rename(run / "test_on_mosmed")
    output = tmp_path / "new" / "page.html"
    assert report([str(run)], data="mosmed", output=str(output), cases=0) == output
    assert "tested on mosmed" in read_page(output).text


def test_a_run_that_was_not_tested_is_refused(run: Path) -> None:
    assert "test/empty, test/shuffled" in refusal(run, captions="nonsense"), "what there is"
    shutil.rmtree(run / "test")
    assert str(run) in refusal(run)
    assert str(run / "nowhere") in refusal(run / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test/true/metrics.json", "{", "metrics.json"),
        ("test/true/metrics.json", "[1]", "metrics.json"),
        ("test/empty/metrics.json", '{"dice": "high"}', "dice is 'high'"),
        ("test/true/metrics.json", '{"dice": 0.5}', "miou"),
        ("test/true/cases.csv", "case,text\na,b\n", "caption, dice"),
        ("test/true/overlays/c__0.png", "no picture", "c__0.png"),
        ("config.yaml", "a: [", "config.yaml"),
        ("metrics.csv", "epoch,val/dice\n0,many\n", "metrics.csv"),
        ("probe/probe.json", "[]", "probe.json"),
    ],
)
def test_a_broken_file_is_named(run: Path, name: str, content: str, words: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    message = refusal(run)
    assert words in message
    assert str(run / name) in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strata": [1]}, "metrics.json: strata "),
        ({"strata": {"size": {"small": 1}}}, "strata.size.small"),
        ({"size_cuts": [1]}, "size_cuts is [1]"),
        ({"warnings": "one"}, "warnings"),
        ({"protocol": "mine"}, "protocol is 'mine'"),
        ({"caption_mode": None}, "caption_mode"),
        ({"cases": 3}, "3 cases"),
    ],
)
def test_metrics_of_another_form_are_refused(
    run: Path, changes: dict[str, Any], words: str
) -> None:
    edit(run / "test/true/metrics.json", **changes)
    assert words in refusal(run)


def test_settings_that_make_no_sense_are_refused(run: Path) -> None:
    assert "baseline='x'" in refusal(run, baseline="x")
    assert "names=['a']" in refusal(run, names=["a"])
    assert "cases=-1" in refusal(run, cases=-1)
    assert "output='page.pdf'" in refusal(run, output="page.pdf")
    (run / "file").write_text("")
    assert "file/page.html" in refusal(run, output=str(run / "file" / "page.html"))
    with pytest.raises(UserError, match="runs"):
        report([])
