"""--tta and several checkpoints on every command, against means worked out from the networks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

import textseg
from datamodules.captions.modes import swap_sides
from tests.tiny_run import (
    ROWS,
    SMALL,
    Outcome,
    call,
    masks_in,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.errors import UserError
from textseg.metrics.case_table import resize_logits
from textseg.preprocess import read_image
from textseg.segment.pictures import to_tensor

ODD = "the lesion near R"  # a side that is a letter


@dataclass(frozen=True)
class Two:
    """Two runs of one experiment, the data they share, and their texts of the test set."""

    home: Path
    runs: tuple[Path, Path]
    root: Path
    rows: list[dict[str, str]]
    outcome: Outcome  # of the ensemble's test

    @property
    def checkpoints(self) -> tuple[str, str]:
        one, other = (str(run / "checkpoints/best.ckpt") for run in self.runs)
        return one, other

    @property
    def both(self) -> str:
        return f"[{','.join(self.checkpoints)}]"

    def call(self, command: str, *arguments: str) -> Outcome:
        outcome = call(command, *arguments, cwd=self.home)
        assert outcome.status == 0, outcome.err
        return outcome


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """The second run is the first with other weights; one test caption cannot be mirrored."""
    home = tmp_path_factory.mktemp("home")
    root = write_refhl(home / "refhl")
    table = root / "manifest.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[-1]["text"] = ODD
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    saving = ["--results_writer.save_masks", "true"]
    saving += ["--results_writer.overlays", "0", "--results_writer.ranked", "0"]
    fit = ["--test_after_fit", "true", "--tta", "flip", *saving]
    outcome = call(*train_arguments(write_experiment(home, model=SMALL), root, *fit), cwd=home)
    assert outcome.status == 0, outcome.err
    first = only(home / "runs/tiny")
    second = home / "runs/tiny/2026-01-01_00-00-00"
    (second / "checkpoints").mkdir(parents=True)
    shutil.copy(first / "config.yaml", second)
    checkpoint = torch.load(first / "checkpoints/best.ckpt", weights_only=True)
    generator = torch.Generator().manual_seed(5)
    for values in checkpoint["state_dict"].values():
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            values += (
                0.05 * values.std(correction=0) * torch.randn(values.shape, generator=generator)
            )
    torch.save(checkpoint, second / "checkpoints/best.ckpt")
    best = [str(run / "checkpoints/best.ckpt") for run in (first, second)]
    assert call("test", "--ckpt_path", best[0], *saving, cwd=home).status == 0
    both = ["--ckpt_path", f"[{best[0]},{best[1]}]", "--tta", "flip"]
    outcome = call("test", *both, *saving, cwd=home)
    assert outcome.status == 0, outcome.err
    tested = [row for row in rows if row["split"] == "test"]
    return Two(home, (first, second), root, tested, outcome)


@cache
def loaded(checkpoint: str) -> Any:
    return textseg.load(checkpoint, device="cpu")


def mean_masks(two: Two, checkpoints: list[str], *, flip: bool) -> list[NDArray[np.uint8]]:
    """The masks of the test set, in its order, from each network's own logits."""
    networks = list(map(loaded, checkpoints))
    masks = []
    for row in two.rows:
        picture = read_image(two.root / row["image"])
        pixels = to_tensor(picture, networks[0].image_size)[None].numpy()
        logits = []
        for network in networks:
            own = logits_of(network, pixels, row["text"])
            swapped = swap_sides(row["text"]) if flip else None
            if swapped is not None:
                back = logits_of(network, pixels[..., ::-1].copy(), swapped)[..., ::-1]
                own = (own + back) / 2
            logits.append(own)
        mean = torch.from_numpy(np.mean(logits, axis=0).copy())
        large = resize_logits(mean[0], picture.shape[:2])[0].numpy()
        masks.append((large > 0).astype(np.uint8) * 255)
    return masks


def logits_of(network: Any, pixels: NDArray[np.float32], text: str) -> NDArray[np.float32]:
    with torch.inference_mode():
        return network.model(torch.from_numpy(pixels), [text]).logits.numpy()


