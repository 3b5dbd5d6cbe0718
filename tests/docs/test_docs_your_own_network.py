"""docs/your_own_network.md: its network goes through the commands of the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmark.tiny_benchmark import skip_costly
from tests.docs.page import read_page
from tests.forked import command
from tests.tiny_run import Outcome, call, masks_in, only

PAGE = read_page("your_own_network.md")
# The page's experiment takes minutes; these make it take seconds.
QUICK = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--model.image_encoder", "test_convnext"),
    *("--data.image_size", "32", "--data.synthesize", "4", "--data.num_workers", "0"),
    *("--results_writer.overlays", "0", "--results_writer.ranked", "0"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's two files and an image, where nothing else is."""
    home = tmp_path_factory.mktemp("home")
    for name in ("film_unet.py", "film.yaml"):
        (home / name).write_text(PAGE.tested[name])
    Image.new("L", (40, 30), 90).save(home / "image.png")
    return home


@pytest.fixture(scope="module")
def outcomes(home: Path) -> dict[str, Outcome]:
    """Every command of the page, in its order."""
    quick = {"fit": QUICK, "benchmark": [*QUICK[2:4], *QUICK[6:10], "--rounds", "2"]}
    done = {"fit": call(*PAGE.command("fit"), *QUICK, cwd=home)}
    assert done["fit"].status == 0, done["fit"].err
    run = only(home / "runs/film").relative_to(home)
    with pytest.MonkeyPatch.context() as patch:
        skip_costly(patch, "matrix_product_peak")
        for name in PAGE.named("bash")[1:]:
            more = quick.get(name, [])
            done[name] = call(*PAGE.command(name, {"RUN": run}), *more, cwd=home)
    return done


def test_every_command_of_the_page_succeeds(outcomes: dict[str, Outcome]) -> None:
    assert {name: outcome.err for name, outcome in outcomes.items() if outcome.status} == {}
    assert {"fit", "test", "predict", "segment", "probe", "benchmark"} <= set(outcomes)


def test_its_run_is_scored_and_probed_as_any_other(
    outcomes: dict[str, Outcome], home: Path
) -> None:
    run = only(home / "runs/film")
    for mode in ("true", "empty", "shuffled"):
        assert json.loads((run / "test" / mode / "metrics.json").read_text())["cases"] > 0
    assert (run / "probe/probe.json").is_file()
    assert len(masks_in(run / "predict")) > 0
    assert masks_in(home / "segmented/masks")["image__0.png"].shape == (30, 40)


def test_segment_finds_the_class_in_a_process_that_never_saw_it(
    outcomes: dict[str, Outcome], home: Path
) -> None:
    checkpoint = only(home / "runs/film").relative_to(home) / "checkpoints/best.ckpt"
    words = PAGE.command("segment", {"RUN/checkpoints/best.ckpt": checkpoint})
    done = command(*words, "--output", "again", cwd=home)
    assert done.returncode == 0, done.stderr
    ours, theirs = masks_in(home / "segmented/masks"), masks_in(home / "again/masks")
    assert (ours["image__0.png"] == theirs["image__0.png"]).all()


def test_the_help_lists_its_settings_and_the_shared_ones(home: Path) -> None:
    text = call("fit", "--model.help", "film_unet.FiLMUNet", cwd=home).out
    for setting in ("image_encoder", "lr", "weight_decay", "schedule", "protocol"):
        assert f"--model.{setting}" in text or f"--model.init_args.{setting}" in text


def test_it_is_as_short_as_the_page_says() -> None:
    code = re.sub(r'"""(?:.|\n)*?"""', "", PAGE.tested["film_unet.py"])
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 35
