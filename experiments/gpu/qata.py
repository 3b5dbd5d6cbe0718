#!/usr/bin/env python3
"""QaTa-COV19 in full on one CUDA GPU: cost and speed, networks trained, tested and compared.

    python experiments/gpu/qata.py --root /data/QaTa-COV19 [--captions FOLDER] [--out runs/gpu]

Needs no network. What is done is not done again: after a break give the same command. A network
that fails is left, the others go on; what failed is told at the end, with exit status 1. The parts,
in their order; --part and --network choose some:

    check      torch sees a GPU and can compile for it; versions, driver; two steps of each network
               as it will be trained, on phantoms in small batches, all networks at once
    prepare    the picture cache
    train      each network for the epochs of experiments/gpu/<network>.yaml, then the test images
               with true, empty and shuffled captions, or once where a network reads none; an
               interrupted training goes on
    benchmark  each network, bf16 + compile beside fp32 eager
    compare    `textseg compare` of what was trained, U-Net first
    summary    OUT/summary.md, the tables for experiments/README.md; empty cells were not run

Minutes of a training are from the start of the command to its last checkpoint: imports, compiling
and validation included, tests not.

On a machine lent for a short time, in this order, each under 10 minutes with 5 minutes for a
training; what a lease leaves undone another one does, or the same commands given again:

    timeout 560 python experiments/gpu/qata.py --root R --part check --part prepare
    timeout 560 python experiments/gpu/qata.py --root R --network lsms    (trains, then benchmark)
    timeout 560 python experiments/gpu/qata.py --root R --network unet    (likewise the others)
    timeout 560 python experiments/gpu/qata.py --root R --part benchmark  (of those not trained)
    python experiments/gpu/qata.py --root R --part compare --part summary

timeout's SIGTERM has a training write last.ckpt before it ends. To keep the figures copy all of OUT
but checkpoints, cache, compiled and trial.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import Command, FailedError, cores, fail, read, say, start, write
from job import EXPERIMENTS, NETWORKS, Job
from result_tables import machine, score_table, speed_table

SPARE_CORES = 2  # of the training itself, when workers are counted
MOST_WORKERS = 16
TRIAL = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
TRIAL += ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
TRIAL += ["--trainer.devices", "1", "--test_after_fit", "false", "--data.num_workers", "1"]
TRIAL_DATA = ["--data.synthesize", "16", "--data.batch_size", "8"]
TRIAL_LIMIT = 300.0  # seconds
# In place of a GPU: every part for real, as small as it can be.
SMOKE_TRAINING = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]
SMOKE_TRIAL = ["--data.synthesize", "4", "--data.image_size", "96", "--data.batch_size", "2"]
SMOKE_BENCHMARK = ["--modes", "[fp32,bf16]", "--image_size", "96", "--batch_size", "2"]
SMOKE_BENCHMARK += ["--rounds", "1"]
BENCHMARK = ["--modes", "[fp32,bf16+compile]", "--device", "cuda", "--batch_size", "64"]
BENCHMARK += ["--rounds", "10"]
FORMATS = ["--memory_formats", "[channels_last]"]  # in which all train
# Run on the GPU machine before anything long is started.
CHECK = """
import json, platform, sys, torch
found = {"python": platform.python_version(), "torch": torch.__version__}
if sys.argv[1] == "cuda":
    assert torch.cuda.is_available(), f"torch {torch.__version__} sees no CUDA GPU"
    found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    x = torch.rand(64, 64, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(lambda a: (a @ a).relu())(x)
    torch.testing.assert_close(compiled, (x @ x).relu())
import lightning, timm, lightning_cli
found |= {"lightning": lightning.__version__, "timm": timm.__version__}
print(json.dumps(found))
"""


# --- the parts -----------------------------------------------------------------------------------


def check(job: Job) -> None:
    """Check the installation, so that it fails in a minute rather than after an hour."""
    file = job.out / "check.json"
    if not job.smoke and not (job.root and job.root.is_dir()):
        fail(f"--root {job.root} is no folder", "give the unpacked QaTa-COV19")
    command = [sys.executable, "-c", CHECK, "cpu" if job.smoke else "cuda"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(job)
    )
    if done.returncode:
        (job.out / "check.log").write_text(done.stderr)
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "see the driver (nvidia-smi), a torch build for CUDA, and a C compiler, which "
        fail(f"the installation cannot train here: {reason}", f"{remedy}torch.compile calls")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found |= {"cores": cores(), "system": platform.platform()}
    if not job.smoke:
        found["driver"] = driver()
    write(file, found)
    say(f"check: {found}")
    trial(job, {name: found.get(name) for name in ("gpu", "torch")})


def trial(job: Job, machine: dict[str, Any]) -> None:
    """Train two steps of each network, compiled and in bf16, to learn which can be trained here.

    All at once, since compiling is the processor's work; with --smoke one by one.
    """
    notes = {network: job.out / "trial" / f"{network}.json" for network in job.networks}
    todo = [n for n in job.networks if (read(notes[n]) or {}).get("machine") != machine]
    for together in [[network] for network in todo] if job.smoke else [todo] if todo else []:
        begun, limit = time.monotonic(), job.limit if job.smoke else min(job.limit, TRIAL_LIMIT)
        running = {n: start_trial(job, n, max(1, cores() // len(together))) for n in together}
        try:
            while running:
                seconds = time.monotonic() - begun
                for network, command in list(running.items()):
                    if command.process.poll() is None and seconds < limit:
                        continue
                    with noted(job, f"check {network}"):
                        del running[network]
                        command.finish(limit - seconds)
                        write(notes[network], {"seconds": round(seconds, 1), "machine": machine})
                        say(f"check {network}: trains, the first steps took {seconds:.0f} s")
                time.sleep(0.2)
        finally:
            for command in running.values():
                command.process.kill()


def start_trial(job: Job, network: str, threads: int) -> Command:
    """Two training steps of a network on phantoms, in a folder of their own."""
    folder = job.out / "trial" / network
    shutil.rmtree(folder, ignore_errors=True)  # phantoms and checkpoint of an earlier one
    folder.mkdir(parents=True)
    arguments = ["fit", *job.experiment(network), *TRIAL]
    arguments += SMOKE_TRIAL if job.smoke else TRIAL_DATA
    arguments += ["--data.cache", str(folder / "cache")]
    arguments += ["--trainer.default_root_dir", str(folder)]
    arguments += [] if job.smoke else ["--trainer.accelerator", "gpu"]
    return start(
        f"trial_{network}",
        arguments,
        log=job.log(f"trial_{network}"),
        environment=environment(job) | {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)},
        folder=folder,
    )


def driver() -> str:
    """The GPU's driver version; empty where nvidia-smi is missing, as in some containers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def prepare(job: Job) -> None:
    """Fill the picture cache, so that no training's minutes include it."""
    if (job.out / "prepared.json").is_file():
        return
    network = job.networks[0]
    start = time.time()
    textseg(job, "prepare", "data", "prepare", *job.experiment(network), *job.data())
    write(job.out / "prepared.json", {"seconds": time.time() - start})


def train(job: Job) -> None:
    """Train and test every network that is not tested yet."""
    for network in job.networks:
        if job.tested(network):
            say(f"train {network}: done")
        elif f"check {network}" not in job.failed:
            with noted(job, f"train {network}"):
                train_one(job, network)


def train_one(job: Job, network: str) -> None:
    """Train and test a network, from its last.ckpt if there is one."""
    run, note = job.run_folder(network), job.out / f"train_{network}.json"
    resumed = run is not None and (run / "checkpoints/last.ckpt").is_file()
    spent = job.training_seconds(network) if resumed else 0.0
    if run is not None:  # tests that were broken off: beside them others would be numbered
        shutil.rmtree(run / "test", ignore_errors=True)
    write(note, {"seconds": spent, "since": time.time()})
    textseg(
        job,
        f"train_{network}",
        *("fit", *job.experiment(network), *job.data(), "--test_after_fit", "true"),
        *("--trainer.default_root_dir", str(job.out / "runs" / network)),
        *(SMOKE_TRAINING if job.smoke else ["--trainer.accelerator", "gpu"]),
        *("--trainer.devices", "1"),
        *(["--ckpt_path", "last"] if resumed else []),
    )
    write(note, {"seconds": job.training_seconds(network), "since": None})


def benchmark(job: Job) -> None:
    """Measure every network that has no figures yet."""
    settings = SMOKE_BENCHMARK if job.smoke else BENCHMARK
    for network in job.networks:
        file = job.out / "benchmark" / f"{network}.json"
        file.parent.mkdir(exist_ok=True)
        if file.is_file():
            say(f"benchmark {network}: done")
        elif f"check {network}" not in job.failed:
            with noted(job, f"benchmark {network}"):
                textseg(
                    job,
                    f"benchmark_{network}",
                    *("benchmark", *job.experiment(network), *job.data(), *settings, *FORMATS),
                    *("--output", str(file)),
                )


def compare(job: Job) -> None:
    """Compare the tested networks; again where there are more of them than last time."""
    tested = [network for network in job.networks if job.tested(network)]
    if len(tested) < 2:
        say(f"compare: left out, {len(tested)} of {job.networks} are tested")
        return
    note = job.out / "compared.json"
    if read(note) == tested:
        say("compare: done")
        return
    shutil.rmtree(job.out / "compare", ignore_errors=True)
    names = ",".join(NETWORKS[network] for network in tested)
    runs = [str(job.run_folder(network)) for network in tested]
    options = ["--names", f"[{names}]", "--output", str(job.out / "compare")]
    textseg(job, "compare", "compare", *runs, *options)
    write(note, tested)


def summary(job: Job) -> None:
    """Write and print the tables of all results there are."""
    lines = [machine(job), "", *speed_table(job), "", *score_table(job)]
    (job.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


PARTS: dict[str, Callable[[Job], None]] = {
    "check": check,
    "prepare": prepare,
    "train": train,
    "benchmark": benchmark,
    "compare": compare,
    "summary": summary,
}


# --- commands and files --------------------------------------------------------------------------


def textseg(job: Job, name: str, *arguments: str) -> None:
    """Run a command of the suite, its output in OUT/logs."""
    saves, log = arguments[0] == "fit", job.log(name)
    start(name, arguments, log=log, environment=environment(job), saves=saves).finish(job.limit)


@contextmanager
def noted(job: Job, name: str) -> Iterator[None]:
    """Keep a failure for the end, so that the script goes on."""
    try:
        yield
    except FailedError as error:
        job.failed[name] = error
        say(f"{name} failed: {error.args[0]}")


def environment(job: Job) -> dict[str, str]:
    """The environment of every command: no network, and one cache of compiled code."""
    path = os.pathsep.join(filter(None, [str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    own["TORCHINDUCTOR_CACHE_DIR"] = str(job.out / "compiled")
    return os.environ | own


def check_folder(job: Job) -> None:
    """Refuse an --out folder that holds results of other data."""
    note, here = job.out / "job.json", {"root": str(job.root), "captions": str(job.captions)}
    here["data"] = "phantoms" if job.smoke else "real"
    there = read(note)
    if there not in (None, here):
        fail(f"{job.out} holds results of {there}, not of {here}", "give another --out")
    write(note, here)


def main() -> None:
    """Run the parts that were asked for, in their order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="the unpacked QaTa-COV19")
    parser.add_argument("--captions", type=Path, help="folder of caption tables, if not in root")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where all of it goes")
    parser.add_argument("--part", action="append", choices=PARTS, help="by default all")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="by default all")
    workers = max(1, min(MOST_WORKERS, cores() - SPARE_CORES))
    parser.add_argument("--workers", type=int, default=workers, help="processes that load data")
    parser.add_argument("--limit", type=float, default=60, help="minutes for one command")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny networks on phantoms and the CPU: does it work?"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended as well
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    job = Job(
        root=given.root and given.root.resolve(),
        captions=given.captions and given.captions.resolve(),
        out=out,
        networks=[network for network in NETWORKS if network in (given.network or NETWORKS)],
        workers=given.workers,
        limit=60 * given.limit,
        smoke=given.smoke,
    )
    check_folder(job)
    for part, function in PARTS.items():
        if part in (given.part or PARTS):
            with noted(job, part):
                function(job)
            if "prepare" in job.failed:
                break  # every training would fail in the same way
    for name, error in job.failed.items():
        sys.stderr.write("error: {}: {}\nremedy: {}\n".format(name, *error.args))
    sys.exit(1 if job.failed else 0)


if __name__ == "__main__":
    main()
