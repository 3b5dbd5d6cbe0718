"""Reports: a page of HTML that needs no other file, of a run or of runs compared."""

from __future__ import annotations

from pathlib import Path

from textseg.errors import UserError, check_at_least
from textseg.output import clear_leftovers, write_new, writing
from textseg.runs import Run
from textseg.runs.folder import create_unique

__all__ = ["report"]


def report(
    runs: list[str],
    *,
    output: str | None = None,
    captions: str = "true",
    data: str | None = None,
    baseline: str | None = None,
    names: list[str] | None = None,
    cases: int = 4,
) -> Path:
    """Write a run, or a comparison of several, as one HTML page that opens without a network.

    The page holds pictures, captions and names of test cases: handle it as you handle the data.

    Args:
        runs: folder of a tested run, runs/<config>/<time>, or of several, which are compared; also
            folders of single tests, such as RUN/test/empty.
        output: file to write, ending in .html; one that exists is not written over,
            <output>_2.html is taken. null writes RUN/report.html, or for several runs
            comparison.html in the working folder.
        captions: caption mode whose cases are shown and compared: true, empty or shuffled.
        data: other data that the runs were tested on, the <name> of RUN/test_on_<name>; null takes
            the tests on the runs' own data.
        baseline: of several runs, the method or run that the others are compared with; null is the
            first run's.
        names: of several runs, a name for each; runs of one name are seeds of one method.
        cases: how many of the best, the median and the worst cases to show each; 0 shows none.

    Returns:
        The file that was written.
    """
    if not runs:
        raise UserError("runs is empty", "give the folder of a run, runs/<config>/<time>")
    check_at_least("cases", cases, 0)
    if output is not None and Path(output).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"output={output!r} does not end in .html", "give a file such as page.html")
    file = None if output is None else Path(output).expanduser()
    if len(runs) > 1:
        from textseg.compare import compare
        from textseg.report.comparison_page import comparison_page

        result = compare(list(runs), captions=captions, data=data, baseline=baseline, names=names)
        page = comparison_page(result, cases=cases)
        return _write_new(page, file or Path("comparison.html"))
    for name, value in (("baseline", baseline), ("names", names)):
        if value is not None:
            raise UserError(f"{name}={value!r} is for several runs", "leave it out, or add runs")
    run, test = Run.of_folder(runs[0])
    if not run.folder.is_dir():
        raise UserError(f"{runs[0]} is no folder", "give the folder of a run, runs/<config>/<time>")
    if test is not None:  # its folder names captions and data
        from textseg.compare.load import check_test_chosen

        check_test_chosen(test, captions, data)
        captions, data = test.name, test.parent.name if test.parent.name != "test" else None
    from textseg.report.run_page import run_page

    page = run_page(run, captions=captions, data=data, cases=cases)
    return _write_new(page, file or run.folder / "report.html")


def _write_new(page: str, file: Path) -> Path:
    # A name may hold half of a surrogate pair, which is no UTF-8; it shows as a question mark.
    content = page.encode("utf-8", errors="replace")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent)
        return create_unique(file, lambda path: write_new(path, content), file.suffix)
