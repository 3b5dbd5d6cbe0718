"""What a command imports before it does any work, and help that names the right kind of class."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lightning_cli import COMMANDS
from tests.tiny_run import call, shell

HEAVY = {"torch", "lightning", "transformers", "timm", "wandb", "albumentations", "matplotlib"}
HEAVY |= {"gradio", "fastapi", "uvicorn"}
LIGHT = [
    "",
    "data",
    "segment",
    "demo",
    "export",
    "card",
    "crossval",
    "compare",
    "report",
    "dashboard",
]


@pytest.mark.parametrize("command", LIGHT)
def test_a_list_of_commands_and_a_light_commands_help_import_no_torch(
    command: str, tmp_path: Path
) -> None:
    arguments = [*command.split(), "--help"]
    code = (
        "import sys, lightning_cli\n"
        f"try: lightning_cli.main({arguments})\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = shell("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_the_list_of_commands_has_all_of_them_with_a_line_each(tmp_path: Path) -> None:
    lines = call("--help", cwd=tmp_path).out.splitlines()
    for command in COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {command.name} "))
        assert line.endswith(command.summary)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_describes_its_settings(command: str, tmp_path: Path) -> None:
    outcome = call(*command.split(), "--help", cwd=tmp_path)
    assert outcome.status in (0, None)
    assert f"textseg{' [options]' if '--trainer.' in outcome.out else ''} {command}" in outcome.out
    assert "(type: " in outcome.out or "--data.help" in outcome.out


@pytest.mark.parametrize(
    ("flag", "name", "right"),
    [
        ("--model.help", "QaTaCov19DataModule", "--data.help"),
        ("--data.help", "LSMS", "--model.help"),
        ("--data.help", "textseg.models.LSMS", "--model.help"),
        ("--trainer.help", "WandbLogger", "--trainer.logger.help"),
        ("--trainer.help", "LSMS", "--model.help"),
        ("--trainer.help", "X", "textseg fit --help"),
        ("--trainer.callbacks.help", "LSMS", "--model.help"),
    ],
)
def test_the_help_of_another_kind_of_class_is_named(
    flag: str, name: str, right: str, tmp_path: Path
) -> None:
    for arguments in ([flag, name], [f"{flag}={name}"]):
        outcome = call("fit", *arguments, cwd=tmp_path)
        cause, remedy = outcome.message()
        assert outcome.status == 2
        assert flag in cause
        assert name.rpartition(".")[2] in cause
        assert right in remedy
