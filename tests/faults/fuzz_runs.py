"""Kinds of hostile settings, and of files in a run's folder."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import note
from hypothesis import strategies as st

from datamodules.base import TextSegDataModule
from tests.faults.case_rows import case_row
from tests.faults.fuzz import kind, valid
from tests.faults.fuzz_tables import CAPTION, PLAIN, TEXT, spoiled
from textseg.checkpoint import read_checkpoint
from textseg.cli.arguments import with_run_config
from textseg.cli.commands import COMMANDS
from textseg.cli.messages import broken_yaml, explain, user_error
from textseg.cli.parser import CommandParser, ParseError, check_nulls
from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.runs import Run
from textseg.runs.cases import read_cases, write_cases
from textseg.runs.results import read_scores


@kind
def cases_valid(data: st.DataObject, folder: Path) -> bool:
    """Any captions and names in cases.csv: read back as they were, and no formula among them."""
    texts = data.draw(st.lists(CAPTION, min_size=1, max_size=4))
    identity = data.draw(st.one_of(st.just(""), TEXT.filter(bool)))
    rows = [case_row(n, text, identity) for n, text in enumerate(texts)]
    write_cases(folder / "cases.csv", rows)
    with valid():
        found = read_cases(folder / "cases.csv")
    return found == rows


@kind
def cases_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of cases.csv: rows whose scores agree with their areas, or refused."""
    rows = [case_row(n, f"disc {n}", f"p{n}") for n in range(3)]
    write_cases(folder / "cases.csv", rows)
    content = (folder / "cases.csv").read_bytes()
    (folder / "cases.csv").write_bytes(spoiled(data.draw, content))
    found = read_cases(folder / "cases.csv")
    return all(0 <= row.dice <= 1 and row.case for row in found)


@kind
def scores_of_any_shape(data: st.DataObject, folder: Path) -> bool:
    """metrics.json of any values: numbers where numbers are wanted."""
    values = data.draw(st.dictionaries(st.sampled_from(("dice", "miou", "cases", "by")), PLAIN))
    text = json.dumps(values).encode()
    spoil = data.draw(st.booleans())
    (folder / "metrics.json").write_bytes(spoiled(data.draw, text) if spoil else text)
    found = read_scores(folder / "metrics.json", ("dice",))
    return isinstance(found["dice"], int | float)


CONFIG = yaml.safe_dump(
    {
        "seed_everything": 1,
        "trainer": {"precision": "32-true"},
        "model": {"class_path": "textseg.models.LSMS", "init_args": {"lr": 0.001}},
        "data": {
            "class_path": "datamodules.ManifestDataModule",
            "init_args": {"root": "a", "image_size": 64, "split": "manifest"},
        },
    }
).encode()


@kind
def run_config_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of a run's config.yaml: settings, or refused, and no class is imported."""
    (folder / "config.yaml").write_bytes(spoiled(data.draw, CONFIG))
    run = Run(folder)
    run.training_rows()
    run.data_identity()
    found = run.settings()
    with_run_config(["--ckpt_path", str(folder / "best.ckpt")])
    return isinstance(found, dict)


@kind
def run_config_of_any_shape(data: st.DataObject, folder: Path) -> bool:
    """config.yaml of any YAML values."""
    value = data.draw(
        st.one_of(
            PLAIN,
            st.fixed_dictionaries({}, optional=dict.fromkeys(("model", "data", "trainer"), PLAIN)),
            st.fixed_dictionaries(
                {"data": st.fixed_dictionaries({"class_path": PLAIN, "init_args": PLAIN})}
            ),
        )
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(value))
    run = Run(folder)
    run.data_identity()
    with_run_config(["--ckpt_path", str(folder / "best.ckpt"), "--data.root", "b"])
    return isinstance(run.settings(), dict)


@kind
def yaml_of_any_bytes(data: st.DataObject, folder: Path) -> bool:
    """An experiment's file of any bytes: what is wrong with it is said."""
    content = data.draw(st.one_of(st.binary(max_size=40), st.just(CONFIG)))
    (folder / "a.yaml").write_bytes(spoiled(data.draw, content))
    error = broken_yaml([folder / "a.yaml"])
    if error is not None:
        raise error
    return True


@cache
def _parser(base: type) -> CommandParser:
    parser = CommandParser()
    parser.add_subclass_arguments(base, "made", required=True)
    return parser


