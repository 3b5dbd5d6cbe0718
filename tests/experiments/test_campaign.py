"""experiments/campaign.py: what it starts, skips, shares and writes; for real in the slow test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.experiments.fake_suite import (
    EXPERIMENTS,
    PYTHON,
    SCRIPT,
    FakeSuite,
    campaign_script,
    fake_suite,
)
from tests.tiny_run import shell

script = campaign_script()
from campaign import check, cluster, locks, settings, tables  # noqa: E402
from campaign.processes import BadSettingsError, FailedError  # noqa: E402
from campaign.work import Worker  # noqa: E402

FILES = sorted((EXPERIMENTS / "campaign").glob("*.yaml"))
SETTINGS: dict[str, Any] = {
    "title": "Phantoms",
    "dataset": "qata",
    "overlay": ["cpu"],
    "synthesize": 8,
    "arguments": {"data.num_workers": 0},
    "stages": {"networks": ["unet", "lsms"]},
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSuite:
    return fake_suite(tmp_path, monkeypatch)


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


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Any:
    """The script's exit status; 0 where it returns."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(script.sys, "argv", ["campaign.py", *map(str, arguments)])
    try:
        script.main()
    except SystemExit as ended:
        return ended.code
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


# --- settings files ------------------------------------------------------------------------------


def test_the_gpu_form_has_every_network_of_the_overlays() -> None:
    campaign = settings.read_campaign(FILES[1], out=Path(), root=None, captions=None)
    assert FILES[1].stem == "gpu"
    found = {path.stem for path in (EXPERIMENTS / "gpu").glob("*.yaml")}
    assert {row.network for row in campaign.rows} == found


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage": {}}, "stage"),
        ({"stages": {"a": [{"netwrok": "lsms"}]}}, "netwrok"),
        ({"stages": {"a": ["lsms", "lsms"]}}, "lsms"),
        ({"stages": {"a": ["no_such"]}}, "no_such_qata.yaml"),
        ({"stages": {"a": [{"network": "best"}]}}, "best"),
        ({"stages": {"a": [{"network": "lsms", "cpu_hours": "tmca"}]}}, "tmca"),
        ({"stages": {"a": [{"network": "lsms", "name": "a b"}]}}, "a b"),
        ({"tests": ["tru"]}, "tru"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSettingsError) as error:
        campaign_of(tmp_path, **changes)
    assert named in error.value.args[0]


def test_results_of_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, "synthesize": None}))
    given: list[str | Path] = [file, "--out", tmp_path / "out", "--part", "summary"]
    assert run_main(monkeypatch, *given, "--root", tmp_path / "a") == 0
    assert run_main(monkeypatch, *given, "--root", tmp_path / "a") == 0
    assert run_main(monkeypatch, *given, "--root", tmp_path / "b") == 2
    error, remedy = capsys.readouterr().err.splitlines()[:2]
    assert str(tmp_path / "a") in error
    assert str(tmp_path / "b") in error
    assert "--out" in remedy


# --- what is done, once --------------------------------------------------------------------------


def test_everything_is_done_once_and_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    campaign_of(tmp_path)
    given = [tmp_path / "tiny.yaml", "--out", tmp_path / "out"]
    assert run_main(monkeypatch, *given) == 0
    commands = [call[0] for call in fake.calls()]
    assert commands[:2] == ["check", "data"]
    unet = ["fit", "test", "calibrate", "benchmark"]
    lsms = ["fit", "test", "test", "test", "test", "probe", "calibrate", "benchmark"]
    assert commands[2:] == [*unet, *lsms, "compare"]
    fake.forget()
    assert run_main(monkeypatch, *given) == 0
    assert [call[0] for call in fake.calls()] == ["check"]


def test_a_test_that_broke_off_is_done_again_in_its_own_folder(
    tmp_path: Path, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]}, tests=["true", "empty"])
    worker_of(campaign, "train", "test").work(list(campaign.rows))
    (row,) = campaign.rows
    note = campaign.note(row)
    note["done"].remove("test empty")
    campaign.note_file(row).write_text(json.dumps(note))
    fake.forget()
    worker_of(campaign, "train", "test").work(list(campaign.rows))
    ((*_, mode),) = fake.calls()
    assert mode == "empty"
    run = campaign.run_folder(row)
    assert sorted(path.name for path in (run / "test").iterdir()) == ["empty", "true"]


