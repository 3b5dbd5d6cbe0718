"""The card itself: README.md with the hub's head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import cleandoc
from typing import Any, NamedTuple

import yaml

from textseg import __version__
from textseg.card.failures import failure_blocks, words_failures
from textseg.card.markdown import paragraphs
from textseg.card.portable import public_settings
from textseg.metrics.text import escape_markdown, with_interval
from textseg.report.blocks import Block, Cell, Picture, Table, Text
from textseg.report.calibration_section import calibration_blocks
from textseg.report.run_page import flat_settings
from textseg.report.score_tables import (
    MEANING,
    first_probe,
    probe_blocks,
    results_blocks,
    strata_blocks,
)
from textseg.runs import Run, StoredTest
from textseg.runs.folder import CAPTION_MODES

UNSTATED = "not stated by whoever made this card"
_USE = (
    "Research on segmentation that words steer. It is no medical device, was not examined by any "
    "authority, and no diagnosis or treatment may rest on its masks.",
    "It was trained and tested on the data below alone. Other scanners, populations, kinds of "
    "images and wordings were not measured unless a table below says so. Give it words as in the "
    "captions that it was trained on: words that it does not know are read as nothing.",
)


class Stated(NamedTuple):
    """What only the user can say: licenses by the hub's names, and a note on the data."""

    license: str | None
    data_license: str | None
    data: str | None


def readme(
    run: Run, tests: Mapping[str, StoredTest], class_path: str, weights: str, stated: Stated
) -> str:
    """The text of README.md.

    Args:
        run: the run.
        tests: its tests by name, the one with true captions among them if it was tested.
        class_path: of the network.
        weights: digest of its weights.
        stated: by the user.
    """
    known = dict(flat_settings(public_settings(run.settings())))
    network = class_path.rpartition(".")[2]
    dataset = known.get("data.class_path", "unknown").rpartition(".")[2].removesuffix("DataModule")
    sections = [
        ("The network", _network(class_path)),
        ("Intended use and limits", list(_USE)),
        ("Data", _data(run, known, tests.get("true"), stated, dataset)),
        ("Results", _results(tests)),
        ("Known failures", _failures(run, tests.get("true"))),
        ("Use of the text, and what images do not show", _probe(run)),
        ("Calibration", _calibration(run)),
        ("Training", _training(known, weights)),
        ("Use", _use(network)),
        ("Citation", _citation(class_path)),
    ]
    body = [f"# {network} on {dataset}", _lead(tests)]
    for title, texts in sections:
        body += [f"## {title}", *texts]
    return _head(dataset, stated) + "\n\n".join(body) + "\n"


