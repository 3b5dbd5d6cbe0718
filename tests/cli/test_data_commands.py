"""`textseg data audit | prepare | build-refhl | slice`, as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from datamodules import RefHLSegDataModule
from datamodules.qata_cov19.phantoms import write_qata
from lightning_cli import main
from tests.datamodules.liver_volumes import write_liver_volumes
from tests.tiny_run import call, write_experiment, write_refhl


@pytest.fixture
def qata(tmp_path: Path) -> Path:
    write_qata(tmp_path / "qata", train=12, test=4, image_size=64)
    return tmp_path / "qata"


def test_the_main_help_lists_the_data_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"data {name}" in shown for name in ("audit", "prepare", "build-refhl", "slice"))


@pytest.mark.parametrize("command", ["audit", "prepare", "build-refhl", "slice"])
def test_every_data_command_explains_itself(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", command, "--help"])
    assert stopped.value.code == 0
    assert "--" in capsys.readouterr().out


def test_an_audit_of_a_sound_dataset_ends_with_status_0_and_leaves_its_files(
    qata: Path, tmp_path: Path
) -> None:
    found = call("data", "audit", str(qata), "--output", str(tmp_path / "audit"), cwd=tmp_path)
    assert found.status == 0, found.err
    assert "QaTaCov19DataModule" in found.out
    written = json.loads((tmp_path / "audit/audit.json").read_text())
    assert written["facts"]
    assert written["root"] == str(qata)
    with (tmp_path / "audit/findings.csv").open(newline="") as lines:
        assert "kind" in (csv.DictReader(lines).fieldnames or [])
    found = call("data", "audit", str(qata), "--output", str(tmp_path / "audit"), cwd=tmp_path)
    assert f"written to {tmp_path / 'audit_2'}" in found.out, "the first stays"


def test_an_audit_that_finds_an_error_ends_with_status_1_and_names_the_file(
    qata: Path, tmp_path: Path
) -> None:
    image = min(qata.rglob("Train Set/Images/*.png"))
    image.write_bytes(image.read_bytes()[:200])
    found = call("data", "audit", str(qata), cwd=tmp_path)
    assert found.status == 1
    assert image.name in found.out


def test_an_output_that_cannot_be_is_told_before_the_audit(qata: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = call("data", "audit", str(qata), "--output", str(tmp_path / "file/x"), cwd=tmp_path)
    assert refused.status == 2
    assert str(tmp_path / "file/x") in refused.err
    assert "QaTa" not in refused.out


def test_a_layout_of_a_dataset_without_layouts_is_refused(tmp_path: Path) -> None:
    root = write_refhl(tmp_path / "refhl")
    refused = call(
        *("data", "audit", str(root), "--dataset", "refhl", "--layout", "lvit"), cwd=tmp_path
    )
    assert refused.status == 2
    assert "layout" in refused.err


def test_an_audit_takes_a_class_of_ones_own_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_refhl(tmp_path / "refhl")
    (tmp_path / "own_data_of_a_test.py").write_text(
        "from datamodules import QaTaCov19DataModule, RefHLSegDataModule\n\n\n"
        "class OwnData(RefHLSegDataModule):\n    pass\n\n\n"
        "class OwnQaTa(QaTaCov19DataModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("--dataset", "own_data_of_a_test.OwnData")
    done = call("data", "audit", str(root), *own, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "OwnData" in done.out
    refused = call("data", "audit", str(root), *own, "--layout", "lvit", cwd=tmp_path)
    assert refused.status == 2
    assert "OwnData" in refused.err
    inherited = ("--dataset", "own_data_of_a_test.OwnQaTa", "--layout", "lvit")
    assert call("data", "audit", str(root), *inherited, cwd=tmp_path).status == 1


@pytest.mark.parametrize("dataset", ["brats", "no_such_module.Data", "datamodules.Data"])
def test_an_unknown_dataset_is_answered_with_the_known_ones(tmp_path: Path, dataset: str) -> None:
    root = write_refhl(tmp_path / "refhl")
    refused = call("data", "audit", str(root), "--dataset", dataset, cwd=tmp_path)
    assert refused.status == 2
    assert len(refused.err.strip().splitlines()) == 2
    for value in (dataset, "auto", "qata", "mosmed", "duke", "refhl", "manifest"):
        assert value in refused.err


def test_an_audit_counts_tokens_against_max_tokens(qata: Path, tmp_path: Path) -> None:
    long = call("data", "audit", str(qata), "--max_tokens", "6", cwd=tmp_path)
    assert "max_tokens" in long.out or "truncat" in long.out.lower()


def test_prepare_takes_an_experiment_and_fills_the_cache_that_training_reads(
    tmp_path: Path,
) -> None:
    root = write_refhl(tmp_path / "refhl")
    config = write_experiment(tmp_path)
    done = call(
        *("data", "prepare", "--config", str(config), "--data.root", str(root)),
        *("--data.cache", str(tmp_path / "cache")),
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    assert str(tmp_path / "cache") in done.out
    datamodule = RefHLSegDataModule(str(root), image_size=32, cache=str(tmp_path / "cache"))
    before = sorted(path for path in (tmp_path / "cache").rglob("*"))
    assert datamodule.cached_rows("train") is not None
    assert sorted((tmp_path / "cache").rglob("*")) == before, "built a second time"


def test_build_refhl_writes_a_set_that_its_datamodule_reads(tmp_path: Path) -> None:
    write_liver_volumes(tmp_path / "lits", cases=4, layout="lits")
    done = call(
        *("data", "build-refhl", str(tmp_path / "lits"), str(tmp_path / "set")), cwd=tmp_path
    )
    assert done.status == 0, done.err
    datamodule = RefHLSegDataModule(str(tmp_path / "set"), image_size=64, cache=None)
    record = datamodule.records("train")[0]
    with Image.open(record.image) as image:
        assert image.mode == "L"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audit", "nowhere"], "nowhere"),
        (["audit", "."], "dataset"),
        (["prepare", "--config", "missing.yaml"], "missing.yaml"),
        (["prepare", "--config", "empty.yaml"], "sets no data"),
        (["prepare"], "data"),
        (["polish"], "polish"),
    ],
)
def test_a_mistake_in_a_data_command_is_two_lines_and_status_2(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump({"seed_everything": 1}))
    refused = call("data", *arguments, cwd=tmp_path)
    assert refused.status == 2
    assert said in refused.err
    assert refused.err.startswith("error: ")
    assert len(refused.err.strip().splitlines()) <= 2