def test_a_training_that_is_killed_goes_on_and_both_starts_count(
    tmp_path: Path, fake: FakeSuite
) -> None:
    """The script itself gets SIGKILL, and the training with it."""
    burn = "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    stop = f"Path({str(tmp_path / 'there')!r}).touch()\n    time.sleep(60)"
    save = "run = Path(given['--trainer.default_root_dir']) / 'x/2026-01-01_00-00-00'\n    "
    save += "(run / 'checkpoints').mkdir(parents=True)\n    (run / 'config.yaml').touch()\n    "
    save += "(run / 'checkpoints/last.ckpt').touch()\n    "
    fake.write(f"{burn}if command == 'fit' and '--ckpt_path' not in given:\n    {save}{stop}")
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    code = f"import sys; sys.path.insert(0, {str(EXPERIMENTS)!r})\n"
    code += f"import campaign.processes as p; p.BEAT = 0.1\nsys.executable = {str(fake.python)!r}\n"
    code += f"import runpy; sys.argv = ['c', {str(tmp_path / 'tiny.yaml')!r}, '--out', "
    code += f"{str(campaign.out)!r}, '--part', 'train']\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    running = subprocess.Popen([PYTHON, "-c", code])
    (row,) = campaign.rows
    try:
        wait_until((tmp_path / "there").is_file)
        wait_until(lambda: (campaign.cost(row) or 0) >= 0.25)
    finally:
        running.kill()
        running.wait()
    assert campaign.left(row)[0] == "train"
    first = campaign.cost(row)
    script_worker = worker_of(campaign, "train")
    script_worker.work([row])
    assert script_worker.failed == {}
    assert campaign.left(row)[0] == "test true"
    last = campaign.run_folder(row) / "checkpoints/last.ckpt"
    assert fake.calls("fit")[1][-2:] == ["--ckpt_path", str(last)]
    starts = campaign.note(row)["cost"]["train"]
    assert len(starts) == 2
    assert starts[0]["cpu_seconds"] == first
    assert starts[1]["cpu_seconds"] >= 0.3
    assert campaign.cost(row) == pytest.approx(sum(one["cpu_seconds"] for one in starts))


def test_a_training_that_broke_off_before_its_first_checkpoint_leaves_nothing(
    tmp_path: Path, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    (row,) = campaign.rows
    early = campaign.runs(row) / "x/2025-12-31_00-00-00"
    early.mkdir(parents=True)
    (early / "config.yaml").touch()
    worker_of(campaign, "train").work([row])
    assert not early.exists()
    assert "--ckpt_path" not in fake.calls()[0]


def test_a_training_over_its_time_is_told_to_save(tmp_path: Path, fake: FakeSuite) -> None:
    saved = tmp_path / "saved"
    hook = f"""import signal
def save(*_):
    Path({str(saved)!r}).touch()
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
time.sleep(60)"""
    fake.write(hook)
    campaign = settings.replace(campaign_of(tmp_path), limit=1.0)
    worker = worker_of(campaign, "train")
    worker.take(campaign.rows[0])
    assert saved.is_file()
    cause, remedy = worker.failed["train unet"].args
    assert "train unet" in cause
    assert "goes on" in remedy


def test_a_network_that_fails_is_left_and_told_at_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: FakeSuite,
) -> None:
    fake.write("if command == 'fit' and 'unet_qata' in text:\n    sys.exit('out of memory')")
    campaign = campaign_of(tmp_path)
    given = [tmp_path / "tiny.yaml", "--out", tmp_path / "out"]
    assert run_main(monkeypatch, *given) == 1
    errors = capsys.readouterr().err
    assert "train unet" in errors
    assert "out of memory" in errors
    assert "lsms" not in errors
    assert len(fake.calls("fit")) == 2
    assert not campaign.left(row_of(campaign, "lsms"))
    assert "* not trained: U-Net\n" in (campaign.out / "summary.md").read_text()
    fake.write()
    fake.forget()
    assert run_main(monkeypatch, *given) == 0  # tried anew
    assert len(fake.calls("fit")) == 1
    assert campaign.note(campaign.rows[0])["failed"] == {}


def test_a_test_that_fails_keeps_no_other_from_being_done(tmp_path: Path, fake: FakeSuite) -> None:
    fake.write("if '--data.caption_mode shuffled' in text: sys.exit('one caption')")
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    worker = worker_of(campaign)
    worker.work(list(campaign.rows))
    assert list(worker.failed) == ["test shuffled lsms"]
    assert campaign.left(campaign.rows[0]) == ["test shuffled"]


