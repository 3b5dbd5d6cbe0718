"""The page of a campaign whose rows were run in several folders, of which one is at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.fake_suite import FakeSuite, campaign_of, cells, row_of, worker_of

from campaign import kept, machine, page  # isort: skip

UNET, LSMS = "U-Net", "LSMS"


@pytest.fixture
def two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite) -> list[Any]:
    """Two folders of the same settings: the first ran the U-Net, the second LSMS."""
    found = []
    for place, row in (("a", "unet"), ("b", "lsms")):
        commit = {"commit": place * 7}
        monkeypatch.setattr(machine, "here", lambda device, commit=commit: commit)
        (tmp_path / place).mkdir()
        campaign = campaign_of(tmp_path / place)
        worker_of(campaign).work([row_of(campaign, row)])
        found.append(campaign)
    return found


def written(campaign: Any, target: Path) -> kept.Parts:
    """The page after --write_docs of `campaign`."""
    target.parent.mkdir(exist_ok=True)
    page.write_docs(campaign, campaign.rows, target)
    parts = kept.read_parts(target.read_text().partition("begin -->")[2].partition("<!--")[0])
    assert set(parts) >= {"", "Scores", "Cost"}
    return parts


def test_a_row_of_another_folder_stays_as_it_was(tmp_path: Path, two_folders: list[Any]) -> None:
    first, second = two_folders
    target = tmp_path / "docs" / "results.md"
    alone = written(first, target)
    both = written(second, target)
    for heading in ("Scores", "Calibration", "Cost"):
        (own,) = cells(alone[heading], UNET)
        assert any(own)
        assert cells(both[heading], UNET) == [own]
        assert any(cells(both[heading], LSMS)[0])
    assert {*cells(alone["Scores"], LSMS)[0]} == {""}
    rows = [line.split("|")[1].strip() for line in both["Scores"] if line.startswith("|")]
    assert rows[2:] == [UNET, LSMS], "in the order of the settings"
    text = target.read_text()
    assert "tiny.yaml`" in both[""][0]
    assert "bbbbbbb" in both[""][0]
    assert "aaaaaaa" not in both[""][0]
    (other,) = [line for line in both[""] if line.startswith("* ")]
    assert UNET in other
    assert "made by:" in other
    assert "aaaaaaa" in other
    assert alone["Left"] == [f"* not trained: {LSMS}"]
    assert not both.get("Left")
    assert text.count("tiny_frontier.png") == 1


def test_the_folder_at_hand_has_the_say_on_what_it_ran(
    tmp_path: Path, two_folders: list[Any]
) -> None:
    first, second = two_folders
    target = tmp_path / "docs" / "results.md"
    for campaign in (first, second):
        written(campaign, target)
    worker_of(second).work([row_of(second, "unet")])
    both = written(second, target)
    assert not any(line.startswith("* ") for line in both[""])
    fresh = tmp_path / "fresh" / "results.md"
    assert both == written(second, fresh)


def test_a_folder_that_ran_nothing_changes_nothing(tmp_path: Path, fake: FakeSuite) -> None:
    (tmp_path / "a").mkdir()
    full = campaign_of(tmp_path / "a", stages={"networks": ["unet", "lsms", "tmca"]})
    worker_of(full).work(list(full.rows))
    target = tmp_path / "docs" / "results.md"
    before = written(full, target)
    (tmp_path / "b").mkdir()
    empty = campaign_of(tmp_path / "b", stages={"networks": ["unet", "lsms", "tmca"]})
    for _ in range(2):  # nor a second time, when who made them is read from the page itself
        after = written(empty, target)
        (other,) = [line for line in after[""] if line.startswith("* ")]
        assert "U-Net; LSMS; TMCA (made by: " in other
        assert {**after, "": []} == {**before, "": []}
    assert "side swapped: mask follows" in str(after["The words by probe"])


def test_kept_points_are_drawn(tmp_path: Path, two_folders: list[Any]) -> None:
    first, _ = two_folders
    parts = written(first, tmp_path / "docs" / "results.md")
    found = kept.kept_scores(parts, [UNET])[UNET]
    assert (found["dice"], found["interval"], found["gflops"]) == (0.8, (0.79, 0.82), 0.75)
    cost = first.cost(row_of(first, "unet"))
    assert found["cpu_hours"] == pytest.approx(cost / 3600, abs=0.005)
    drawn = tmp_path / "one.png"
    point = page.Point(UNET, **found)
    assert page.draw(first, [row_of(first, "lsms")], drawn) is False
    assert page.draw(first, [row_of(first, "lsms")], drawn, [point]) is True
    dash = {"Scores": ["| network | dice |", "|---|---|", "| U-Net | - |"]}
    assert kept.kept_scores(dash, [UNET]) == {}


def test_the_probe_keeps_columns() -> None:
    old = ["| change of the words | A | B |", "|---|---|---|"]
    old += ["| dice, empty (9 images) | a1 | b1 |", "| dice, typos (9 images) | a2 | b2 |"]
    old += ["| side swapped | a3 | b3 |", "", "old legend"]
    new = ["| change of the words | C | B |", "|---|---|---|"]
    new += ["| dice, empty (7 images) | c1 | B1 |", "| side swapped | c3 | B3 |", "", "new legend"]
    before, now = kept.Table.read(old), kept.Table.read(new)
    found = kept._columns(now, before, ["A"], ["A", "B", "C"])
    assert found.head == ["change of the words", "A", "B", "C"]
    assert list(found.rows.values()) == [
        ["dice, empty (7 images)", "a1", "B1", "c1"],
        ["dice, typos (9 images)", "a2", "", ""],
        ["side swapped", "a3", "B3", "c3"],
    ]
    assert found.below == ["", "new legend"]


def test_earlier_comparisons_stay_while_one_of_their_rows_does() -> None:
    def comparison(*names: str) -> list[str]:
        head = ["| method | dice |", "|---|---|"]
        return [*head, *(f"| {name} | 0.5 |" for name in names)]

    old = [*comparison("A", "B"), "", *comparison("C", "D")]
    assert kept._comparisons(old, ["B"]) == [*comparison("A", "B"), ""]
    assert kept._comparisons(old, ["D"]) == [*comparison("C", "D"), ""]
    assert kept._comparisons(old, ["E"]) == []


@pytest.mark.parametrize(("kept_value", "stays"), [("0.9", True), ("0.7", False)])
def test_the_worst_images_are_those_of_the_best_of_both(kept_value: str, stays: bool) -> None:
    def parts(name: str, value: str) -> kept.Parts:
        scores = ["| network | val/dice |", "|---|---|", f"| {name} | {value} (3) |"]
        return {"Scores": scores, f"The 2 worst test images of {name}": [name]}

    new = parts("B", "0.8")
    found = kept._worst(new, parts("A", kept_value), ["A"])
    assert [lines for lines in found.values() if lines] == [["A"] if stays else ["B"]]
    # what is of a network that this folder has tested since is this folder's
    assert kept._worst(new, parts("A", kept_value), []) == {"The 2 worst test images of B": ["B"]}


def test_warnings_of_kept_rows_stay_each_once() -> None:
    order = ["U-Net", "LSMS (from scratch)", "TMC", "TMCA", "the comparison"]
    old = ["* one training of TMC, LAVT: say so (the comparison)", "* few (see b) (TMCA)"]
    old += ["* few (see a) (U-Net, TMCA, TMC, the comparison)"]  # TMCA was tested here since
    new = ["* few (see a) (LSMS (from scratch))", "* no names"]
    assert kept._said(new, old, ["TMC", "U-Net"], order) == [
        "* few (see a) (U-Net, LSMS (from scratch), TMC, the comparison)",
        "* no names",
        "* one training of TMC, LAVT: say so (the comparison)",
    ]


def test_what_is_left_of_kept_rows_stays() -> None:
    left = kept._left(
        ["* LSMS: probe", "* not trained: TMC; LAVT"], ["* TMC: probe", "* not trained: X"], ["TMC"]
    )
    assert left == ["* TMC: probe", "* LSMS: probe", "* not trained: LAVT"]


def test_rows_of_other_settings_or_data_are_not_mixed(
    tmp_path: Path, two_folders: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = two_folders
    target = tmp_path / "docs" / "results.md"
    written(first, target)
    before = target.read_text()
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    others = campaign_of(tmp_path / "c", title="Others"), campaign_of(tmp_path / "d", synthesize=0)
    for other in others:
        with pytest.raises(SystemExit):
            page.write_docs(other, other.rows, target)
        said = capsys.readouterr().err
        assert "rows of other settings or data" in said
        assert re.search("remedy: .*another name", said)
        assert target.read_text() == before
