"""The page of `textseg demo` in a real browser: used by hand, so to say, and by two at once.

A network that outlines what is bright in the named half of a picture answers, without training.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datamodules.scan_files import SHAPE, scan_values, write_nifti
from tests.demo.browser import Browser, Tab, browser
from tests.demo.place_network import PlaceNetwork, write_checkpoint
from tests.report.chromium import logged_requests, needs_chromium
from tests.tiny_run import ROOT
from textseg.limits import UPLOAD_BYTES

pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio, of textseg[demo], is missing"),
]
LOADED = "!!document.querySelector('input[type=file]') && !document.body.innerText.match('Loading')"
FIGURES = "document.querySelectorAll('#view figure').length"
STATUS = "document.querySelector('.status')?.innerText"
ERROR = "document.querySelector('.refusal')?.innerText"
MASK = "#view figure.of-{} img"
MOST_BYTES = 2_000_000


@dataclass
class Served:
    """A page that is served, and the folder of temporary files of its process."""

    address: str
    temporary: Path
    process: subprocess.Popen[str]

    def folders(self) -> list[Path]:
        """Of what visitors send."""
        return list(self.temporary.glob("textseg_demo_*"))

    def files(self) -> list[Path]:
        """What is in it; gradio leaves names without content."""
        files = [path for path in self.folders()[0].rglob("*") if path.is_file()]
        return [path for path in files if path.stat().st_size]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("served")
    checkpoint = write_checkpoint(home / "place")
    (home / "tmp").mkdir()
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(home / "tmp")}
    settings |= {UPLOAD_BYTES.variable: str(MOST_BYTES)}
    network = f"{PlaceNetwork.__module__}.{PlaceNetwork.__name__}"
    given = ["demo", "--ckpt_path", checkpoint, "--model", network, "--port", "0"]
    with (home / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "lightning_cli.py"), *given],
            cwd=home,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://127.0.0.1:" in line, (home / "err").read_text()
    yield Served(next(word for word in line.split() if "http" in word), home / "tmp", process)
    process.kill()
    process.wait(20)
    assert "Traceback" not in (home / "err").read_text()


@pytest.fixture(scope="module")
def chromium(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as (running, log):
        yield running
        refused = (
            "413 ",
            f"404 {served.address}gradio_api/upload_progress",
        )  # of what is too large
        assert [fault for fault in running.failures if not fault.startswith(refused)] == []
        assert running.requests
        assert {r for r in running.requests if not r.startswith(served.address)} == set()
    asked = [address for address in logged_requests(log) if not address.startswith("data:")]
    assert len(asked) >= 50, "the log knows of the page's files"
    assert {address for address in asked if not address.startswith(served.address)} == set()


@pytest.fixture
def tab(served: Served, chromium: Browser) -> Iterator[Tab]:
    opened = visit(served, chromium)
    yield opened
    opened.call("Page.close")


def visit(served: Served, chromium: Browser) -> Tab:
    tab = chromium.open(served.address)
    tab.wait(LOADED)
    return tab


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def shots(tab: Tab, folder: Path, name: str) -> None:
    """Screenshots at both widths, which are looked at; nothing is wider than a telephone."""
    folder = Path(os.environ.get("TEXTSEG_SHOTS", folder))
    for width in (400, 1280):
        tab.resize(width, 900)
        tab.wait(f"innerWidth == {width}")
        time.sleep(0.5)
        tab.screenshot(folder / f"{name}_{width}.png")
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_two_expressions_on_a_phantom_give_two_masks_beside_it(tab: Tab, tmp_path: Path) -> None:
    assert "Not a medical device" in tab.text()
    shots(tab, tmp_path, "empty")
    tab.press("Take the next phantom")
    tab.wait(f"{FIGURES} == 1")
    tab.fill("Expression", "lesion in the left ${1+1} <b>")
    tab.fill("Second expression", "lesion in the right")
    tab.key("Enter", 13)
    tab.wait(f"{FIGURES} == 5")
    left, right = (pixels(tab.picture(MASK.format(number))) for number in range(2))
    picture = pixels(tab.picture("#view figure img"))
    half = picture.shape[1] // 2
    for mask, here in ((left, slice(0, half)), (right, slice(half, None))):
        changed = np.any(mask != picture, axis=2)
        assert changed[:, here].any()
        assert changed.sum() == changed[:, here].sum()
    assert "${1+1} <b>" in tab.text()
    images = "[...document.querySelectorAll('#view img')].slice(0, 3)"
    tops, sides = (
        tab.value(f"{images}.map(image => image.getBoundingClientRect().{side})")
        for side in ("top", "left")
    )
    assert len({*tops}) == 1
    assert sorted(sides) == sides
    links = tab.value("[...document.querySelectorAll('a[download]')].map(a => a.download)")
    assert links == ["phantom_0_mask_A.png", "phantom_0_mask_B.png", "phantom_0_found.csv"]
    assert tab.value("[...document.images].every(i => i.alt && i.naturalWidth)")
    radios = "[...document.querySelectorAll('input[type=radio]')]"
    tab.value(f"{radios}.find(radio => radio.value == '1:right').click()")
    tab.wait("document.querySelectorAll('.maps figure').length == 2")
    assert "The word right" in tab.text()
    shots(tab, tmp_path, "two")


def test_a_volume_is_looked_through_slice_by_slice_and_under_windows(
    served: Served, tab: Tab, tmp_path: Path
) -> None:
    tab.send([write_nifti(tmp_path / "p1.nii.gz", scan_values())])
    tab.wait(f"{STATUS}?.includes('p1.nii.gz')")
    assert served.files() == [], "what was read is deleted"
    assert f"slice {SHAPE[2] // 2} of" in tab.value(STATUS)
    tab.fill("Level", "40")
    tab.fill("Width", "400")
    tab.key("Enter", 13)
    tab.wait(f"{STATUS}?.includes('center 40, width 400')")
    tab.fill("Expression", "lesion in the upper left")
    tab.press("Segment")
    tab.wait(f"{FIGURES} == 3")
    first = tab.picture(MASK.format(0))
    tab.value("document.querySelector('input[type=range]').focus()")
    tab.key("ArrowLeft", 37)
    tab.wait(f"{STATUS}?.includes('slice 2 of') && {FIGURES} == 3")
    second = tab.picture(MASK.format(0))
    assert (pixels(first) != pixels(second)).any()
    assert "mm\N{SUPERSCRIPT TWO}" in tab.text()
    shots(tab, tmp_path, "volume")


def test_what_is_broken_or_too_large_is_refused_in_two_lines(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tab.send([tmp_path / "broken.png"])
    cause, remedy = tab.wait(ERROR).split("\n")
    assert "broken.png" in cause
    assert remedy
    tab.press("Segment")
    tab.wait(f"{ERROR}?.includes('no picture is open')")
    tab.press("Take the next phantom")
    tab.wait(f"{FIGURES} == 1 && !{ERROR}")
    (tmp_path / "large.png").write_bytes(bytes(MOST_BYTES + 1))
    tab.send([tmp_path / "large.png"])
    tab.wait(f"document.body.innerText.includes('{UPLOAD_BYTES.variable}')")
    assert tab.value(FIGURES) == 1, "what was open stays"
    shots(tab, tmp_path, "refused")
    assert "Traceback" not in tab.text()


def test_two_visitors_at_once_see_each_their_own(
    served: Served, chromium: Browser, tmp_path: Path
) -> None:
    one, other = visit(served, chromium), visit(served, chromium)
    Image.fromarray(np.full((40, 60), 200, np.uint8)).save(tmp_path / "flat.png")
    one.press("Take the next phantom")
    other.send([tmp_path / "flat.png"])
    one.wait(f"{STATUS}?.includes('phantom 0')")
    other.wait(f"{STATUS}?.includes('flat.png')")
    for tab, side in ((one, "left"), (other, "right")):
        tab.fill("Second expression", "")
        tab.fill("Expression", f"lesion in the {side}")
    for tab in (one, other):
        tab.press("Segment")
    for tab in (one, other):
        tab.wait(f"{FIGURES} == 3")
    assert "flat.png" not in one.text()
    assert "phantom" not in other.value(STATUS)
    assert "1,200 pixels, mm\N{SUPERSCRIPT TWO} unknown" in other.text(), "its right half"
    for tab in (one, other):
        tab.call("Page.close")


def test_a_signal_ends_it_and_nothing_stays(served: Served) -> None:
    """The last one, as it ends the page of the others."""
    assert served.process.poll() is None
    assert len(served.folders()) == 1
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 143
    assert served.folders() == []
