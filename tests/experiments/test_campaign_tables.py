"""The tables, the picture and the page that experiments/campaign.py writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.experiments.fake_suite import (
    EXPERIMENTS,
    FILES,
    FakeSuite,
    campaign_of,
    cells,
    worker_of,
)

from campaign import machine, settings, tables  # isort: skip


def test_the_tables_hold_the_runs_own_numbers(tmp_path: Path, fake: FakeSuite) -> None:
    campaign = campaign_of(tmp_path, arguments={"data.image_size": 64})
    rows = list(campaign.rows)
    worker_of(campaign).work(rows)
    (scored,) = cells(tables.score_table(campaign, rows), "LSMS")
    assert scored[:3] == ["1", "0.6000 (2)", "0.8000 [0.7900, 0.8200]"]
    assert scored[-2:] == ["0.80 [0.79, 0.82]", "0.8000 [0.7900, 0.8200]"]  # hd95, nsd
    (words,) = cells(tables.word_table(campaign, rows), "LSMS")
    assert [cell.split()[0] for cell in words] == ["0.8000", "0.6000", "0.5000", "0.8100"]
    assert not cells(tables.word_table(campaign, rows), "U-Net")
    probed = tables.probe_table(campaign, rows)
    ((change,),) = cells(probed, "dice, side_swapped (6 images)")
    assert change == "-0.1250 [-0.2500, -0.0625]"
    ((swap,),) = cells(probed, "side swapped: mask follows")
    assert swap == "0.2500 [0.1250, 0.5000] of 8"
    assert "the changed words less that with the true ones" in probed[-1]
    (lesions,) = cells(tables.lesion_table(campaign, rows), "U-Net")
    assert lesions[0] == "2"
    (fitted,) = cells(tables.calibration_table(campaign, rows), "LSMS")
    assert fitted == ["0.0110", "", "1.500", "0.0300", "0.0200", "0.40", "0.7100 (0.7000)"]
    (cost,) = cells(tables.cost_table(campaign, rows), "LSMS")
    assert cost[:5] == ["31.50", "9.25", "0.75", "0.50", "1"]
    assert float(cost[5]) == pytest.approx((campaign.cost(rows[1]) or 0) / 3600, abs=0.005)
    assert cost[7] == "1"
    assert tables.warnings(campaign, rows) == ["* few (U-Net, LSMS)"]
    assert tables.left(campaign, rows) == []


def test_results_that_other_commits_or_machines_made_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    """A campaign goes on for days: its rows need not be of one commit, nor of one processor."""
    campaign = campaign_of(tmp_path)
    unet, lsms = campaign.rows
    assert tables.machine(campaign).endswith(": not run yet.")
    first = {"cpu": "Xeon", "torch": "2.1", "commit": "aaaaaaa"}
    monkeypatch.setattr(machine, "here", lambda device: dict(first))
    worker_of(campaign).work([unet])
    assert tables.machine(campaign).endswith(", Xeon, torch 2.1, commit aaaaaaa.")
    worker_of(campaign, "train").work([lsms])
    (of,) = tables.made(campaign).values()
    assert of == {unet: campaign.note(unet)["done"], lsms: ["train"]}
    monkeypatch.setattr(machine, "here", lambda device: first | {"commit": "bbbbbbb"})
    worker_of(campaign).work([unet, lsms])
    assert tables.machine(campaign).endswith(
        ", Xeon, torch 2.1. Not all was made alike; commit aaaaaaa: U-Net, LSMS (train); "
        "commit bbbbbbb: LSMS (test, probe, calibrate, benchmark)."
    )


def test_a_training_that_goes_on_elsewhere_is_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path)
    unet = campaign.rows[0]
    for commit, hook in {
        "aaaaaaa": "if command == 'fit': sys.exit('broken')",
        "bbbbbbb": "",
    }.items():
        monkeypatch.setattr(machine, "here", lambda device, commit=commit: {"commit": commit})
        fake.write(hook)
        worker_of(campaign, "train").work([unet])
        worker_of(campaign, "train").work([unet])  # named once, however often it is started there
    assert list(tables.made(campaign)) == [("commit aaaaaaa",), ("commit bbbbbbb",)]


def test_a_machine_is_known_by_itself() -> None:
    found = machine.here("cpu")
    assert set(found) <= {"cpu", "torch", "lightning", "timm", "commit"}
    assert found["torch"] == torch.__version__.partition("+")[0]


def test_cells_of_what_was_not_run_are_empty(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path)
    for one in (tables.score_table, tables.word_table, tables.calibration_table, tables.cost_table):
        lines = one(campaign, campaign.rows)
        (row,) = cells(lines, "LSMS")
        assert set(row) == {""}
        assert len(row) == lines[0].count("|") - 2


def test_published_rows_have_a_source_and_are_marked() -> None:
    file = EXPERIMENTS / "campaign" / "published.yaml"
    for rows in yaml.safe_load(file.read_text()).values():
        for row in rows:
            assert row["source"]
            assert row["by"] in ("paper", "table", "re-scored")
            assert row["code"] in (True, False, None)
            found = [row[name] for name in ("dice", "dice_global") if name in row]
            assert found
            assert all(0.5 < value < 1 for value in found)
    campaign = settings.read_campaign(FILES[2], out=Path(), root=None, captions=None)
    lines = tables.published_table(campaign)
    *table, empty, legend = lines
    assert all("(theirs)" in line for line in table[2:])
    assert len({line.count("|") for line in table}) == 1
    assert (empty, "224x224" in legend) == ("", True)


def test_the_frontier_holds_whom_nobody_beats_at_its_cost() -> None:
    from campaign.frontier import Point, best_so_far

    costs = [4.0, 1.0, 2.0, 2.0, 8.0, None]
    dices = [0.7, 0.6, 0.65, 0.62, 0.69, 0.9]
    given = [Point(str(n), d, gflops=c) for n, (d, c) in enumerate(zip(dices, costs, strict=True))]
    known = [point for point in given if point.gflops]
    beaten = {
        one.name
        for one in known
        for other in known
        if other is not one and other.dice >= one.dice and other.gflops <= one.gflops
    }
    found = [point.name for point in best_so_far(given, "gflops")]
    assert found == ["1", "2", "0"]
    assert set(found) == {point.name for point in known} - beaten


def test_the_page_changes_between_its_markers_alone(tmp_path: Path, fake: FakeSuite) -> None:
    from campaign.page import write_docs

    campaign = campaign_of(tmp_path, published="qata")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    write_docs(campaign, campaign.rows, page)
    first = page.read_text()
    assert first.startswith("# Results")
    assert "frontier" not in first  # there is nothing of ours to draw
    page.write_text(first + "\nWritten by hand.\n")
    worker_of(campaign).work(list(campaign.rows))
    write_docs(campaign, campaign.rows, page)
    write_docs(campaign, campaign.rows, page)
    text = page.read_text()
    assert text.count("campaign tiny: begin") == text.count("campaign tiny: end") == 1
    assert text.endswith("\nWritten by hand.\n")
    assert "0.8000 [0.7900, 0.8200]" in text
    assert "(results/tiny_frontier.png)" in text
    assert (page.parent / "results/tiny_frontier.png").stat().st_size > 10_000
