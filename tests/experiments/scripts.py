"""Scripts of experiments/ as modules."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.experiments.test_experiments import EXPERIMENTS


def load_script(name: str) -> ModuleType:
    """experiments/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
