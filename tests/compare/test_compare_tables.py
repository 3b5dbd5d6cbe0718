"""A comparison as Markdown and LaTeX: what a user named shows as text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.run_folder import write_run
from textseg.compare import Comparison, compare
from textseg.compare.tables import escape_latex, latex_table, markdown_table, worst_cases
from textseg.metrics.text import escape_markdown

MARKUP = "<script>alert(1)</script> **b** | $x_1$ \\input{a} 100% & [l](http://a.b) `c` #~^--"
NAMES = [MARKUP, "_hidden$", "a_b_c *x* <!-- y --> &lt; &copy; \\ ![i](u) [r]: u :tada: @me #1"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder, generator = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    runs = [
        str(write_run(folder / name, generator.uniform(size=24).tolist(), text=MARKUP))
        for name in "abc"
    ]
    return compare(runs, names=NAMES, resamples=100)


def test_a_bar_in_a_name_begins_no_cell_of_markdown(result: Comparison) -> None:
    markdown = markdown_table(result)
    assert "<" not in markdown.replace("&lt;", "")
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5, 7, 8}
    assert escape_markdown(MARKUP) in markdown


def test_a_markdown_reader_shows_names_and_captions_as_they_are_written(result: Comparison) -> None:
    """CommonMark with tables and HTML allowed, as GitHub has it."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table"])
    tokens = reader.parse(markdown_table(result))
    inline = [token for token in tokens if token.type == "inline"]
    shown = ["".join(part.content for part in token.children) for token in inline]
    assert all(text in shown for text in NAMES), "each a cell of its own"
    kinds = {part.type for token in inline for part in token.children}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, "no link, code or HTML"
    assert {token.type for token in tokens} & {"html_block", "fence", "code_block"} == set()
    rendered = reader.render(escape_markdown(MARKUP))
    assert "<script" not in rendered
    assert "<a " not in rendered


def test_escaped_latex_has_no_character_that_latex_would_act_on(result: Comparison) -> None:
    escaped = escape_latex(MARKUP + "\x07\n[x] *")
    left = re.sub(r"\\text[a-z]+{}|\\symbol{34}|\\[{}#$%&_]|{[\[*]}", "", escaped)
    assert not set("\\{}#$%&_~^<>|[*\x07\n") & set(left)
    latex = latex_table(result)
    assert escape_latex(MARKUP) in latex
    assert "\\input" not in "".join(x for x in latex.splitlines() if not x.startswith("%"))


def test_latex_has_minus_signs_and_the_best_value_bold(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / n, [q] * 20 + [q + 0.1] * 4))
        for n, q in (("x-2", 0.8), ("y", 0.5))
    ]
    latex = latex_table(compare(runs, resamples=100)).splitlines()
    better, worse = (next(x for x in latex if x.startswith(n)) for n in ("x-2 & 1 &", "y & 1 &"))
    assert better.count("\\textbf{0.") == 4
    assert "textbf" not in worse
    (gap,) = (x for x in latex if x.startswith("y & dice &"))
    assert "& $-$0.300 {[}$-$0." in gap
    assert not re.search(r"(?<!\$)-\d", gap)
    (area,) = (x for x in latex if x.startswith("area\\_error"))
    assert area.count("textbf") == 0, "both are 0"
    (missed,) = (x for x in latex if x.startswith("pixel\\_recall"))
    assert missed.index("textbf") < missed.index("0.5")


def test_the_worst_cases_come_first(result: Comparison) -> None:
    mean = result.case_dice.mean(axis=0)
    assert worst_cases(result, 5) == sorted(range(24), key=lambda n: mean[n])[:5]