def check_masks(folder: Path, wanted: list[NDArray[np.uint8]]) -> None:
    """The very masks, but for pixels whose logit is 0 up to rounding."""
    found = masks_in(folder)
    by_row = sorted(found, key=lambda name: int(Path(name).stem.split("__")[1]))
    for name, mask in zip(by_row, wanted, strict=True):
        got = found[name]
        assert (got != mask).mean() < 0.002


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def names(two: Two) -> list[str]:
    return [f"tiny/{run.name}/best.ckpt" for run in two.runs]


# --- what each command gives -------------------------------------------------------------------


def test_the_tests_after_a_fit_take_tta_in_every_caption_mode(two: Two) -> None:
    folder = two.runs[0] / "test"
    found = {path.name for path in folder.iterdir()}
    assert {"empty_flip", "shuffled_flip", "true_flip"} <= found
    assert yaml.safe_load((two.runs[0] / "config.yaml").read_text())["tta"] == "flip"
    metrics = [read(folder / f"{mode}_flip/metrics.json") for mode in ("true", "empty")]
    assert [(one["tta"], one["ensemble"]) for one in metrics] == [("flip", [])] * 2
    assert [one["unmirrored"] for one in metrics] == [1, 0], "an empty caption can be mirrored"
    check_masks(folder / "true_flip/masks", mean_masks(two, [two.checkpoints[0]], flip=True))


def test_a_test_without_either_says_so_and_goes_beside(two: Two) -> None:
    folder = two.runs[0] / "test/true"
    metrics = read(folder / "metrics.json")
    assert (metrics["tta"], metrics["ensemble"], "unmirrored" in metrics) == ("none", [], False)
    check_masks(folder / "masks", mean_masks(two, [two.checkpoints[0]], flip=False))
    plain, flipped = masks_in(folder / "masks"), masks_in(two.runs[0] / "test/true_flip/masks")
    assert any((plain[name] != flipped[name]).any() for name in plain)


def test_an_ensemble_is_tested_and_named_in_the_first_ones_run(two: Two) -> None:
    assert "ensemble of 2, tta flip" in two.outcome.out
    folder = two.runs[0] / "test/true_ensemble_flip"
    metrics = read(folder / "metrics.json")
    assert (metrics["tta"], metrics["ensemble"], metrics["unmirrored"]) == ("flip", names(two), 1)
    check_masks(folder / "masks", mean_masks(two, list(two.checkpoints), flip=True))
    assert not (two.runs[1] / "test").exists()


def test_predict_and_segment_give_the_masks_of_the_mean(two: Two) -> None:
    wanted = mean_masks(two, list(two.checkpoints), flip=True)
    two.call("predict", "--ckpt_path", two.both, "--tta", "flip")
    folder = two.runs[0] / "predict_ensemble_flip"
    check_masks(folder, wanted)
    said = {"tta": "flip", "ensemble": names(two), "unmirrored": 1, "cases": ROWS["test"]}
    said |= {"threshold": 0.5, "temperature": 1.0}
    assert read(folder / "averaging.json") == said
    table = two.home / "table.jsonl"
    cells = [{"image": row["image"], "text": row["text"]} for row in two.rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in cells))
    arguments = [str(table), "--root", str(two.root), "--device", "cpu"]
    with pytest.warns(UserWarning, match="1 of 5"):
        outcome = two.call("segment", *arguments, "--ckpt_path", two.both, "--tta", "flip")
    assert "ensemble of 2, tta flip" in outcome.out
    check_masks(two.home / "segmented/masks", wanted)
    assert read(two.home / "segmented/averaging.json") == said


def test_validate_and_probe_take_them_too(two: Two) -> None:
    outcome = two.call("validate", "--ckpt_path", two.both, "--tta", "flip")
    assert "ensemble of 2, tta flip" in outcome.err
    outcome = two.call("probe", "--ckpt_path", two.both, "--tta", "flip", "--pictures", "0")
    assert "ensemble of 2, tta flip" in outcome.out
    result = read(two.runs[0] / "probe_ensemble_flip/probe.json")
    assert (result["network"], result["tta"], result["ensemble"]) == ("TMCA", "flip", names(two))
    assert result["unmirrored"] >= 1
    tested = read(two.runs[0] / "test/true_ensemble_flip/metrics.json")
    assert result["variants"]["true"]["dice"] == pytest.approx(tested["dice"], abs=1e-3)


