"""What `textseg benchmark` measures: parameters, GFLOPs, forward and step time, side by side."""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from textseg.batch import Batch, stable_id
from textseg.beside import freeze_text_encoder, name_of, network_from
from textseg.errors import UserError
from textseg.models.base import SegmentationModule, enough_values
from textseg.preprocess import checked_size

CAPTION = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
MEMORY_FORMATS = {
    "channels_first": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
MEASURES = ("forward", "step")
WARM_UP = 2  # rounds


def count_gflops(function: Callable[[], Any]) -> float:
    """GFLOPs of a call, 2 for each multiply-add, by torch's counter.

    Attention runs as plain matrix products meanwhile, so that every one of them is seen.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() / 1e9


def benchmark(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    image_size: int | None = None,
    batch_size: int = 4,
    rounds: int = 10,
    threads: int = 1,
    beside: list[str] | None = None,
    text_encoder: str | None = None,
    freeze_text: bool = False,
    reference: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Parameters, GFLOPs, forward and step time of networks on random images.

    Every network runs in every round, channels-first and channels-last, and each round starts one
    further on, so that a busy machine slows all alike. A network is reported in one memory format:
    the one with the smaller sum of its median forward and step. The images and captions of a batch
    are all different. A frozen text encoder's captions are cached; the times hold a text encoder
    only where it is trained.

    Args:
        model: the network, first in the table.
        datamodule: gives the image size; no data is read.
        image_size: side of the square input, a multiple of 32; by default that of the data
            settings.
        batch_size: images in a timed batch; GFLOPs are for one image.
        rounds: timed repetitions; medians are reported.
        threads: CPU threads.
        beside: experiment files whose networks are measured in the same rounds: [a.yaml,b.yaml], or
            --beside+ before each. An experiment with overlays is its files joined by "+":
            a.yaml+cpu/a.yaml. These networks load no weights (pretrained false) and their text
            encoders are frozen; for the network of --config, set --model.pretrained false and
            --freeze_text true.
        text_encoder: text encoder of the text-guided networks of beside, in place of their own: a
            folder, a hub name or "scratch".
        freeze_text: freeze the text encoder of --config's network as well, whatever its weights:
            its captions are cached and training leaves it out. A fit does not freeze random words.
        reference: row by whose median times all are divided, by its name in the table: the class
            of --config's network or a file of beside without its suffix, joined by "+" if several;
            by default the first.
        output: a JSON file for the figures; one that exists is not overwritten.

    Returns:
        the settings, and under networks a row for each: parameters_m and trainable_m in millions;
        gflops of one image, with and without the text encoder; memory_format; forward_s and step_s
        (forward, loss, backward and AdamW), the median seconds of a batch, and their spread
        (interquartile range); forward_ratio and step_ratio to the reference.

    Raises:
        UserError: a setting that cannot be measured, or an experiment that cannot be built.
    """
    _check(batch_size, rounds, threads, text_encoder if not beside else None, output)
    side, _ = checked_size(_side(datamodule) if image_size is None else image_size)
    networks = _networks(model, beside or [], text_encoder)
    if freeze_text:
        freeze_text_encoder(model)
    reference = _checked_reference(reference, list(networks))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = _rows(networks, _batch(batch_size, side), rounds)
    finally:
        torch.set_num_threads(before)
    result = {
        "image_size": side,
        "batch_size": batch_size,
        "threads": threads,
        "rounds": rounds,
        "reference": reference,
        "networks": with_ratios(rows, reference),
    }
    if output is not None:
        Path(output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _check(
    batch_size: int, rounds: int, threads: int, idle_text_encoder: str | None, output: str | None
) -> None:
    """Refuse before anything is measured."""
    if min(batch_size, rounds, threads) < 1:
        raise UserError(
            f"batch_size={batch_size}, rounds={rounds}, threads={threads}: one is below 1",
            "give 1 or more of each",
        )
    if idle_text_encoder is not None:
        raise UserError(
            f"text_encoder={idle_text_encoder!r} is for the networks of beside, and there are none",
            "give --beside, or --model.text_encoder for the network of --config",
        )
    if output is None:
        return
    if Path(output).exists():
        raise UserError(f"output={output!r} exists", "give another file, or move this one away")
    folder = Path(output).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            f"output={output!r}: the folder {str(folder)!r} cannot be written to",
            "make the folder first, or give a file in another one",
        )


def _checked_reference(reference: str | None, names: Sequence[str]) -> str:
    if reference is not None and reference not in names:
        raise UserError(f"reference={reference!r} is no row of the table", f"choose of {names}")
    return names[0] if reference is None else reference


def _side(datamodule: L.LightningDataModule) -> int:
    size: Any = getattr(datamodule, "image_size", 224)
    return size if isinstance(size, int) else int(size[0])


# Networks


def _networks(
    model: SegmentationModule, beside: Sequence[str], text_encoder: str | None
) -> dict[str, SegmentationModule]:
    """The network of --config by its class, those of `beside` by their files' stems."""
    names = [type(model).__name__, *map(name_of, beside)]
    for entry, name in zip(beside, names[1:], strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"beside: {entry} would be called {name!r} in the table, as another network is",
                "give each experiment once, and rename one of two files of the same name",
            )
    built = (network_from(entry, text_encoder) for entry in beside)
    return dict(zip(names, [model, *built], strict=True))


# What does not depend on the machine


def _size(model: SegmentationModule) -> dict[str, float]:
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "parameters_m": sum(n for n, _ in counts) / 1e6,
        "trainable_m": sum(n for n, trainable in counts if trainable) / 1e6,
    }


