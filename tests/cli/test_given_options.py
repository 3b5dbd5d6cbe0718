"""Options that are given twice, or that do nothing in the command they are given to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cli import main
from textseg.cli.arguments import check_given_once, option, with_checkpoint_of_run
from textseg.errors import UserError


@pytest.mark.parametrize(
    "words",
    [
        "--ckpt_path a.ckpt --tta flip --ckpt_path b.ckpt",
        "--ckpt_path=a.ckpt --ckpt_path b.ckpt",
        "--name first --name=second",
        "--output a --output b",
        "--endpoints [dice] --endpoints [iou]",
    ],
)
def test_an_option_with_two_values_is_refused(words: str) -> None:
    name = words.split()[0].partition("=")[0]
    with pytest.raises(UserError, match=f"{name} .*twice"):
        check_given_once(words.split())


@pytest.mark.parametrize(
    "words",
    [
        "--config a.yaml -c b.yaml --config c.yaml",
        "--compare_with+ a --compare_with+ b --compare_with+=c",
        "--data.root a --data.root b --trainer a.yaml --trainer b.yaml",
        "--name same --name same",
        "--trainer.max_epochs -1 --trainer.max_steps -1 -2",
        "--seed_everything 1 --test_after_fit false --seed_everything=2 --test_after_fit=true",
    ],
)
def test_what_may_be_given_again_is_taken(words: str) -> None:
    check_given_once(words.split())


def test_settings_are_looked_up_as_the_parser_takes_them() -> None:
    """The last value counts."""
    assert option(["--data.root", "a", "--data.root=b"], "--data.root") == "b"


@pytest.mark.parametrize("form", ["--ckpt_path {}", "--ckpt_path={}", "--ckpt_path+ {}"])
def test_a_run_beside_a_checkpoint_is_refused(form: str, tmp_path: Path) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    best.parent.mkdir()
    best.touch()
    assert with_checkpoint_of_run([str(tmp_path), "--seed", "1"])[:2] == ["--ckpt_path", str(best)]
    with pytest.raises(UserError, match=r"other\.ckpt"):
        with_checkpoint_of_run([str(tmp_path), *form.format("other.ckpt").split()])


def test_the_command_refuses_two_checkpoints_in_two_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["test", "--ckpt_path", "a.ckpt", "--ckpt", "b.ckpt"])
    assert ended.value.code == 2
    cause, remedy = capsys.readouterr().err.splitlines()
    assert "a.ckpt" in cause
    assert "b.ckpt" in cause
    assert remedy.startswith("remedy: ")