def test_compare_and_report_tell_what_was_averaged(two: Two) -> None:
    tests = [str(two.runs[0] / "test" / name) for name in ("true", "true_ensemble_flip")]
    out = two.call("compare", *tests, "--resamples", "100").out
    assert "tiny (ensemble of 2, tta flip)" in out
    assert "equal terms" in out
    outcome = call("compare", *tests, "--names", "[a,a]", cwd=two.home)
    assert outcome.status == 2
    assert "ensemble of 2, tta flip" in outcome.message()[0]
    two.call("report", str(two.runs[0]), "--output", "page.html")
    page = (two.home / "page.html").read_text()
    assert "ensemble of 2, tta flip" in page
    assert names(two)[1] in page


def test_tiles_are_tested_predicted_and_named(two: Two) -> None:
    single, tiles = two.checkpoints[0], ["--tile_size", "48", "--tile_overlap", "0.5"]
    said = {"tile_size": 48, "tile_overlap": 0.5}
    with pytest.warns(UserWarning, match="tiles of 48"):
        two.call("predict", "--ckpt_path", single, *tiles)
    folder = two.runs[0] / "predict_tiles"
    assert said.items() <= read(folder / "averaging.json").items()
    given: dict[str, Any] = {"device": "cpu", "mirror_text": swap_sides}
    net = textseg.load(single, tile_size=48, tile_overlap=0.5, **given)
    wanted = [net.segment(two.root / row["image"], row["text"]) for row in two.rows]
    assert all(max(one.mask.shape) > 48 for one in wanted)
    check_masks(folder, [one.mask.astype(np.uint8) * 255 for one in wanted])
    whole = [loaded(single).segment(two.root / row["image"], row["text"]) for row in two.rows]
    assert any(np.abs(a.probs - b.probs).max() > 1e-3 for a, b in zip(wanted, whole, strict=True))
    outcome = two.call("test", "--ckpt_path", single, *tiles)
    assert "tiles of 48, overlap 0.5" in outcome.out
    metrics = read(two.runs[0] / "test/true_tiles/metrics.json")
    assert said.items() <= metrics.items()
    plain = read(two.runs[0] / "test/true/metrics.json")
    assert not said.keys() & plain.keys()


# --- Python ------------------------------------------------------------------------------------


def test_python_segments_one_image_with_a_given_function_of_words(two: Two) -> None:
    row = two.rows[0]
    given: dict[str, Any] = {"device": "cpu", "tta": "flip", "mirror_text": swap_sides}
    net = textseg.load(list(two.checkpoints), **given)
    mask = net.segment(two.root / row["image"], row["text"]).mask
    wanted = mean_masks(two, list(two.checkpoints), flip=True)[0]
    assert (mask * 255 != wanted).mean() < 0.002
    with pytest.raises(UserError, match="mirror_text"):
        textseg.load(two.checkpoints[0], tta="flip")
    with pytest.raises(UserError, match="flop"):
        textseg.load(two.checkpoints[0], tta="flop")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"\[\]"):
        textseg.load([])


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("test", ["--ckpt_path", "[{0},nowhere.ckpt]"], "nowhere.ckpt"),
        ("test", ["--ckpt_path", "{0}", "--tta", "flop"], "flop"),
        ("test", ["--ckpt_path", "[{0},{1}]", "--explain.pictures", "2"], "explain.pictures=2"),
        ("fit", ["--config", "tiny.yaml", "--ckpt_path", "[{0},{1}]"], "one checkpoint"),
        ("benchmark", ["--config", "tiny.yaml", "--tta", "flip"], "tta=flip"),
        ("validate", ["--ckpt_path", "{0}", "--tile_size", "64"], "tile_size=64"),
        ("probe", ["--ckpt_path", "{0}", "--tile_size", "64"], "tile_size=64"),
        ("test", ["--ckpt_path", "{0}", "--tile_size", "3"], "tile_size=3"),
        ("test", ["--ckpt_path", "{0}", "--tile_size", "64", "--threshold", "best"], "tile_size"),
        (
            "test",
            ["--ckpt_path", "{0}", "--tile_size", "64", "--tile_overlap", "1"],
            "tile_overlap=1",
        ),
    ],
)
def test_bad_input_is_refused(two: Two, command: str, arguments: list[str], named: str) -> None:
    filled = [argument.format(*two.checkpoints) for argument in arguments]
    outcome = call(command, *filled, cwd=two.home)
    assert outcome.status == 2
    assert named in outcome.message()[0]
