#!/usr/bin/env python3
"""Networks trained, tested, probed and compared on one dataset, as a settings file lists them.

    python experiments/campaign.py experiments/campaign/qata.yaml --root /data/QaTa-COV19 \\
        --captions /data/qata_text --out runs/qata

Needs no network. One training runs after the other, on one core where the settings say so. What is
done is not done again: after a break, however hard, give the same command. Several such commands,
on one machine or on several that share the disk, work on one OUT side by side; a row belongs to one
of them, and what a dead one had is taken over. A network that fails is left, the others go on; what
failed is told at the end, with exit status 1. The parts, in their order; --part chooses some:

    check      versions; on a GPU: that torch sees it and can compile, and two steps of each network
    prepare    the picture cache
    train      one training a row, for epochs, or for CPU hours: then two short trials tell what an
               epoch costs, and the training is planned for as many whole epochs as fit, its
               learning rate's schedule with it
    test       the best epoch (by validation rows), once with each kind of captions
    probe      what changes of the words do to masks
    calibrate  on the validation rows
    benchmark  parameters, GFLOPs, speed
    compare    all tested rows, with intervals and a paired test; seeds of one row together
    summary    OUT/summary.md and a picture; cells of what was not run are empty

    --list         what is done and what is left, with the CPU hours so far
    --write_docs   docs/results.md, between this campaign's markers
    --slurm write|submit   one job for each training, by experiments/slurm/train.sbatch; when they
                   have ended, the plain command does the rest
    --smoke        the settings' own small form, on phantoms and the CPU: does it work?

--stage and --row choose what is trained and tested; comparison, summary and page are of all rows.
On a machine lent for a short time: --stage, --row and --part, --limit for the minutes of a command;
SIGTERM has a training write last.ckpt before it ends. To keep the figures copy all of OUT but
checkpoints, cache, compiled and trial.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from campaign import locks
from campaign.cells import main_test
from campaign.check import check
from campaign.cluster import make_jobs
from campaign.page import write_docs, write_summary
from campaign.processes import (
    BadSettingsError,
    FailedError,
    fail,
    read,
    say,
    start,
    write,
)
from campaign.settings import IMAGE_ONLY, TESTS, Campaign, Row, read_campaign
from campaign.work import Worker, environment

ROW_PARTS = ("train", "test", "probe", "calibrate", "benchmark")
PARTS = ("check", "prepare", *ROW_PARTS, "compare", "summary")


def prepare(worker: Worker, rows: Sequence[Row], lock: Path) -> None:
    """Fill the picture cache for every kind of data, so that no training's hours include it."""
    campaign = worker.campaign
    note = campaign.out / "prepared.json"
    prepared = read(note) or []
    for row in () if "data.cache" in campaign.arguments else rows:
        found = campaign.resolved(row) or replace(row, network=campaign.candidates()[0].network)
        own = [one for one in campaign.terms(found) if one.startswith("--data.")]
        kind = sorted(one for one in own if not one.startswith("--data.caption_mode"))
        if kind not in prepared:
            command(campaign, "prepare", ["data", "prepare", *campaign.data(found)], lock)
            prepared.append(kind)
            write(note, prepared)


def compare(worker: Worker, lock: Path) -> None:
    """Compare all tested rows; again where runs or tests are others than last time."""
    campaign = worker.campaign
    tested = [row for row in campaign.rows if main_test(campaign, row)]
    tested.sort(key=lambda row: row.network not in IMAGE_ONLY or row.image_size is not None)
    names = [campaign.title_of(row).partition(", seed ")[0].replace(",", ";") for row in tested]
    folders = [tested_in(campaign, row) for row in tested]
    note = campaign.out / "compared.json"
    compared = [str(folder.relative_to(campaign.out)) for folder in folders]
    result = campaign.out / "compare" / "comparison.json"
    newest = max(((folder / "metrics.json").stat().st_mtime for folder in folders), default=0)
    done = read(note) == compared and result.is_file() and result.stat().st_mtime >= newest
    if len(tested) < 2 or done:
        say(f"compare: {'done' if len(tested) > 1 else 'left out, under two rows are tested'}")
        return
    shutil.rmtree(campaign.out / "compare", ignore_errors=True)
    options = ["--names", f"[{','.join(names)}]", "--output", str(campaign.out / "compare")]
    command(campaign, "compare", ["compare", *map(str, folders), *options], lock)
    write(note, compared)


def tested_in(campaign: Campaign, row: Row) -> Path:
    """The folder of the test that a row is judged by."""
    run = campaign.run_folder(row)
    assert run is not None
    return run / "test" / TESTS[campaign.tests_of(row)[0]]


def command(campaign: Campaign, name: str, arguments: Sequence[str], lock: Path) -> None:
    """Run a command of the suite, its output in OUT/logs, while `lock` is held."""
    own = environment(campaign)
    running = start(name, arguments, log=campaign.log(name), environment=own)
    running.finish(campaign.limit, lambda _: locks.beat(lock))