def _gflops(model: SegmentationModule, side: int) -> dict[str, float]:
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        text = model.encode_text([CAPTION])
    without = count_gflops(lambda: model.forward_features(image, text))
    # Another caption than the cached one, so that a frozen encoder runs as well.
    text_part = count_gflops(lambda: model.encode_text([CAPTION.lower()]))
    return {"gflops": without + text_part, "gflops_without_text_encoder": without}


def _batch(batch_size: int, side: int) -> Batch:
    """Random images with captions that all differ, so that each row has its negatives."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch_size, 3, side, side, generator=generator)  # [B, 3, H, W]
    text = [CAPTION.replace("two", str(i + 2)) for i in range(batch_size)]
    return {
        "image": image,
        "mask": (image[:, :1] > 0.9).float(),  # [B, 1, H, W]
        "text": text,
        "caption_id": torch.tensor([stable_id(caption) for caption in text]),
        "image_id": torch.arange(batch_size),
        "index": torch.arange(batch_size),
        "case": [str(i) for i in range(batch_size)],
        "case_id": [""] * batch_size,
        "original_size": torch.full((batch_size, 2), side),
        "spacing": torch.full((batch_size, 2), torch.nan),
    }


# Times


@dataclass(frozen=True)
class Contender:
    """A network in one memory format, and the seconds of its timed forwards and steps."""

    name: str
    memory_format: str
    forward: Callable[[], None]
    step: Callable[[], None]
    times: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in MEASURES})

    def figures(self) -> dict[str, Any]:
        """Median and interquartile range of each measure."""
        result: dict[str, Any] = {"memory_format": self.memory_format}
        for measure, values in self.times.items():
            result[f"{measure}_s"] = statistics.median(values)
            result[f"{measure}_spread_s"] = spread(values)
        return result


def spread(values: Sequence[float]) -> float:
    """Interquartile range; 0 of a single value."""
    if len(values) == 1:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def _rows(
    networks: Mapping[str, SegmentationModule], batch: Batch, rounds: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    contenders: list[Contender] = []
    for name, network in networks.items():
        network.on_captions([CAPTION, *batch["text"]], training=True)
        fixed = {**_size(network), **_gflops(network.eval(), batch["image"].shape[-1])}
        rows.append({"name": name, "network": type(network).__name__, **fixed})
        # A copy for each format: the optimizer's state keeps the layout of the weights it is for.
        contenders += [contender(name, copy.deepcopy(network), f, batch) for f in MEMORY_FORMATS]
    time_rounds(contenders, rounds)
    return [{**row, **faster(c for c in contenders if c.name == row["name"])} for row in rows]


def contender(name: str, model: SegmentationModule, memory_format: str, batch: Batch) -> Contender:
    """`model`, converted to a memory format, with the forward and the step that are timed."""
    layout = MEMORY_FORMATS[memory_format]
    model.to(memory_format=layout)
    batch = batch.copy()
    batch["image"] = batch["image"].contiguous(memory_format=layout)
    groups = model.parameter_groups(lr=1e-6, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(batch["image"], batch["text"])

    def step() -> None:
        with enough_values(model, batch["image"]):
            output = model.train()(batch["image"], batch["text"])
        model.compute_loss(output, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return Contender(name, memory_format, forward, step)


def time_rounds(
    contenders: Sequence[Contender], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Fill in the times: all contenders in every round, each round starting one further on.

    Args:
        contenders: what to time.
        rounds: timed rounds; WARM_UP more run before them, in which captions are cached.
        clock: seconds.
    """
    for i in tqdm(range(WARM_UP + rounds), desc="timing", unit="round", leave=False):
        first = i % len(contenders)
        for one in (*contenders[first:], *contenders[:first]):
            for name in MEASURES:
                run: Callable[[], None] = getattr(one, name)
                start = clock()
                run()
                seconds = clock() - start
                if i >= WARM_UP:
                    one.times[name].append(seconds)


