"""A run that is killed at any moment and resumed ends with the weights of one that was not.

Lightning's checkpoints hold model, optimizer, schedule and loops. What else decides the weights is
added here: the random states and the place in the data, of every process (Lightning keeps the first
process's place alone), as tensors and plain values. `Restart` writes last.ckpt in the middle of an
epoch too, and on SIGTERM and SIGUSR1; `AtomicCheckpoints` never leaves half a file.
"""

from textseg.training.checkpoint_files import (
    LAST,
    AtomicCheckpoints,
    default_checkpoint_callbacks,
    last_checkpoint,
    resume_metrics_csv,
    with_atomic_checkpoints,
)
from textseg.training.random_state import random_state, set_random_state
from textseg.training.resume import RESUME_ME, STATE, Restart
from textseg.training.resume_checks import (
    check_same_settings,
    check_trainer,
    check_trainer_settings,
)

__all__ = [
    "LAST",
    "RESUME_ME",
    "STATE",
    "AtomicCheckpoints",
    "Restart",
    "check_same_settings",
    "check_trainer",
    "check_trainer_settings",
    "default_checkpoint_callbacks",
    "last_checkpoint",
    "random_state",
    "resume_metrics_csv",
    "set_random_state",
    "with_atomic_checkpoints",
]
