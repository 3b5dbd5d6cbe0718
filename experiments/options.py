#!/usr/bin/env python3
"""What each way to train faster or in less memory gives: a whole step with one thing changed.

    python experiments/options.py --text_encoder FOLDER [--networks lsms_qata] [--device cuda]

For each network a training step (forward, loss, backward, AdamW) on random images is timed under a
base setting and under that setting with one thing changed, all in interleaved rounds. The base:
fp32, eager, channels-last, the attention kernel that torch picks, fused AdamW, captions of the
frozen text encoder cached. The options:

    channels_first    the other memory format
    plain_adamw       AdamW as torch makes it unasked, not fused
    plain_attention   attention as matrix products and a softmax (torch's MATH kernel)
    uncached_text     the frozen text encoder runs in every step, on each caption alone as always
    bf16              forward and loss in bf16 autocast
    compile           torch.compile of the tensor part
    bf16_compile      both
    checkpointing     blocks computed again in the backward pass (GradientCheckpointing)
    two_halves        the batch in two halves, one after the other, and one optimizer step
    clipping          gradients clipped to norm 1

Networks have random weights. Memory is what stays between steps (weights, AdamW's state, batch) and
what a step adds at its worst. Captions are cached and networks compiled before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from textseg.batch import Batch
from textseg.benchmark.cost import few, random_batch
from textseg.benchmark.device import checked_device, environment
from textseg.benchmark.experiments import name_of, network_from
from textseg.benchmark.memory import MIB, allocated_bytes, growth
from textseg.benchmark.timing import (
    CPU,
    Candidate,
    Mode,
    ModeName,
    contender,
    spread,
    time_rounds,
)
from textseg.encoders import TextEncoder
from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.preprocess import checked_size
from textseg.training.options import GradientCheckpointing

EXPERIMENTS = Path(__file__).resolve().parent
NETWORKS = ("lsms_qata", "tmc_qata", "tmca_qata", "lavt_qata", "unet_qata")
BASE = "base"
HEAD = ("network", "option", "step s", "ratio", "peak MiB", "ratio")


@dataclass(frozen=True)
class Setting:
    """How a step runs; an option differs from the defaults, which are the base, in one field."""

    memory_format: str = "channels_last"
    fused_adamw: bool = True
    fused_attention: bool = True
    cached_text: bool = True
    mode: ModeName = "fp32"
    checkpointing: bool = False
    parts: int = 1
    clip: float | None = None


OPTIONS = {
    "channels_first": Setting(memory_format="channels_first"),
    "plain_adamw": Setting(fused_adamw=False),
    "plain_attention": Setting(fused_attention=False),
    "uncached_text": Setting(cached_text=False),
    "bf16": Setting(mode="bf16"),
    "compile": Setting(mode="fp32+compile"),
    "bf16_compile": Setting(mode="bf16+compile"),
    "checkpointing": Setting(checkpointing=True),
    "two_halves": Setting(parts=2),
    "clipping": Setting(clip=1.0),
}


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    networks: dict[str, str]  # by name in the table, an experiment file
    options: list[str]
    text_encoder: str | None
    device: torch.device
    image_size: int
    batch_size: int
    threads: int
    rounds: int
    output: Path | None


# --- one network ---------------------------------------------------------------------------------


def measured(name: str, model: SegmentationModule, options: Sequence[str], job: Job) -> list[Any]:
    """A row for the base and for each option, their steps timed in interleaved rounds."""
    batch = random_batch(job.batch_size, job.image_size)
    settings = {BASE: Setting()} | {option: OPTIONS[option] for option in options}
    torch.compiler.reset()  # it compiles a class only so many times, and would then run it eager
    contenders = [first_step(name, model, batch, job, one) for one in settings.items()]
    # In the second step, another warm-up, AdamW's state is there already.
    peaks = [allocated_bytes(one.tensors()) + growth(one.step, job.device) for one in contenders]
    time_rounds(contenders, job.rounds, measures=["step"], warm_up=0)
    rows: list[dict[str, Any]] = []
    for one, peak in zip(contenders, peaks, strict=True):
        seconds = one.times["step"]
        row: dict[str, Any] = {"network": name, "option": one.name}
        row |= {"step_s": statistics.median(seconds), "step_spread_s": spread(seconds)}
        row["peak_memory_mib"] = peak / MIB
        base = rows[0] if rows else row
        row["step_ratio"] = row["step_s"] / base["step_s"]
        row["memory_ratio"] = row["peak_memory_mib"] / base["peak_memory_mib"]
        rows.append(row)
    return rows


def first_step(
    network: str, model: SegmentationModule, batch: Batch, job: Job, option: tuple[str, Setting]
) -> Candidate:
    """The network under a setting, after the step in which it is compiled and captions are cached.

    Raises:
        UserError: it cannot be run here.
    """
    name, setting = option
    try:
        one = under(setting, name, model, batch, job.device)
        one.train(True)
        one.step()
    except (RuntimeError, OSError, UserError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        others = ",".join(other for other in job.options if other != name)
        remedy = f"leave it out: --options {others}" if others else "give other --options"
        what = f"the option {name}"
        if name == BASE:
            what, remedy = "the base", "give another --device, or a smaller --batch_size"
        raise UserError(f"{network}: {what} fails here: {reason}", remedy) from error
    return one


def under(
    setting: Setting, name: str, model: SegmentationModule, batch: Batch, device: torch.device
) -> Candidate:
    """A copy of `model` under a setting, called `name`."""
    model = copied(model)
    if setting.checkpointing:
        # The hook looks at the network alone.
        GradientCheckpointing().on_fit_start(cast(L.Trainer, None), model)
    return contender(
        name,
        model,
        setting.memory_format,
        batch,
        mode=Mode(setting.mode),
        device=device,
        fused=setting.fused_adamw,
        parts=setting.parts,
        clip=setting.clip,
        around=surroundings(setting, model),
    )


def copied(model: SegmentationModule) -> SegmentationModule:
    """A copy that shares the frozen weights: a BERT for each row would fill the memory.

    Each has its own cache of captions.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def surroundings(
    setting: Setting, model: SegmentationModule
) -> Callable[[], AbstractContextManager[Any]]:
    """What each step runs in."""
    if not setting.fused_attention:
        return lambda: sdpa_kernel(SDPBackend.MATH)
    if not setting.cached_text:
        encoder = text_encoder_of(model)
        assert encoder is not None
        return lambda: forgotten(encoder)
    return nullcontext


