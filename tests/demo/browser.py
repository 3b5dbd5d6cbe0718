"""Headless Chromium under a test's hands, by its DevTools protocol: pages that are used, not read.

The protocol runs through two pipes, so that no package for it is needed.

No host name resolves in it, and every address that it asks for is noted, by its pages and by
itself.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.report.chromium import FLAGS, PATH

PATIENCE = 120.0  # seconds


class Browser:
    """A running Chromium.

    Args:
        say: where it reads messages, each with a zero byte at its end.
        hear: where it writes them.

    Attributes:
        requests: every address that a page of it asked for, "data:" left out.
    """

    def __init__(self, say: int, hear: int) -> None:
        self._say, self._hear = say, hear
        self._heard = b""
        self._number = 0
        self.requests: list[str] = []
        self.failures: list[str] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol, and take what it answers."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        sent = json.dumps(message).encode() + b"\0"
        while sent:
            sent = sent[os.write(self._say, sent) :]
        while True:
            answer = json.loads(self._message())
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _message(self) -> bytes:
        """The next message."""
        while b"\0" not in self._heard:
            assert select.select([self._hear], [], [], PATIENCE)[0], "the browser says nothing"
            more = os.read(self._hear, 2**20)
            assert more, "the browser ended"
            self._heard += more
        message, _, self._heard = self._heard.partition(b"\0")
        return message

    def _note(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            address = given["request"]["url"]
            self.requests += [] if address.startswith(("data:", "blob:")) else [address]
        if event.get("method") == "Network.responseReceived" and given["response"]["status"] >= 400:
            self.failures.append(f"{given['response']['status']} {given['response']['url']}")
        if event.get("method") == "Runtime.exceptionThrown":
            self.failures.append(str(given["exceptionDetails"])[:500])

    def open(self, address: str, *, width: int = 1280, height: int = 900) -> Tab:
        """Open a page as a visitor of its own, who shares nothing with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"])
        for domain in ("Page", "Network", "Runtime", "DOM"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        tab.call("Page.navigate", url=address)
        return tab


class Tab:
    """A page that is open."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol on this page."""
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int) -> None:
        """Show the page at a size in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = self.value(expression)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; the page says: {self.text()[-1500:]}")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.value("document.body.innerText"))

    def press(self, words: str) -> None:
        """Press the button with these words."""
        button = f"[...document.querySelectorAll('button')].find(b => b.innerText == {words!r})"
        self.wait(f"!!{button}")
        self.value(f"{button}.click()")

    def fill(self, label: str, text: str) -> None:
        """Type into the field with a label, as a hand would: its old text is gone."""
        found = (
            "[...document.querySelectorAll('label')].find(l => l.innerText.trim()"
            f".startsWith({label!r}))?.querySelector('input, textarea')"
        )
        self.wait(f"!!{found}")
        self.value(f"{found}.focus(), {found}.select()")
        if not text:
            self.key("Delete", 46)
        self.call("Input.insertText", text=text)

    def key(self, key: str, code: int) -> None:
        """Press and release a key."""
        typed = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        for kind in (typed, {"type": "keyUp"}):
            self.call("Input.dispatchKeyEvent", key=key, windowsVirtualKeyCode=code, **kind)

    def send(self, files: Sequence[Path]) -> None:
        """Choose files in the page's field for files."""
        self.wait("!!document.querySelector('input[type=file]')")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        found = self.call("DOM.querySelector", nodeId=root, selector="input[type=file]")
        self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[*map(str, files)])

    def picture(self, selector: str) -> bytes:
        """The bytes of a picture that is in the page as data."""
        source = self.wait(f"document.querySelector({selector!r})?.src")
        assert source.startswith("data:image/png;base64,"), source[:80]
        return base64.b64decode(source.partition(",")[2])

    def screenshot(self, file: Path) -> None:
        """The whole page, as long as it is."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[tuple[Browser, Path]]:
    """A Chromium, and the file that has its log of requests once it ended."""
    assert PATH is not None
    log = folder / "net.json"
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe"]
    flags += [f"--log-net-log={log}", "--net-log-capture-mode=Everything"]
    flags.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # the last one counts
    (its_ears, say), (hear, its_mouth) = os.pipe(), os.pipe()
    wired = f'exec "$@" 3<&{its_ears} 4>&{its_mouth}'  # where Chromium looks for its pipes
    with (folder / "chromium.txt").open("w") as said:
        process = subprocess.Popen(
            ["bash", "-c", wired, "chromium", PATH, *flags, "about:blank"],
            stdout=said,
            stderr=said,
            pass_fds=(its_ears, its_mouth),
        )
    os.close(its_ears)
    os.close(its_mouth)
    try:
        running = Browser(say, hear)
        yield running, log
        running.call("Browser.close")
    finally:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        os.close(say)
        os.close(hear)
