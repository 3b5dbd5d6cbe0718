"""docs/security.md: every line of it has a test that exists, and its limits are those in force."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from textseg.limits import LIMITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ")]
PROMISES = [line for line in LINES if not line.startswith(("| it cannot", "| setting", "| `TEXT"))]
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_every_promise_names_a_test() -> None:
    assert len(PROMISES) > 15
    assert [line for line in PROMISES if "::test_" not in line] == []


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_a_test_that_is_named_exists_and_is_no_slow_one(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert len(found) == 1
    marks = [ast.unparse(mark) for mark in found[0].decorator_list]
    assert [mark for mark in marks if mark.startswith("pytest.mark.s")] == []  # slow, skip


def test_the_limits_are_those_in_force() -> None:
    shown = dict(re.findall(r"^\| `(TEXTSEG_MAX_\w+)` \| ([\d,]+) \|", PAGE, re.MULTILINE))
    assert shown == {limit.variable: f"{limit.usual:,}" for limit in LIMITS}
