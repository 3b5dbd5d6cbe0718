"""How a training runs, and how one goes on after a break, as callbacks.

options.py           faster, or in less memory: CompiledTraining, GradientCheckpointing
resume.py            Restart: a run that is killed at any moment and resumed ends with the weights
                     of one that was not
checkpoint_files.py  best.ckpt and last.ckpt, never cut short; metrics.csv of a resumed run
random_state.py      the random states of a process
resume_checks.py     what a fit that goes on may not change

Lightning's checkpoints hold model, optimizer, schedule and loops. Restart adds what else decides
the weights, as tensors and plain values: random states and the position in the data of every
process (Lightning keeps the first one's position alone). The names below are class paths in YAML.
"""

from textseg.training.options import CompiledTraining, GradientCheckpointing
from textseg.training.resume import Restart

__all__ = ["CompiledTraining", "GradientCheckpointing", "Restart"]
