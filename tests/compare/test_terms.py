"""On what terms methods are compared: what is listed, what is warned of, what parts two seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import textseg.models
from tests.compare.quick import quality, quick
from tests.run_folder import time_stamp, write_config, write_run
from textseg.compare import Comparison, plain_table
from textseg.compare.settings import FROM_FILE, FROM_HUB_OR_FILE, started_pretrained
from textseg.errors import UserError
from textseg.runs.record import TrainingRecord

START = "image encoder starts from"
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
STOP = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/dice", "patience": 3}}
TABLES = {"class_path": "SampleTables", "init_args": {"rows": 4}}


def unequal(comparison: Comparison) -> str:
    """The warning of unequal terms; "" where there is none."""
    return "".join(text for text in comparison.warnings if "equal terms" in text)


def model(name: str = "TMC", **settings: Any) -> dict[str, Any]:
    return {"class_path": f"textseg.models.{name}", "init_args": settings}


def data(**settings: Any) -> dict[str, Any]:
    return {"class_path": "ManifestDataModule", "init_args": {"batch_size": 8, **settings}}


def with_settings(
    runs: list[str], *settings: dict[str, Any], records: tuple[TrainingRecord, ...] = ()
) -> Comparison:
    """The comparison of runs after each has got settings, and a record, of its own."""
    for number, (run, own) in enumerate(zip(runs, settings, strict=True)):
        write_config(Path(run), **own)
        if records:
            config = Path(run) / "config.yaml"
            config.write_text(records[number].written_into(config.read_text()))
    return quick(runs)


# --- budget and words --------------------------------------------------------------------------


def test_what_differs_is_listed_and_unequal_budgets_are_warned_of(
    tmp_path: Path, pair: list[str]
) -> None:
    alike = quick(pair)
    assert not any("equal terms" in text for text in alike.warnings)
    assert set(alike.terms) == set()
    for run, epochs in zip(pair, (6, 2), strict=True):
        lines = [f"{epoch},{9 * epoch},0.5" for epoch in range(epochs)]
        (Path(run) / "metrics.csv").write_text("\n".join(["epoch,step,train/loss", *lines]))
    edited = Path(pair[1]) / "config.yaml"
    edited.write_text(edited.read_text().replace("lr: 0.1", "lr: 0.2"))
    found = quick(pair)
    assert found.terms == {"epochs trained": ("6", "2"), "model.lr": ("0.1", "0.2")}
    (warning,) = (text for text in found.warnings if "equal terms" in text)
    assert "6 (unet), 2 (lsms)" in warning
    assert "model.lr" not in warning, "that is the method"
    assert "epochs trained" in plain_table(found)
    edited.unlink()
    assert quick(pair).terms["model.lr"] == ("0.1", "-")


def test_training_rows_are_terms(pair: list[str]) -> None:
    records = TrainingRecord(rows=90), TrainingRecord(rows=80)
    found = with_settings(pair, {}, {}, records=records)
    assert found.terms == {"training rows": ("90", "80")}
    assert "training rows: 90 (unet), 80 (lsms)" in unequal(found)


def test_terms_of_words_are_unequal_among_networks_that_read_words_alone(pair: list[str]) -> None:
    for run, share in zip(pair, (0.0, 0.1), strict=True):
        data = {"class_path": "Discs", "init_args": {"caption_dropout": share}}
        write_config(Path(run), data=data)
    assert any("caption_dropout: 0.0 (unet), 0.1 (lsms)" in text for text in quick(pair).warnings)
    file = Path(pair[0]) / "test" / "true" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"reads_text": False}))
    found = quick(pair)
    assert found.terms["data.caption_dropout"] == ("reads no words", "0.1")
    assert not any("equal terms" in text for text in found.warnings)


# --- what an image encoder starts from ---------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "starts"),
    [
        (
            model(pretrained=True, image_weights=None),
            model(pretrained=False, image_weights=None),
            ("pretrained weights", "scratch"),
        ),
        (
            model(pretrained=True, image_weights=None),
            model("LSMS", pretrained=True, image_weights=None),
            ("pretrained weights", "scratch"),
        ),
        (model("LViT", pretrained=True), model("LSMS", image_weights="m.pth"), ("scratch", None)),
        (model("LViT", pretrained=True), model("LSMS", image_weights=None), None),
        (
            model(pretrained=True, image_weights=None),
            model(pretrained=True, image_weights="w/swin.pth"),
            None,
        ),
        (
            model("LSMS", pretrained=False, image_weights="w/mscan.pth"),
            model("ImageBaseline", pretrained=True, image_weights=None),
            None,
        ),
        (
            {"class_path": "mine.Net", "init_args": {"pretrained": True}},
            model(pretrained=True, image_weights=None),
            ("-", "pretrained weights"),
        ),
    ],
)
def test_image_encoders_that_start_differently_are_warned_of(
    pair: list[str], one: dict[str, Any], other: dict[str, Any], starts: tuple[str, ...] | None
) -> None:
    found = with_settings(pair, {"model": one}, {"model": other})
    if starts is None:
        assert START not in found.terms
        assert unequal(found) == "", "which pretrained weights, an encoder decides"
    else:
        expected = tuple(start or "pretrained weights" for start in starts)
        assert found.terms[START] == expected
        assert f"{expected[0]} (unet), {expected[1]} (lsms)" in unequal(found)


def test_what_a_training_recorded_of_its_start_wins_over_its_settings(pair: list[str]) -> None:
    own = {"model": {"class_path": "mine.Net", "init_args": {"pretrained": True}}}
    records = TrainingRecord(pretrained=True), TrainingRecord(pretrained=False)
    found = with_settings(pair, own, own, records=records)
    assert found.terms == {START: ("pretrained weights", "scratch")}
    assert START in unequal(found)


def test_the_start_of_every_network_of_the_suite_is_known_from_its_settings() -> None:
    networks = {*textseg.models.__all__} - {"SegmentationModule"}
    assert networks == FROM_FILE | FROM_HUB_OR_FILE
    assert started_pretrained("mine.TMC", {"pretrained": True}) is None


def test_one_file_of_weights_is_one_under_any_path(pair: list[str]) -> None:
    def weights(*digests: str | None) -> Comparison:
        files = ("a/swin.pth", "/home/b/swin.pth")
        own = [{"model": model(image_weights=file)} for file in files]
        records = tuple(TrainingRecord(weights=digest) for digest in digests)
        return with_settings(pair, *own, records=records)

    same, other = weights("1" * 64, "1" * 64), weights("1" * 64, "2" * 64)
    assert same.terms == {}
    assert other.terms == {"model.image_weights": ("a/swin.pth", "b/swin.pth")}
    unknown = weights("1" * 64, None)
    assert unknown.terms == {"model.image_weights": ("a/swin.pth", "b/swin.pth")}
    assert [unequal(found) for found in (same, other, unknown)] == ["", "", ""]


def test_two_files_of_weights_under_one_path_are_told_apart_by_their_digests(
    pair: list[str],
) -> None:
    own = {"model": model(image_weights="w/swin.pth")}
    records = tuple(TrainingRecord(weights=digit * 64) for digit in "12")
    found = with_settings(pair, own, own, records=records)
    expected = tuple(f"w/swin.pth (sha256 {digit * 12})" for digit in "12")
    assert found.terms == {"model.image_weights": expected}


# --- images a step, length, callbacks ----------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "batch", "images"),
    [
        ({"devices": 1}, 8, "8"),
        ({"devices": "1", "num_nodes": 2}, 8, "16"),
        ({"devices": 2, "accumulate_grad_batches": 3}, 4, "24"),
        ({"devices": [0, 3]}, 8, "16"),
        ({"devices": "0,3"}, 8, "16"),
        ({"devices": "3,"}, 8, "8"),
        ({"devices": "auto"}, 8, "-"),
        ({"devices": -1}, 8, "-"),
        ({"devices": "-1"}, 8, "-"),
        ({"devices": [-1]}, 8, "-"),
        ({}, 8, "-"),
        ({"devices": 2}, None, "-"),
    ],
)
def test_images_a_step_are_those_of_all_devices_and_accumulated_batches(
    pair: list[str], trainer: dict[str, Any], batch: int | None, images: str
) -> None:
    plain = {"trainer": {"devices": 1}, "data": data(batch_size=5)}
    found = with_settings(pair, plain, {"trainer": trainer, "data": data(batch_size=batch)})
    assert found.terms["images a step"] == ("5", images)
    assert f"images a step: 5 (unet), {images} (lsms)" in unequal(found)


def test_the_number_of_devices_that_a_training_had_wins_over_auto(pair: list[str]) -> None:
    own = {"trainer": {"devices": "auto"}, "data": data()}
    records = TrainingRecord(images_a_step=64), TrainingRecord(images_a_step=8)
    assert with_settings(pair, own, own).terms == {}
    assert with_settings(pair, own, own, records=records).terms == {"images a step": ("64", "8")}


def test_callbacks_and_limits_that_change_a_training_are_terms(pair: list[str]) -> None:
    one = {"trainer": {"callbacks": [TABLES], "max_time": None}}
    other = {"trainer": {"callbacks": [STOP, TABLES, EMA], "max_time": "00:01:00:00"}}
    found = with_settings(pair, one, other)
    assert found.terms == {
        "trainer.callbacks": (
            "none",
            "EMAWeightAveraging(decay=0.9), EarlyStopping(monitor=val/dice, patience=3)",
        ),
        "trainer.max_time": ("None", "00:01:00:00"),
    }
    assert "EMAWeightAveraging(decay=0.9)" in unequal(found)
    assert "max_time" in unequal(found)


def test_tables_and_loggers_are_no_terms_and_callbacks_of_ones_own_are(pair: list[str]) -> None:
    watching = [TABLES, {"class_path": "lightning.pytorch.callbacks.RichProgressBar"}]
    one, other = {"trainer": {"callbacks": None}}, {"trainer": {"callbacks": watching}}
    assert with_settings(pair, one, other).terms == {}
    own = {"trainer": {"callbacks": {"class_path": "mine.Noise"}}}
    assert with_settings(pair, one, own).terms == {"trainer.callbacks": ("none", "Noise()")}


# --- seeds of one method -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trainer": {"devices": 16}}, "images a step: 8 and 128"),
        ({"trainer": {"devices": 1, "num_nodes": 2}}, "images a step: 8 and 16"),
        ({"trainer": {"devices": 1, "callbacks": [EMA]}}, "EMAWeightAveraging(decay=0.9)"),
        ({"trainer": {"devices": 1, "max_time": "01:00"}}, "trainer.max_time"),
        ({"model": model("LSMS", image_weights="m.pth")}, f"{START}: scratch and pretrained"),
        ({"data": data(captions="/b/t.csv")}, "data.captions: /a/t.csv and /b/t.csv"),
    ],
)
def test_seeds_of_one_method_that_were_trained_differently_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    runs = seeds(tmp_path, changes)
    with pytest.raises(UserError) as caught:
        quick(runs)
    assert "differ in more than the seed" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": {"devices": "1", "num_nodes": 1}},
        {"trainer": {"devices": "auto"}},
        {"trainer": {"devices": 1, "callbacks": [TABLES]}},
    ],
)
def test_seeds_may_run_on_machines_and_with_tables_of_their_own(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    (method,) = quick(seeds(tmp_path, changes)).methods
    assert len(method.runs) == 2


def seeds(tmp_path: Path, changes: dict[str, Any]) -> list[str]:
    """Two runs of one experiment, the second with changed settings."""
    runs = []
    for number, own in ((1, {}), (2, changes)):
        run = write_run(tmp_path / "lsms" / time_stamp(number), quality(0.6, number))
        plain = {
            "model": model("LSMS", image_weights=None),
            "data": data(captions="/a/t.csv"),
            "trainer": {"devices": 1},
        }
        write_config(run, **{"seed_everything": number, **plain, **own})
        runs.append(str(run))
    return runs


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "shown", "warned"),
    [
        (("/data/v1/t.csv", "/data/v2/t.csv"), ("v1/t.csv", "v2/t.csv"), False),
        (("data/t.csv", "/mnt/data/t.csv"), ("data/t.csv", "mnt/data/t.csv"), False),
        (("/data/t.csv", "/data/u.csv"), ("t.csv", "u.csv"), True),
        (("/data/t.csv", None), ("t.csv", "None"), True),
        (("/data/t.csv", "/data//t.csv"), None, False),
    ],
)
def test_paths_are_compared_whole_and_shown_as_far_as_tells_them_apart(
    pair: list[str], paths: tuple[str, str], shown: tuple[str, str] | None, warned: bool
) -> None:
    found = with_settings(pair, *({"data": data(captions=path)} for path in paths))
    assert found.terms.get("data.captions") == shown
    assert ("data.captions" in unequal(found)) == warned


def test_other_captions_trained_on_are_warned_of_wherever_the_tables_lie(pair: list[str]) -> None:
    own = [{"data": data(captions=f"/{folder}/t.csv")} for folder in "ab"]
    one, other = (TrainingRecord(rows=9, captions=digit * 64) for digit in "12")
    assert "captions" not in unequal(with_settings(pair, *own, records=(one, one)))
    found = with_settings(pair, *own, records=(one, other))
    assert found.terms["captions trained on"] == ("sha256 111111111111", "sha256 222222222222")
    assert "captions trained on: sha256 1111" in unequal(found)
    unknown = with_settings(pair, *own, records=(one, TrainingRecord(rows=9)))
    assert "captions trained on" not in unknown.terms, "a digest says nothing by itself"


def test_text_encoders_of_one_name_in_two_hubs_are_two(pair: list[str]) -> None:
    own = [{"model": model(text_encoder=f"{who}/bert")} for who in ("google", "emilyalsentzer")]
    expected = {"model.text_encoder": ("google/bert", "emilyalsentzer/bert")}
    assert with_settings(pair, *own).terms == expected