@contextmanager
def forgotten(encoder: TextEncoder) -> Iterator[None]:
    """Captions of earlier steps are not known any more."""
    encoder.to(encoder.model.device)  # whatever is converted empties its cache
    yield


def text_encoder_of(model: SegmentationModule) -> TextEncoder | None:
    encoder = getattr(model, "text_encoder", None)
    return encoder if isinstance(encoder, TextEncoder) else None


def idle_options(model: SegmentationModule, batch: Batch) -> dict[str, str]:
    """Options that would change nothing in this network, and why."""
    idle = {}
    if text_encoder_of(model) is None:
        idle["uncached_text"] = "no text encoder"
    one = few(batch, CPU, 1)
    with torch.no_grad():
        text = model.eval().encode_text(one["text"])
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            model.forward_features(one["image"], text)
    if not any(event.key == "aten::scaled_dot_product_attention" for event in seen.key_averages()):
        idle["plain_attention"] = "no attention"
    return idle


# --- the table -----------------------------------------------------------------------------------


def run(job: Job) -> None:
    """Print rows as soon as a network is done; the JSON file holds what is printed."""
    batch = random_batch(job.batch_size, job.image_size)
    where = environment(job.device)
    settings = {"image_size": job.image_size, "batch_size": job.batch_size}
    settings |= {"threads": job.threads, "rounds": job.rounds}
    result: dict[str, Any] = {**settings, "environment": where, "rows": [], "left_out": {}}
    width = max(len(name) for name in (*job.networks, HEAD[0]))
    for line in (HEAD, ["---"] * len(HEAD)):
        show(line, width)
    for name, entry in job.networks.items():
        model = network_from(entry, job.text_encoder)
        model.prepare_captions(batch["text"], training=True)
        idle = idle_options(model, batch)
        result["left_out"][name] = {o: why for o, why in idle.items() if o in job.options}
        options = [option for option in job.options if option not in idle]
        rows = measured(name, model, options, job)
        for row in rows:
            show(cells(row), width)
        result["rows"] += rows
        if job.output is not None:
            job.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *notes(result)]))


