"""What experiments/campaign.py decides: the best network, epochs, and whose size a row shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.experiments.fake_suite import (
    FakeSuite,
    campaign_of,
    row_of,
    script,
    worker_of,
)

from campaign import frontier, locks, settings, tables  # isort: skip
from campaign.processes import BadSettingsError, FailedError, write  # isort: skip
from campaign.work import Worker  # isort: skip


def test_the_best_is_chosen_by_the_mean_over_seeds_of_networks_as_they_are(
    tmp_path: Path, fake: FakeSuite
) -> None:
    """A seed alone, an ablation and another size decide nothing."""
    networks = [{"network": "tmc", "seeds": [1, 2]}, {"network": "tmca", "seeds": [1, 2]}]
    networks += [{"network": "lsms", "image_size": 96}, {"ablation": "tmca_qata_none"}]
    stages = {"networks": networks, "later": [{"network": "best", "name": "more", "seed": 3}]}
    campaign = campaign_of(tmp_path, stages=stages)
    dice = dict(
        zip(("tmc", "tmc_seed2", "tmca", "tmca_seed2"), (0.80, 0.79, 0.9, 0.7), strict=True)
    )
    dice |= {"lsms_96": 0.99, "tmca_qata_none": 0.1}
    for row in campaign.rows[:-1]:
        folder = campaign.runs(row) / "x/2026-01-01_00-00-00"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "metrics.csv").write_text(f"epoch,step,val/dice\n0,1,{dice[row.name]}\n")
        write(campaign.note_file(row), {"done": ["train"], "failed": {}, "cost": {}})
    assert worker_of(campaign).choose()
    chosen = settings.read(campaign.out / "chosen.json")
    assert chosen["network"] == "tmca"
    assert chosen["val/dice"] == pytest.approx({"tmc": 0.795, "tmca": 0.8})


def test_a_best_network_of_a_stage_without_networks_is_refused(tmp_path: Path) -> None:
    stages = {"first": ["unet", {"ablation": "tmc_qata_mcm_4"}], "later": [{"network": "best"}]}
    with pytest.raises(BadSettingsError, match="none to choose"):
        campaign_of(tmp_path, stages=stages)


def test_a_row_of_other_arguments_shows_no_other_rows_size(tmp_path: Path) -> None:
    wide = {"arguments": {"model.alignment_dim": 512}}
    networks = ["tmca", {"network": "tmca", "name": "wide", "seeds": [7, 8], **wide}]
    stages = {"networks": networks, "seeds": [{"network": "tmca", "seeds": [2]}]}
    campaign = campaign_of(tmp_path, stages=stages)
    assert [row.name for row in campaign.rows if row.cost] == ["tmca", "wide_seed7"]
    (campaign.out / "benchmark").mkdir()
    write(campaign.out / "benchmark/tmca.json", {"networks": [{"gflops": 3.3}]})
    sizes = {row.name: tables.size_of(campaign, row) for row in campaign.rows}
    own = {"gflops": 3.3}
    assert sizes == {"tmca": own, "tmca_seed2": own, "wide_seed7": None, "wide_seed8": None}


def test_pictures_of_every_size_are_prepared_once(tmp_path: Path, fake: FakeSuite) -> None:
    stages = {"networks": ["unet", "tmca"], "larger": [{"network": "best", "image_size": 96}]}
    campaign = campaign_of(tmp_path, stages=stages)
    for _ in range(2):
        with locks.claim(tmp_path / "lock"):
            script.prepare(worker_of(campaign), list(campaign.rows), tmp_path / "lock")
    calls = fake.calls("data")
    assert len(calls) == 2
    assert [call[call.index("--data.image_size") + 1 :][:1] for call in calls[1:]] == [["96"]]
    assert "--data.image_size" not in calls[0]


def test_trials_that_cannot_tell_what_an_epoch_costs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may have filled a cache that the second found."""
    networks = [{"network": "lsms", "cpu_hours": 1.0}]
    campaign = campaign_of(tmp_path, stages={"networks": networks}, measure=[0.02, 0.08])
    costs = iter([230.0, 80.0])

    def run(self: Worker, *_: Any, **__: Any) -> Any:
        return type("Done", (), {"cpu_seconds": next(costs)})

    monkeypatch.setattr(Worker, "run", run)
    with pytest.raises(FailedError) as error:
        worker_of(campaign).epochs(row_of(campaign, "lsms"))
    cause, remedy = error.value.args
    assert "0.08 of an epoch of lsms took 80.0 CPU seconds, and 0.02 of it 230.0" in cause
    assert "measure" in remedy
    assert "epochs" not in campaign.note(campaign.rows[0])


def test_a_network_has_one_color_in_all_pictures_of_a_page(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path)
    ours = [frontier.Point(name, 0.5) for name in ("TMCA", "U-Net", "LSMS")]
    assert frontier.numbered(campaign, ours) == {"TMCA": 0, "U-Net": 1, "LSMS": 2}
    (campaign.out / "compare").mkdir()
    methods = [{"name": name} for name in ("U-Net", "LSMS")]
    write(campaign.out / "compare/comparison.json", {"methods": methods})
    assert frontier.numbered(campaign, ours) == {"U-Net": 0, "LSMS": 1, "TMCA": 2}


def test_the_lines_of_a_frontier_are_of_public_code(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path, published="qata")
    drawn = {one["by"]: one for one in frontier.best_published(campaign)}
    assert set(drawn) == {"paper", "re-scored"}
    for one in tables.published(campaign):
        if one["by"] in drawn and one["code"] and "dice" in one:
            assert one["dice"] <= drawn[one["by"]]["dice"]
    assert all(one["code"] for one in drawn.values())
