"""Runs compared: what is joined, what is refused and how that is said, and what is written."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.tiny_run import call
from textseg.compare import Comparison, compare, plain_table
from textseg.compare.tables import (
    escape_latex,
    escape_markdown,
    latex_table,
    markdown_table,
    untypeset,
    worst_cases,
)
from textseg.errors import UserError
from textseg.report.plots import binned_means, label

CASES = 24


def row_of(number: int, overlap: float, text: str) -> dict[str, Any]:
    """A line of cases.csv: two cases a patient, three sizes, one or more lesions, two sides."""
    true = 100 + 40 * number
    both = round(true * overlap)
    row: dict[str, Any] = {"case": f"c__{number}", "case_id": f"p{number // 2}"}
    row |= {"patient": f"p{number // 2}", "caption": text, "dice": both / true}
    row |= {"iou": both / (2 * true - both), "intersection": both, "predicted": true, "true": true}
    row |= {"pixels": 9000, "hd95": "", "nsd": "", "surface_unit": ""}
    row |= {"lesion_size": ("small", "medium", "large")[number * 3 // CASES % 3]}
    row |= {"lesion_number": 1 + number % 5, "lesion_side": ("left", "right")[number % 2]}
    return row | {"truth": "outlines"}


def write_test(
    run: Path,
    quality: Sequence[float],
    *,
    captions: str = "true",
    home: str = "test",
    seed: int = 1,
    model: Mapping[str, Any] | None = None,
    text: str = "left lung",
    protocol: str = "standard",
    changes: Mapping[int, Mapping[str, Any]] | None = None,
) -> Path:
    """A run's folder with the results of one test: case i has an overlap of quality[i]."""
    folder = run / home / captions
    folder.mkdir(parents=True)
    metrics = {"caption_mode": captions, "protocol": protocol}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        row_of(number, overlap, text) | dict((changes or {}).get(number, {}))
        for number, overlap in enumerate(quality)
    ]
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = {
        "seed_everything": seed,
        "model": {"class_path": "textseg.models.LSMS", "init_args": dict(model or {"lr": 0.1})},
        "data": {"class_path": "QaTaCov19DataModule", "init_args": {"seed": seed, "cache": None}},
        "trainer": {"max_epochs": 3, "devices": seed},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def quality(mean: float, seed: int = 0, cases: int = CASES) -> list[float]:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, cases), 0, 1).tolist()


