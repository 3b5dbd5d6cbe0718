"""docs/your_own_data.md: its table, its config and its commands do what the page says."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import ManifestDataModule, MedCLIPSegDataModule
from datamodules.base import setting_names
from datamodules.captions.modes import swap_sides
from datamodules.medclipseg.phantoms import write_medclipseg
from tests.docs.page import read_page
from tests.expressions import with_expressions
from tests.tiny_run import ROWS, Outcome, call, fingerprints, masks_in, only, write_refhl
from textseg.models.base import SegmentationModule, settings_of

PAGE = read_page("your_own_data.md")
CLASSES = "classes"
VARIATIONS = ["mirror", "strength", "kinds", "other words", "captions left out", "aspect ratio"]
# The page's experiment takes a laptop's half hour; these make it take seconds.
QUICK = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--model.decoder_dim", "32"),
    *("--data.image_size", "32", "--data.batch_size", "2", "--data.num_workers", "0"),
    *("--results_writer.overlays", "0", "--results_writer.ranked", "0"),
]


def command(name: str, run: Path | str = "") -> list[str]:
    """The arguments of a command of the page, with RUN replaced."""
    return PAGE.command(name, {"RUN": run})


def rewrite(root: Path, columns: tuple[str, ...]) -> Path:
    """The manifest of `write_refhl` as a csv of some of its columns."""
    file = root / "manifest.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    with (root / "manifest.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root


@dataclass(frozen=True)
class Followed:
    """What following the page left: outcomes by command, and the run's files after each."""

    home: Path
    run: Path
    outcomes: dict[str, Outcome]
    files: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    home = tmp_path_factory.mktemp("home")
    rewrite(write_refhl(home / "my_data"), ("image", "mask", "text", "case_id", "split"))
    rewrite(write_refhl(home / "other_hospital"), ("image", "mask", "text"))
    shutil.rmtree(rewrite(write_refhl(home / "new_images"), ("image", "text")) / "masks")
    (home / "my_data.yaml").write_text(PAGE.tested["my_data.yaml"])
    write_medclipseg(home / "data/BUSI", train=8, val=2, test=2, image_size=32)
    outcomes = {name: call(*command(name), cwd=home) for name in ("busi", "audit")}
    outcomes["fit"] = call(*command("fit"), *QUICK, cwd=home)
    assert outcomes["fit"].status == 0, outcomes["fit"].err
    run = only(home / "runs/my_data")
    files = {"fit": fingerprints(run)}
    for name in ("test", "predict"):
        outcomes[name] = call(*command(name, run.relative_to(home)), cwd=home)
        files[name] = fingerprints(run)
    outcomes["tiles"] = call(*command("tiles", run.relative_to(home)), cwd=home)
    return Followed(home, run, outcomes, files)


# --- the page ----------------------------------------------------------------------------------


def test_every_command_of_the_page_is_tested() -> None:
    assert PAGE.named("bash") == ["busi", "audit", "fit", "test", "predict", "tiles"]
    assert PAGE.named("yaml") == [CLASSES, "language", "vocabulary", "my_data.yaml", *VARIATIONS]


def test_the_mask_values_of_the_page_pick_classes(tmp_path: Path) -> None:
    settings = yaml.safe_load(PAGE.tested[CLASSES])
    root = write_refhl(tmp_path)
    for path in (root / "masks").iterdir():
        values = np.asarray(Image.open(path)) // 255
        values[:10] *= 2
        Image.fromarray(values).save(path)
    module = ManifestDataModule(str(root), image_size=32, num_workers=0, cache=None, **settings)
    (batch,) = module.train_dataloader()
    assert batch["mask"].any()


def test_every_setting_of_the_page_makes_training_pictures(tmp_path: Path) -> None:
    """Each alone, and all of those that do not exclude each other together."""
    root, together = str(with_expressions(write_refhl(tmp_path))), {}
    for name in ("language", *VARIATIONS):
        settings = yaml.safe_load(PAGE.tested[name])
        together |= settings
        for given in (settings, together):
            module = ManifestDataModule(root, image_size=32, num_workers=0, cache=None, **given)
            (batch,) = module.train_dataloader()
            assert batch["image"].shape == (ROWS["train"], 3, 32, 32)


def test_the_networks_setting_of_the_page_exists() -> None:
    assert set(yaml.safe_load(PAGE.tested["vocabulary"])) <= settings_of(SegmentationModule)


def test_every_pair_of_the_page_is_exchanged_and_every_refusal_refused() -> None:
    rows = re.findall(r"^\| (\w+(?:, \w+)?) \| (.+?) \| (.+?) \|$", PAGE.text, re.MULTILINE)
    refused = [text for row in rows for text in re.findall(r'"([^"]+)"', row[2])]
    assert len(refused) > 8
    assert [text for text in refused if swap_sides(text) is not None] == []
    assert swap_sides("poumon gauche") == "poumon droit"


