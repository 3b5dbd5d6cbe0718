"""Hostile input in many variants, each read right or refused in two lines.

`TEXTSEG_FUZZ_SEED=7 pytest -m slow -s tests/faults/test_fuzz.py` tries fresh variants and prints
the table of kinds and counts; TEXTSEG_FUZZ_VARIANTS sets how many of each kind.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.faults.fuzz_pixels
import tests.faults.fuzz_runs
import tests.faults.fuzz_tables  # noqa: F401  these fill the table of kinds
from tests.faults.fuzz import CLASSES, KINDS, fuzz, table

SEED = int(os.environ.get("TEXTSEG_FUZZ_SEED", "0"))
FEW = 4  # of each kind in the default run
MANY = int(os.environ.get("TEXTSEG_FUZZ_VARIANTS", "80"))
LEAST = 2000  # in all
FAULTS = CLASSES[2:]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd but taken
        yield


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_few_variants_of_each_kind_are_read_right_or_refused(name: str, tmp_path: Path) -> None:
    counts, _ = fuzz(name, tmp_path, variants=FEW, start=SEED)
    assert counts.total() >= 1


@pytest.mark.slow
def test_thousands_of_variants_are_read_right_or_refused(tmp_path: Path) -> None:
    """Counts all faults before it fails, so that the table is whole."""
    counts: dict[str, Counter[str]] = {}
    faults: list[str] = []
    for name in sorted(KINDS):
        (tmp_path / name).mkdir()
        counts[name], found = fuzz(name, tmp_path / name, variants=MANY, start=SEED, stop=False)
        faults += [f"{name}: {fault}" for fault in found]
    text = table(counts)
    (tmp_path / "kinds.md").write_text(text)
    print(f"\nseed {SEED}\n{text}\n" + "\n".join(faults))
    assert [f for one in counts.values() for f in FAULTS if one[f]] == [], faults[:20]
    assert sum(one.total() for one in counts.values()) >= LEAST
