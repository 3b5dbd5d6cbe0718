"""Bad input ends in one line of cause and one of remedy, status 2, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_cli import main
from tests.datamodules import trees
from tests.tiny_run import Outcome, call, fingerprints, merged, write_experiment, write_refhl

QATA = {"class_path": "QaTaCov19DataModule"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a sound tiny experiment in it."""
    write_refhl(tmp_path / "refhl")
    write_experiment(tmp_path, data={"init_args": {"root": "refhl"}})
    return tmp_path


def refused(home: Path, *arguments: str | Path) -> tuple[str, str]:
    """Cause and remedy of a command, once everything that every refusal owes has been checked."""
    before = kept(home)
    outcome = call(*arguments, cwd=home)
    check(outcome)
    assert kept(home) == before, "something was written"
    cause, remedy = outcome.message()
    return cause.removeprefix("error: "), remedy.removeprefix("remedy: ")


def kept(home: Path) -> dict[str, str]:
    """Every file but the cached pictures: a split that was sound may stay cached."""
    return {k: v for k, v in fingerprints(home).items() if not k.startswith("data/cache/")}


def check(outcome: Outcome) -> None:
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    last = outcome.err.splitlines()[-2:]
    assert outcome.message() == last, "one line of cause and one of remedy come last, and once"
    assert last[0].startswith("error: ")
    assert last[1].startswith("remedy: ")
    assert all(len(line) > len("remedy: ") for line in last)


def fit(home: Path, *more: str | Path) -> tuple[str, str]:
    return refused(home, "fit", "--config", "tiny.yaml", *more)