def faster(contenders: Iterable[Contender]) -> dict[str, Any]:
    """The figures of the memory format with the smaller sum of median forward and step."""
    figures = [one.figures() for one in contenders]
    return min(figures, key=lambda one: one["forward_s"] + one["step_s"])


def with_ratios(rows: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """`rows` with forward_ratio and step_ratio: medians over those of the row `reference`."""
    (base,) = (row for row in rows if row["name"] == reference)
    return [
        {**row, **{f"{m}_ratio": row[f"{m}_s"] / base[f"{m}_s"] for m in MEASURES}} for row in rows
    ]


# Text


def format_benchmark(result: Mapping[str, Any]) -> str:
    """One line for each figure of one network; a table of several."""
    rows = result["networks"]
    return _lines(result, rows[0]) if len(rows) == 1 else _table(result, rows)


def _lines(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Without the ratios of a network to itself."""
    settings = {name: result[name] for name in ("image_size", "batch_size", "threads", "rounds")}
    hidden = {"name", "forward_ratio", "step_ratio"}
    figures = {name: value for name, value in row.items() if name not in hidden}
    shown = {"network": figures.pop("network"), **settings, **figures}
    width = max(map(len, shown))
    return "\n".join(
        f"{name.ljust(width)}  {value:.4g}"
        if isinstance(value, float)
        else f"{name.ljust(width)}  {value}"
        for name, value in shown.items()
    )


def _table(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    reference = result["reference"]
    head = ["name", "params M", "trainable M", "GFLOPs", "without text", "memory format"]
    head += ["forward s", "ratio", "step s", "ratio"]
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = [
        f"image_size {result['image_size']}, batch_size {result['batch_size']}, "
        f"threads {result['threads']}; GFLOPs of one image, without text: less the text encoder",
        f"median of {result['rounds']} interleaved rounds, in brackets the interquartile range; "
        f"ratios to {reference}",
    ]
    return "\n".join([*text, *notes])


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["name"]]
    for name in ("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder"):
        cells.append(f"{row[name]:.2f}")
    cells.append(row["memory_format"])
    for name in MEASURES:
        cells.append(f"{row[f'{name}_s']:.3f} ({row[f'{name}_spread_s']:.3f})")
        cells.append(f"{row[f'{name}_ratio']:.2f}")
    return cells