def test_tiles_are_named_in_a_folder_of_their_own(followed: Followed) -> None:
    assert (followed.run / "test/true_tiles/metrics.json").is_file()


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"--data\.(\w+)", PAGE.text))
    accepted = set(yaml.safe_load(PAGE.tested["my_data.yaml"])["data"]["init_args"])
    assert len(named) > 5
    own = setting_names(ManifestDataModule)
    assert named <= own | setting_names(MedCLIPSegDataModule)
    assert accepted <= own


def test_the_tables_of_the_page_are_read(tmp_path: Path) -> None:
    """Both as they stand; the files that they name are made up."""
    tables = [text for _, language, text in PAGE.blocks if language == "csv"]
    found = []
    for number, table in enumerate(tables):
        root = tmp_path / str(number)
        for row in csv.DictReader(io.StringIO(table)):
            for name in filter(None, (row["image"], row.get("mask"))):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (40, 30)).save(root / name)
        (root / "manifest.csv").write_text(table)
        datamodule = ManifestDataModule(str(root), image_size=32, num_workers=0, cache=None)
        datamodule.setup("predict")
        found.append(len(datamodule.records("predict")))
        if number == 0:
            datamodule.setup()
            assert datamodule.captions("train")[1] == "large lesion, lower right"
    assert found == [1, 2]


# --- what its commands leave -------------------------------------------------------------------


def test_every_command_of_the_page_succeeds(followed: Followed) -> None:
    errors = [outcome.err for outcome in followed.outcomes.values() if outcome.status != 0]
    assert errors == []


def test_the_fit_tests_on_the_own_data_three_ways(followed: Followed) -> None:
    for mode in ("true", "empty", "shuffled"):
        metrics = json.loads((followed.run / "test" / mode / "metrics.json").read_text())
        assert metrics["cases"] == ROWS["test"]
    assert {path.name for path in (followed.run / "test").iterdir()} == {
        "true",
        "empty",
        "shuffled",
        "true_tiles",
    }


def test_another_dataset_is_tested_as_a_whole_in_a_folder_of_its_name(followed: Followed) -> None:
    home = followed.run / "test_on_other_hospital"
    assert json.loads((home / "true/metrics.json").read_text())["cases"] == sum(ROWS.values())
    data = json.loads((home / "data.json").read_text())
    assert data["root"] == str(followed.home / "other_hospital")
    assert (data["class"], data["split"]) == ("ManifestDataModule", "all_test")
    assert str(home) in followed.outcomes["test"].out


def test_a_test_on_other_data_changes_nothing_that_was_there(followed: Followed) -> None:
    before, after = followed.files["fit"], followed.files["test"]
    assert {name: after.get(name) for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"test_on_other_hospital"}


def test_images_and_texts_alone_are_predicted_at_their_own_size(followed: Followed) -> None:
    masks = masks_in(followed.run / "predict")
    with (followed.home / "new_images/manifest.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(masks) == sum(ROWS.values())
    for number, row in enumerate(rows):
        image = Image.open(followed.home / "new_images" / row["image"])
        mask = masks[f"{Path(row['image']).stem}__{number}.png"]
        assert mask.shape == (image.height, image.width)
        assert set(np.unique(mask)) <= {0, 255}


def again(followed: Followed, folder: Path, *more: str | Path) -> Path:
    """A test of the run, copied without its results; the only folder that it makes."""
    run = folder / "run"
    shutil.copytree(followed.run / "checkpoints", run / "checkpoints", dirs_exist_ok=True)
    shutil.copy(followed.run / "config.yaml", run)
    before = {path.name for path in run.iterdir()}
    outcome = call("test", "--ckpt_path", run / "checkpoints/best.ckpt", *more, cwd=followed.home)
    assert outcome.status == 0, outcome.err
    (new,) = {path.name for path in run.iterdir()} - before
    return run / new


def test_the_runs_own_data_under_another_spelling_of_its_root_are_its_own(
    followed: Followed, tmp_path: Path
) -> None:
    made = again(followed, tmp_path, "--data.root", followed.home / "runs/../my_data")
    assert [made.name, *(p.name for p in made.iterdir())] == ["test", "true"]


def test_own_data_split_otherwise_are_not_mixed_with_the_test_split(
    followed: Followed, tmp_path: Path
) -> None:
    made = again(followed, tmp_path, "--data.split", "all_test")
    assert made.name == "test_on_my_data-all_test"


def test_explanations_of_other_data_lie_with_their_test(followed: Followed, tmp_path: Path) -> None:
    other = command("test")[3:]
    made = again(followed, tmp_path, *other, "--explain.pictures", "1")
    assert made.name == "test_on_other_hospital"
    assert len(list((made / "true/explain").iterdir())) == 1