def edit_manifest(home: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = home / "refhl/manifest.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    edit(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_sound_experiment_that_the_others_spoil_is_accepted(home: Path) -> None:
    quick = ["--trainer.fast_dev_run", "true"]
    outcome = call("fit", "--config", "tiny.yaml", *quick, cwd=home)
    assert outcome.status == 0, outcome.err


# --- data --------------------------------------------------------------------------------------


def test_a_root_without_a_known_layout_lists_what_was_looked_for(home: Path) -> None:
    (home / "nothing").mkdir()
    write_experiment(home, data=merged(QATA, {"init_args": {"root": "nothing"}}))
    cause, _ = fit(home)
    assert "nothing" in cause
    for layout in ("kaggle", "lvit", "languide", "sgseg", "prepared"):
        assert layout in cause
    assert "Train Set" in cause


def test_a_root_without_a_manifest_lists_what_was_looked_for(home: Path) -> None:
    (home / "nothing").mkdir()
    cause, remedy = fit(home, "--data.root", "nothing")
    assert "nothing" in cause
    assert "manifest.jsonl" in cause
    assert "manifest.csv" in cause
    assert "image" in remedy


def test_a_root_that_does_not_exist_is_named(home: Path) -> None:
    assert "root=elsewhere is not a folder" in fit(home, "--data.root", "elsewhere")[0]


def test_a_root_that_was_not_set_asks_for_one_or_for_phantoms(home: Path) -> None:
    write_experiment(home)
    cause, remedy = fit(home)
    assert "root is unset" in cause
    assert "synthesize" in remedy


def spoilt_qata(home: Path) -> None:
    """A tree in which seven captions have no image and one image has no caption."""
    root = trees.kaggle(home / "qata")
    images = root / "QaTa-COV19/QaTa-COV19-v2/Train Set/Images"
    for name in trees.TRAIN[:7]:
        (images / f"{name}.png").unlink()
    trees.write_pair(images / "covid_99.png", images.parent / "Ground-truths/mask_covid_99.png")
    write_experiment(home, data=merged(QATA, {"init_args": {"root": "qata"}}))


def test_captions_and_images_without_a_counterpart_are_counted_and_five_named(home: Path) -> None:
    spoilt_qata(home)
    cause, remedy = fit(home)
    assert "7 captions without their image" in cause
    assert "1 images without a caption" in cause
    assert "covid_99.png" in cause
    assert sum(f"{name}.png" in cause for name in trees.TRAIN[:7]) == 5
    assert "on_missing=skip" in remedy


def test_on_missing_skip_trains_on_the_rest_and_says_what_it_left_out(home: Path) -> None:
    spoilt_qata(home)
    quick = ["--data.on_missing", "skip", "--trainer.fast_dev_run", "true"]
    quick += ["--data.image_size", "64"]  # of one row, 32 pixels leave nothing to normalize over
    with pytest.warns(UserWarning, match="7 captions without their image.*covid_99"):
        outcome = call("fit", "--config", "tiny.yaml", *quick, cwd=home)
    assert outcome.status == 0, outcome.err


def test_an_unreadable_image_is_named(home: Path) -> None:
    file = home / "refhl/images/train1.png"
    file.write_bytes(file.read_bytes()[:60])
    assert "refhl/images/train1.png cannot be read" in fit(home)[0]


def test_an_unreadable_mask_is_named(home: Path) -> None:
    (home / "refhl/masks/val2.png").write_text("not a picture")
    assert "refhl/masks/val2.png cannot be read" in fit(home)[0]


def test_a_mask_of_another_size_than_its_image_is_named_with_both_sizes(home: Path) -> None:
    Image.new("L", (90, 71)).save(home / "refhl/masks/train0.png")
    cause, _ = fit(home)
    assert "refhl/images/train0.png is 70x90" in cause
    assert "refhl/masks/train0.png is 71x90" in cause


def test_the_data_of_the_test_that_follows_are_checked_before_training(home: Path) -> None:
    (home / "refhl/images/test2.png").write_bytes(b"")
    cause, _ = fit(home, "--test_after_fit", "true")
    assert "refhl/images/test2.png cannot be read" in cause


def test_an_unknown_column_is_named_with_the_accepted_ones(home: Path) -> None:
    edit_manifest(home, lambda rows: [row.update(caption="a") for row in rows])
    cause, remedy = fit(home)
    assert "refhl/manifest.jsonl" in cause
    assert "unknown: caption" in cause
    assert "image, mask, text, case_id, split" in remedy


def test_a_caption_table_without_a_text_column_shows_its_columns(home: Path) -> None:
    root = trees.kaggle(home / "qata")
    trees.write_table(root / "train.csv", trees.rows_of(trees.TRAIN), ("Image", "Words"))
    write_experiment(home, data=merged(QATA, {"init_args": {"root": "qata"}}))
    cause, remedy = fit(home)
    assert "qata/train.csv" in cause
    assert "Words" in cause
    assert "description" in remedy


@pytest.mark.parametrize("text", ["", "  \t"])
def test_an_empty_caption_is_named_by_file_and_entry(home: Path, text: str) -> None:
    edit_manifest(home, lambda rows: rows[2].update(text=text))
    cause, remedy = fit(home)
    assert "refhl/manifest.jsonl, entry 3" in cause
    assert "'text' is empty" in cause
    assert "caption_mode=empty" in remedy


def test_a_patient_in_two_splits_is_named(home: Path) -> None:
    edit_manifest(home, lambda rows: rows[-1].update(case_id="train-p0"))
    assert "train-p0 (test, train)" in fit(home)[0]


@pytest.mark.parametrize("size", ["100", "[64, 100]", "0", "-32"])
def test_an_image_size_not_divisible_by_32_is_named(home: Path, size: str) -> None:
    cause, remedy = fit(home, "--data.image_size", size)
    assert f"image_size={size} is not divisible by 32" in cause
    assert "32" in remedy


# --- encoders and checkpoints --------------------------------------------------------------------


def test_a_text_encoder_that_is_neither_here_nor_to_be_fetched_is_named(home: Path) -> None:
    cause, remedy = fit(home, "--model.text_encoder", "nobody/no-such-bert")
    assert "text_encoder='nobody/no-such-bert'" in cause
    assert "scratch" in remedy


def test_a_folder_that_holds_no_text_encoder_is_named(home: Path) -> None:
    (home / "bert").mkdir()
    cause, _ = fit(home, "--model.text_encoder", "bert")
    assert "text_encoder='bert'" in cause


def test_an_unknown_size_of_lsms_lists_the_known_ones(home: Path) -> None:
    cause, remedy = fit(home, "--model.image_encoder", "mscan_huge")
    assert "mscan_huge" in cause
    assert "mscan_tiny" in cause + remedy


def write_checkpoint(file: Path, **content: Any) -> Path:
    torch.save({"pytorch-lightning_version": "2.6.0", **content}, file)
    return file


@pytest.mark.parametrize("command", ["fit", "test", "predict", "validate"])
def test_a_checkpoint_of_another_class_is_named_with_both_classes(home: Path, command: str) -> None:
    hyper = {"_class_path": "textseg.models.OTHER"}
    write_checkpoint(home / "a.ckpt", state_dict={}, hyper_parameters=hyper)
    cause, remedy = refused(home, command, "--config", "tiny.yaml", "--ckpt_path", "a.ckpt")
    assert "a.ckpt is of textseg.models.OTHER" in cause
    assert "LSMS" in cause
    assert "--config" in remedy


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_a_checkpoint_with_other_weights_is_refused(home: Path, command: str) -> None:
    weights = {"backbone.conv.weight": torch.zeros(2)}
    write_checkpoint(home / "a.ckpt", state_dict=weights)
    cause, _ = refused(home, command, "--config", "tiny.yaml", "--ckpt_path", "a.ckpt")
    assert "checkpoint" in cause


def test_a_checkpoint_of_another_width_is_refused_with_the_weights_that_differ(home: Path) -> None:
    quick = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    assert call("fit", "--config", "tiny.yaml", *quick, cwd=home).status == 0
    (last,) = home.glob("runs/tiny/*/checkpoints/last.ckpt")
    other = last.rename(last.with_name("other.ckpt"))  # last.ckpt would go on with its own run
    more = ["--ckpt_path", other, "--model.decoder_dim", "64"]
    for command in (["fit", "--config", "tiny.yaml"], ["test"], ["predict"]):
        cause, _ = refused(home, *command, *more)
        assert "another network than LSMS" in cause
        assert "head.weight" in cause or "decoder" in cause


def test_a_setting_of_another_group_is_not_proposed_for_itself(home: Path) -> None:
    cause, remedy = refused(home, "benchmark", "--config", "tiny.yaml", "--precision", "bf16")
    assert "unknown setting 'precision'" in cause
    assert "did you mean precision" not in remedy


def test_a_checkpoint_that_does_not_exist_is_named(home: Path) -> None:
    assert (
        "ckpt_path='gone.ckpt' does not exist"
        in refused(home, "test", "--ckpt_path", "gone.ckpt")[0]
    )


def test_a_checkpoint_without_its_runs_config_asks_for_the_experiment(home: Path) -> None:
    write_checkpoint(home / "a.ckpt", state_dict={})
    cause, remedy = refused(home, "test", "--ckpt_path", "a.ckpt")
    assert "config.yaml does not exist" in cause
    assert "--config" in remedy


def test_a_file_that_is_no_checkpoint_is_named(home: Path) -> None:
    (home / "a.ckpt").write_bytes(b"PK\x03\x04 cut short")
    cause, _ = refused(home, "test", "--config", "tiny.yaml", "--ckpt_path", "a.ckpt")
    assert "a.ckpt' cannot be read as weights" in cause


@pytest.mark.parametrize("command", ["test", "predict", "validate"])
def test_testing_without_a_checkpoint_is_refused(home: Path, command: str) -> None:
    """Untrained weights would be scored, or for a scratch text encoder nothing could run."""
    _, remedy = refused(home, command, "--config", "tiny.yaml")
    assert "--ckpt_path" in remedy


# --- settings ------------------------------------------------------------------------------------

TYPOS = {
    "decoder_dmi": ("model: {init_args: {decoder_dmi: 8}}", "decoder_dim"),
    "imagesize": ("data: {init_args: {imagesize: 64}}", "image_size"),
    "max_epoch": ("trainer: {max_epoch: 3}", "max_epochs"),
    "trainr": ("trainr: {max_epochs: 3}", "trainer"),
    "LSSM": ("model: {class_path: LSSM}", "LSMS"),
    "RefHLDataModule": ("data: {class_path: RefHLDataModule}", "RefHLSegDataModule"),
    "sed_everything": ("sed_everything: 3", "seed_everything"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_in_a_config_is_named_with_its_line_and_the_likely_word(
    home: Path, typo: str
) -> None:
    line, meant = TYPOS[typo]
    (home / "over.yaml").write_text(f"# An overlay.\n{line}\n")
    cause, remedy = fit(home, "--config", "over.yaml")
    assert repr(typo) in cause
    assert "in over.yaml, line 2" in cause
    assert meant in remedy


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--data.imge_size=64", "image_size"),
        ("--model.decoder_dmi=8", "decoder_dim"),
        ("--trainer.max_epohcs=3", "max_epochs"),
        ("--test_after_fitt=true", "test_after_fit"),
    ],
)
def test_a_typo_on_the_command_line_is_named_with_the_likely_word(
    home: Path, option: str, meant: str
) -> None:
    cause, remedy = fit(home, option)
    assert option.removeprefix("--").partition("=")[0].rpartition(".")[2] in cause
    assert meant in remedy


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--trainer.max_epochs", "many"),
        ("--data.caption_mode", "loud"),
        ("--model.schedule", "linear"),
        ("--data.batch_size", "two"),
        ("--model.lr", "fast"),
        ("--data.on_missing", "ignore"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_setting(
    home: Path, option: str, value: str
) -> None:
    cause, _ = fit(home, option, value)
    assert value in cause
    assert option.rpartition(".")[2] in cause


def test_a_wrong_value_in_a_config_is_named_with_its_file_and_line(home: Path) -> None:
    (home / "over.yaml").write_text("# An overlay.\ntrainer:\n  max_epochs: many\n")
    cause, _ = fit(home, "--config", "over.yaml")
    assert "max_epochs" in cause
    assert "many" in cause
    assert "over.yaml, line 3" in cause


def test_a_mistake_is_looked_for_in_config_files_and_not_in_other_yaml_files(home: Path) -> None:
    """The word stands in a file of another option too, after the config with the mistake."""
    (home / "over.yaml").write_text("# An overlay.\ntrainer: {max_epohcs: 3}\n")
    (home / "other.yaml").write_text("max_epohcs: 3\n")
    for option in (
        ["--output", "other.yaml"],
        ["--compare_with+=other.yaml"],
        ["--compare_with+", "other.yaml"],
    ):
        command = ["benchmark", "--config", "tiny.yaml", "--config=over.yaml", *option]
        assert "'max_epohcs' in over.yaml, line 2" in refused(home, *command)[0], option


def test_a_mistake_in_the_file_of_one_section_is_named_with_its_line(home: Path) -> None:
    (home / "trainer.yaml").write_text("# A section.\nmax_epohcs: 3\n")
    cause, remedy = fit(home, "--trainer", "trainer.yaml")
    assert "'max_epohcs' in trainer.yaml, line 2" in cause
    assert "max_epochs" in remedy


def test_another_yaml_file_that_is_broken_does_not_blame_the_config(home: Path) -> None:
    (home / "bad.yaml").write_text("model: [LSMS\ntrainer: }")
    cause, _ = refused(home, "benchmark", "--config", "tiny.yaml", "--compare_with", "[bad.yaml]")
    assert "compare_with: bad.yaml" in cause


def test_a_config_file_that_does_not_exist_is_named(home: Path) -> None:
    assert "gone.yaml" in refused(home, "fit", "--config", "gone.yaml")[0]


def test_a_config_file_that_is_no_yaml_is_named(home: Path) -> None:
    (home / "bad.yaml").write_text("model: [LSMS\ntrainer: }")
    assert "bad.yaml" in refused(home, "fit", "--config", "bad.yaml")[0]


@pytest.mark.parametrize("content", [b"a: \xe9\n", b"a: \x01\n"])
def test_a_config_file_in_no_known_encoding_is_named(home: Path, content: bytes) -> None:
    (home / "bad.yaml").write_bytes(content)
    assert "bad.yaml" in refused(home, "fit", "--config", "bad.yaml")[0]


def test_a_negative_number_of_pictures_is_refused_before_training(home: Path) -> None:
    cause, _ = refused(home, "fit", "--config", "tiny.yaml", "--results_writer.overlays", "-1")
    assert "overlays=-1" in cause


def test_a_run_whose_config_is_empty_asks_for_another(home: Path) -> None:
    (home / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, home / "run" / "checkpoints" / "best.ckpt")
    (home / "run" / "config.yaml").touch()
    cause, remedy = refused(home, "test", "--ckpt_path", "run/checkpoints/best.ckpt")
    assert "config.yaml" in cause
    assert "--config" in remedy


def test_a_fit_without_an_end_is_refused(home: Path) -> None:
    outcome = call("fit", "--config", "tiny.yaml", "--trainer.max_epochs", "-1", cwd=home)
    check(outcome)
    assert "max_steps" in outcome.err.splitlines()[-1]


def test_fit_without_settings_proposes_an_experiment(home: Path) -> None:
    assert "--config" in refused(home, "fit")[1]


@pytest.mark.parametrize("arguments", [[], ["trian"]])
def test_a_missing_or_unknown_subcommand_lists_the_known_ones(
    home: Path, arguments: list[str]
) -> None:
    cause, remedy = refused(home, *arguments)
    assert "predict" in cause + remedy


# --- debug ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback_before_the_same_two_lines(home: Path, place: str) -> None:
    (home / "nothing").mkdir()
    command = ["fit", "--config", "tiny.yaml", "--data.root", "nothing"]
    plain = call(*command, cwd=home)
    debug = ["--debug"]
    shown = call(*(debug + command if place == "first" else command + debug), cwd=home)
    assert shown.status == 2
    assert shown.err.count("Traceback (most recent call last)") >= 1
    assert "datamodules" in shown.err
    assert shown.err.splitlines()[-2:] == plain.message()


def test_a_mistake_of_ours_keeps_its_traceback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("textseg.models.base.SegmentationModule.training_step", broken)
    monkeypatch.chdir(home)
    with pytest.raises(RuntimeError, match="ours"):
        main(["fit", "--config", "tiny.yaml"])


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("probe", "textseg probe runs/<config>/<time>"),
        ("test", "--ckpt_path runs/<config>/<time>/checkpoints/best.ckpt"),
        ("fit", "--config experiments/quickstart.yaml"),
    ],
)
def test_a_command_without_settings_is_told_what_it_works_on(
    command: str, remedy: str, tmp_path: Path
) -> None:
    outcome = call(command, cwd=tmp_path)
    assert outcome.status == 2
    assert remedy in outcome.message()[1]
