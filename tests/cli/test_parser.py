"""How the command line reads values that have two types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import pytest
import yaml
from jsonargparse import ArgumentParser

from lightning_cli import datasets
from textseg.cli.parser import mirror_of_run, read_whole_numbers_as_int


@pytest.mark.parametrize("text", ["1", "1.0", "0.5", "null"])
def test_a_whole_number_is_an_int_whatever_the_order_of_the_types(text: str) -> None:
    parser = ArgumentParser()
    parser.add_argument("--batches", type=Union[float, int, None])  # noqa: UP007  typing's, as the Trainer's
    read_whole_numbers_as_int(parser)
    value = parser.parse_args(["--batches", text]).batches
    wanted = {"1": 1, "1.0": 1.0, "0.5": 0.5, "null": None}[text]
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({"language": "de"}, "Xylom re."), ({"language": "auto"}, None), ({}, None)],
)
def test_a_text_is_mirrored_in_the_language_that_the_training_was_set_to(
    settings: dict[str, Any], wanted: str | None, tmp_path: Path
) -> None:
    stored = {"data": {"init_args": settings}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    checkpoint = str(tmp_path / "checkpoints/best.ckpt")
    for given in (checkpoint, [checkpoint, "other.ckpt"]):
        mirror = mirror_of_run(given, datasets)
        assert mirror("Xylom li.") == wanted
        assert mirror("links") == "rechts"
