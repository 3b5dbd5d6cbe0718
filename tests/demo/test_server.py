"""The page's server answers its own page and nobody else, up to a size, and ends when told."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny_run import call
from textseg.cli.commands import Command
from textseg.cli.main import run
from textseg.cli.signals import listening
from textseg.demo import command, server
from textseg.demo.server import Guard, is_loopback, listening_socket, temporary_uploads
from textseg.errors import UserError
from textseg.limits import UPLOAD_BYTES

HOME = "127.0.0.1:7860"


def ask(
    path: str,
    method: str = "GET",
    *,
    host: str = HOME,
    at: str = "127.0.0.1",
    body: tuple[bytes, ...] = (),
    **headers: str,
) -> tuple[int, dict[str, str], list[bytes]]:
    """Status and headers of an answer, and what reached the page behind the guard."""
    reached: list[bytes] = []
    answers: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": part} for part in body]

    async def page(scope: Any, receive: Any, send: Any) -> None:
        reached.append(b"")
        for _ in body:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            reached.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answers.append(message)

    given = {"host": host, **headers}
    coded = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in given.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": coded}
    asyncio.run(Guard(page, at)(scope, receive, send))
    found = {k.decode(): v.decode() for k, v in answers[0]["headers"]}
    return answers[0]["status"], found, reached


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/", "/assets/x.js", "/theme.css", "/gradio_api/queue/data")),
        *(("POST", path) for path in ("/gradio_api/queue/join", "/gradio_api/upload")),
    ],
)
def test_what_the_page_needs_is_answered_with_a_policy_that_allows_no_other_host(
    method: str, path: str
) -> None:
    status, headers, reached = ask(path, method, origin=f"http://{HOME}")
    assert (status, reached) == (200, [b""])
    assert "http" not in headers["content-security-policy"]
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", f"/gradio_api/{name}")
            for name in ("file=/etc/passwd", "proxy=http://x.invalid")
        ),
        *(("GET", f"/gradio_api/{name}") for name in ("file/etc/passwd", "deep_link", "app_id")),
        *(("GET", path) for path in ("/monitoring", "/login_check", "/docs", "/openapi.json")),
        *(("POST", f"/gradio_api/{name}") for name in ("run/predict", "vibe-edit", "call/x")),
        *(("POST", "/"), ("PUT", "/gradio_api/upload"), ("DELETE", "/"), ("OPTIONS", "/")),
        ("GET", "/gradio_api/upload"),
    ],
)
def test_everything_else_is_not_there_files_of_visitors_first(method: str, path: str) -> None:
    status, headers, reached = ask(path, method)
    assert (status, reached) == (404, [])
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:9", "[::1]:7860", "127.0.0.1"])
def test_this_machine_has_several_names(host: str) -> None:
    assert ask("/", host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.invalid:7860", "127.0.0.1.evil.invalid", "", "[", "x:y:z"])
def test_a_foreign_name_of_this_machine_is_refused(host: str) -> None:
    assert ask("/", host=host)[::2] == (403, [])


def test_on_another_address_any_name_is_taken() -> None:
    assert ask("/", host="workstation:7860", at="0.0.0.0")[0] == 200
    assert ask("/", host="workstation:7860", at="0.0.0.0", origin="http://evil.invalid")[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.invalid", "null", "http://127.0.0.1:1"])
def test_a_foreign_page_can_send_nothing(origin: str) -> None:
    assert ask("/gradio_api/queue/join", "POST", origin=origin)[::2] == (403, [])


def test_what_is_too_large_is_refused_and_ended_where_it_lied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(UPLOAD_BYTES.variable, "10")
    upload = "/gradio_api/upload"
    assert ask(upload, "POST", content_length="10")[0] == 200
    assert ask(upload, "POST", content_length="11")[::2] == (413, [])
    assert ask(upload, "POST", content_length="-1")[0] == 400
    assert ask(upload, "POST", body=(b"12345", b"67890", b"1"))[2] == [b"", b"12345", b"67890"]
    assert ask("/gradio_api/queue/join", "POST", content_length="2000000")[::2] == (413, [])


def test_uploads_are_in_a_folder_of_their_own_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    with temporary_uploads() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        (folder / "x").write_text("of a patient")
    assert not folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "True"


def test_an_address_that_cannot_be_had_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        for host, wrong in (("127.0.0.1", port), ("127.0.0.1", 70000), ("203.0.113.1", 0)):
            with (
                pytest.raises(UserError, match=f"host='{host}' and port={wrong}"),
                listening_socket(host, wrong),
            ):
                raise AssertionError("it was had")


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_the_addresses_of_this_machine_alone_are_known(host: str, own: bool) -> None:
    assert is_loopback(host) == own
    assert not is_loopback("workstation")


class Printed(io.StringIO):
    """What is printed, and whether the line about the page is."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "Ctrl+C" in text:
            self.told.set()
        return written


def serve_until(name: str) -> None:
    """Serve a page of one word, which gets a signal once it answers and its address is printed.

    Args:
        name: of the signal.
    """

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

    def visit(port: int) -> None:
        for _ in range(400):
            try:
                with socket.create_connection(("127.0.0.1", port)) as line:
                    line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    answered.append(line.makefile("rb").read())
                break
            except ConnectionError:
                time.sleep(0.05)
        printed.told.wait(60)
        os.kill(os.getpid(), signal.Signals[name])

    answered: list[bytes] = []
    printed: Any = sys.stdout
    with listening_socket("127.0.0.1", 0) as bound:
        visitor = threading.Thread(target=visit, args=(bound.getsockname()[1],))
        visitor.start()
        try:
            server.serve(page, bound, "127.0.0.1")
        finally:
            visitor.join()
            assert answered
            assert answered[0].endswith(b"hello")


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_it_as_it_ends_any_command(
    name: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: textseg[demo]")
    printed, said = Printed(), io.StringIO()
    closed: list[str] = []

    class Handler(logging.Handler):  # of another library, as absl's, which closes its stream
        def close(self) -> None:
            closed.append("closed")

    kept = Handler()  # as long as the page is served
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", said)
    own = Command("demo", "x", function=f"{__name__}:serve_until", positionals=("name",))
    nothing: Any = SimpleNamespace
    assert run(["demo", name], [own], nothing, "") == status
    assert closed == [], f"{kept} is not the page's"
    assert "http://127.0.0.1:" in printed.getvalue()
    first, second = said.getvalue().splitlines()[-2:]
    assert name in first
    assert "deleted" in second


# --- the command


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    outcome = call("demo", "--ckpt_path", "x.ckpt", cwd=tmp_path)
    cause, remedy = outcome.message()
    assert outcome.status == 2
    assert "gradio" in cause
    assert 'pip install "textseg[demo]"' in remedy


def test_a_missing_checkpoint_is_said_before_anything_is_served_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with listening():
        outcome = call("demo", "--ckpt_path", "x.ckpt", "--port", "0", cwd=tmp_path)
    assert outcome.status == 2
    assert "x.ckpt" in outcome.message()[0]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_setting_that_is_no_number_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    monkeypatch.setenv(UPLOAD_BYTES.variable, "many")
    outcome = call("demo", "--ckpt_path", "x.ckpt", cwd=tmp_path)
    assert outcome.status == 2
    assert UPLOAD_BYTES.variable in outcome.message()[0]
