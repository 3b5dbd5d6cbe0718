"""The one writer of files and folders of results: whole, or not there; imports nothing heavy.

A file is written beside its place, flushed and renamed. A folder of several files holds a marker,
INCOMPLETE, from before its first file until after its last.
"""

from textseg.output.disk import disk_error, writing
from textseg.output.files import (
    PART,
    clear_leftovers,
    flush_tree,
    is_whole_png,
    whole_file,
    whole_text,
    write_bytes,
    write_new,
    write_picture,
    write_text,
)
from textseg.output.folders import (
    INCOMPLETE,
    OutputFolder,
    check_complete,
    claim_folder,
    is_incomplete,
    output_folder,
)

__all__ = [
    "INCOMPLETE",
    "PART",
    "OutputFolder",
    "check_complete",
    "claim_folder",
    "clear_leftovers",
    "disk_error",
    "flush_tree",
    "is_incomplete",
    "is_whole_png",
    "output_folder",
    "whole_file",
    "whole_text",
    "write_bytes",
    "write_new",
    "write_picture",
    "write_text",
    "writing",
]
