"""Report pages in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.chromium import evaluate, needs_chromium, requests_of
from tests.report.html_page import read_page

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
