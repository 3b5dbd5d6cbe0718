"""The hub of published models: asked only where its host is to be found, else its cache is read."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from textseg.errors import first_line


@contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Within it, models are read from the hub's cache alone where the hub's host has no address.

    The libraries themselves try each file six times first: half a minute a file on a compute node
    without a network.

    Args:
        name: of what is read, for the warning that it comes from the cache.
    """
    absent = absent_host()
    if absent is None or constants.is_offline_mode():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
    warnings.warn(
        f"{absent} is not to be found from here: {name} is read from the hub's cache, whether or "
        "not the hub has a newer one; HF_HUB_OFFLINE=1 asks for that without this warning",
        stacklevel=3,
    )


def hub_reason(error: BaseException) -> str:
    """Why the hub could not give a model: its host has no address here, or what `error` says."""
    absent = absent_host()
    if absent is None or constants.is_offline_mode() or not _is_missing(error):
        return first_line(error)
    return f"{absent} is not to be found from here, and the hub's cache has no such model"


def _is_missing(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a file that the cache does not have."""
    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False


def absent_host() -> str | None:
    """The hub's host, if it has no address here; a proxy would look for it elsewhere."""
    parts = urlsplit(constants.ENDPOINT)
    if parts.hostname is None or {"https", "http", "all"} & getproxies().keys():
        return None
    return None if _has_address(parts.hostname) else parts.hostname


@cache  # where no server of names answers, each question waits
def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