def time_stamp(number: int) -> str:
    return f"2026-01-0{number}_10-00-00"


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two experiments, a run of each."""
    return [
        str(write_test(tmp_path / name / time_stamp(1), quality(mean, seed)))
        for seed, (name, mean) in enumerate([("unet", 0.6), ("lsms", 0.8)])
    ]


def quick(runs: Sequence[str], **settings: Any) -> Comparison:
    return compare(list(runs), **{"resamples": 400, **settings})


def refusal(runs: Sequence[str], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        quick(runs, **settings)
    cause, _, remedy = str(caught.value).partition("\n")
    assert remedy, "an error says what to do"
    return cause


def scores(comparison: Comparison, method: str) -> dict[str, float]:
    (found,) = (one for one in comparison.methods if one.name == method)
    return {name: score.value for name, score in found.scores.items()}


# --- what is computed --------------------------------------------------------------------------


def test_scores_and_differences_are_those_of_the_files(pair: list[str]) -> None:
    result = quick(pair)
    tables = [
        np.array([[round((100 + 40 * i) * q), 100 + 40 * i] for i, q in enumerate(quality(m, s))])
        for s, m in ((0, 0.6), (1, 0.8))
    ]
    dice = [(table[:, 0] / table[:, 1]) for table in tables]
    pooled = [table[:, 0].sum() / table[:, 1].sum() for table in tables]
    assert [m.name for m in result.methods] == ["unet", "lsms"], "named by experiment"
    assert scores(result, "unet")["dice"] == pytest.approx(dice[0].mean())
    assert scores(result, "lsms")["miou"] == pytest.approx((dice[1] / (2 - dice[1])).mean())
    assert scores(result, "lsms")["dice_global"] == pytest.approx(pooled[1])
    by_score = {one.score: one for one in result.differences}
    assert by_score["dice"].value == pytest.approx(dice[1].mean() - dice[0].mean())
    assert by_score["dice_global"].value == pytest.approx(pooled[1] - pooled[0])
    assert all(d.low < d.value < d.high for d in result.differences)
    assert all(d.low > 0 and d.p < 0.05 for d in result.differences)
    assert result.patients == CASES // 2
    assert result.case_dice == pytest.approx(np.stack(dice))


def test_cases_are_joined_by_name_and_not_by_their_order(pair: list[str]) -> None:
    path = Path(pair[1]) / "test" / "true" / "cases.csv"
    before = quick(pair)
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    after = quick(pair)
    assert np.array_equal(after.case_dice, before.case_dice)
    assert after.differences == before.differences


def test_the_baseline_may_be_named_by_method_or_by_run(pair: list[str]) -> None:
    first = quick(pair)
    for baseline in ("lsms", pair[1]):
        turned = quick(pair, baseline=baseline)
        assert turned.baseline == "lsms"
        assert [m.name for m in turned.methods] == ["lsms", "unet"]
        assert turned.differences[0].value == pytest.approx(-first.differences[0].value)
    assert "'nothing'" in refusal(pair, baseline="nothing")


def test_p_values_are_corrected_for_the_number_of_methods(tmp_path: Path, pair: list[str]) -> None:
    more = [
        str(write_test(tmp_path / f"other{n}", quality(0.62, 30 + n), model={"lr": n}))
        for n in range(2)
    ]
    result = quick([*pair, *more])
    rows = sorted((d for d in result.differences if d.score == "dice"), key=lambda d: d.p)
    assert rows[0].method == "lsms"
    adjusted = np.maximum.accumulate(
        [min(1.0, d.p * k) for d, k in zip(rows, (3, 2, 1), strict=True)]
    )
    assert [d.p_holm for d in rows] == pytest.approx(adjusted.tolist())


def test_equal_seeds_give_equal_numbers(pair: list[str]) -> None:
    assert quick(pair, seed=4).differences == quick(pair, seed=4).differences
    assert quick(pair, seed=4).differences != quick(pair, seed=5).differences


def test_runs_that_differ_in_their_seed_are_one_method(tmp_path: Path, pair: list[str]) -> None:
    again = write_test(tmp_path / "lsms" / time_stamp(2), quality(0.7, 9), seed=2)
    result = quick([*pair, str(again)])
    assert [(m.name, len(m.runs)) for m in result.methods] == [("unet", 1), ("lsms", 2)]
    single = [
        quick([pair[0], run]).methods[1].scores["dice"].value for run in (pair[1], str(again))
    ]
    score = result.methods[1].scores["dice"]
    assert score.value == pytest.approx(np.mean(single))
    assert score.std == pytest.approx(np.std(single, ddof=1))
    assert np.isnan(result.methods[0].scores["dice"].std)
    assert "±" in plain_table(result)
    alone = quick([pair[0], pair[1]]).methods[1].scores["dice"]
    assert score.high - score.low > alone.high - alone.low, "the seeds are uncertain too"


def test_caption_modes_of_one_run_are_compared_by_their_folders(tmp_path: Path) -> None:
    run = write_test(tmp_path / "lsms" / time_stamp(1), quality(0.8))
    write_test(run, quality(0.5, 1), captions="empty", text="")
    result = quick([str(run), str(run / "test" / "empty")])
    assert [m.name for m in result.methods] == ["lsms", "lsms (empty captions)"]
    assert result.captions == ("true", "empty")
    assert result.differences[0].value < -0.2


def test_results_on_other_data_are_found_by_its_name(tmp_path: Path) -> None:
    runs = []
    for name, mean in (("a", 0.5), ("b", 0.7)):
        run = write_test(tmp_path / name, quality(mean))
        runs.append(str(write_test(run, quality(mean + 0.2), home="test_on_mosmed")))
    own, other = quick(runs), quick(runs, data="mosmed")
    assert scores(other, "a")["dice"] - scores(own, "a")["dice"] == pytest.approx(0.2, abs=0.03)
    assert quick(runs, data="test_on_mosmed").differences == other.differences
    assert "test_on_mosmed/true" in refusal(runs, data="nowhere"), "what there is is named"


def test_strata_equal_a_comparison_of_their_cases_alone(tmp_path: Path, pair: list[str]) -> None:
    again = write_test(tmp_path / "lsms" / time_stamp(2), quality(0.7, 9), seed=2)
    result = quick([*pair, str(again)])
    classes = {(one.grouping, one.name): one for one in result.strata if one.method == "lsms"}
    assert list(classes) == [
        *[("size", "small"), ("size", "medium"), ("size", "large")],
        *[("number", "1"), ("number", "2"), ("number", "3+")],
        *[("side", "left"), ("side", "right")],
    ]
    for grouping in ("size", "number", "side"):
        assert sum(one.cases for key, one in classes.items() if key[0] == grouping) == CASES
    small, left = classes["size", "small"], classes["side", "left"]
    assert (small.cases, small.patients) == (8, 4)
    assert (left.cases, left.patients) == (12, 12), "each patient has a case of either side"
    assert left.dice == pytest.approx(result.case_dice[1, ::2].mean())
    gap = result.case_dice[1, ::2].mean() - result.case_dice[0, ::2].mean()
    assert left.difference == pytest.approx(gap)
    alone = []
    for run, mean, seed in ((pair[0], 0.6, 0), (pair[1], 0.8, 1), (again, 0.7, 9)):
        rows = {n: row_of(2 * n, quality(mean, seed)[2 * n], "x") for n in range(12)}
        name = Path(run).parent.name
        folder = tmp_path / "left" / name / time_stamp(seed % 5 + 1)
        alone.append(str(write_test(folder, quality(0.5, cases=12), seed=seed, changes=rows)))
    whole = next(one for one in quick(alone).differences if one.score == "dice")
    assert (left.low, left.high) == pytest.approx((whole.low, whole.high))
    baseline = next(one for one in result.strata if one.method == "unet")
    assert np.isnan([baseline.difference, baseline.low, baseline.high]).all()
    assert "small" in plain_table(result)


def test_two_seeds_are_warned_of_and_three_are_not(tmp_path: Path) -> None:
    runs = [str(write_test(tmp_path / f"r{s}", quality(0.5, s), seed=s)) for s in range(6)]
    text = " | ".join(quick(runs[:5], names=["x", "x", "y", "y", "y"]).warnings)
    assert "two seeds of x:" in text
    assert "86%" in text
    assert "seeds of" not in " | ".join(quick(runs, names=["x", "y"] * 3).warnings)


# --- what a reader must know -------------------------------------------------------------------


def test_few_patients_are_warned_of_and_twenty_are_not(tmp_path: Path, pair: list[str]) -> None:
    assert any("12 patients" in text for text in quick(pair).warnings)
    runs = [str(write_test(tmp_path / n, quality(0.5, cases=40))) for n in ("many_a", "many_b")]
    assert not any("patients" in text for text in quick(runs).warnings)


def test_unknown_patients_single_seeds_and_boxes_are_warned_of(tmp_path: Path) -> None:
    plain = {
        number: {"case_id": "", "patient": f"c__{number}", "truth": "boxes"}
        for number in range(CASES)
    }
    runs = [str(write_test(tmp_path / n, quality(0.5), changes=plain)) for n in "ab"]
    text = " | ".join(quick(runs).warnings)
    assert "no patient is known" in text
    assert "one seed of a, b" in text
    assert "boxes" in text
    assert quick(runs).patients == CASES, "images where no patient is known"


def test_one_patient_has_scores_but_no_interval(tmp_path: Path) -> None:
    one = {number: {"case_id": "p", "patient": "p"} for number in range(CASES)}
    runs = [str(write_test(tmp_path / n, quality(0.5, s), changes=one)) for s, n in enumerate("ab")]
    result = quick(runs, output=str(tmp_path / "out"))
    assert np.isnan(result.methods[0].scores["dice"].low)
    assert "nan" not in plain_table(result)
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["differences"][0]["low"] is None


def test_a_second_test_of_a_checkpoint_is_pointed_out(pair: list[str]) -> None:
    (Path(pair[0]) / "test" / "true_2").mkdir()
    assert any("true_2" in text for text in quick(pair).warnings)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({3: {"case": "other__3"}}, ["lacks 1 (c__3)", "has 1 (other__3)"]),
        (
            {3: {"true": 999, "dice": 0}, 4: {"true": 998, "dice": 0}},
            ["true", "pixels", "2 of 24", "220 and 999"],
        ),
        ({5: {"case_id": "p9", "patient": "p9"}}, ["patients", "1 of 24", "'p2' and 'p9'"]),
        ({5: {"caption": "right lung"}}, ["captions", "'left lung' and 'right lung'"]),
        ({5: {"pixels": 8999}}, ["sizes of the images", "9000 and 8999"]),
        ({5: {"lesion_side": "both"}}, ["lesions of the truth", "'right'", "'both'"]),
        ({5: {"truth": "boxes"}}, ["sources of the truth", "'boxes'"]),
    ],
)
def test_runs_over_other_cases_or_truths_are_refused(
    tmp_path: Path, pair: list[str], changes: dict[int, dict[str, str]], said: list[str]
) -> None:
    overlaps = [0.0 if "dice" in changes.get(n, {}) else q for n, q in enumerate(quality(0.5))]
    other = write_test(tmp_path / "other", overlaps, changes=changes)
    message = refusal([*pair, str(other)])
    assert str(other) in message
    assert [part for part in said if part not in message] == []


def test_captions_may_differ_between_caption_modes_but_not_within_one(tmp_path: Path) -> None:
    runs = [write_test(tmp_path / name, quality(0.5)) for name in "ab"]
    for run, text in zip(runs, ("x", "y"), strict=True):
        write_test(run, quality(0.4), captions="shuffled", text=text)
    quick([str(runs[0]), str(runs[1] / "test" / "shuffled")])
    assert "captions" in refusal([str(run) for run in runs], captions="shuffled")


def test_other_protocols_are_refused(tmp_path: Path, pair: list[str]) -> None:
    other = write_test(tmp_path / "other", quality(0.5), protocol="lvit")
    assert "'lvit'" in refusal([*pair, str(other)])
    unknown = write_test(tmp_path / "unknown", quality(0.5), protocol="mine")
    assert "'mine'" in refusal([*pair, str(unknown)])


def test_runs_of_one_name_that_are_not_seeds_of_one_method_are_refused(
    tmp_path: Path, pair: list[str]
) -> None:
    same = write_test(tmp_path / "lsms" / time_stamp(2), quality(0.7, 2))
    assert "seed_everything 1" in refusal([*pair, str(same)])
    other = write_test(tmp_path / "lsms" / time_stamp(3), quality(0.7, 2), seed=3, model={"lr": 9})
    assert "model.lr: 0.1 and 9" in refusal([*pair, str(other)])
    (same / "config.yaml").unlink()
    assert "config.yaml" in refusal([*pair, str(same)])
    named = quick([*pair, str(same)], names=["u", "one", "two"])
    assert [m.name for m in named.methods] == ["u", "one", "two"]


def test_names_make_seeds_of_runs_in_folders_of_any_name(tmp_path: Path) -> None:
    runs = [str(write_test(tmp_path / n, quality(0.5, s), seed=s)) for s, n in enumerate("abcd")]
    result = quick(runs, names=["x", "x", "y", "y"])
    assert [(m.name, len(m.runs)) for m in result.methods] == [("x", 2), ("y", 2)]
    assert not any("one seed" in text for text in result.warnings)


def test_wrong_arguments_are_refused(tmp_path: Path, pair: list[str]) -> None:
    assert "too few to compare" in refusal(pair[:1])
    assert "given twice" in refusal([pair[0], pair[0]])
    assert "1 names for 2 runs" in refusal(pair, names=["a"])
    assert "empty" in refusal(pair, names=["a", " "])
    assert "resamples=3" in refusal(pair, resamples=3)
    assert "tests found: test/true" in refusal(pair, captions="empty")
    assert "tests found: none" in refusal([pair[0], str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"intersection", "overlap", "lacks the columns intersection"),
        (r"caption", "text", "lacks the columns caption: it is cut short, or of an older version"),
        (r"c__1,", "c__0,", "lists 1 cases twice"),
        (r"(c__0.*),9000,.*\n", r"\1\n", "line 2: pixels=None"),
        (r"(c__0.*,)\d+,100,100,", r"\g<1>7,6,8,", "line 2: 7 pixels in both masks"),
        (r"(c__0.*,100,100,)9000", r"\g<1>90", "100 true, of 90"),
        (r"(c__0,p0,p0,left lung,)", r"\g<1>-", "line 2: dice=-0.8"),
        (r"c__0,p0,p0", "c__0,p0,p1", "line 2: case='c__0' with case_id='p0' has patient='p1'"),
        (r"small", "tiny", "line 2: lesion_size='tiny' is none of none, small, medium, large"),
        (r"(small),1,", r"\1,0,", "line 2: lesion_number=0 with 100 true pixels"),
        (r"(small),1,", r"\1,one,", "line 2: lesion_number='one'"),
        (r"(?s)\n.*", "\n", "lists no case"),
    ],
)
def test_a_broken_or_edited_table_is_refused(
    pair: list[str], old: str, new: str, said: str
) -> None:
    path = Path(pair[1]) / "test" / "true" / "cases.csv"
    before = path.read_text().replace("\r\n", "\n")
    after = re.sub(old, new, before, count=1)
    assert after != before, "an example that changes nothing"
    path.write_text(after)
    with pytest.raises(UserError) as caught:
        quick(pair)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "test the run again" in str(caught.value)


# --- what is written ---------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script> **b** | $x_1$ \\input{a} 100% & [l](http://a.b) `c` #~^--"


def test_an_output_holds_tables_plots_and_numbers_and_is_never_written_over(
    tmp_path: Path, pair: list[str]
) -> None:
    output = tmp_path / "deep" / "out"
    first, second = (quick(pair, output=str(output)).output for _ in range(2))
    assert first == output
    assert second == output.with_name("out_2")
    plots = ("dice_distribution", "difference_by_size", "failures")
    expected = {"report.html", *(f"comparison.{kind}" for kind in ("json", "md", "tex"))}
    expected |= {f"{name}.{kind}" for name in plots for kind in ("png", "pdf")}
    assert {path.name for path in output.iterdir()} == expected
    for name in plots:
        assert np.asarray(Image.open(output / f"{name}.png").convert("L")).std() > 5, "blank"
    stored = json.loads((output / "comparison.json").read_text())
    assert stored["methods"][0]["scores"]["dice"]["std"] is None
    assert stored["differences"][0]["value"] == quick(pair).differences[0].value
    strata = {(one["name"], one["method"]): one for one in stored["strata"]}
    assert strata["small", "unet"]["difference"] is None
    assert strata["small", "lsms"]["low"] < strata["small", "lsms"]["difference"]


def test_a_negative_seed_and_an_output_below_a_file_are_refused(
    tmp_path: Path, pair: list[str]
) -> None:
    assert "seed=-1" in refusal(pair, seed=-1)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refusal(pair, output=str(tmp_path / "file" / "out"))


def test_names_and_captions_with_markup_show_as_text(tmp_path: Path) -> None:
    runs = [str(write_test(tmp_path / n, quality(0.5, s), text=MARKUP)) for s, n in enumerate("ab")]
    result = quick(runs, names=[MARKUP, "_hidden$"])
    markdown = markdown_table(result)
    assert "<" not in markdown.replace("&lt;", "")
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    separators = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(separators) == {6, 7, 8}, "a | in a name begins no cell"
    assert escape_markdown(MARKUP) in markdown
    latex = latex_table(result)
    assert escape_latex(MARKUP) in latex
    acted_on = [line for line in latex.splitlines() if not line.startswith("%")]
    assert "\\input" not in "\n".join(acted_on)


def test_escaped_latex_has_no_character_that_latex_would_act_on() -> None:
    escaped = escape_latex(MARKUP + "\x07\n[x] *")
    for known in ("\\textbackslash{}", "\\textasciitilde{}", "\\textasciicircum{}"):
        escaped = escaped.replace(known, "")
    for known in (
        "\\textquotesingle{}",
        "\\symbol{34}",
        "\\textasciigrave{}",
        "\\textless{}",
        "\\textgreater{}",
        "\\textbar{}",
    ):
        escaped = escaped.replace(known, "")
    escaped = re.sub(r"\\[{}#$%&_]", "", escaped)
    escaped = re.sub(r"\{[\[*,-]\}", "", escaped)
    assert not set("\\{}#$%&_~^<>|`[*-\x07\n") & set(escaped)


def test_escaped_markdown_is_undone_by_its_own_rules() -> None:
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escape_markdown(MARKUP))
    shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == MARKUP
    assert not re.search(r"(?<!\\)[`*_\[\]|$]", escape_markdown(MARKUP))


def test_a_markdown_reader_shows_names_and_captions_as_they_are_written(tmp_path: Path) -> None:
    """CommonMark with tables and HTML allowed, as GitHub has it."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table"])
    texts = [MARKUP, "a_b_c *x* <!-- y --> &lt; &copy; \\ ![i](u) [r]: u", "www.a.b :tada: @me #1"]
    runs = [
        str(write_test(tmp_path / n, quality(0.5, s), text=MARKUP)) for s, n in enumerate("abc")
    ]
    tokens = reader.parse(markdown_table(quick(runs, names=texts)))
    inline = [token for token in tokens if token.type == "inline"]
    shown = ["".join(part.content for part in token.children) for token in inline]
    assert all(text in shown for text in texts), "each a cell of its own"
    allowed = {"text", "text_special", "strong_open", "strong_close"}
    kinds = {part.type for token in inline for part in token.children}
    assert kinds <= allowed, "no link, picture, code or HTML"
    assert {token.type for token in tokens} & {"html_block", "fence", "code_block"} == set()
    rendered = reader.render(escape_markdown(MARKUP))
    assert "<script" not in rendered
    assert "<a " not in rendered


