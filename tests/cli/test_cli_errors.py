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


def test_the_sound_experiment_that_the_others_spoil_is_accepted(home: Path) -> None:
    quick = ["--trainer.fast_dev_run", "true"]
    outcome = call("fit", "--config", "tiny.yaml", *quick, cwd=home)
    assert outcome.status == 0, outcome.err


# --- data and settings that are refused ----------------------------------------------------------


def edit_manifest(home: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = home / "refhl/manifest.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    edit(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def qata(home: Path, root: str = "qata") -> None:
    write_experiment(home, data=merged(QATA, {"init_args": {"root": root}}))


def unpaired_qata(home: Path) -> None:
    """A tree in which seven captions have no image and one image has no caption."""
    images = trees.kaggle(home / "qata") / "QaTa-COV19/QaTa-COV19-v2/Train Set/Images"
    for name in trees.TRAIN[:7]:
        (images / f"{name}.png").unlink()
    trees.write_pair(images / "covid_99.png", images.parent / "Ground-truths/mask_covid_99.png")
    qata(home)


def headless_qata(home: Path) -> None:
    """A caption table without a text column."""
    root = trees.kaggle(home / "qata")
    trees.write_table(root / "train.csv", trees.rows_of(trees.TRAIN), ("Image", "Words"))
    qata(home)


def checkpoint(home: Path, **content: Any) -> None:
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": {}, **content}, home / "a.ckpt")


def run_without_settings(home: Path) -> None:
    (home / "run/checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, home / "run/checkpoints/best.ckpt")
    (home / "run/config.yaml").touch()


def cut(file: str) -> Callable[[Path], Any]:
    return lambda home: (home / file).write_bytes((home / file).read_bytes()[:60])


def folder(name: str) -> Callable[[Path], Any]:
    return lambda home: (home / name).mkdir()


def content(file: str, text: str | bytes) -> Callable[[Path], Any]:
    return lambda home: (home / file).write_bytes(text.encode() if isinstance(text, str) else text)


def manifest(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], Any]:
    return lambda home: edit_manifest(home, edit)


def nothing(home: Path) -> None:
    pass


FIT = "fit --config tiny.yaml"
BROKEN_YAML = "model: [LSMS\ntrainer: }"
# What is spoiled, the command, and what must stand in the cause and in the remedy.
REFUSED: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "no layout": (
        lambda home: (folder("empty")(home), qata(home, "empty")),
        *(FIT, "empty kaggle lvit languide sgseg prepared", ""),
    ),
    "no manifest": (
        folder("empty"),
        f"{FIT} --data.root empty",
        *("empty manifest.jsonl manifest.csv", "image"),
    ),
    "no root": (nothing, f"{FIT} --data.root elsewhere", "root=elsewhere", ""),
    "root unset": (lambda home: write_experiment(home), FIT, "root", "synthesize"),
    "no text column": (headless_qata, FIT, "qata/train.csv Words", "description"),
    "image": (cut("refhl/images/train1.png"), FIT, "refhl/images/train1.png", ""),
    "mask": (content("refhl/masks/val2.png", "no picture"), FIT, "refhl/masks/val2.png", ""),
    "mask's size": (
        lambda home: Image.new("L", (90, 71)).save(home / "refhl/masks/train0.png"),
        *(FIT, "images/train0.png 70x90 masks/train0.png 71x90", ""),
    ),
    "the test's data before training": (
        content("refhl/images/test2.png", b""),
        *(f"{FIT} --test_after_fit true", "refhl/images/test2.png", ""),
    ),
    "unknown column": (
        manifest(lambda rows: [row.update(caption="a") for row in rows]),
        *(FIT, "refhl/manifest.jsonl caption", "image mask text case_id split"),
    ),
    "empty caption": (
        manifest(lambda rows: rows[2].update(text="")),
        *(FIT, "refhl/manifest.jsonl 3 text", "caption_mode=empty"),
    ),
    "blank caption": (
        manifest(lambda rows: rows[2].update(text=" \t")),
        FIT,
        "manifest.jsonl 3",
        "",
    ),
    "patient in two splits": (
        manifest(lambda rows: rows[-1].update(case_id="train-p0")),
        *(FIT, "train-p0 test train", ""),
    ),
    **{
        f"image_size {size}": (
            nothing,
            *(f"{FIT} --data.image_size {size}", f"image_size={size.replace(',', ', ')}", "32"),
        )
        for size in ("100", "[64,100]", "0", "-32")
    },
    "text encoder": (
        nothing,
        *(f"{FIT} --model.text_encoder nobody/bert", "text_encoder='nobody/bert'", "scratch"),
    ),
    "empty text encoder": (
        folder("bert"),
        *(f"{FIT} --model.text_encoder bert", "text_encoder='bert'", ""),
    ),
    "size of LSMS": (
        nothing,
        *(f"{FIT} --model.image_encoder mscan_huge", "mscan_huge mscan_tiny", ""),
    ),
    "pictures": (nothing, f"{FIT} --results_writer.overlays -1", "overlays=-1", ""),
    **{
        f"{command}: checkpoint of another class": (
            lambda home: checkpoint(home, hyper_parameters={"_class_path": "textseg.models.OTHER"}),
            f"{command} --config tiny.yaml --ckpt_path a.ckpt",
            *("a.ckpt textseg.models.OTHER LSMS", "--config"),
        )
        for command in ("fit", "test", "predict", "validate")
    },
    **{
        f"{command}: other weights": (
            lambda home: checkpoint(home, state_dict={"backbone.conv.weight": torch.zeros(2)}),
            *(f"{command} --config tiny.yaml --ckpt_path a.ckpt", "checkpoint", ""),
        )
        for command in ("fit", "test", "predict")
    },
    **{
        f"{command}: no checkpoint": (
            nothing,
            *(f"{command} --config tiny.yaml", command, "--ckpt_path"),
        )
        for command in ("test", "predict", "validate")
    },
    "checkpoint gone": (nothing, "test --ckpt_path gone.ckpt", "ckpt_path='gone.ckpt'", ""),
    "checkpoint without config": (
        checkpoint,
        *("test --ckpt_path a.ckpt", "a.ckpt config.yaml", "--config"),
    ),
    "no checkpoint": (
        content("a.ckpt", b"PK\x03\x04 cut short"),
        *("test --config tiny.yaml --ckpt_path a.ckpt", "ckpt_path='a.ckpt'", ""),
    ),
    "run without settings": (
        run_without_settings,
        *("test --ckpt_path run/checkpoints/best.ckpt", "config.yaml", "--config"),
    ),
    "config gone": (nothing, "fit --config gone.yaml", "gone.yaml", ""),
    "config no YAML": (content("bad.yaml", BROKEN_YAML), "fit --config bad.yaml", "bad.yaml 2", ""),
    "config in Latin-1": (
        content("bad.yaml", b"a: \xe9\n"),
        "fit --config bad.yaml",
        "bad.yaml",
        "",
    ),
    "config with control": (
        content("bad.yaml", b"a: \x01\n"),
        "fit --config bad.yaml",
        "bad.yaml",
        "",
    ),
    "another file no YAML": (
        content("bad.yaml", BROKEN_YAML),
        *("benchmark --config tiny.yaml --compare_with [bad.yaml]", "compare_with bad.yaml", ""),
    ),
    "setting of another group": (
        nothing,
        *(
            "benchmark --config tiny.yaml --precision bf16",
            "'precision'",
            "textseg benchmark --help",
        ),
    ),
    "nothing": (nothing, "", "", "predict"),
    "unknown command": (nothing, "trian", "'trian'", "predict"),
    "fit alone": (nothing, "fit", "data model", "--config experiments/quickstart.yaml"),
    "test alone": (
        nothing,
        *("test", "data model", "--ckpt_path runs/<config>/<time>/checkpoints/best.ckpt"),
    ),
    "probe alone": (nothing, "probe", "data model", "textseg probe runs/<config>/<time>"),
    "compare alone": (nothing, "compare", "runs", "textseg compare --help"),
    **{
        f"{option}={value}": (
            nothing,
            *(
                f"{FIT} {option} {value}",
                f"{option.lstrip('-').rpartition('.')[2]} {value}",
                "textseg fit --help",
            ),
        )
        for option, value in (
            ("--trainer.max_epochs", "many"),
            ("--data.caption_mode", "loud"),
            ("--model.schedule", "linear"),
            ("--data.batch_size", "two"),
            ("--model.lr", "fast"),
            ("--data.on_missing", "ignore"),
            *((f"--{name}", "null") for name in ("model.lr", "data.batch_size", "data.on_missing")),
            *((f"--{name}", "null") for name in ("data.seed", "trainer.devices")),
        )
    },
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_names_field_and_value_and_what_to_do(home: Path, fault: str) -> None:
    spoil, command, named, offered = REFUSED[fault]
    spoil(home)
    cause, remedy = refused(home, *command.split())
    assert [word for word in named.split() if word not in cause] == []
    assert [word for word in offered.split() if word not in remedy] == []


def test_captions_and_images_without_a_counterpart_are_counted_and_five_named(home: Path) -> None:
    unpaired_qata(home)
    cause, remedy = refused(home, *FIT.split())
    assert "7 captions" in cause
    assert "1 images" in cause
    assert "covid_99.png" in cause
    assert sum(f"{name}.png" in cause for name in trees.TRAIN[:7]) == 5
    assert "on_missing=skip" in remedy


def test_on_missing_skip_trains_on_the_rest_and_says_what_it_left_out(home: Path) -> None:
    unpaired_qata(home)
    quick = ["--data.on_missing", "skip", "--trainer.fast_dev_run", "true"]
    quick += ["--data.image_size", "64"]  # of one row, 32 pixels leave nothing to normalize over
    with pytest.warns(UserWarning, match=r"7 captions.*covid_99"):
        outcome = call(*FIT.split(), *quick, cwd=home)
    assert outcome.status == 0, outcome.err


def test_a_checkpoint_of_another_width_is_refused_with_the_weights_that_differ(home: Path) -> None:
    quick = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    assert call(*FIT.split(), *quick, cwd=home).status == 0
    (last,) = home.glob("runs/tiny/*/checkpoints/last.ckpt")
    other = last.rename(last.with_name("other.ckpt"))  # last.ckpt would go on with its own run
    for command in (FIT, "test", "predict"):
        more = ["--ckpt_path", other, "--model.decoder_dim", "64"]
        cause, _ = refused(home, *command.split(), *more)
        assert "LSMS" in cause
        assert "head.weight" in cause or "decoder" in cause


def test_a_fit_without_an_end_is_refused(home: Path) -> None:
    outcome = call(*FIT.split(), "--trainer.max_epochs", "-1", cwd=home)
    check(outcome)
    assert "max_steps" in outcome.err.splitlines()[-1]


# --- typos ---------------------------------------------------------------------------------------

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
    cause, remedy = refused(home, *FIT.split(), "--config", "over.yaml")
    assert repr(typo) in cause
    assert "over.yaml, line 2" in cause
    assert meant in remedy


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--data.imge_size=64", "image_size"),
        ("--model.decoder_dmi=8", "decoder_dim"),
        ("--trainer.max_epohcs=3", "max_epochs"),
        ("--test_after_fitt=true", "test_after_fit"),
        ("--explain.picturs=3", "pictures"),
    ],
)
def test_a_typo_on_the_command_line_is_named_with_the_likely_word(
    home: Path, option: str, meant: str
) -> None:
    cause, remedy = refused(home, *FIT.split(), option)
    assert option.removeprefix("--").partition("=")[0].rpartition(".")[2] in cause
    assert meant in remedy


