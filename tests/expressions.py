"""Every expression that the grammar of `datamodules.captions.expressions` words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from datamodules.captions.expressions import RANKS, TRAITS, rank_expression, trait_expression

VALUES = {
    "size": (None, "small", "large"),
    "density": (None, "hypodense", "hyperdense", "isodense"),
    "place": (None, "upper left", "upper right", "lower left", "lower right"),
}


class Scripted:
    """Stands for a random generator; makes the choices that it is given, then the first ones."""

    def __init__(self, choices: Sequence[int]) -> None:
        self.choices, self.sizes = choices, list[int]()

    def integers(self, size: int) -> int:
        at = len(self.sizes)
        self.sizes.append(size)
        return self.choices[at] if at < len(self.choices) else 0

    def choice(self, words: Sequence[str]) -> str:
        return words[self.integers(len(words))]


def _worded(word: Callable[[Any], str]) -> set[str]:
    """All texts that a function words, whatever is drawn."""
    texts, choices = set(), list[int]()
    while True:
        scripted = Scripted(choices)
        texts.add(word(scripted))
        choices += [0] * (len(scripted.sizes) - len(choices))
        choices = choices[: len(scripted.sizes)]
        while choices and choices[-1] + 1 == scripted.sizes[len(choices) - 1]:
            choices.pop()
        if not choices:
            return texts
        choices[-1] += 1


@cache
def all_expressions() -> tuple[str, ...]:
    texts: set[str] = set()
    for values in product(*(VALUES[name] for name in TRAITS)):
        traits = {name: value for name, value in zip(TRAITS, values, strict=True) if value}
        if traits:
            texts |= _worded(lambda rng, traits=traits: trait_expression(rng, traits))
    for rank, number in product(("only", *RANKS), (None, *range(2, 14))):
        texts |= _worded(lambda rng, r=rank, n=number: rank_expression(rng, r, n))
    return tuple(sorted(texts))


def with_expressions(root: Path) -> Path:
    """Give each row of a set's manifest.jsonl an expression of its own."""
    table = root / "manifest.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    chosen = all_expressions()[:: len(all_expressions()) // len(rows)]
    for row, text in zip(rows, chosen, strict=False):
        row["text"] = text
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root
