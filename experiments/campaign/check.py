"""Before anything long is started on a GPU: can it be seen, compiled for, and can each network?"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from campaign.machine import commit, cpu_name, driver
from campaign.processes import Command, FailedError, cores, read, say, start, write
from campaign.settings import BEST, Row, as_arguments
from campaign.work import NOT_IN_A_TRIAL, Worker, environment

TRIAL: Mapping[str, Any] = NOT_IN_A_TRIAL | {
    **{"trainer.check_val_every_n_epoch": 1, "trainer.limit_train_batches": 2},
    **{"trainer.limit_val_batches": 1, "data.num_workers": 1},
    **{"data.synthesize": 16, "data.batch_size": 8},
}
TRIAL_LIMIT = 300.0  # seconds
# Run on the machine before anything long is started.
CHECK = """
import json, platform, sys, torch
found = {"python": platform.python_version(), "torch": torch.__version__}
if sys.argv[1] == "gpu":
    assert torch.cuda.is_available(), f"torch {torch.__version__} sees no CUDA GPU"
    found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    x = torch.rand(64, 64, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(lambda a: (a @ a).relu())(x)
    torch.testing.assert_close(compiled, (x @ x).relu())
import lightning, timm, lightning_cli
found |= {"lightning": lightning.__version__, "timm": timm.__version__}
print(json.dumps(found))
"""


def check(worker: Worker, rows: list[Row]) -> None:
    """Check the installation, and on a GPU every network, so that it fails in a minute.

    Raises:
        FailedError: nothing can be trained here.
    """
    campaign = worker.campaign
    command = [sys.executable, "-c", CHECK, campaign.device]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(campaign)
    )
    if done.returncode:
        (campaign.out / "check.log").write_text(done.stderr)
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "see the driver (nvidia-smi), a torch build for CUDA, and a C compiler, which "
        raise FailedError(
            f"the installation cannot train here: {reason}", f"{remedy}torch.compile calls"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found |= {"cpu": cpu_name(), "cores": cores(), "system": platform.platform()}
    found["commit"] = commit()
    if campaign.device == "gpu":
        found["driver"] = driver()
    write(campaign.out / "machine.json", found)
    say(f"check: {found}")
    if campaign.device == "gpu":
        trial(worker, rows, {name: found.get(name) for name in ("gpu", "torch")})


def trial(worker: Worker, rows: list[Row], machine: dict[str, Any]) -> None:
    """Train two steps of each network as it will be trained, on phantoms.

    All at once, since compiling is the processor's work. A network that fails is left out.
    """
    notes = {row.name: worker.campaign.out / "trial" / f"{row.name}.json" for row in rows}
    todo = [
        row
        for row in rows
        if row.network != BEST and (read(notes[row.name]) or {}).get("machine") != machine
    ]
    begun, limit = time.monotonic(), min(worker.campaign.limit or TRIAL_LIMIT, TRIAL_LIMIT)
    threads = max(1, cores() // max(1, len(todo)))
    running = {row.name: start_trial(worker, row, threads) for row in todo}
    try:
        while running:
            seconds = time.monotonic() - begun
            for name, command in list(running.items()):
                if not command.ended() and seconds < limit:
                    continue
                del running[name]
                try:
                    command.finish(limit - seconds)
                except FailedError as error:
                    worker.failed[f"check {name}"] = error
                    say(f"check {name} failed: {error.args[0]}")
                else:
                    write(notes[name], {"seconds": round(seconds, 1), "machine": machine})
                    say(f"check {name}: trains, the first steps took {seconds:.0f} s")
            time.sleep(0.2)
    finally:
        for command in running.values():
            command.stop()


def start_trial(worker: Worker, row: Row, threads: int) -> Command:
    """Two training steps of a network on phantoms, in a folder of their own."""
    campaign = worker.campaign
    folder = campaign.out / "trial" / row.name
    shutil.rmtree(folder, ignore_errors=True)  # phantoms and checkpoint of an earlier one
    folder.mkdir(parents=True)
    given = TRIAL | {"data.cache": folder / "cache", "trainer.default_root_dir": folder}
    arguments = ["fit", *campaign.settings(row), *as_arguments(given)]
    own = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    log = campaign.log(f"trial {row.name}")
    return start(f"trial {row.name}", arguments, log=log, environment=environment(campaign) | own)
