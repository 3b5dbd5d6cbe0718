"""What the fuzzer does: kinds of hostile input, what each is read as, and how outcomes count.

A kind is a function that draws one variant, reads it and says whether the value is the right one.
Its oracle: the right value, or a `UserError` of two lines. Anything else is a fault of one class:

| class | what came out |
|---|---|
| silent | another value than the right one |
| raw | another exception |
| hang | nothing within `SECONDS`, or `WAITING` |
| memory | more than `MEMORY` bytes beyond what the process had |
| false refusal | a UserError for a variant that is valid |
"""

from __future__ import annotations

import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from textseg.errors import UserError

SECONDS = 10  # of the processor
WAITING = 300  # for a file that never ends
MEMORY = 2**30
CLASSES = ("right", "refused", "silent", "raw", "hang", "memory", "false refusal")

Kind = Callable[[st.DataObject, Path], bool]
"""Draws and reads one variant in an empty folder: True where the value is right; a UserError of a
valid variant is turned into `FalseRefusalError` by `valid`."""
KINDS: dict[str, Kind] = {}


class FalseRefusalError(AssertionError):
    """A valid variant was refused."""


class Hang(BaseException):
    """A variant took too long; no reader's `except Exception` takes it for a broken file."""


class TooMuchMemoryError(AssertionError):
    """A variant took too much memory."""


def kind(function: Kind) -> Kind:
    """Add a kind to the table, by its name."""
    KINDS[function.__name__] = function
    return function


@contextmanager
def valid() -> Iterator[None]:
    """What is read here must be read."""
    try:
        yield
    except UserError as error:
        raise FalseRefusalError(str(error)) from error


@contextmanager
def _limited() -> Iterator[None]:
    """At most `SECONDS`, and `MEMORY` bytes more than before."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise Hang

    usual = {one: signal.signal(one, too_long) for one in (signal.SIGPROF, signal.SIGALRM)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, which others may use too
    signal.alarm(WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for one, handler in usual.items():
            signal.signal(one, handler)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > MEMORY:
        raise TooMuchMemoryError(f"{grown} bytes")


def classify(read: Kind, data: st.DataObject, folder: Path) -> str:
    """The class of one variant; a fault is raised, with its class in `fault_class`."""
    try:
        with _limited():
            return "right" if read(data, folder) else "silent"
    except UserError as error:
        cause, *remedy = str(error).splitlines()
        if not cause or len(remedy) > 1:
            raise RuntimeError(f"a refusal that is not two lines: {error}") from error
        return "refused"


def fault_class(error: BaseException) -> str:
    """The class of what `classify` raised."""
    faults = {FalseRefusalError: "false refusal", Hang: "hang", TooMuchMemoryError: "memory"}
    faults |= {MemoryError: "memory"}
    return faults.get(type(error), "raw")


def fuzz(
    name: str, tmp: Path, *, variants: int, start: int, stop: bool = True
) -> tuple[Counter[str], list[str]]:
    """Run a kind.

    Args:
        name: of the kind.
        tmp: an empty folder.
        variants: how many.
        start: the seed.
        stop: raise the first fault, reduced to its smallest example; else count them.

    Returns:
        variants by class, and a line for each fault.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    number = 0

    @seed(start)
    @settings(
        max_examples=variants,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if stop else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        nonlocal number
        number += 1
        folder = tmp / f"{name}{number}"
        folder.mkdir()
        try:
            found = classify(KINDS[name], data, folder)
        except BaseException as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            counts[fault_class(error)] += 1
            faults.append(f"{fault_class(error)}: {type(error).__name__}: {error}"[:300])
            if stop or isinstance(error, KeyboardInterrupt):
                raise
            return
        counts[found] += 1
        if found == "silent":
            faults.append("silent: another value than the right one")
            assert not stop, f"{name}: another value than the right one was read"

    begun = time.monotonic()
    one()
    print(f"{name}: seed {start}, {time.monotonic() - begun:.1f} s, {dict(counts)}")
    return counts, faults


def table(counts: dict[str, Counter[str]]) -> str:
    """Kinds and counts in Markdown."""
    lines = ["| kind | variants | " + " | ".join(CLASSES) + " |", "|---" * (len(CLASSES) + 2) + "|"]
    total: Counter[str] = sum(counts.values(), Counter())
    for name, one in {**counts, "all": total}.items():
        cells = [str(one[which]) for which in CLASSES]
        lines.append(f"| {name} | {one.total()} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
