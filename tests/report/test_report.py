"""The report page: its numbers are the files', it is whole, and safe whatever a user wrote."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.html_page import Page, read_page
from tests.report.reported_run import CASES, EVIL, edit, write_reported_run
from tests.run_folder import write_run
from textseg.compare import compare
from textseg.metrics.scores import MAIN, SCORES
from textseg.report import report
from textseg.report.comparison_page import comparison_page
from textseg.report.embedded_images import album
from textseg.report.write_comparison import write_comparison
from textseg.visualize.overlay import overlay_sheet

# --- what it says --------------------------------------------------------------------------------


def test_the_scores_of_every_caption_mode_are_those_of_metrics_json(
    one: Path, folders: list[Path]
) -> None:
    head, *rows = read_page(one).tables["Scores by caption mode"]
    assert head == ["score", "true", "empty", "shuffled"]
    by_name = {row[0]: row[1:] for row in rows}
    for column, mode in enumerate(head[1:]):
        stored = json.loads((folders[0] / "test" / mode / "metrics.json").read_text())
        for name in SCORES:
            (cells,) = (cells for row, cells in by_name.items() if row.endswith(f"({name})"))
            low, high = stored[f"{name}_ci_low"], stored[f"{name}_ci_high"]
            form = ".1f" if name.startswith("hd95") else ".3f"
            assert cells[column] == f"{stored[name]:{form}} [{low:{form}}, {high:{form}}]"
        assert by_name["hd95, median (quartiles)"][column] == "2.0 (1.0 to 4.5) mm"
        assert by_name["unit of distances"][column] == "mm"
        assert by_name["cases"][column] == str(CASES)
        assert by_name["patients (units of the bootstrap)"][column] == "6"


def test_full_precision_stands_behind_every_rounded_score(one: Path, folders: list[Path]) -> None:
    values = read_page(one).values
    for mode in ("true", "empty", "shuffled"):
        stored = json.loads((folders[0] / "test" / mode / "metrics.json").read_text())
        assert all(stored[name] in values for name in SCORES)
        assert stored["strata"]["size"]["small"]["miou"] in values


def test_strata_are_those_of_metrics_json_and_an_undefined_interval_is_left_out(
    one: Path, folders: list[Path]
) -> None:
    tables = read_page(one).tables
    (title,) = (name for name in tables if name.startswith("By lesion size; captions: true"))
    assert "3.12% and 6.25%" in title
    stored = json.loads((folders[0] / "test/true/metrics.json").read_text())["strata"]["size"]
    _, small, large = tables[title]
    assert small[:3] == ["small", "4", "2"]
    assert small[3].startswith(f"{stored['small']['dice']:.3f} [")
    assert large[3] == f"{stored['large']['dice']:.3f}"


def test_the_header_names_the_run_and_no_place_on_the_machine(
    one: Path, several: Path, folders: list[Path]
) -> None:
    page = read_page(one)
    for words in ("unet/2026-01-02_03-04-05", "LSMS", "QaTaCov19", "paper", "32-true"):
        assert words in page.text
    (settings,) = (rows for name, rows in page.tables.items() if name.startswith("config.yaml"))
    assert ["seed_everything", "7"] in settings
    assert ["data.init_args.root", ".../qata"] in settings
    assert ["trainer.default_root_dir", ".../runs"] in settings
    for file in (one, several):
        html = file.read_text()
        assert str(folders[0].parents[1]) not in html
        assert "/home/me" not in html


def test_a_warning_about_a_run_shows_no_place_on_the_machine(
    run: Path, folders: list[Path]
) -> None:
    shutil.copytree(run / "test/true", run / "test/true_2")
    found = compare([str(run), str(folders[1])], resamples=100)
    assert any(str(run) in text for text in found.warnings), "else this shows nothing"
    html = comparison_page(found)
    assert str(run.parents[1]) not in html
    assert "unet/2026-01-02_03-04-06/test/true was tested again" in html


def test_cases_stand_with_their_numbers_and_their_very_pictures(
    one: Path, folders: list[Path]
) -> None:
    html = one.read_text()
    overlays = folders[0] / "test/true/overlays"
    embedded = [base64.b64encode(file.read_bytes()).decode() for file in overlays.glob("*.png")]
    assert all(html.count(picture) == 1 for picture in embedded), "12 cases, four of each kind"
    rows = list(csv.DictReader((folders[0] / "test/true/cases.csv").open()))
    best = max(rows, key=lambda row: float(row["dice"]))
    start = html.index(f"<h4>{best['case']}</h4>")
    card = Page(html[start : html.index("</article>", start)])
    for words in (f"1 of {CASES}", f"{float(best['dice']):.3f}", f"{float(best['iou']):.3f}"):
        assert words in card.text
    assert "2.5 mm" in card.text
    assert EVIL in card.text


def test_the_page_says_of_how_many_cases_it_chose_and_shows_explanations(run: Path) -> None:
    for file in sorted((run / "test/true/overlays").glob("*.png"))[:-3]:
        file.unlink()
    last = next((run / "test/true/overlays").glob("*.png"))
    (run / "test/true/explain").mkdir()
    shutil.copy(last, run / "test/true/explain" / last.name)
    page = read_page(report([str(run)]))
    assert f"{CASES} cases, of which 3 have a picture" in page.text
    assert "Explanation: what the network looked at" in page.text
    overlays = [picture for picture in page.all("img") if "cases with" not in picture["alt"]]
    assert sum("agreement" in picture["alt"] for picture in overlays) == 3
    assert sum("looked at" in picture["alt"] for picture in overlays) == 1


def test_a_run_without_pictures_curves_config_or_strata_says_so(run: Path) -> None:
    shutil.rmtree(run / "test/true/overlays")
    for name in ("config.yaml", "metrics.csv"):
        (run / name).unlink()
    edit(run / "test/true/metrics.json", strata=None)
    text = read_page(report([str(run)])).text
    for words in ("No case is shown", "no learning curves", "config.yaml is missing", "no strata"):
        assert words in text


def test_the_probe_is_shown_where_there_is_one(run: Path, one: Path) -> None:
    assert "Use of the text" not in read_page(one).text
    score = {
        f"{n}{end}": v
        for n in ("dice", "dice_true", "mask_change")
        for end, v in (("", 0.5), ("_ci_low", 0.25), ("_ci_high", 0.75))
    }
    variant = {"cases": 9, "patients": 4, "share_changed": 0.875, "difference": None, **score}
    outlined = {"outlined": 0.75, "outlined_ci_low": 0.5, "outlined_ci_high": 0.9, "requests": 8}
    found = {"variants": {"empty": variant}, "warnings": ["beware"], "pairs": None, "cases": 12}
    found |= {"absent": outlined, "absent_kinds": {"organ": outlined | {"requests": 4}}}
    (run / "probe").mkdir()
    (run / "probe/probe.json").write_text(json.dumps(found))
    page = read_page(report([str(run)]))
    dice = "0.500 [0.250, 0.750]"
    assert page.tables["Changed captions"][1] == [
        *("empty", "9 of 12", dice, dice, "-", dice, "88%")
    ]
    share = "0.750 [0.500, 0.900]"
    absent = page.tables["What the images do not show"]
    assert absent[1:] == [["organ", "4", share, "-", "-"], ["all", "8", share, "-", "-"]]
    assert "beware" in page.text


def test_a_comparison_holds_its_tables_and_the_pictures_of_every_run(
    several: Path, folders: list[Path]
) -> None:
    page, html = read_page(several), several.read_text()
    found = compare([str(one) for one in folders], names=["U-Net <b>", "LSMS"])
    scores = page.tables["Scores"]
    assert [row[0] for row in scores] == ["method", "U-Net <b>", "LSMS"]
    for row, method in zip(scores[1:], found.methods, strict=True):
        for cell, name in zip(row[2:], MAIN, strict=True):
            score = method.scores[name]
            assert cell == f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    differences = page.tables["Differences from U-Net <b>"]
    assert differences[1][2].startswith(f"{found.differences[0].value:+.3f} [")
    assert "Failures ranked" in page.text
    for folder in folders:
        for file in (folder / "test/true/overlays").glob("*.png"):
            assert base64.b64encode(file.read_bytes()).decode() in html
    assert all(warning in page.text for warning in found.warnings)
    assert found.warnings


def test_a_comparison_shows_image_and_truth_once_and_panels_of_equal_size(
    run: Path, folders: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(folders[1], tmp_path / "lsms" / "2026-01-02_03-04-06")
    generator = np.random.default_rng(0)
    for folder in (run, other):
        for file in (folder / "test/true/overlays").glob("*.png"):
            image = np.full((30, 40, 3), 90, np.uint8)
            truth = np.zeros((30, 40), bool)
            truth[5:20, 5:20] = True
            pred = truth & (generator.random(truth.shape) < 0.9)
            overlay_sheet(image, truth, pred, caption="left").save(file)
    page = read_page(report([str(run), str(other)], output=str(tmp_path / "two.html"), cases=1))
    shown = [p for p in page.all("img") if re.match(r"c__\d+[: ]", p["alt"])]
    assert len(shown) == 3 * (2 + 2 * 2), "image, truth, and two panels of each run"
    assert len({(p["width"], p["height"]) for p in shown}) == 1
    assert [p["alt"].rpartition(": ")[2] for p in shown[:6]] == [
        *("image", "truth"),
        *("prediction", "agreement"),
        *("prediction", "agreement"),
    ]
    assert len({p["src"] for p in shown[:6]}) == 6
    modes = [str(run), str(run / "test/empty")]
    page = read_page(report(modes, output=str(tmp_path / "modes.html"), cases=1))
    shown = [p for p in page.all("img") if re.match(r"c__\d+[: ]", p["alt"])]
    assert len(shown) == 3 * 2, "whole, as each has a caption of its own"


def test_strata_of_the_users_own_have_tables_and_plots(tmp_path: Path) -> None:
    own = {n: {"strata": {"scanner": "AB"[n % 2]}} for n in range(CASES)}
    runs = [tmp_path / name / "2026-01-02_03-04-05" for name in ("a", "b")]
    stratum = {"cases": 6, "patients": 6, "dice": 0.5, "miou": 0.5}
    for folder in runs:
        metrics = {"strata": {"scanner": {"A": stratum, "B": stratum}}}
        write_run(folder, [0.5] * CASES, changes=own, metrics=metrics)
    page = read_page(report([str(runs[0])]))
    assert [row[0] for row in page.tables["By scanner; captions: true"]] == ["class", "A", "B"]
    assert any("by scanner" in picture["alt"] for picture in page.all("img"))
    both = read_page(report([str(one) for one in runs], output=str(tmp_path / "two.html")))
    assert any("by scanner" in picture["alt"] for picture in both.all("img"))
    (title,) = (name for name in both.tables if name.endswith("by scanner"))
    assert ["scanner", "B", "6", "6"] in [row[:4] for row in both.tables[title]]
    written = write_comparison(compare([str(one) for one in runs], resamples=100), tmp_path / "out")
    assert (written / "dice_by_stratum_1.png").is_file()


def test_a_comparison_shows_only_cases_that_every_run_has_drawn(
    run: Path, folders: list[Path], tmp_path: Path
) -> None:
    for file in sorted((run / "test/true/overlays").glob("*.png"))[:-2]:
        file.unlink()
    page = read_page(report([str(run), str(folders[1])], output=str(tmp_path / "two.html")))
    assert f"{CASES} cases, of which 2 have a picture in every run" in page.text
    assert sum("agreement" in picture["alt"] for picture in page.all("img")) == 4


# --- whole and safe ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["one", "several"])
def test_a_page_needs_no_other_file_and_runs_nothing(
    which: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    page = read_page(path)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "b"}
    assert page.all("html") == [{"lang": "en"}]
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.all("meta"))
    pictures = page.all("img")
    assert len(pictures) >= 10
    assert all(re.match(r"data:image/(png|jpeg);base64,", one["src"]) for one in pictures)
    assert all(one["alt"] for one in pictures)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in ids}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert "srcset" not in attributes
        assert "style" not in attributes
    html = path.read_text()
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.parametrize("which", ["one", "several"])
def test_what_a_user_wrote_shows_as_text(which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    assert EVIL in read_page(path).text, "as it was written, braces too"
    assert "<script" not in path.read_text()
    assert "U-Net <b>" in read_page(request.getfixturevalue("several")).text


def test_pictures_of_many_bytes_become_small_jpegs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (500, 1500, 3), dtype=np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for file in files:
        Image.fromarray(noise).save(file)
    size = files[0].stat().st_size
    kept = album(files, max_bytes=2 * size)
    assert not kept.reduced
    assert kept.pictures[files[0]].uri.startswith("data:image/png;base64,")
    small = album(files, max_bytes=2 * size - 1)
    assert small.reduced
    made = small.pictures[files[0]]
    content = base64.b64decode(made.uri.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (made.width, made.height) == (1280, 427)
    assert len(content) < size


def test_control_characters_of_a_caption_are_on_no_page(tmp_path: Path) -> None:
    run = write_reported_run(tmp_path / "run", captions="left\x00\x07 lung")
    text = report([str(run)]).read_text(encoding="utf-8")
    assert "left\ufffd\ufffd lung" in text
    assert not [c for c in text if not c.isprintable() and c not in "\n\t"]
