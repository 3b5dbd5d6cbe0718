"""The report page: its numbers are the files', it is whole, and safe whatever a user wrote."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from textseg.report.pictures import album

from tests.report.chromium import evaluate, needs_chromium, requests_of
from textseg.compare import compare
from textseg.errors import UserError
from textseg.metrics.ranking import choose
from textseg.report import comparison_page, report

CASES = 12
PIXELS = 4000
SCORES = ("dice", "miou", "dice_global", "iou_global")
EVIL = '<script>document.title=1</script><img src=x onerror=document.title=2> & "left" {{ 7*7 }}'
COLUMNS = (
    *("case", "case_id", "patient", "caption", "dice", "iou", "intersection", "predicted", "true"),
    *("pixels", "hd95", "nsd", "surface_unit", "lesion_size", "lesion_number", "lesion_side"),
    "truth",
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


# --- a run's files -------------------------------------------------------------------------------


def test_control_characters_of_a_caption_are_on_no_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", captions="left\x00\x07 lung")
    text = report([str(run)]).read_text(encoding="utf-8")
    assert "left\ufffd\ufffd lung" in text
    assert not [c for c in text if not c.isprintable() and c not in "\n\t"]


def write_run(run: Path, *, gain: float = 0.0, captions: str = EVIL, pictures: int = CASES) -> Path:
    """A trained and tested run; case i has a Dice of (i + 1) / (CASES + 2) + gain with `true`."""
    for mode, factor in (("true", 1.0), ("empty", 0.5), ("shuffled", 0.25)):
        write_test(run / "test" / mode, mode, gain, factor, captions, pictures)
    config = {
        "seed_everything": 7,
        "trainer": {"max_epochs": 2, "precision": "32-true", "default_root_dir": "/home/me/runs"},
        "model": {"class_path": "textseg.models.LSMS", "init_args": {"lr": 0.1, "note": EVIL}},
        "data": {
            "class_path": "datamodules.QaTaCov19DataModule",
            "init_args": {"root": "/home/me/secret/qata", "split": "paper"},
        },
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.csv").write_text(
        "epoch,step,train/loss,val/dice,val/miou\n0,5,,0.5,0.4\n0,5,0.9,,\n1,9,,0.625,0.5\n"
        "1,9,0.7,,\n,9,,,\n"
    )
    return run


def write_test(
    folder: Path, mode: str, gain: float, factor: float, captions: str, pictures: int
) -> None:
    (folder / "overlays").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(CASES):
        true = 100 + 20 * number
        both = round(true * factor * min(1.0, (number + 1) / (CASES + 2) + gain))
        name = f"c{number}__{number}"
        areas = {"intersection": both, "predicted": true, "true": true, "pixels": PIXELS}
        caption = "" if mode == "empty" else f"{captions} {number}"
        rows.append(
            {"case": name, "case_id": f"p{number // 2}", "patient": f"p{number // 2}"}
            | {"caption": caption, "dice": both / true, "iou": both / (2 * true - both)}
            | {**areas, "hd95": "" if number == 3 else 2.5, "nsd": "" if number == 3 else 0.5}
            | {
                "surface_unit": "mm",
                "lesion_size": ("small", "medium", "large")[number * 3 // CASES],
            }
            | {"lesion_number": 1, "lesion_side": "left", "truth": "outlines"}
        )
        if number < pictures:
            noise = generator.integers(0, 255, (20, 60, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "overlays" / f"{name}.png")
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "metrics.json").write_text(json.dumps(metrics_of(mode, rows)))


def metrics_of(mode: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values that no other code made, some of them undefined."""
    generator = np.random.default_rng(len(mode))
    stratum = {"cases": 4, "patients": 2} | some_scores(generator)
    return {
        "caption_mode": mode,
        "protocol": "standard",
        "truth": "outlines",
        **some_scores(generator),
        **{f"precision_at_{t}": float(generator.uniform()) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
        "hd95": 3.25,
        "nsd": 0.4375,
        "surface_undefined": 1,
        "surface_unit": "mm",
        "cases": len(rows),
        "empty_cases": 0,
        "bootstrap_units": 6,
        "warnings": [f"6 patients: under 20 {EVIL}"] if mode == "true" else [],
        "strata": {
            "size": {"small": stratum, "large": stratum | {"dice_ci_low": None}},
            "side": {"left": stratum},
        },
        "size_cuts": [0.03125, 0.0625],
    }


def some_scores(generator: np.random.Generator) -> dict[str, float]:
    found = {}
    for name in SCORES:
        low, value, high = sorted(generator.uniform(size=3).tolist())
        found |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
    return found


# --- a page, read ----------------------------------------------------------------------------


class Page(HTMLParser):
    """A page's text, tags with attributes, tables by caption, and open tags that nobody closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.values: list[float] = []  # of <data>, in order
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["aria-label"], [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "data":
            self.values.append(float(attributes["value"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read_page(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("runs")
    stamp = "2026-01-02_03-04-05"
    return [
        write_run(home / name / stamp, gain=gain) for name, gain in (("unet", 0.0), ("lsms", 0.1))
    ]


@pytest.fixture(scope="module")
def one(folders: list[Path]) -> Path:
    return report([str(folders[0])])


@pytest.fixture(scope="module")
def several(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("comparison") / "page.html"
    names = ["U-Net <b>", "LSMS"]
    return report([str(one) for one in folders], output=str(output), names=names)


@pytest.fixture
def run(folders: list[Path], tmp_path: Path) -> Path:
    """A copy that a test may break."""
    copy, pages = tmp_path / "unet" / "2026-01-02_03-04-06", shutil.ignore_patterns("*.html")
    return shutil.copytree(folders[0], copy, ignore=pages)


def refusal(run: Path, **settings: Any) -> str:
    before = sorted(run.glob("*.html"))
    with pytest.raises(UserError) as caught:
        report([str(run)], **settings)
    cause, _, remedy = str(caught.value).partition("\n")
    assert remedy, "an error says what to do"
    assert sorted(run.glob("*.html")) == before, "nothing is written"
    return cause


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
            assert cells[column] == f"{stored[name]:.3f} [{low:.3f}, {high:.3f}]"
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            expected = f"{stored[f'precision_at_{threshold}']:.3f}"
            assert by_name[f"P@{threshold}"][column] == expected
        assert by_name["hd95"][column] == "3.2 mm"
        assert by_name["nsd"][column] == "0.438"
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


def test_best_median_and_worst_are_ranked_over_all_cases() -> None:
    dice = [0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4]  # rank 5 1 9 3 7 2 8 4 6
    found = choose(dice, range(9), 2)
    assert found.best == (1, 5)
    assert found.median == (7, 0)  # ranks 4 and 5: as near to the middle as rank 6, and better
    assert found.worst == (2, 6)
    assert found.rank == (5, 1, 9, 3, 7, 2, 8, 4, 6)


@pytest.mark.parametrize("pictured", [0, 1, 2, 3, 4, 7, 11, 30])
def test_no_case_is_shown_twice_and_only_those_with_pictures(pictured: int) -> None:
    dice = np.random.default_rng(0).uniform(size=30).tolist()
    known = np.random.default_rng(1).permutation(30)[:pictured].tolist()
    found = choose(dice, known, 4)
    shown = found.shown()
    assert len(set(shown)) == len(shown) == min(pictured, 12)
    assert set(shown) <= set(known)
    if pictured:
        assert dice[found.best[0]] == max(dice[i] for i in known)
    if found.worst:
        assert dice[found.worst[0]] == min(dice[i] for i in known)


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
        for n in ("dice", "dice_true", "moved")
        for end, v in (("", 0.5), ("_ci_low", 0.25), ("_ci_high", 0.75))
    }
    variant = {"cases": 9, "patients": 4, "changed": 0.875, "difference": None, **score}
    found = {"variants": {"empty": variant}, "warnings": ["beware"], "pairs": None}
    (run / "probe").mkdir()
    (run / "probe/probe.json").write_text(json.dumps(found))
    page = read_page(report([str(run)]))
    dice = "0.500 [0.250, 0.750]"
    assert page.tables["Changed captions"][1] == ["empty", "9", dice, dice, "-", dice, "88%"]
    assert "beware" in page.text
    (run / "probe/probe.json").write_text("[]")
    assert "probe.json holds no variants" in refusal(run)


def test_a_comparison_holds_its_tables_and_the_pictures_of_every_run(
    several: Path, folders: list[Path]
) -> None:
    page, html = read_page(several), several.read_text()
    found = compare([str(one) for one in folders], names=["U-Net <b>", "LSMS"])
    scores = page.tables["Scores"]
    assert [row[0] for row in scores] == ["method", "U-Net <b>", "LSMS"]
    for row, method in zip(scores[1:], found.methods, strict=True):
        for cell, name in zip(row[2:], SCORES, strict=True):
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
    kept = album(files, most_bytes=2 * size)
    assert not kept.reduced
    assert kept.pictures[files[0]].uri.startswith("data:image/png;base64,")
    small = album(files, most_bytes=2 * size - 1)
    assert small.reduced
    made = small.pictures[files[0]]
    content = base64.b64decode(made.uri.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (made.width, made.height) == (1280, 427)
    assert len(content) < size


# --- where it is written, and what is refused ----------------------------------------------------


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_page_is_never_written_over(run: Path) -> None:
    for name in ("report.html", "report_2.html"):
        (run / name).write_text("mine")
    assert report([str(run)], cases=0) == run / "report_3.html"
    assert [(run / f"report{n}.html").read_text() for n in ("", "_2")] == ["mine", "mine"]


def test_the_folder_of_a_single_test_is_a_run_too(run: Path) -> None:
    text = read_page(report([str(run / "test/shuffled")])).text
    assert "Ranked by Dice with captions shuffled" in text
    assert "unet/2026-01-02_03-04-06" in text


def test_a_run_tested_on_other_data_has_a_page_of_that(run: Path, tmp_path: Path) -> None:
    (run / "test").rename(run / "test_on_mosmed")
    output = tmp_path / "new" / "page.html"
    assert report([str(run)], data="mosmed", output=str(output), cases=0) == output
    assert "tested on mosmed" in read_page(output).text


def test_a_run_that_was_not_tested_is_refused(run: Path) -> None:
    assert "tests found: true, empty, shuffled" in refusal(run, captions="nonsense")
    shutil.rmtree(run / "test")
    assert "tests found: none" in refusal(run)
    assert "is no folder" in refusal(run / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test/true/metrics.json", "{", "metrics.json cannot be read as JSON"),
        ("test/true/metrics.json", "[1]", "metrics.json holds no results"),
        ("test/empty/metrics.json", '{"dice": "high"}', "dice is 'high', no number"),
        ("test/true/metrics.json", '{"dice": 0.5}', "metrics.json has no miou"),
        ("test/true/cases.csv", "case,text\na,b\n", "lacks the columns caption, dice"),
        ("test/true/cases.csv", "case,caption,dice,iou,predicted,true\na,b,x,1,1,1\n", "line 2"),
        ("test/true/cases.csv", "case,caption,dice,iou,predicted,true\na,b,1,1,1,1\n", "12 cases"),
        ("test/true/overlays/c0__0.png", "no picture", "c0__0.png is no PNG"),
        ("config.yaml", "a: [", "config.yaml is no YAML"),
        ("metrics.csv", "epoch,val/dice\n0,many\n", "metrics.csv cannot be read"),
    ],
)
def test_a_broken_file_is_named(run: Path, name: str, content: str, words: str) -> None:
    (run / name).write_text(content)
    assert words in refusal(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strata": [1]}, "strata holds no values by name"),
        ({"strata": {"size": {"small": 1}}}, "strata.size.small holds no values by name"),
        ({"size_cuts": [1]}, "size_cuts is [1]"),
        ({"warnings": "one"}, "warnings is no list"),
        ({"cases": 3}, "is of 3 cases"),
    ],
)
def test_metrics_of_another_form_are_refused(
    run: Path, changes: dict[str, Any], words: str
) -> None:
    edit(run / "test/true/metrics.json", **changes)
    assert words in refusal(run)


def test_settings_that_make_no_sense_are_refused(run: Path) -> None:
    assert "baseline='x'" in refusal(run, baseline="x")
    assert "names=['a']" in refusal(run, names=["a"])
    assert "cases=-1" in refusal(run, cases=-1)
    assert "does not end in .html" in refusal(run, output="page.pdf")
    (run / "file").write_text("")
    assert "cannot be written" in refusal(run, output=str(run / "file" / "page.html"))
    with pytest.raises(UserError, match="runs is empty"):
        report([])


# --- in a real browser ---------------------------------------------------------------------------

COUNTS = (
    "({images: document.images.length, title: document.title, width: innerWidth,"
    " loaded: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length,"
    " overflow: document.documentElement.scrollWidth - innerWidth})"
)


@needs_chromium
@pytest.mark.parametrize("which", ["one", "several"])
def test_a_browser_loads_every_picture_and_a_telephone_shows_the_whole_width(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue(which)
    found = evaluate(path, COUNTS, tmp_path, width=400)
    assert found["width"] == 400
    assert found["loaded"] == found["images"] == len(read_page(path).all("img")) > 10
    assert found["overflow"] <= 0
    assert found["title"].startswith(("unet/", "U-Net <b> and LSMS")), "no script changed it"


@needs_chromium
@pytest.mark.parametrize("which", ["one", "several"])
def test_a_browser_asks_for_nothing_beyond_the_page(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert requests_of(request.getfixturevalue(which), tmp_path) == []


@needs_chromium
def test_the_browser_would_have_told_of_a_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://example.invalid/picture.png'>")
    assert requests_of(page, tmp_path) == ["http://example.invalid/picture.png"]
