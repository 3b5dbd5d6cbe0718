"""What a SLURM job of a campaign starts in place of textseg: the same, and a note of its end.

    python -m campaign.in_job OUT/rows/ROW.json fit ...

Signals go on to the training and its exit status comes back. The first process notes what the job
has cost so far, all processes counted alike, and that the row is trained.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from campaign.machine import keep_maker
from campaign.processes import Command, read, write
from campaign.work import keep_cost


def main() -> None:
    """Run the command after the note's file."""
    file, arguments = Path(sys.argv[1]), sys.argv[2:]
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    note = read(file)
    number = len(note["cost"].get("train", []))
    if first:
        keep_maker(file, note, "train", "gpu" if "gpu" in arguments else "cpu")
    process = subprocess.Popen([sys.executable, "-m", "lightning_cli", *arguments])
    for one in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(one, lambda number, frame: os.kill(process.pid, number))
    command = Command("train", file, process, saves=True)

    def beat(running: Command) -> None:
        if first:
            keep_cost(file, note, "train", number, running, tasks)

    command.wait(None, beat)
    beat(command)
    status = process.returncode
    if first and status == 0:
        note["done"].append("train")
        write(file, note)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
