"""Threads beside the network: files are read before their turn and written after it.

What waits on either side is bounded by number and by bytes, so that memory does not grow with the
number of pictures. Results keep the order of what they are of; an error is raised where the
network is, which is the thread that takes what was read and hands over what is to be written.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

THREADS = max(2, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
MOST_BYTES = 256 * 2**20  # that wait on either side, beyond one of each thread


@dataclass(frozen=True)
class _Raised:
    """What was raised in place of a result; a result may itself be an error."""

    error: BaseException


class ReadAhead(Generic[T]):
    """The results of a function in the order of its numbers, made in threads before their turn.

    Args:
        read: called with 0, 1, ... `count` - 1, in any thread.
        count: how many there are.
        weigh: bytes of a result.
        most: results that wait at most.
        threads: that read.
    """

    def __init__(
        self,
        read: Callable[[int], T],
        count: int,
        *,
        weigh: Callable[[T], int],
        most: int,
        threads: int = THREADS,
    ) -> None:
        self._read, self._count, self._weigh, self._most = read, count, weigh, most
        self._changed = Condition()
        self._begun = self._taken = self._bytes = 0
        self._ready: dict[int, tuple[T, int] | _Raised] = {}  # with its bytes
        self._closed = False
        # Daemons: a generator that nobody ends must not keep a process from its end.
        for _ in range(min(threads, count)):
            Thread(target=self._work, daemon=True).start()

    def take(self, count: int) -> list[T]:
        """The next results, at most so many.

        Raises:
            BaseException: what reading one of them raised.
        """
        return [self._take() for _ in range(min(count, self._count - self._taken))]

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def _take(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._ready)
            ready = self._ready.pop(self._taken)
            self._taken += 1
            self._bytes -= 0 if isinstance(ready, _Raised) else ready[1]
            self._changed.notify_all()
        if isinstance(ready, _Raised):
            raise ready.error
        return ready[0]

    def _may_begin(self) -> bool:
        room = self._begun - self._taken < self._most and self._bytes < MOST_BYTES
        return self._closed or self._begun == self._count or room

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_begin)
                if self._closed or self._begun == self._count:
                    return
                number = self._begun
                self._begun += 1
            ready: tuple[T, int] | _Raised
            try:
                result = self._read(number)
                ready = result, self._weigh(result)
            except BaseException as error:  # for whoever takes it
                ready = _Raised(error)
            with self._changed:
                if not self._closed:
                    self._ready[number] = ready
                    self._bytes += 0 if isinstance(ready, _Raised) else ready[1]
                self._changed.notify_all()


class Writers:
    """Threads that write results, as a context: at its end all is written.

    Where its block fails, what nobody has begun to write is left out.

    Args:
        threads: that write.
        most: results that wait at most.
    """

    def __init__(self, threads: int = THREADS, most: int = 4 * THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads)
        self._most = most
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._waiting:
                self._finish_first()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def write(self, weight: int, function: Callable[..., None], *given: Any, **named: Any) -> None:
        """Call a function in a thread; waits while too much is unwritten.

        Args:
            weight: bytes that are held until then.
            function: what writes.
            given, named: its arguments.

        Raises:
            Exception: what an earlier call raised.
        """
        while self._waiting and self._waiting[0][0].done():
            self._finish_first()
        while self._waiting and (
            len(self._waiting) >= self._most or self._bytes + weight > MOST_BYTES
        ):
            self._finish_first()
        self._bytes += weight
        self._waiting.append((self._threads.submit(function, *given, **named), weight))

    def _finish_first(self) -> None:
        future, weight = self._waiting.popleft()
        self._bytes -= weight
        future.result()