def test_a_row_is_not_mixed_of_two_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: FakeSuite,
) -> None:
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    worker_of(campaign, "train").work(list(campaign.rows))
    given = [tmp_path / "tiny.yaml", "--out", campaign.out, "--part", "summary"]
    campaign_of(tmp_path, arguments={"data.num_workers": 3}, stages={"networks": ["lsms"]})
    assert run_main(monkeypatch, *given) == 0  # the machine's, not the row's
    campaign_of(tmp_path, arguments={"data.batch_size": 3}, stages={"networks": ["lsms"]})
    assert run_main(monkeypatch, *given) == 2
    assert "--data.batch_size 3" in capsys.readouterr().err


def test_an_untrained_row_is_not_tested(tmp_path: Path, fake: FakeSuite) -> None:
    campaign = campaign_of(tmp_path)
    worker = worker_of(campaign, "test")
    worker.work(list(campaign.rows))
    assert fake.calls() == []
    assert set(worker.failed) == {"test true unet", "test true lsms"}


# --- several workers -----------------------------------------------------------------------------


def test_two_workers_do_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    fake.write("time.sleep(0.05)")
    monkeypatch.setattr("campaign.work.WAIT", 0.05)
    campaign = campaign_of(tmp_path, stages={"networks": ["unet", "lsms", "tmc"]})
    workers = [worker_of(campaign) for _ in range(2)]
    threads = [threading.Thread(target=one.work, args=[list(campaign.rows)]) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.failed for one in workers] == [{}, {}]
    assert not any(campaign.left(row) for row in campaign.rows)
    assert len(fake.calls("fit")) == 3
    assert len(fake.calls("test")) == 1 + 4 + 4
    assert not list((campaign.out / "locks").glob("[!t]*"))


def owned(folder: Path, **changes: Any) -> Path:
    """A row that a worker has, by default this process."""
    folder.mkdir(parents=True)
    locks._sign(folder)
    own = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps(own | changes))
    return folder


def test_what_another_living_worker_has_is_not_taken(tmp_path: Path) -> None:
    for name, changes in (("here", {}), ("there", {"host": "elsewhere", "pid": 1})):
        folder = owned(tmp_path / name, **changes)
        with locks.claim(folder) as mine:
            assert not mine
        assert locks.owner(folder) is not None
        assert folder.is_dir()


