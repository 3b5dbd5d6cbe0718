"""The Markdown tables of a start of qata.py: speed and scores; cells not run are empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commands import read
from job import NETWORKS, Job, captions_of

from textseg.metrics.scores import MAIN


def machine(job: Job) -> str:
    """A line that names GPU, cores, driver and versions."""
    found = read(job.out / "check.json") or {}
    named = [str(found.get("gpu", "no GPU")), f"{found.get('cores', '?')} cores"]
    named += [f"{name} {found[name]}" for name in ("driver", "torch", "lightning") if name in found]
    return ("SMOKE RUN, of no meaning. " if job.smoke else "") + ", ".join(named) + ":"


def speed_table(job: Job) -> list[str]:
    """The lines of a Markdown table of the benchmarks."""
    head = "network | parameters M | step s, fp32 eager | step s, bf16 + compile | speedup | "
    head += "share of peak | peak memory GiB"
    rows = []
    for network in job.networks:
        result = read(job.out / "benchmark" / f"{network}.json")
        if result is None:
            rows.append([NETWORKS[network], *[""] * 6])
            continue
        first, last = result["networks"][0], result["networks"][-1]
        memory = last["peak_memory_mib"]
        rows.append(
            [
                NETWORKS[network],
                f"{last['parameters_m']:.1f}",
                f"{first['step_s']:.4f} ({first['step_spread_s']:.4f})",
                f"{last['step_s']:.4f} ({last['step_spread_s']:.4f})",
                f"{last['speedup']:.2f}",
                f"{last['share_of_peak']:.1%}",
                "-" if memory is None else f"{memory / 1024:.2f}",  # counted on a GPU alone
            ]
        )
    return table(head, rows)


def score_table(job: Job) -> list[str]:
    """The lines of a Markdown table of the tests."""
    head = f"network | captions | {' | '.join(MAIN)} | minutes to train"
    rows = []
    for network in job.networks:
        seconds = job.training_seconds(network) if job.tested(network) else None
        for mode in captions_of(network):
            result = job.results(network, mode)
            minutes = f"{seconds / 60:.1f}" if seconds is not None and mode == "true" else ""
            cells = [score(result, name) if result else "" for name in MAIN]
            rows.append([NETWORKS[network], mode, *cells, minutes])
    return table(head, rows)


def score(result: dict[str, Any], name: str) -> str:
    """A score with its 95% interval, if it has one."""
    low, high = result[f"{name}_ci_low"], result[f"{name}_ci_high"]
    interval = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return "-" if result[name] is None else f"{result[name]:.4f}{interval}"


def table(head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    rule = "---".join("|" * (head.count("|") + 2))
    return [f"| {head} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