def run_parts(worker: Worker, rows: list[Row], parts: Sequence[str]) -> None:
    """Run the parts that were asked for, in their order."""
    campaign = worker.campaign
    before, after = (campaign.out / "locks" / name for name in ("_before", "_after"))
    try:
        # What a worker beside would do as well, one does and the others wait for.
        with locks.claim_waiting(before):
            if "check" in parts:
                check(worker, rows)
            if "prepare" in parts:
                prepare(worker, rows, before)
    except FailedError as error:  # every training would fail in the same way
        worker.failed["before the first training"] = error
        return
    worker.work(rows)
    with locks.claim_waiting(after):
        if "compare" in parts:
            try:
                compare(worker, after)
            except FailedError as error:
                worker.failed["compare"] = error
        if "summary" in parts:
            print(write_summary(campaign, campaign.rows))


def list_rows(worker: Worker, rows: Sequence[Row]) -> None:
    """Print what is done and what is left of each row, and what it has cost."""
    campaign, total = worker.campaign, 0.0
    for row in rows:
        note = campaign.note(row)
        seconds = sum(start["cpu_seconds"] for of in note["cost"].values() for start in of)
        total += seconds
        found = locks.owner(worker.lock(row))
        job = worker.in_slurm(row)
        state = [f"process {found.get('pid')} on {found.get('host')} has it"] if found else []
        state += [f"SLURM job {job}"] if job else []
        state += [f"FAILED: {', '.join(note['failed'])}"] if note["failed"] else []
        todo = campaign.left(row)
        state.append(f"left: {', '.join(todo)}" if todo else "done")
        print(f"{row.stage:12} {row.name:28} {seconds / 3600:7.2f} CPU h  {'; '.join(state)}")
    print(f"{'':12} {'in all':28} {total / 3600:7.2f} CPU h")


def check_folder(campaign: Campaign) -> None:
    """Refuse an --out folder that holds results of other data."""
    note = campaign.out / "job.json"
    here = {"root": str(campaign.root), "captions": str(campaign.captions)}
    here |= {"settings": campaign.name, "phantoms": str(campaign.synthesize)}
    there = read(note)
    if there not in (None, here):
        fail(f"{campaign.out} holds results of {there}, not of {here}", "give another --out")
    write(note, here)


def chosen_rows(campaign: Campaign, given: argparse.Namespace) -> list[Row]:
    """Rows by --row and --stage, by default all."""
    names, stages = [row.name for row in campaign.rows], list(campaign.stages)
    wrong = [name for name in given.row or [] if name not in names]
    wrong += [name for name in given.stage or [] if name not in stages]
    if wrong:
        fail(f"there is no row or stage {wrong[0]!r}", f"rows: {names}; stages: {stages}")
    return [
        row
        for row in campaign.rows
        if row.name in (given.row or names) and row.stage in (given.stage or stages)
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=Path, help="one of experiments/campaign/*.yaml")
    parser.add_argument("--root", type=Path, help="the unpacked dataset")
    parser.add_argument("--captions", type=Path, help="folder of caption tables, if not in root")
    parser.add_argument("--out", type=Path, help="where all of it goes; default runs/<settings>")
    parser.add_argument("--stage", action="append", help="by default all")
    parser.add_argument("--row", action="append", help="by default all")
    parser.add_argument("--part", action="append", choices=PARTS, help="by default all")
    parser.add_argument("--limit", type=float, help="minutes for one command")
    parser.add_argument("--list", action="store_true", help="what is done and left, then end")
    parser.add_argument("--write_docs", action="store_true", help="write docs/results.md, then end")
    parser.add_argument("--slurm", choices=("write", "submit"), help="jobs instead of trainings")
    parser.add_argument("--smoke", action="store_true", help="the settings' small form")
    return parser.parse_args()


def main() -> None:
    """Do what the command line asks for."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended as well
    out = (given.out or Path("runs") / given.settings.stem).resolve()
    try:
        campaign = read_campaign(
            given.settings,
            smoke=given.smoke,
            out=out,
            root=given.root and given.root.resolve(),
            captions=given.captions and given.captions.resolve(),
            limit=given.limit and 60 * given.limit,
        )
    except BadSettingsError as error:
        fail(*error.args)
    rows = chosen_rows(campaign, given)
    worker = Worker(campaign, tuple(part for part in ROW_PARTS if part in (given.part or PARTS)))
    if given.write_docs:
        write_docs(campaign, campaign.rows)
        return
    if given.list:
        list_rows(worker, rows)
        return
    for row in rows:
        other = campaign.other_terms(row)
        if other:
            cause = f"{row.name} was begun on other terms, see {', '.join(other)}"
            fail(cause, f"give them back, another --out, or remove {campaign.note_file(row)}")
    trains = {"check", "prepare", *ROW_PARTS} & {*(given.part or PARTS)}
    if trains and not campaign.synthesize and not (campaign.root and campaign.root.is_dir()):
        fail(f"--root {campaign.root} is no folder", "give the unpacked dataset")
    out.mkdir(parents=True, exist_ok=True)
    check_folder(campaign)
    if given.slurm:
        make_jobs(worker, rows, submit=given.slurm == "submit")
    else:
        run_parts(worker, rows, given.part or PARTS)
    for name, error in worker.failed.items():
        sys.stderr.write("error: {}: {}\nremedy: {}\n".format(name, *error.args))
    sys.exit(1 if worker.failed else 0)


if __name__ == "__main__":
    main()
