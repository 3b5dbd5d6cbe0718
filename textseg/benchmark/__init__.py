"""What `textseg benchmark` measures.

measure.py      the command: settings, rows, ratios
cost.py         parameters, GFLOPs, the random batch
timing.py       text, forward and step, in interleaved rounds
device.py       where it ran, its memory, and what its matrix products reach
experiments.py  networks of experiment files, for comparison
table.py        the figures as text
"""
