"""What is done for a row: training, tests, probe, calibration, cost; and the whole list of rows."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign import locks
from campaign.machine import keep_maker
from campaign.processes import Command, FailedError, read, say, start, write
from campaign.settings import BEST, EXPERIMENTS, TESTS, TTA, Campaign, Row, as_arguments
from textseg.runs.folder import Run

WAIT = 20.0  # seconds before a worker looks again whether another has finished
NOT_IN_A_TRIAL = {"test_after_fit": False, "trainer.max_epochs": 1}


@dataclass
class Worker:
    """One start of the script, beside which others may work on the same folder."""

    campaign: Campaign
    parts: tuple[str, ...]
    failed: dict[str, FailedError] = field(default_factory=dict)  # by task and row
    begun: float = field(default_factory=time.time)

    def work(self, rows: list[Row]) -> None:
        """Do all that is left of `rows`, in their order, until nothing is left that can be done."""
        while left := [row for row in rows if self.left(row)]:
            taken = any(self.take(row) for row in left)
            if not taken and not self.others_work(left):
                for row in (row for row in left if self.left(row)):
                    self.give_up(row)
                return
            if not taken:
                time.sleep(WAIT)

    def left(self, row: Row) -> list[str]:
        """Tasks of a row that this worker may still do."""
        if self.failed_lately(row):
            return []
        return [task for task in self.campaign.left(row) if task.split()[0] in self.parts]

    def failed_lately(self, row: Row) -> bool:
        """Whether one of its tasks has failed, here or beside, since this worker began."""
        failed = self.campaign.note(row)["failed"]
        for task, found in failed.items():
            if found["time"] >= self.begun:
                self.failed.setdefault(f"{task} {row.name}", FailedError(*found["error"]))
        return any(name.endswith(f" {row.name}") for name in self.failed)

    def take(self, row: Row) -> bool:
        """Do a row, unless another worker has it or what it waits for is not there yet."""
        if self.in_slurm(row) or not self.ready(row):
            return False
        with locks.claim(self.lock(row)) as mine:
            todo = self.left(row) if mine else []  # another may have finished it meanwhile
            for task in todo:
                with self.noted(row, task):
                    self.do(row, task)
                trained = "train" in self.campaign.note(row)["done"]
                if not trained and self.failed_lately(row):
                    break
        return bool(todo)

    def ready(self, row: Row) -> bool:
        """Whether its network is known and so is its budget."""
        campaign = self.campaign
        if row.network == BEST and campaign.resolved(row) is None and not self.choose():
            return False
        if not isinstance(row.cpu_hours, str):
            return True
        (model,) = (one for one in campaign.rows if one.name == row.cpu_hours)
        return "train" in campaign.note(model)["done"]

    def choose(self) -> bool:
        """Choose the best network by val/dice, once all candidates are trained or have failed."""
        campaign, trained = self.campaign, []
        for row in campaign.candidates():
            if "train" in campaign.note(row)["done"]:
                trained.append(row)
            elif not self.failed_lately(row):
                return False
        found = campaign.val_dice(trained)
        if not found:
            return False
        best = max(found, key=lambda network: found[network])
        write(campaign.out / "chosen.json", {"network": best, "val/dice": found})
        say(f"the best network on validation rows: {best}, of {found}")
        return True

    def others_work(self, rows: list[Row]) -> bool:
        """Whether another worker has a row that is left, or one that a row waits for."""
        waited_for = {row.name for row in rows}
        waited_for |= {str(row.cpu_hours) for row in rows}
        if any(row.network == BEST for row in rows):
            waited_for |= {row.name for row in self.campaign.candidates()}
        named = [row for row in self.campaign.rows if row.name in waited_for]
        return any(locks.owner(self.lock(row)) is not None for row in named)

    def give_up(self, row: Row) -> None:
        """Say why a row cannot be done."""
        number = self.in_slurm(row)
        if number:
            reason = f"its training is SLURM's job {number}"
            remedy = (
                f"wait; if that has ended badly, remove {self.campaign.out}/slurm/{row.name}.json"
            )
        else:
            reason = "what it waits for (the best network, or another row's hours) is not trained"
            remedy = "start the first stage too"
        self.failed[f"{self.left(row)[0]} {row.name}"] = FailedError(reason, remedy)

    def in_slurm(self, row: Row) -> str | None:
        """The number of a job that trains the row; None if there is none, or it has trained it."""
        job = read(self.campaign.out / "slurm" / f"{row.name}.json")
        trained = "train" in self.campaign.note(row)["done"]
        return None if job is None or trained else str(job["job"])

    def lock(self, row: Row) -> Path:
        """The folder whose maker works on the row."""
        return self.campaign.out / "locks" / row.name

    @contextmanager
    def noted(self, row: Row, task: str) -> Iterator[None]:
        """Note a task as done, or its failure, so that the script goes on."""
        file = self.campaign.note_file(row)
        try:
            yield
        except FailedError as error:
            self.failed[f"{task} {row.name}"] = error
            note = self.campaign.note(row)
            note["failed"][task] = {"time": time.time(), "error": list(error.args)}
            say(f"{task} {row.name} failed: {error.args[0]}")
        else:
            note = self.campaign.note(row)
            note["failed"].pop(task, None)
            note["done"].append(task)
        write(file, note)

    # --- tasks ---------------------------------------------------------------------------------

    def do(self, row: Row, task: str) -> None:
        """Do one task of a row."""
        kind, _, name = task.partition(" ")
        found = self.campaign.resolved(row)
        assert found is not None
        if kind == "train":
            self.train(found)
        elif kind == "benchmark":
            self.benchmark(found)
        else:
            run = self.campaign.run_folder(row)
            if run is None or "train" not in self.campaign.note(row)["done"]:
                raise FailedError(f"{row.name} is not trained", "train it: leave --part out")
            self.evaluate(row, task, run, name)

    def train(self, row: Row) -> None:
        """Train a row, from its last.ckpt if there is one."""
        arguments = training_arguments(self.campaign, row, self.epochs(row))
        note = self.campaign.note(row) | {"terms": self.campaign.terms(row)}
        write(self.campaign.note_file(row), note)
        self.run(row, "train", arguments, saves=True)

    def epochs(self, row: Row) -> int:
        """Epochs that are given, or that the CPU hours allow; the schedule is over these."""
        campaign = self.campaign
        note = campaign.note(row)
        if row.cpu_hours is None:
            note["epochs"] = row.epochs or campaign.epochs
        elif "epochs" not in note:
            hours = row.cpu_hours
            if isinstance(hours, str):
                (model,) = (one for one in campaign.rows if one.name == hours)
                hours = (campaign.cost(model) or 0.0) / 3600
            epoch = self.cost_of_an_epoch(row)
            note = campaign.note(row)  # which has the costs of the trials now
            note["epochs"] = max(1, int(3600 * hours / epoch))
            note["budget"] = {"cpu_hours": hours, "cpu_seconds_of_an_epoch": epoch}
            say(f"train {row.name}: {hours:.4g} CPU hours are {note['epochs']} epochs")
        write(campaign.note_file(row), note)
        return int(note["epochs"])

    def cost_of_an_epoch(self, row: Row) -> float:
        """CPU seconds of an epoch: two shares of one are run, whose start costs the same."""
        costs = []
        for share in self.campaign.measure:
            folder = self.campaign.out / "trial" / row.name
            shutil.rmtree(folder, ignore_errors=True)
            given = {f"trainer.limit_{of}_batches": float(share) for of in ("train", "val")}
            given |= NOT_IN_A_TRIAL | {"trainer.default_root_dir": folder}
            arguments = ["fit", *self.campaign.settings(row), *as_arguments(given)]
            try:
                costs.append(self.run(row, f"measure {share}", arguments).cpu_seconds)
            except FailedError as error:
                cause, remedy = error.args
                if "limit_" in cause:  # Lightning's words for a share that holds no batch
                    remedy = (
                        f"{share} of an epoch is less than a batch: give larger shares as measure "
                        f"in the settings file, for example [0.5, 1.0]; {remedy}"
                    )
                raise FailedError(cause, remedy) from error
            shutil.rmtree(folder, ignore_errors=True)
        (less, more), (least, most) = costs, self.campaign.measure
        if more <= less:
            raise FailedError(
                f"{most} of an epoch of {row.name} took {more:.1f} CPU seconds, and {least} of it "
                f"{less:.1f}: what an epoch costs cannot be told",
                "start again, with nothing beside it; if it fails again give shares that are "
                "further apart as measure in the settings file, for example [0.1, 0.5]",
            )
        return (more - less) / (most - least)

    def evaluate(self, row: Row, task: str, run: Path, name: str) -> None:
        """Test, probe or calibrate the best epoch, once; of one that broke off nothing is left."""
        kind, campaign = task.split()[0], self.campaign
        folder = run / "test" / TESTS[name] if kind == "test" else run / written_by(kind)
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [kind, "--ckpt_path", str(Run(run).checkpoint())]
        if kind == "test":
            arguments += ["--data.caption_mode", name] if name in ("empty", "shuffled") else []
            arguments += ["--tta", "flip"] if name == TTA else []
        elif kind == "probe":
            arguments += as_arguments(campaign.probe or {})
        self.run(row, task, arguments)

    def benchmark(self, row: Row) -> None:
        """Measure parameters, GFLOPs and speed."""
        file = self.campaign.out / "benchmark" / f"{row.name}.json"
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        given = {**(self.campaign.benchmark or {}), "output": file}
        arguments = ["benchmark", *self.campaign.settings(row), *as_arguments(given)]
        self.run(row, "benchmark", arguments)

    def run(self, row: Row, task: str, arguments: list[str], *, saves: bool = False) -> Command:
        """Run a command; what it costs is noted while it runs, for the case that all is killed."""
        campaign, name = self.campaign, f"{task} {row.name}"
        number = len(campaign.note(row)["cost"].get(task, []))
        keep_maker(campaign.note_file(row), campaign.note(row), task, campaign.device)

        def beat(command: Command) -> None:
            locks.beat(self.lock(row))
            keep_cost(campaign.note_file(row), campaign.note(row), task, number, command)

        command = start(
            name, arguments, log=campaign.log(name), environment=environment(campaign), saves=saves
        )
        command.finish(campaign.limit, beat)
        return command


def training_arguments(campaign: Campaign, row: Row, epochs: int) -> list[str]:
    """The command that trains a row, from its last.ckpt if there is one."""
    run = campaign.run_folder(row)
    last = Run(run).checkpoint("last") if run else None
    if run is not None and last is not None and not last.is_file():  # it broke off before that
        shutil.rmtree(run)
        last = None
    given = {"test_after_fit": False, "trainer.max_epochs": epochs}
    given["trainer.default_root_dir"] = campaign.runs(row)
    arguments = ["fit", *campaign.settings(row), *as_arguments(given)]
    return arguments + (["--ckpt_path", str(last)] if last else [])


def written_by(kind: str) -> str:
    """The folder in a run that a command writes to."""
    return {"probe": "probe", "calibrate": "calibration"}[kind]


def keep_cost(
    file: Path, note: dict[str, Any], task: str, number: int, command: Command, tasks: int = 1
) -> None:
    """Note what a command has cost so far, as the start `number` of its task."""
    starts = note["cost"].setdefault(task, [])
    own = {
        "cpu_seconds": round(tasks * command.cpu_seconds, 2),
        "seconds": round(command.seconds, 2),
    }
    starts[number:] = [own]
    write(file, note)


def environment(campaign: Campaign) -> dict[str, str]:
    """The environment of every command: no network, and one cache of compiled code."""
    path = os.pathsep.join(filter(None, [str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    own["TORCHINDUCTOR_CACHE_DIR"] = str(campaign.out / "compiled")
    own |= {} if campaign.threads is None else {"OMP_NUM_THREADS": str(campaign.threads)}
    return os.environ | own