def cells(row: dict[str, Any]) -> list[str]:
    return [
        row["network"],
        row["option"],
        f"{row['step_s']:.4f} ({row['step_spread_s']:.4f})",
        f"{row['step_ratio']:.3f}",
        f"{row['peak_memory_mib']:.0f}",
        f"{row['memory_ratio']:.3f}",
    ]


def show(line: Sequence[str], width: int) -> None:
    """A line of a Markdown table."""
    first, second, *others = line
    named = [first.ljust(width), second.ljust(max(map(len, OPTIONS)))]
    print(f"| {' | '.join([*named, *(cell.rjust(15) for cell in others)])} |", flush=True)


def notes(result: dict[str, Any]) -> list[str]:
    where = result["environment"]
    left_out = [
        f"left out for {network}: " + ", ".join(f"{option} ({why})" for option, why in why.items())
        for network, why in result["left_out"].items()
        if why
    ]
    return [
        f"a training step on images of {result['image_size']} x {result['image_size']}, batch_size "
        f"{result['batch_size']}: median of {result['rounds']} interleaved rounds, in brackets the "
        "interquartile range; ratios to the network's base",
        *left_out,
        f"{where['device_name']}, threads {result['threads']} of {where['cores']} cores, "
        f"torch {where['torch']}, lightning {where['lightning']}, python {where['python']}, "
        f"seed {where['seed']}, load average {where['load_average']}",
    ]


# --- the command line ----------------------------------------------------------------------------


def checked(given: argparse.Namespace) -> Job:
    """Refuse before anything is measured.

    Raises:
        UserError: a setting that cannot be measured.
    """
    options = given.options.split(",")
    unknown = [option for option in options if option not in OPTIONS]
    if unknown:
        raise UserError(f"--options: there is no {unknown[0]!r}", f"choose of {','.join(OPTIONS)}")
    numbers = {name: getattr(given, name) for name in ("batch_size", "threads", "rounds")}
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"--{name} {value} is below 1", "give 1 or more")
    if "two_halves" in options and given.batch_size % 2:
        raise UserError(
            f"--batch_size {given.batch_size} has no two halves",
            "give an even one, or leave two_halves out of --options",
        )
    if given.output is not None and given.output.exists():
        raise UserError(f"--output {given.output} exists", "give another file, or move it away")
    if given.output is not None and not given.output.parent.is_dir():
        raise UserError(f"--output {given.output}: there is no such folder", "make it first")
    networks: dict[str, str] = {}
    for word in given.networks.split(","):
        known = EXPERIMENTS / f"{word}.yaml"
        entry = str(known) if known.is_file() else word
        if networks.setdefault(name_of(entry), entry) != entry:
            raise UserError(
                f"--networks: {entry} and {networks[name_of(entry)]} have the same name",
                "rename one of the two files",
            )
    side, _ = checked_size(given.image_size)
    return Job(
        networks=networks,
        options=list(dict.fromkeys(options)),
        text_encoder=given.text_encoder,
        device=checked_device(given.device),
        image_size=side,
        output=given.output,
        **numbers,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    networks = f"experiments, by name or file; by default {','.join(NETWORKS)}"
    add("--networks", default=",".join(NETWORKS), metavar="A,B", help=networks)
    add("--options", default=",".join(OPTIONS), metavar="A,B", help="by default all")
    add("--text_encoder", help="folder, hub name or scratch, instead of the experiments' own")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--image_size", type=int, default=224, help="side of the images, a multiple of 32")
    add("--batch_size", type=int, default=4)
    add("--threads", type=int, default=1, help="of the CPU")
    add("--rounds", type=int, default=5, help="timed steps of each row")
    add("--seed", type=int, default=1)
    add("--output", type=Path, help="a JSON file for the figures; an existing one is kept")
    given = parser.parse_args(arguments)
    try:
        L.seed_everything(given.seed, verbose=False)
        job = checked(given)
        torch.set_num_threads(job.threads)
        run(job)
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        sys.stderr.write(f"error: {cause}\nremedy: {remedy}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
