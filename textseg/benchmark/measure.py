"""`textseg benchmark`: cost and speed of networks side by side, and of the machine."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch

from textseg.batch import Batch
from textseg.benchmark.cost import (
    CAPTION,
    first_rows,
    gflops,
    parameter_counts,
    random_batch,
    step_gflops,
)
from textseg.benchmark.device import (
    DeviceName,
    checked_device,
    environment,
    matrix_product_peak,
)
from textseg.benchmark.experiments import freeze_text_encoder, name_of, network_of_experiment
from textseg.benchmark.timing import (
    MEMORY_FORMATS,
    Candidate,
    Mode,
    ModeName,
    faster,
    time_rounds,
)
from textseg.encoders import TextEncoder
from textseg.errors import UserError, check_at_least, check_choice, check_choices
from textseg.models.base import SegmentationModule
from textseg.output import write_text
from textseg.preprocess import checked_size

MemoryFormat = Literal["channels_first", "channels_last"]  # the keys of MEMORY_FORMATS


def benchmark(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    image_size: int | None = None,
    batch_size: int = 4,
    rounds: int = 10,
    threads: int = 1,
    device: DeviceName = "cpu",
    modes: list[ModeName] | None = None,
    memory_formats: list[MemoryFormat] | None = None,
    compare_with: list[str] | None = None,
    text_encoder: str | None = None,
    freeze_text: bool = False,
    reference: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Cost and speed of networks on random images.

    Every network runs in every round, channels-first and channels-last unless memory_formats names
    one, and each round starts one further on, so that a busy machine slows all alike. A network is
    reported in one memory format: the one with the smaller sum of its least forward and step. The
    images and captions of a batch are all different. A frozen text encoder's captions are cached;
    the times hold a text encoder only where it is trained.

    Args:
        model: the network, first in the table.
        datamodule: gives the image size; its data is not read.
        image_size: side of the square input, a multiple of 32; by default that of the data
            settings.
        batch_size: images in a timed batch; GFLOPs are for one image.
        rounds: timed repetitions. The least is reported, since what else the machine does only adds
            time, and the median beside it.
        threads: CPU threads.
        device: cpu or cuda.
        modes: precisions, compiled or not, to measure each network in: [fp32,bf16+compile]; a row
            for each. By default fp32.
        memory_formats: of channels_first and channels_last those to measure, by default both; one
            alone, [channels_last], halves the time, compiling included.
        compare_with: experiment files whose networks, any SegmentationModule that can be imported,
            are measured in the same rounds: [a.yaml,b.yaml], or --compare_with+ before each. An
            experiment with overlays is its files joined by "+": a.yaml+cpu/a.yaml. They load no
            weights and their text encoders are frozen; for the network of --config, set
            --model.pretrained false and --freeze_text true.
        text_encoder: text encoder of the text-guided networks of compare_with, in place of their
            own: a folder, a hub name or "scratch".
        freeze_text: freeze the text encoder of --config's network as well, whatever its weights:
            its captions are cached and training leaves it out. A fit does not freeze random words.
        reference: name of the row by whose least times all are divided; by default the first. It
            is the class of --config's network or a file of compare_with without its suffix; with
            several modes, the mode follows after a space.
        output: a JSON file for the figures; one that exists is not overwritten.

    Returns:
        the settings; the environment; matrix_product_gflops_per_s by mode; and under networks a row
        for each, in which text_s (strings to features), forward_s and step_s (forward, loss,
        backward and AdamW) are the least seconds of a batch, with the medians beside them; speedup
        is the step of the network's first mode by this one; text_bit_equal tells whether cached
        features are those of the encoder, null if none are cached; share_of_peak is the step's
        GFLOPs a second by those of the matrix product; peak_memory_mib is of a step on a GPU, with
        weights and the optimizer's state, null on a CPU.

    Raises:
        UserError: a setting that cannot be measured, or an experiment that cannot be built.
    """
    for name, count in (("batch_size", batch_size), ("rounds", rounds), ("threads", threads)):
        check_at_least(name, count, 1)
    file = None if output is None else Path(output).expanduser()
    if file is not None:
        _check_output(file)
    if text_encoder is not None and not compare_with:
        raise UserError(
            f"text_encoder={text_encoder!r} is for the networks of compare_with, which names none",
            "give --compare_with, or --model.text_encoder for the network of --config",
        )
    if image_size is None:
        of_data: Any = getattr(datamodule, "image_size", 224)
        image_size = _square(of_data)
    side, _ = checked_size(image_size)
    modes = ["fp32"] if modes is None else modes
    check_choices("modes", modes, get_args(ModeName), least=1)
    formats = list(MEMORY_FORMATS) if memory_formats is None else memory_formats
    check_choices("memory_formats", formats, list(MEMORY_FORMATS), least=1)
    plan = Plan(rounds, checked_device(device), [Mode(name) for name in modes], formats)
    networks = _networks(model, compare_with or [], text_encoder)
    if freeze_text:
        freeze_text_encoder(model)
    rows = [plan.row_name(name, mode) for name in networks for mode in plan.modes]
    reference = rows[0] if reference is None else reference
    check_choice("reference", reference, rows)
    with _threads(threads):
        result: dict[str, Any] = {
            "image_size": side,
            "batch_size": batch_size,
            "threads": threads,
            "rounds": rounds,
            "reference": reference,
            "environment": environment(plan.device),
            **measured(networks, random_batch(batch_size, side), plan),
        }
    result["networks"] = with_ratios(result["networks"], reference)
    if file is not None:
        write_text(file, json.dumps(result, indent=2) + "\n")
    return result


