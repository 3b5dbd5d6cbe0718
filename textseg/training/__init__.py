"""Callbacks of how a training runs, and how one goes on after a break.

Lightning's checkpoints hold model, optimizer, schedule and loops. Restart adds what else decides
the weights, as tensors and plain values: random states and the position in the data of every
process (Lightning keeps the first one's position alone). The names below are class paths in YAML.
"""

from textseg.training.finite import FiniteTraining
from textseg.training.options import CompiledTraining, GradientCheckpointing
from textseg.training.resume import Restart

__all__ = ["CompiledTraining", "FiniteTraining", "GradientCheckpointing", "Restart"]
