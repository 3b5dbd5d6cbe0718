"""Reading, comparing and reporting need neither torch nor a plotting library to start."""

from __future__ import annotations

import pytest

from tests.tiny_run import ROOT, shell

HEAVY = {"torch", "lightning", "torchmetrics", "matplotlib", "jinja2", "pandas", "scipy", "monai"}


@pytest.mark.parametrize(
    "module",
    ["metrics", "runs", "compare", "report", "report.write_comparison", "report.dashboard"],
)
def test_a_module_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, textseg.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = shell("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