def _square(of_data: int | Sequence[int]) -> int:
    """The side of the data settings' input.

    Raises:
        UserError: it is no square, and a benchmark's input is one.
    """
    if isinstance(of_data, int):
        return of_data
    if len({*of_data}) != 1:
        raise UserError(
            f"data.image_size={[*of_data]} is no square",
            "give the side of the square that is measured: --image_size 224",
        )
    return of_data[0]


@dataclass(frozen=True)
class Plan:
    """How often, where, and in which modes and memory formats to measure."""

    rounds: int
    device: torch.device
    modes: Sequence[Mode]
    memory_formats: Sequence[str]

    def row_name(self, network: str, mode: Mode) -> str:
        """The row's name in the table; the mode follows only where there are several."""
        return f"{network} {mode.name}" if len(self.modes) > 1 else network


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many CPU threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_output(file: Path) -> None:
    if file.exists():
        raise UserError(f"output={str(file)!r} exists", "give another file, or move this one away")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(
            f"output={str(file)!r}: the folder {str(file.parent)!r} cannot be written to",
            "make the folder first, or give a file in another one",
        )


def _networks(
    model: SegmentationModule, compare_with: Sequence[str], text_encoder: str | None
) -> dict[str, SegmentationModule]:
    """The network of --config by its class, those of `compare_with` by their files' stems."""
    names = [type(model).__name__, *map(name_of, compare_with)]
    for entry, name in zip(compare_with, names[1:], strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"compare_with: {entry} would be called {name!r} in the table, as another network "
                "is",
                "give each experiment once, and rename one of two files of the same name",
            )
    built = (network_of_experiment(entry, text_encoder) for entry in compare_with)
    return dict(zip(names, [model, *built], strict=True))


def measured(
    networks: Mapping[str, SegmentationModule], batch: Batch, plan: Plan
) -> dict[str, Any]:
    """Everything but settings and ratios."""
    peaks = {mode.name: matrix_product_peak(plan.device, mode.dtype) for mode in plan.modes}
    fixed = {name: _untimed(network, batch, plan.device) for name, network in networks.items()}
    fastest = _timed(networks, batch, plan)
    rows = []
    for name, network in networks.items():
        own = [fastest[plan.row_name(name, mode)] for mode in plan.modes]
        for mode, one in zip(plan.modes, own, strict=True):
            row: dict[str, Any] = {"name": one.name, "network": type(network).__name__}
            row |= {"mode": mode.name, **fixed[name], **one.figures()}
            speed = row["step_gflops"] * len(batch["text"]) / row["step_s"]
            row["text_share"] = row["text_s"] / row["step_s"]
            row["share_of_peak"] = speed / peaks[mode.name]
            row["speedup"] = own[0].figures()["step_s"] / row["step_s"]
            row["peak_memory_mib"] = one.peak_memory_mib()
            rows.append(row)
    return {"matrix_product_gflops_per_s": peaks, "networks": rows}


def _untimed(network: SegmentationModule, batch: Batch, device: torch.device) -> dict[str, Any]:
    """Parameters, GFLOPs, and whether cached text features are exact."""
    network.prepare_captions([CAPTION, *batch["text"]], training=True)
    figures: dict[str, Any] = {
        **parameter_counts(network),
        **gflops(network.eval(), batch["image"].shape[-1]),
    }
    trial = copy.deepcopy(network).to(device)
    figures["step_gflops"] = step_gflops(trial, first_rows(batch, device))
    figures["text_bit_equal"] = cached_as_encoded(trial, batch["text"])
    return figures


def cached_as_encoded(network: SegmentationModule, captions: Sequence[str]) -> bool | None:
    """Whether cached features are bit-equal to the encoder's own; None where none are cached."""
    encoder = getattr(network, "text_encoder", None)
    if not (isinstance(encoder, TextEncoder) and encoder.frozen):
        return None
    network.encode_text(captions)
    cached = network.encode_text(captions)
    # Converting it empties its cache. The other order shows that neighbors do not matter.
    encoder.to(cached.tokens.device)
    encoded = network.encode_text(captions[::-1])
    return all(torch.equal(a, b.flip(0)) for a, b in zip(cached, encoded, strict=True))


def _timed(
    networks: Mapping[str, SegmentationModule], batch: Batch, plan: Plan
) -> dict[str, Candidate]:
    """Time every candidate; keep the faster memory format of each table row."""
    candidates = [
        # A copy for each: the optimizer's state keeps the layout of the weights it is for.
        Candidate(
            plan.row_name(name, mode),
            copy.deepcopy(network),
            memory_format,
            batch,
            mode=mode,
            device=plan.device,
        )
        for name, network in networks.items()
        for mode in plan.modes
        for memory_format in plan.memory_formats
    ]
    time_rounds(candidates, plan.rounds)
    names = dict.fromkeys(one.name for one in candidates)
    return {name: faster(c for c in candidates if c.name == name) for name in names}


def with_ratios(rows: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """`rows` with forward_ratio and step_ratio: least times over those of the row `reference`."""
    (base,) = (row for row in rows if row["name"] == reference)
    return [
        {**row, **{f"{m}_ratio": row[f"{m}_s"] / base[f"{m}_s"] for m in ("forward", "step")}}
        for row in rows
    ]
