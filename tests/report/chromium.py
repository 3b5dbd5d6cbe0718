"""A real browser in a test: what headless Chromium makes of a page, and what it asks for.

Nothing that it does leaves the machine: no host name resolves in it. The page is shown in a frame
of the width asked for, since a window cannot be as narrow as a telephone.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(PATH is None, reason="no chromium on PATH")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pings"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--no-first-run", "--hide-scrollbars"),
)
_BROWSERS_OWN = "not an origin"  # initiator of what Chromium asks for by itself, such as the time
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def _run(page: Path, folder: Path, *flags: str) -> str:
    assert PATH is not None
    done = subprocess.run(
        [PATH, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(page: Path, expression: str, folder: Path, *, width: int = 1200) -> Any:
    """The value of an expression of JavaScript once the page and all of its pictures are there.

    It is taken in a copy without the page's policy, which would forbid it.
    """
    text, found = _POLICY.subn("", page.read_text(encoding="utf-8"))
    assert found <= 1
    assert text.count("</body>") == 1
    ask = f"addEventListener('load', () => parent.postMessage(JSON.stringify({expression}), '*'))"
    copy = folder / "with_script.html"
    copy.write_text(text.replace("</body>", f"<script>{ask}</script></body>"), encoding="utf-8")
    answer = "onmessage = e => document.getElementById('answer').textContent = e.data"
    frame = _framed(copy, folder, width, 900, f"<script>{answer}</script><pre id=answer></pre>")
    dom = _run(frame, folder, "--virtual-time-budget=5000", "--dump-dom")
    told = re.search(r'<pre id="answer">(.+?)</pre>', dom, re.DOTALL)
    assert told, dom[:2000]
    return json.loads(html.unescape(told[1]))


def requests_of(page: Path, folder: Path) -> list[str]:
    """Every URL beyond files that the page itself, as it is, made the browser ask for."""
    log = folder / "net.json"
    _run(page, folder, f"--log-net-log={log}", "--net-log-capture-mode=Everything", "--dump-dom")
    return logged_requests(log)


def logged_requests(log: Path) -> list[str]:
    """Every URL beyond files in a log of Chromium's that it did not ask for by itself."""
    content = json.loads(log.read_text(encoding="utf-8"))
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    begun = [params for params in begun if "url" in params]
    return [params["url"] for params in begun if params.get("initiator") != _BROWSERS_OWN]


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> None:
    """For a human: what the page looks like."""
    frame = _framed(page, picture.parent, width, height)
    flags = [f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}"]
    _run(frame, picture.parent, *flags, f"--blink-settings=preferredColorScheme={0 if dark else 1}")


def _framed(page: Path, folder: Path, width: int, height: int, before: str = "") -> Path:
    """A page that shows another at a given size in pixels."""
    frame = folder / "frame.html"
    size = f"width={width} height={height} style='border: 0'"
    source = html.escape(page.absolute().as_uri())
    frame.write_text(f"<body style='margin: 0'>{before}<iframe src='{source}' {size}></iframe>")
    return frame