@pytest.mark.parametrize("given", ["--model", "--model.class_path", "--data"])
def test_a_class_that_cannot_be_imported_is_told_of_as_that(home: Path, given: str) -> None:
    for name, reason in (("no_such_module.Own", "no_such_module"), ("json.Own", "json")):
        outcome = call("fit", "--config", home / "tiny.yaml", given, name, cwd=home)
        assert outcome.status == 2
        cause, remedy = outcome.message()
        assert name in cause
        assert "Expected a path" not in cause
        assert f"'{reason}'" in cause.partition("(")[2]
        assert "module.Class" in remedy


def test_a_wrong_value_in_a_config_is_named_with_its_file_and_line(home: Path) -> None:
    (home / "over.yaml").write_text("# An overlay.\ntrainer:\n  max_epochs: many\n")
    cause, _ = refused(home, *FIT.split(), "--config", "over.yaml")
    for word in ("max_epochs", "many", "over.yaml, line 3"):
        assert word in cause


def test_a_wrong_value_on_the_command_line_is_not_blamed_on_a_config(home: Path) -> None:
    assert ".yaml" not in refused(home, *FIT.split(), "--trainer.max_epochs", "many")[0]


@pytest.mark.parametrize(
    "option", ["--output other.yaml", "--compare_with+=other.yaml", "--compare_with+ other.yaml"]
)
def test_a_mistake_is_looked_for_in_config_files_and_not_in_other_yaml_files(
    home: Path, option: str
) -> None:
    """The word stands in a file of another option too, after the config with the mistake."""
    (home / "over.yaml").write_text("# An overlay.\ntrainer: {max_epohcs: 3}\n")
    (home / "other.yaml").write_text("max_epohcs: 3\n")
    command = ["benchmark", "--config", "tiny.yaml", "--config=over.yaml", *option.split()]
    assert "over.yaml, line 2" in refused(home, *command)[0]


def test_a_mistake_in_the_file_of_one_section_is_named_with_its_line(home: Path) -> None:
    (home / "trainer.yaml").write_text("# A section.\nmax_epohcs: 3\n")
    cause, remedy = refused(home, *FIT.split(), "--trainer", "trainer.yaml")
    assert "'max_epohcs'" in cause
    assert "trainer.yaml, line 2" in cause
    assert "max_epochs" in remedy


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