@pytest.mark.parametrize("case", ["gone", "other", "silent", "unnamed"])
def test_what_a_dead_worker_had_is_taken_over(case: str, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    changes = {
        "gone": {"pid": gone.pid},
        "other": {"born": "1"},  # its number is another process's now
        "silent": {"host": "elsewhere"},
        "unnamed": {},
    }[case]
    folder = owned(tmp_path / "row", **changes)
    old = time.time() - 2 * locks.SILENT
    if case == "unnamed":
        (folder / "owner.json").unlink()
    for path in (folder, *folder.iterdir()):
        os.utime(path, (old, old))
    assert locks.owner(folder) is None
    with locks.claim(folder) as mine:
        assert mine
        assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
    assert not folder.exists()


def test_a_row_of_another_worker_is_waited_for_and_then_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    monkeypatch.setattr("campaign.work.WAIT", 0.05)
    campaign = campaign_of(tmp_path)
    worker = worker_of(campaign, "train")
    held = owned(worker.lock(campaign.rows[0]), host="elsewhere")
    thread = threading.Thread(target=worker.work, args=[list(campaign.rows)])
    thread.start()
    wait_until(lambda: bool(fake.calls("fit")))
    time.sleep(0.3)
    assert [call[2] for call in fake.calls("fit")] == [str(EXPERIMENTS / "lsms_qata.yaml")]
    os.utime(held / "owner.json", (0, 0))  # it is silent
    thread.join(30)
    assert len(fake.calls("fit")) == 2


# --- the best network, words taken away, budgets -------------------------------------------------

LATER = {
    "networks": ["unet", "lsms", "tmca", "tmc"],
    "later": [
        {"network": "best", "image_size": 96},
        {"network": "best", "name": "mute", "words": False},
        {"network": "best", "name": "best", "seeds": [2, 3]},
    ],
}


def test_the_best_on_validation_rows_is_trained_further(tmp_path: Path, fake: FakeSuite) -> None:
    campaign = campaign_of(tmp_path, stages=LATER, without_words={"tmca": "tmca_qata_none"})
    worker_of(campaign, "train", "test").work(list(campaign.rows))
    chosen = json.loads((campaign.out / "chosen.json").read_text())
    assert chosen["network"] == "tmca"
    assert chosen["val/dice"] == pytest.approx({"lsms": 0.6, "tmca": 0.8, "tmc": 0.7})
    larger, mute, second, third = fake.calls("fit")[4:]
    for call in (larger, second, third):
        assert call[2] == str(EXPERIMENTS / "tmca_qata.yaml")
    assert larger[larger.index("--data.image_size") + 1] == "96"
    assert mute[2] == str(EXPERIMENTS / "ablations/tmca_qata_none.yaml")
    seeds = [call[call.index("--seed_everything") + 1] for call in (larger, mute, second, third)]
    assert seeds == ["1", "1", "2", "3"]
    titles = [campaign.title_of(row) for row in campaign.rows[4:]]
    assert titles[0] == "TMCA, 96x96"
    assert titles[2:] == ["TMCA, seed 2", "TMCA, seed 3"]
    assert campaign.tests_of(row_of(campaign, "mute")) == ["true"]


def test_a_network_without_an_ablation_is_trained_and_tested_with_empty_captions(
    tmp_path: Path, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path, stages=LATER)
    worker_of(campaign).work(list(campaign.rows))
    mute = row_of(campaign, "mute")
    assert campaign.tasks_of(mute) == ["train", "test empty", "benchmark"]
    fit = fake.calls("fit")[5]
    assert fit[fit.index("--data.caption_mode") + 1] == "empty"


def test_later_rows_wait_for_the_choice_and_say_so(tmp_path: Path, fake: FakeSuite) -> None:
    campaign = campaign_of(tmp_path, stages=LATER)
    worker = worker_of(campaign, "train")
    worker.work([row_of(campaign, "best_96")])
    assert fake.calls() == []
    assert list(worker.failed) == ["train best_96"]


def test_cpu_hours_become_epochs_by_what_shares_of_an_epoch_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    """Start 8 s and an epoch 200 s: 0.25 hours are 900 s, that is 4 epochs."""
    networks = ["unet", {"network": "lsms", "cpu_hours": 0.25}]
    networks += [{"network": "tmc", "cpu_hours": "unet"}, {"network": "tmca", "cpu_hours": 0.01}]
    campaign = campaign_of(tmp_path, stages={"networks": networks}, measure=[0.02, 0.08])
    asked: list[list[str]] = []

    def run(self: Worker, row: Any, task: str, arguments: list[str], **_: Any) -> Any:
        asked.append(arguments)
        share = arguments[arguments.index("--trainer.limit_train_batches") + 1]
        used = {"0.02": 8 + 4.0, "0.08": 8 + 16.0}[share]
        return type("Done", (), {"cpu_seconds": used})

    monkeypatch.setattr(Worker, "run", run)
    note = {"done": ["train"], "failed": {}, "cost": {"train": [{"cpu_seconds": 650.0}] * 2}}
    campaign.note_file(campaign.rows[0]).parent.mkdir()
    campaign.note_file(campaign.rows[0]).write_text(json.dumps(note))
    worker = worker_of(campaign)
    assert [worker.epochs(row) for row in campaign.rows[1:]] == [4, 6, 1]
    assert len(asked) == 6
    assert worker.epochs(campaign.rows[1]) == 4  # planned once
    assert len(asked) == 6
    assert worker.epochs(campaign.rows[0]) == 1


# --- tables, pictures, pages ---------------------------------------------------------------------


def cells(lines: list[str], name: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines
        if line.startswith(f"| {name} |")
    ]


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
    assert swap == "0.2500 [0.1250, 0.5000]"
    (lesions,) = cells(tables.lesion_table(campaign, rows), "U-Net")
    assert lesions[0] == "2"
    (fitted,) = cells(tables.calibration_table(campaign, rows), "LSMS")
    assert fitted == ["0.0110", "", "0.0300", "0.0200", "1.500", "0.40", "0.7100 (0.7000)"]
    (cost,) = cells(tables.cost_table(campaign, rows), "LSMS")
    assert cost[:5] == ["31.50", "9.25", "0.75", "0.50", "1"]
    assert float(cost[5]) == pytest.approx((campaign.cost(rows[1]) or 0) / 3600, abs=0.005)
    assert cost[7] == "1"
    assert tables.warnings(campaign, rows) == ["* few (U-Net, LSMS)"]
    assert tables.left(campaign, rows) == []


def test_cells_of_what_was_not_run_are_empty(tmp_path: Path) -> None:
    campaign = campaign_of(tmp_path)
    for one in (tables.score_table, tables.word_table, tables.calibration_table, tables.cost_table):
        lines = one(campaign, campaign.rows)
        (row,) = cells(lines, "LSMS")
        assert set(row) == {""}
        assert len(row) == lines[0].count("|") - 2


def test_published_rows_have_a_source_and_are_marked() -> None:
    file = EXPERIMENTS / "published.yaml"
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
    assert all("(theirs)" in line for line in lines[2:])
    assert len({line.count("|") for line in lines}) == 1


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


def test_the_list_says_what_is_left_and_what_it_cost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: FakeSuite,
) -> None:
    campaign = campaign_of(tmp_path)
    worker_of(campaign, "train").work(list(campaign.rows[:1]))
    note = campaign.note(campaign.rows[0])
    note["cost"]["train"] = [{"cpu_seconds": 3600.0, "seconds": 1.0}, {"cpu_seconds": 1800.0}]
    campaign.note_file(campaign.rows[0]).write_text(json.dumps(note))
    capsys.readouterr()
    fake.forget()
    assert run_main(monkeypatch, tmp_path / "tiny.yaml", "--out", campaign.out, "--list") == 0
    unet, lsms, total = capsys.readouterr().out.splitlines()
    assert "1.50" in unet
    assert "train" not in unet
    assert "test true" in unet
    assert "train" in lsms
    assert "1.50" in total
    assert fake.calls() == []


