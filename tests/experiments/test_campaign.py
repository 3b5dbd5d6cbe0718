"""experiments/campaign.py: what it starts and skips; for real in the slow test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.experiments.fake_suite import (
    EXPERIMENTS,
    PYTHON,
    SCRIPT,
    SETTINGS,
    FakeSuite,
    campaign_of,
    cells,
    row_of,
    script,
    wait_until,
    worker_of,
)
from tests.tiny_run import shell

from campaign.cells import main_test  # isort: skip
from campaign.processes import FailedError, start  # isort: skip
from campaign.work import Worker  # isort: skip


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


def test_results_of_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, "synthesize": None}))
    given: list[str | Path] = [file, "--out", tmp_path / "out", "--part", "summary"]
    assert run_main(monkeypatch, *given, "--root", tmp_path / "a") == 0
    assert run_main(monkeypatch, *given, "--root", tmp_path / "a") == 0
    assert run_main(monkeypatch, *given, "--root", tmp_path / "b") == 2
    said = capsys.readouterr().err.splitlines()  # matplotlib may say that it makes its font cache
    error, remedy = (line for line in said if line.startswith(("error: ", "remedy: ")))
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


def test_rows_done_in_several_starts_are_compared_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path)
    given = [tmp_path / "tiny.yaml", "--out", tmp_path / "out"]
    assert run_main(monkeypatch, *given, "--row", "unet") == 0
    assert not fake.calls("compare")
    assert run_main(monkeypatch, *given, "--row", "lsms") == 0
    (call,) = fake.calls("compare")
    assert "[U-Net,LSMS]" in call
    fake.forget()
    assert run_main(monkeypatch, *given) == 0
    assert not fake.calls("compare")
    (run,) = campaign.runs(campaign.rows[1]).glob("*/*")
    result = campaign.out / "compare" / "comparison.json"
    later = result.stat().st_mtime + 1
    os.utime(run / "test" / "true" / "metrics.json", (later, later))  # tested anew
    assert run_main(monkeypatch, *given) == 0
    assert len(fake.calls("compare")) == 1
    os.utime(run / "test" / "true" / "metrics.json", (later - 9, later - 9))
    shutil.rmtree(result.parent)
    assert run_main(monkeypatch, *given) == 0
    assert len(fake.calls("compare")) == 2
    fake.forget()
    run.rename(run.with_name("2026-01-02_00-00-00"))  # trained anew
    assert run_main(monkeypatch, *given) == 0
    assert fake.calls("compare")
    summary = (campaign.out / "summary.md").read_text()
    assert "| U-Net |" in summary
    assert "| LSMS |" in summary


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
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    hook = f"""import signal
def save(*_):
    Path({str(saved)!r}).touch()
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
Path({str(ready)!r}).touch()
time.sleep(60)"""
    fake.write(hook)
    log = tmp_path / "logs/train.log"
    running = start("train unet", ["fit"], log=log, environment=dict(os.environ), saves=True)
    wait_until(ready.is_file)
    with pytest.raises(FailedError) as error:
        running.finish(0.0)
    assert saved.is_file()
    cause, remedy = error.value.args
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
    assert list(worker.failed) == ["test true unet", "test true lsms"]


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


def test_a_share_of_an_epoch_that_holds_no_batch_is_answered_with_larger_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    networks = [{"network": "lsms", "cpu_hours": 0.25}]
    campaign = campaign_of(tmp_path, stages={"networks": networks}, measure=[0.02, 0.08])

    def run(*_: Any, **__: Any) -> Any:
        raise FailedError("Try at least `limit_train_batches=0.1`", "see the log")

    monkeypatch.setattr(Worker, "run", run)
    with pytest.raises(FailedError) as refused:
        worker_of(campaign).epochs(campaign.rows[0])
    assert "0.02 of an epoch is less than a batch" in refused.value.args[1]
    assert "measure" in refused.value.args[1]
    assert refused.value.args[1].endswith("see the log")


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
        tests=["true"],
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
        metrics = main_test(campaign, row)
        assert metrics is not None
        own_row = cells(lines, name)[0]
        assert own_row[2].startswith(f"{metrics['dice']:.4f}")
        assert own_row[4].startswith(f"{metrics['dice_global']:.4f}")
    assert (campaign.out / "frontier.png").is_file()
    assert [*(campaign.out / "compare").glob("*.json")]
    again = shell(SCRIPT, *given, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert " textseg " not in again.stdout