def _made(base: type, class_path: str, init_args: dict[str, Any]) -> Any:
    """An object as the command line makes it of an experiment's settings."""
    text = yaml.safe_dump({"made": {"class_path": class_path, "init_args": init_args}})
    try:
        parsed = _parser(base).parse_string(text)
        check_nulls(parsed, {"made": base})
        return _parser(base).instantiate_classes(parsed)["made"]
    except ParseError as error:
        raise explain(str(error), [], ["made"], COMMANDS[0]) from error
    except Exception as error:  # as the command line finds what a library wrapped
        raise user_error(error) or error from error


def _drawn(data: st.DataObject, values: dict[str, Any]) -> dict[str, Any]:
    """One to three settings, each with a value that it takes, none, or any."""
    names = data.draw(st.lists(st.sampled_from(list(values)), min_size=1, max_size=3, unique=True))
    return {
        name: data.draw(st.one_of(st.sampled_from(values[name]), st.none(), PLAIN), label=name)
        for name in names
    }


DATA_VALUES: dict[str, Any] = {
    "image_size": (32, [64, 96]),
    "batch_size": (1, 8),
    "num_workers": (0,),
    "hflip": (None, 0.5),
    "mask_values": (None, [1, 2]),
    "augmentation": ("none", "light"),
    "caption_mode": ("true", "empty"),
    "paraphrase": (0.0, 1.0),
    "caption_dropout": (0.0, 0.5),
    "language": ("auto", "zh"),
    "word_classes": (None, {"severity": ["mild"]}),
    "strata": (None, ["scanner"]),
    "seed": (0, 3),
    "split": ("manifest", "random"),
    "resize": ("stretch", "pad"),
    "on_missing": ("error", "skip"),
    "cache": (False, "somewhere"),
}


@kind
def yaml_values(data: st.DataObject, folder: Path) -> bool:
    """Settings of a DataModule with any YAML values: set as written, or refused."""
    given = _drawn(data, DATA_VALUES)
    made = _made(TextSegDataModule, "ManifestDataModule", {"root": str(folder), **given})
    with suppress(UserError):
        made.prepare_data()  # of an empty folder
    expected = given | ({"strata": given["strata"] or []} if "strata" in given else {})
    note(f"given {given}")
    return all(getattr(made, name) == value for name, value in expected.items())


NETWORK_VALUES: dict[str, Any] = {
    "lr": (1e-3,),
    "weight_decay": (0, 0.1),
    "pretrained_lr_scale": (0.5,),
    "text_lr_scale": (None, 1.0),
    "unfreeze_text_layers": (0,),
    "stage_norm": (True, False),
    "schedule": ("poly", "cosine"),
    "warmup": (0.0, 0.1),
    "min_lr_scale": (0.0, 0.1),
    "segmentation_loss": ({"dice": 1.0}, {"tversky": 1.0, "bce": 0.5}),
    "auxiliary_weight": (0.0,),
    "protocol": ("standard",),
    "nsd_tolerance": (2.0,),
    "decoder_options": (None, {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}),
}


@kind
def network_values(data: st.DataObject, folder: Path) -> bool:
    """Settings of a network with any YAML values: kept as written, or refused."""
    given = _drawn(data, NETWORK_VALUES)
    encoder = {"image_encoder": "tu-test_resnet", "pretrained": False}
    made = _made(SegmentationModule, "ImageBaseline", encoder | given)
    note(f"given {given}")
    return all(made.hparams[name] == value for name, value in given.items())


# --- checkpoints -------------------------------------------------------------------------------


@cache
def real_checkpoint() -> bytes:
    stream = io.BytesIO()
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}, "epoch": 3}, stream)
    return stream.getvalue()


@kind
def checkpoint_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of a checkpoint: a mapping with weights, or refused; nothing runs."""
    content = real_checkpoint()
    (folder / "best.ckpt").write_bytes(spoiled(data.draw, content))
    found = read_checkpoint(folder / "best.ckpt")
    return isinstance(found, dict) and "state_dict" in found


@kind
def checkpoint_of_any_values(data: st.DataObject, folder: Path) -> bool:
    """A checkpoint of plain values that are none of a network's."""
    torch.save(data.draw(PLAIN), folder / "best.ckpt")
    read_checkpoint(folder / "best.ckpt")
    return False
