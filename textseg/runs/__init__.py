"""A run's folder: the one writer and the one reader of what is in it; imports no torch."""

from textseg.runs.cases import CaseRow, read_cases, table_rows, write_cases
from textseg.runs.folder import Run
from textseg.runs.results import StoredTest, read_test

__all__ = ["CaseRow", "Run", "StoredTest", "read_cases", "read_test", "table_rows", "write_cases"]
