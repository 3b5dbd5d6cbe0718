"""The networks of the page: what one finds in a picture, and the maps that explain it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textseg.errors import UserError
from textseg.explain import normalize_map
from textseg.metrics.case_table import without_border
from textseg.preprocess import Bytes, frame_of
from textseg.segment.members import checkpoint_name
from textseg.segment.network import Segmenter
from textseg.segment.pictures import to_tensor

MOST_LETTERS = 1000  # of an expression


@dataclass(frozen=True)
class Question:
    """What is asked of a network: its number on the page, and an expression."""

    network: int
    text: str


@dataclass(frozen=True)
class Finding:
    """What a network found.

    `network` is its name, `mask` [H0, W0] bool where `probs` [H0, W0] exceed `threshold`;
    `unknown` is the share of the text's words that it does not know, None where it reads none.
    """

    question: Question
    network: str
    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    threshold: float
    unknown: float | None
    notes: tuple[str, ...]


class Networks:
    """The networks to choose from; they compute one at a time, whoever asks.

    Args:
        paths: of the checkpoints.
        load: a checkpoint, or several that are averaged, to a network.

    Attributes:
        names: of the networks; of several the last is their mean, which is loaded when it is asked
            for the first time.
        takes_text: whether any of them reads words.

    Raises:
        UserError: a checkpoint cannot be used.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[Any], Segmenter]) -> None:
        self._paths, self._load = list(paths), load
        self._lock = threading.Lock()
        self._loaded = {number: load(path) for number, path in enumerate(self._paths)}
        self.names = [
            f"{net.model.network_name}, {checkpoint_name(path)}"
            for net, path in zip(self._loaded.values(), self._paths, strict=True)
        ]
        self.takes_text = any(net.takes_text for net in self._loaded.values())
        if len(self._paths) > 1:
            self.names.append(f"mean of all {len(self._paths)}")

    def find(self, picture: Bytes, question: Question) -> Finding:
        """Segment what a question names in a picture [H, W, 3].

        Raises:
            UserError: the network reads words and there are none, or too many; or it cannot take
                the picture.
        """
        if len(question.text) > MOST_LETTERS:
            raise UserError(
                f"an expression of {len(question.text):,} letters is too long",
                f"give {MOST_LETTERS:,} or fewer",
            )
        with self._lock:
            net = self._network(question.network)
            found = net.segment(picture, question.text)
            unknown, cut = net.unknown_share(question.text), net.is_cut(question.text)
        notes = []
        if unknown:
            notes.append(f"{unknown:.0%} of the words are unknown to the network.")
        if cut:
            notes.append("The network reads the beginning alone: the expression is too long.")
        if not net.takes_text:
            notes.append("This network reads no words.")
        threshold, name = net.model.mask_threshold, self.names[question.network]
        result = (found.mask, found.probs, threshold, unknown, tuple(notes))
        return Finding(question, name, *result)

    def explain(
        self, picture: Bytes, question: Question, word: str | None
    ) -> dict[str, NDArray[np.float32]]:
        """Maps [h, w] in [0, 1] of a picture by name, for a word or all of them.

        Raises:
            UserError: the text lacks the word, or the network has no maps.
        """
        with self._lock:
            net = self._network(question.network)
            own = (p for p in net.model.parameters() if p.is_floating_point())
            like = next(own, torch.empty(0))  # an export has none, and says so
            image = to_tensor(picture, net.image_size, net.resize)[None].to(like)
            maps = net.model.explain(image, [question.text], word)
        frame = frame_of((picture.shape[0], picture.shape[1]), net.image_size, net.resize)
        shown = {}
        for name, values in maps.items():
            inside = without_border(values, torch.tensor([frame]))[0]
            scaled = normalize_map(inside[None], (inside.shape[0], inside.shape[1]))
            shown[name] = scaled[0].cpu().numpy()
        return shown

    def _network(self, number: int) -> Segmenter:
        """A network by its number; the mean of all is made when it is asked for."""
        if not 0 <= number < len(self.names):
            raise UserError(f"network={number} is not there", f"choose one of {self.names}")
        if number not in self._loaded:
            self._loaded[number] = self._load(self._paths)
        return self._loaded[number]