def _head(dataset: str, stated: Stated) -> str:
    head = {
        "license": stated.license or "unknown",
        "library_name": "textseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "image-segmentation", "referring-segmentation", "vision-language"],
        "datasets": [dataset],
        "metrics": ["dice", "mean_iou"],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"


def _lead(tests: Mapping[str, StoredTest]) -> str:
    """What it does and how well, in two sentences."""
    guided = {"empty", "shuffled"} & tests.keys()  # an image-only network is tested once
    purpose = f"Outlines regions in medical images{' that words name' if guided else ''}."
    if "true" not in tests:
        return f"{purpose} It was not tested with true captions."
    dice = {mode: _dice(tests[mode].metrics) for mode in CAPTION_MODES if mode in tests}
    others = [f"{value} with {mode} captions" for mode, value in dice.items() if mode != "true"]
    cases = len(tests["true"].cases)
    text = f"{purpose} Mean Dice over {cases} test images: {', '.join([dice['true'], *others])}."
    return escape_markdown(text)


def _dice(metrics: Mapping[str, Any]) -> str:
    return with_interval(metrics["dice"], metrics.get("dice_ci_low"), metrics.get("dice_ci_high"))


def _network(class_path: str) -> list[str]:
    text = paper_of(class_path)
    if not text:
        return [f"{escape_markdown(class_path)}: a network of its author's own."]
    return [
        f"{escape_markdown(class_path)} of textseg {__version__}. What is the paper's and "
        "what is not:",
        f"```text\n{text}\n```",
    ]


def paper_of(class_path: str) -> str:
    """What a network of the suite says of its paper; "" of any other."""
    parts = class_path.split(".")
    if parts[:2] != ["textseg", "models"]:
        return ""
    kind = getattr(import_module("textseg.models"), parts[-1])
    home = ".".join(kind.__module__.split(".")[:3])
    return cleandoc(import_module(home).__doc__ or "")


def _data(
    run: Run, known: Mapping[str, str], test: StoredTest | None, stated: Stated, dataset: str
) -> list[str]:
    rows = run.training_rows()
    facts = {
        "dataset": dataset,
        "split": known.get("data.init_args.split", "unknown"),
        "training rows": "unknown" if rows is None else str(rows),
        "drawn phantoms instead of patients": "yes" if _given(known, "synthesize") else "no",
        "about the data": stated.data or UNSTATED,
        "license of the data": stated.data_license or UNSTATED,
        "license of the weights": stated.license or UNSTATED,
    }
    if test is not None:
        facts["test rows"] = str(len(test.cases))
        facts["SHA-256 of the test rows"] = rows_digest(test)
    return ["\n".join(f"* {name}: {escape_markdown(value)}" for name, value in facts.items())]


def _given(known: Mapping[str, str], name: str) -> bool:
    """Whether a setting of the data has another value than nothing, 0 or false."""
    return known.get(f"data.init_args.{name}", "null") not in ("null", "0", "false", "")


def rows_digest(test: StoredTest) -> str:
    """SHA-256 of a test's rows: their names, captions, sizes and true areas, in their order."""
    rows = [[case.case, case.caption, case.pixels, case.true] for case in test.cases]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def _results(tests: Mapping[str, StoredTest]) -> list[str]:
    if not tests:
        return ["Not measured: the run was not tested."]
    blocks = [*map(Text, MEANING), *results_blocks(list(tests.values()))]
    if "true" in tests:
        blocks += strata_blocks(tests["true"], [])
    return _as_texts(blocks)


def _failures(run: Run, test: StoredTest | None) -> list[str]:
    blocks = [] if test is None else failure_blocks(test)
    blocks += words_failures(first_probe(run.folder))
    return _as_texts(blocks) or ["Not measured."]


def _probe(run: Run) -> list[str]:
    blocks = probe_blocks(run.folder)
    if not blocks:
        return [
            "Not measured: how far masks move when the words change, and what is outlined where "
            "the words name what an image does not show."
        ]
    texts = _as_texts(blocks)
    if not any(isinstance(b, Table) and b.caption.startswith("What the images") for b in blocks):
        texts.append("Requests for what an image does not show were not measured.")
    return texts


def _calibration(run: Run) -> list[str]:
    blocks = calibration_blocks(run.folder)
    return _as_texts(blocks) if blocks else ["Not measured: probabilities may be too high or low."]


def _training(known: Mapping[str, str], weights: str) -> list[str]:
    if not known:
        return ["Unknown: the run has no config.yaml."]
    seed = known.get("seed_everything", "unknown")
    rows = [[Cell(name), Cell(value)] for name, value in known.items() if value != "null"]
    table = Table("config.yaml, but for what is null", ["setting", "value"], rows)
    return [
        f"Seed {escape_markdown(seed)}, one training; digest of the weights {weights}.",
        "<details><summary>All settings</summary>",
        *_as_texts([table]),
        "</details>",
    ]


def _use(network: str) -> list[str]:
    code = (
        'import textseg\n\nnet = textseg.load("FOLDER")  # this folder\n'
        'result = net.segment("image.png", "the words")  # mask and probs at the image\'s size'
    )
    shell = 'textseg segment IMAGE "the words" --ckpt_path FOLDER'
    return [f"```python\n{code}\n```", f"```bash\n{shell}\n```"]


def _citation(class_path: str) -> list[str]:
    first = paper_of(class_path).split("\n\n", 1)[0].replace("\n", " ")
    software = (
        f"The textseg authors: textseg, text-guided medical image segmentation, version "
        f"{__version__} (Apache-2.0)."
    )
    return [software, *([f"The network: {escape_markdown(first)}"] if first else [])]


def _as_texts(blocks: Sequence[Block]) -> list[str]:
    return list(paragraphs(block for block in blocks if not isinstance(block, Picture)))
