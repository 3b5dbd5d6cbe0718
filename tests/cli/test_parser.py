"""How the command line reads values that have two types."""

from __future__ import annotations

from typing import Union

import pytest
from jsonargparse import ArgumentParser

from textseg.cli.parser import read_whole_numbers_as_int


@pytest.mark.parametrize("text", ["1", "1.0", "0.5", "null"])
def test_a_whole_number_is_an_int_whatever_the_order_of_the_types(text: str) -> None:
    parser = ArgumentParser()
    parser.add_argument("--batches", type=Union[float, int, None])  # noqa: UP007  typing's, as the Trainer's
    read_whole_numbers_as_int(parser)
    value = parser.parse_args(["--batches", text]).batches
    wanted = {"1": 1, "1.0": 1.0, "0.5": 0.5, "null": None}[text]
    assert value == wanted
    assert type(value) is type(wanted)
