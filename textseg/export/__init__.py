"""`textseg export`: a checkpoint as files that run without the suite: ONNX, or torch.export.

`parts` are the two tensor functions that are traced, `write` the files, `run` the loader that is
copied beside them. What reads the folder back is `textseg.segment.exported`.
"""

from textseg.export.command import export

__all__ = ["export"]