def test_what_pdflatex_has_no_glyph_for_is_said(tmp_path: Path) -> None:
    assert untypeset(["caf\u00e9 \u2013 \u00b1 Gda\u0144sk"]) == ""
    assert untypeset(["\u03b1-1", "\u2265 2 \u03b1"]) == "\u03b1\u2265"
    for text in ("left lung", "left \u2265 2"):
        folder = tmp_path / str(len(text))
        runs = [str(write_test(folder / n, quality(0.5), text=text)) for n in "ab"]
        assert ("lualatex" in latex_table(quick(runs))) == (text != "left lung")


@pytest.mark.parametrize("text", ["''", "--", ",,", "``", "<<", ">>", "?`", "---", '"a', "\"'"])
def test_escaped_latex_forms_no_ligature(text: str) -> None:
    assert text not in escape_latex(text)


def test_a_plots_label_is_text_whatever_it_holds() -> None:
    assert label("$x$") == r"\$x\$"
    assert label("_a") == " _a"
    assert len(label("n" * 500)) < 60
    assert label("a\nb\x07") == "a b"


def test_the_worst_cases_come_first(pair: list[str]) -> None:
    result = quick(pair)
    mean = result.case_dice.mean(axis=0)
    assert worst_cases(result, 5) == sorted(range(CASES), key=lambda n: mean[n])[:5]


def test_binned_means_take_equally_many_cases_by_size() -> None:
    x = np.array([5.0, 1, 3, 2, 4, 6])
    centers, means = binned_means(x, 10 * x, 3)
    assert centers.tolist() == [1.5, 3.5, 5.5]
    assert means.tolist() == [15, 35, 55]
    assert [len(part) for part in binned_means(x[:2], x[:2], 5)] == [2, 2]


def test_the_command_prints_the_table_and_says_where_it_wrote(
    pair: list[str], tmp_path: Path
) -> None:
    done = call("compare", *pair, "--resamples", "200", "--output", "out", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "Differences from" in done.out
    assert (tmp_path / "out/comparison.md").is_file()
    refused = call("compare", "nowhere", "nothing", cwd=tmp_path)
    assert refused.status == 2
    assert "nowhere" in refused.err
