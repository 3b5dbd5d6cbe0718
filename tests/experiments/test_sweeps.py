"""A sweep's runs are commands that the command line accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from tests.experiments.test_experiments import EXPERIMENTS, parse_command

SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))
IDS = [path.stem for path in SWEEPS]
DISTRIBUTIONS = {"uniform", "log_uniform_values"}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def sampled(parameters: dict[str, Any], end: int) -> dict[str, Any]:
    """One end of every range (0 or -1): the first or the last value."""
    return {
        name: (spec.get("values") or [spec.get("min"), spec.get("max")])[end]
        for name, spec in parameters.items()
    }


def agents_command(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What wandb's agent runs for these values, by wandb's own functions."""
    arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    known = {**arguments, "env": ["/usr/bin/env"], "interpreter": ["python"]}
    command: list[str] = []
    for part in create_sweep_command(list(sweep["command"])):
        command += known[part[2:-1]] if part.startswith("${") else [part]
    return command


@pytest.mark.parametrize("end", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("path", SWEEPS, ids=IDS)
def test_a_sweeps_values_reach_the_network(
    path: Path, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load(path)
    values = sampled(sweep["parameters"], end)
    command = agents_command(sweep, values)
    assert command[:3] == ["/usr/bin/env", "textseg", "fit"]
    monkeypatch.chdir(EXPERIMENTS.parent)
    config = parse_command(command[2:])
    for name, value in values.items():
        group, _, setting = name.partition(".")
        assert group == "model"
        expected = yaml.safe_load(value) if isinstance(value, str) else value
        assert config.model.init_args[setting] == expected
    assert Path(command[4]).stem == path.stem
    assert config.trainer.logger.class_path.endswith("WandbLogger")
    assert config.test_after_fit is False, "a sweep never looks at the test"


@pytest.mark.parametrize("path", SWEEPS, ids=IDS)
def test_a_sweep_is_as_wandb_describes_it(path: Path) -> None:
    """The rules of wandb's schema that these files make use of; its package wants an old numpy."""
    sweep = load(path)
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": "val/dice", "goal": "maximize"}
    assert sweep["early_terminate"]["type"] == "hyperband"
    assert all(isinstance(part, str) for part in sweep["command"])
    for spec in sweep["parameters"].values():
        if "values" in spec:
            assert len(set(spec["values"])) == len(spec["values"]) > 1
        else:
            assert spec["distribution"] in DISTRIBUTIONS
            assert 0 <= spec["min"] < spec["max"]
            assert spec["distribution"] == "uniform" or spec["min"] > 0