# --- SLURM ---------------------------------------------------------------------------------------


def test_a_training_is_one_slurm_job_which_workers_leave_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/usr/bin/env bash\nprintf "%s\\n" "$TEXTSEG" "$RUNS" "$@" > {tmp_path}/sent\necho 17\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    campaign = campaign_of(tmp_path, slurm=["--time=60"], stages={"networks": ["lsms"]})
    (row,) = campaign.rows
    cluster.make_jobs(worker_of(campaign), [row], submit=False)
    assert not (tmp_path / "sent").exists()
    cluster.make_jobs(worker_of(campaign), [row], submit=True)
    command, runs, *sent = (tmp_path / "sent").read_text().splitlines()
    assert command.split()[1:] == ["-m", "campaign.in_job", str(campaign.note_file(row))]
    assert runs == str(campaign.runs(row))
    at = sent.index(str(EXPERIMENTS / "slurm/train.sbatch"))
    assert "--time=60" in sent[:at]
    assert sent[at + 1 : at + 3] == ["--config", str(EXPERIMENTS / "lsms_qata.yaml")]
    (tmp_path / "sent").unlink()
    cluster.make_jobs(worker_of(campaign), [row], submit=True)
    assert not (tmp_path / "sent").exists()
    worker = worker_of(campaign)
    worker.work([row])
    assert fake.calls() == []
    assert "17" in worker.failed["train lsms"].args[0]


