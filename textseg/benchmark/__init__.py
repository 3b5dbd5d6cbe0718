"""What `textseg benchmark` measures.

measure.py   the command: settings, rows, ratios
cost.py      parameters, GFLOPs, the random batch
timing.py    forward, step and text, in interleaved rounds
device.py    where it ran, and what its matrix products reach
memory.py    the peak of a training step
pipeline.py  the data alone, and a short training that waits for it
table.py     the figures as text
"""

from textseg.benchmark.measure import benchmark
from textseg.benchmark.table import format_benchmark

__all__ = ["benchmark", "format_benchmark"]
