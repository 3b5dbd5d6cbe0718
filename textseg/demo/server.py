"""The server of the page: what it answers, where uploads are, and how it ends."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from textseg.cli.signals import Stopped
from textseg.errors import UserError
from textseg.limits import UPLOAD_BYTES, Limit

_MESSAGE_BYTES = 2**20  # of a request that is no upload: expressions and numbers
# All that the page asks for. No path gives a file of a visitor, and none leads anywhere else.
_READ = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
_READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_READ_API = ("/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/info")
_UPLOAD = "/gradio_api/upload"
_TOO_LARGE = 413
_WRITE = ("/gradio_api/queue/join", _UPLOAD)
# The page's own scripts are inline and make functions of texts; of other hosts none is run.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


@contextmanager
def temporary_uploads() -> Iterator[Path]:
    """A folder for what visitors send, which is removed at the end; gradio is told before it is
    imported, and to report nothing.
    """
    with tempfile.TemporaryDirectory(prefix="textseg_demo_", ignore_cleanup_errors=True) as name:
        settings = {"GRADIO_TEMP_DIR": name, **_QUIET}
        before = {variable: os.environ.get(variable) for variable in settings}
        os.environ.update(settings)
        usual, tempfile.tempdir = tempfile.tempdir, name  # half an upload is a temporary file too
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = usual
            for variable, value in before.items():
                os.environ.pop(variable)
                os.environ |= {} if value is None else {variable: value}


@contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound to an address.

    Raises:
        UserError: the address cannot be had.
    """
    if not 0 <= port < 2**16:  # the system would take another one
        raise UserError(f"host={host!r} and port={port} cannot be used", "give a port up to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UserError(
            f"host={host!r} and port={port} cannot be used ({error})",
            "give another --port, or 0 for a free one; the usual --host is 127.0.0.1",
        ) from error
    with bound:
        yield bound


def serve(application: Any, bound: socket.socket, host: str) -> None:
    """Serve the page until a signal ends it.

    Args:
        application: of ASGI.
        bound: where it listens.
        host: as it was given.
    """
    import uvicorn

    config = uvicorn.Config(
        Guard(application, host),
        log_config=None,  # its own would close what other libraries log to
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    ended = threading.Event()  # a thread that a signal finds being joined counts as ended

    def answer() -> None:
        try:
            server.run(sockets=[bound])
        finally:
            ended.set()

    threading.Thread(target=answer, daemon=True).start()
    try:
        while not (server.started or ended.is_set()):
            time.sleep(0.01)
        shown, port = f"[{host}]" if ":" in host else host, bound.getsockname()[1]
        print(f"the page is at http://{shown}:{port}/ and ends with Ctrl+C", flush=True)
        if not is_loopback(host):
            print(f"host={host}: whoever reaches it can use the page; it has no password")
        ended.wait()
    except Stopped as stopped:
        stopped.left = "what was sent to the page is deleted"
        raise
    finally:
        server.should_exit = True
        ended.wait(20)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Answers what the page asks for and nothing else, from its own pages, up to a size.

    Args:
        application: of ASGI, behind it.
        host: that the page listens on. On this machine alone, others' names for it are refused, so
            that no foreign page reaches it under a name of its own.
        limit: of an upload.
    """

    def __init__(self, application: Any, host: str, limit: Limit = UPLOAD_BYTES) -> None:
        self._application, self._limit = application, limit
        self._hosts = {"127.0.0.1", "localhost", "::1", host} if is_loopback(host) else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page has no websockets
        refused = self._refusal(scope)
        if refused is not None:
            if refused[0] == _TOO_LARGE:
                await _drain(receive)  # a browser reads no answer before it has sent all
            await _answer(send, *refused)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self._application(scope, self._counted(scope, receive), with_headers)

    def _refusal(self, scope: Mapping[str, Any]) -> tuple[int, str] | None:
        """Status and reason of a request that is not answered; None of others."""
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        path, method = scope["path"], scope["method"]
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return 403, f"the page is not at {host}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"the page takes nothing from {origin}"
        read = path in (*_READ, *_READ_API) or path.startswith(_READ_BELOW)
        if not (method in ("GET", "HEAD") and read) and not (method == "POST" and path in _WRITE):
            return 404, "there is nothing here"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "content-length is no number"
        if int(length) > self._most(path):
            return _TOO_LARGE, self._too_much(path, int(length))
        return None

    def _most(self, path: str) -> int:
        return self._limit.most if path == _UPLOAD else _MESSAGE_BYTES

    def _too_much(self, path: str, length: int) -> str:
        if path != _UPLOAD:
            return f"a request of {length:,} bytes is over the limit of {_MESSAGE_BYTES:,}"
        try:
            self._limit.check(length, "what was sent")
        except UserError as error:
            return "; ".join(str(error).splitlines())  # the browser shows it as one line
        raise AssertionError(length)

    def _counted(self, scope: Mapping[str, Any], receive: Any) -> Any:
        """`receive` that ends a request which brings more than it may, whatever it said."""
        most, got = self._most(scope["path"]), 0

        async def counting() -> Any:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            return {"type": "http.disconnect"} if got > most else message

        return counting


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _drain(receive: Any) -> None:
    """Take what is sent and keep nothing of it."""
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _answer(send: Any, status: int, text: str) -> None:
    content = text.encode(errors="replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