def test_a_job_notes_its_end_and_hands_on_signals_and_status(
    tmp_path: Path, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    (row,) = campaign.rows
    worker_of(campaign).epochs(row)
    there = tmp_path / "there"
    waits = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n"
    waits += f"if '--ckpt_path' not in given:\n    Path({str(there)!r}).touch()\n    time.sleep(60)"
    fake.write(waits)
    code = f"import sys; sys.executable = {str(fake.python)!r}\n"
    code += "from campaign.in_job import main; main()"
    folder = campaign.runs(row) / "slurm-17/x/2026-01-01_00-00-00"
    (folder / "checkpoints").mkdir(parents=True)
    fit = ["fit", "--trainer.default_root_dir", str(folder.parents[1])]
    command = [PYTHON, "-c", code, str(campaign.note_file(row)), *fit]
    own = os.environ | {"PYTHONPATH": f"{EXPERIMENTS.parent}:{EXPERIMENTS}"}
    running = subprocess.Popen(command, env=own)
    wait_until(there.is_file)
    running.send_signal(signal.SIGUSR1)
    assert running.wait(20) == 75
    assert "train" in campaign.left(row)
    last = folder / "checkpoints/last.ckpt"
    done = subprocess.run([*command, "--ckpt_path", str(last)], env=own, check=False)
    assert done.returncode == 0
    assert campaign.left(row)[0] == "test true"
    assert len(campaign.note(row)["cost"]["train"]) == 2
    assert campaign.run_folder(row) == folder


# --- the GPU form --------------------------------------------------------------------------------


def test_a_network_that_cannot_be_compiled_is_known_before_any_training(
    tmp_path: Path, fake: FakeSuite
) -> None:
    """All are tried at once: the first to be started waits for the second."""
    there = tmp_path / "there"
    fake.write(f"""there = Path({str(there)!r})
if "unet_qata" in text:
    while not there.exists(): time.sleep(0.05)
if "lsms_qata" in text:
    there.touch()
    sys.exit("no kernel")""")
    campaign = campaign_of(tmp_path, device="gpu", overlay=["gpu"])
    worker = worker_of(campaign, "train")
    check.trial(worker, list(campaign.rows), {"gpu": "H100", "torch": "2"})
    for name in ("unet", "lsms"):
        (call,) = [call for call in fake.calls() if f"{name}_qata" in str(call)]
        assert str(EXPERIMENTS / "gpu" / f"{name}.yaml") in call  # which has CompiledTraining
        assert call[call.index("--trainer.accelerator") + 1] == "gpu"
    assert list(worker.failed) == ["check lsms"]
    assert "no kernel" in worker.failed["check lsms"].args[0]
    assert json.loads((campaign.out / "trial/unet.json").read_text())["machine"]["gpu"] == "H100"
    fake.forget()
    worker.work(list(campaign.rows))
    assert "lsms" not in str(fake.calls())
    fake.forget()
    check.trial(worker, list(campaign.rows), {"gpu": "H100", "torch": "2"})
    assert "unet" not in str(fake.calls())  # which was tried on this machine


def test_a_trial_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    fake.write("time.sleep(60)")
    monkeypatch.setattr(check, "TRIAL_LIMIT", 0.5)
    campaign = campaign_of(tmp_path)
    worker = worker_of(campaign)
    start = time.monotonic()
    check.trial(worker, list(campaign.rows), {})
    assert time.monotonic() - start < 20
    assert list(worker.failed) == ["check unet", "check lsms"]


@pytest.mark.slow  # torch is imported for real
def test_a_machine_without_a_gpu_is_told_so_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    campaign = campaign_of(tmp_path, device="gpu")
    with pytest.raises(FailedError) as error:
        check.check(worker_of(campaign), list(campaign.rows))
    assert "sees no CUDA GPU" in error.value.args[0]
    assert not (campaign.out / "logs").exists()


def test_workers_are_of_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 96)  # the machine's
    found = []
    for usable in (1, 8, 96):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=usable: set(range(n)))
        found.append(settings.workers())
    assert found == [1, 6, 16]


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.05)


# --- for real ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_part_runs_for_real_and_a_killed_start_goes_on(tmp_path: Path) -> None:
    campaign = campaign_of(
        tmp_path,
        synthesize=16,
        epochs=2,
        arguments={
            **{"data.image_size": 64, "data.batch_size": 4, "data.num_workers": 0},
            **{"restart.every_n_steps": 1, "trainer.enable_progress_bar": False},
        },
        tests=["true", "tta"],
        probe={"pictures": 0},
        benchmark={"rounds": 1, "batch_size": 2, "image_size": 64},
    )
    given = [str(tmp_path / "tiny.yaml"), "--out", str(campaign.out)]
    own = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([PYTHON, str(SCRIPT), *given], env=own, cwd=tmp_path)
    unet, lsms = campaign.rows
    try:
        wait_until(lambda: bool([*campaign.runs(unet).glob("*/*/checkpoints/last.ckpt")]), 300)
    finally:
        running.kill()
        running.wait()
    done = shell(SCRIPT, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len([*campaign.runs(unet).glob("*/*")]) == 1
    assert len(campaign.note(unet)["cost"]["train"]) == 2
    lines = (campaign.out / "summary.md").read_text().splitlines()
    for row, name in ((unet, "U-Net"), (lsms, "LSMS")):
        assert not campaign.left(row)
        metrics = tables.main_test(campaign, row)
        assert metrics is not None
        own_row = cells(lines, name)[0]
        assert own_row[2].startswith(f"{metrics['dice']:.4f}")
        assert own_row[4].startswith(f"{metrics['dice_global']:.4f}")
    assert (campaign.out / "frontier.png").is_file()
    assert [*(campaign.out / "compare").glob("*.json")]
    again = shell(SCRIPT, *given, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert " textseg " not in again.stdout
