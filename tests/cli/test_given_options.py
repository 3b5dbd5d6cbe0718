"""Options that are given twice, or that do nothing in the command they are given to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cli import main
from tests.tiny_run import SMALL, call, train_arguments, write_experiment, write_refhl
from textseg.cli.arguments import check_given_once, option, with_checkpoint_of_run
from textseg.cli.options import check_no_option_of_a_test, check_options_act
from textseg.errors import UserError
from textseg.models.tiles import tiles_of


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


# --- what does nothing ---------------------------------------------------------------------------

ACTING = {
    "--name a": "fit",
    "--on_nan=skip": "fit",
    "--test_after_fit true": "fit",
    "--restart.every_n_steps 3": "fit benchmark",
    "--results_writer.save_masks true": "fit test",
    "--explain.pictures 2": "fit test predict",
    "--explain={pictures: 2}": "fit test predict",
    "--tile_size 64": "fit test predict",
    "--tile_overlap=0.5": "fit test predict",
    "--threshold 0.3": "fit validate test predict probe",
    "--temperature fitted": "fit validate test predict probe",
    "--tta flip": "fit validate test predict probe calibrate",
}
COMMANDS = ["fit", "validate", "test", "predict", "probe", "calibrate", "benchmark"]


@pytest.mark.parametrize("given", ACTING)
def test_an_option_is_taken_where_it_acts_and_refused_elsewhere(given: str) -> None:
    words = given.split(" ", 1) if "=" not in given else [given]
    for command in COMMANDS:
        if command in ACTING[given].split():
            check_options_act(command, ["--config", "a.yaml", *words])
            continue
        with pytest.raises(UserError) as refused:
            check_options_act(command, ["--config", "a.yaml", *words])
        assert words[0].partition("=")[0] in str(refused.value)
        assert f"textseg {command}" in str(refused.value)


@pytest.mark.parametrize("given", ["--tta flip", "--threshold 0.3", "--explain.pictures 2"])
def test_a_fit_that_no_test_follows_takes_nothing_of_a_test(given: str) -> None:
    with pytest.raises(UserError, match=given.split()[0]):
        check_no_option_of_a_test(given.split())
    check_no_option_of_a_test(["--name", "a", "--restart.every_n_steps", "3", "--data.root", "b"])


@pytest.mark.parametrize("overlap", [-3.0, 1.0, float("nan")])
def test_the_overlap_of_tiles_is_checked_also_where_no_tile_is_asked_for(overlap: float) -> None:
    with pytest.raises(UserError, match="tile_overlap"):
        tiles_of(None, overlap)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--tta", "flip"], "tta=flip"),
        (["--tile_overlap", "-3", "--test_after_fit", "true"], "tile_overlap=-3"),
    ],
)
def test_a_fit_refuses_before_it_leaves_a_folder(
    more: list[str], named: str, tmp_path: Path
) -> None:
    root = write_refhl(tmp_path / "refhl")
    arguments = train_arguments(write_experiment(tmp_path, model=SMALL), root, *more)
    outcome = call(*arguments, cwd=tmp_path)
    assert outcome.status == 2
    assert named in outcome.message()[0]
    assert not (tmp_path / "runs").exists()
