"""What one visitor has open and has found; visitors know nothing of each other."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textseg.demo.networks import Finding, Networks, Question
from textseg.demo.opening import Opener, Source
from textseg.errors import UserError
from textseg.preprocess import Bytes

MOST_SESSIONS = 16  # whose pictures are kept in memory
_OPEN_FIRST = "open a picture or take a phantom first"


class Session:
    """One visitor's picture and findings. Its methods are called one at a time, in any thread.

    Attributes:
        source: what is open; None before.
        z: the slice that is shown.
        findings: of the questions that were asked of this slice; empty before.
    """

    def __init__(self) -> None:
        self.source: Source | None = None
        self.z = 0
        self.findings: list[Finding] = []
        self._asked: list[Question] = []
        self._as_opened: Source | None = None
        self._phantoms = 0
        self._lock = threading.Lock()

    def open(self, opener: Opener, files: Sequence[Path], channel: int | None) -> Source:
        """Open files that were sent; what was open stays so where they cannot be read.

        Raises:
            UserError: they cannot.
        """
        return self._opened(opener.files(files, channel))

    def take_phantom(self, opener: Opener) -> Source:
        """Open the next phantom: each is another one.

        Raises:
            UserError: there is nothing that draws one.
        """
        source = opener.phantom(self._phantoms)
        self._phantoms += 1
        return self._opened(source)

    def _opened(self, source: Source) -> Source:
        with self._lock:
            self.source = self._as_opened = source
            self.z = source.slices // 2
            self.findings, self._asked = [], []
        return source

    def look(self, networks: Networks, z: int, window: str | None = None) -> None:
        """Go to a slice and a window; what was asked before is asked again there.

        Args:
            networks: that were asked.
            z: the slice.
            window: see `Source.under`; "" is that of the opening, None leaves it as it is.

        Raises:
            UserError: there is no such slice, or the window shows next to nothing; then all stays.
        """
        with self._lock:
            source = self._of_session()
            if window is not None:
                assert self._as_opened is not None
                source = source.under(window) if window else self._as_opened
            picture = source.picture(z)
            self.source, self.z, self.findings = source, z, []
            self.findings = [networks.find(picture, question) for question in self._asked]

    def segment(self, networks: Networks, questions: Sequence[Question]) -> list[Finding]:
        """Ask questions of the picture.

        Raises:
            UserError: nothing is open, or a network cannot answer.
        """
        with self._lock:
            picture = self._picture()
            self.findings, self._asked = [], []
            self.findings = [networks.find(picture, question) for question in questions]
            self._asked = list(questions)
        return self.findings

    def explain(
        self, networks: Networks, number: int, word: str | None
    ) -> dict[str, NDArray[np.float32]]:
        """Maps by name for a word of question `number`, or for all of its words.

        Raises:
            UserError: nothing was asked yet, or the network has no maps for the word.
        """
        with self._lock:
            if not 0 <= number < len(self.findings):
                raise UserError("there is no mask to explain", "segment the picture first")
            return networks.explain(self._picture(), self.findings[number].question, word)

    def _picture(self) -> Bytes:
        return self._of_session().picture(self.z)

    def _of_session(self) -> Source:
        if self.source is None:
            raise UserError("no picture is open", _OPEN_FIRST)
        return self.source


class Sessions:
    """The sessions by their keys; of more than `most` the one that rested longest is forgotten.

    Args:
        most: sessions that are kept.
    """

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self._most = most
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: str) -> Session:
        """The session of a visitor, a new one where there is none."""
        with self._lock:
            session = self._sessions.setdefault(key, Session())
            self._sessions.move_to_end(key)
            if len(self._sessions) > self._most:
                self._sessions.popitem(last=False)
            return session

    def close(self, key: str) -> None:
        """Forget a visitor who left."""
        with self._lock:
            self._sessions.pop(key, None)

    def __len__(self) -> int:
        return len(self._sessions)


def questions_of(text: str, network: int, other_text: str, other_network: int) -> list[Question]:
    """What is asked: one question, and a second one where its text or its network is another.

    An empty second text is the first one.
    """
    first = Question(network, text.strip())
    second = Question(other_network, other_text.strip() or first.text)
    return [first] if first == second else [first, second]


def words_of(text: str) -> list[str]:
    """The words of an expression, each once, in their order."""
    found = re.findall(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}-]\w+)*", text)
    first: dict[str, str] = {}
    for word in found:
        first.setdefault(word.casefold(), word)
    return list(first.values())
