"""A comparison written into a folder, and its plots."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.run_folder import write_run
from tests.tiny_run import call
from textseg.compare import Comparison, compare
from textseg.errors import UserError
from textseg.report.plots import (
    binned_means,
    dice_distribution,
    difference_by_size,
    failures,
    label,
)
from textseg.report.write_comparison import write_comparison


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, generator = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    return [
        str(write_run(folder / name, generator.uniform(low, low + 0.3, 24).tolist()))
        for name, low in (("unet", 0.3), ("lsms", 0.5))
    ]


@pytest.fixture(scope="module")
def result(runs: list[str]) -> Comparison:
    return compare(runs, resamples=100)


def test_an_output_holds_tables_plots_and_numbers_and_is_never_written_over(
    tmp_path: Path, result: Comparison
) -> None:
    output = tmp_path / "deep" / "out"
    assert write_comparison(result, output) == output
    assert write_comparison(result, str(output)) == output.with_name("out_2")
    plots = ("dice_distribution", "difference_by_size", "failures")
    expected = {"report.html", *(f"comparison.{kind}" for kind in ("json", "md", "tex"))}
    expected |= {f"{name}.{kind}" for name in plots for kind in ("png", "pdf")}
    assert {path.name for path in output.iterdir()} == expected
    for name in plots:
        assert np.asarray(Image.open(output / f"{name}.png").convert("L")).std() > 5, "blank"
    stored = json.loads((output / "comparison.json").read_text())
    assert stored["methods"][0]["scores"]["dice"]["std"] is None
    assert stored["differences"][0]["value"] == result.differences[0].value
    strata = {(one["name"], one["method"]): one for one in stored["strata"]}
    assert strata["small", "unet"]["difference"] is None
    assert strata["small", "lsms"]["low"] < strata["small", "lsms"]["difference"]


@pytest.mark.parametrize("draw", [dice_distribution, difference_by_size, failures])
def test_no_word_of_a_plot_is_cut_off_beside_long_names(
    result: Comparison, draw: Callable[[Comparison], Figure]
) -> None:
    names = [f"{method.name}, its image encoder from scratch: " * 3 for method in result.methods]
    methods = [replace(one, name=name) for one, name in zip(result.methods, names, strict=True)]
    figure = draw(replace(result, methods=tuple(methods)))
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # in inches, of all that is to be seen
    width, height = figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.02
    assert drawn.x1 < width + 0.02
    assert drawn.y1 < height + 0.02


def test_an_output_below_a_file_is_refused(tmp_path: Path, result: Comparison) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out"):
        write_comparison(result, tmp_path / "file" / "out")


def test_the_command_prints_the_table_and_says_where_it_wrote(
    runs: list[str], tmp_path: Path
) -> None:
    done = call("compare", *runs, "--resamples", "200", "--output", "out", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "Differences from unet" in done.out
    assert done.out.splitlines()[-1].endswith("out")
    assert (tmp_path / "out/comparison.md").is_file()
    refused = call("compare", "nowhere", "nothing", cwd=tmp_path)
    assert refused.status == 2
    assert "nowhere" in refused.err


def test_a_plots_label_is_text_whatever_it_holds() -> None:
    assert label("$x$") == r"\$x\$"
    assert label("_a") == " _a"
    assert len(label("n" * 500)) < 60
    assert label("a\nb\x07") == "a b"


def test_binned_means_take_equally_many_cases_by_size() -> None:
    x = np.array([5.0, 1, 3, 2, 4, 6])
    centers, means = binned_means(x, 10 * x, 3)
    assert centers.tolist() == [1.5, 3.5, 5.5]
    assert means.tolist() == [15, 35, 55]
    assert [len(part) for part in binned_means(x[:2], x[:2], 5)] == [2, 2]
