"""The Markdown tables of a campaign; cells of what was not run are empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from campaign.cells import estimate, main_test, number, score, table
from campaign.failures import failures
from campaign.headings import (
    CALIBRATION,
    COMPARISON,
    COST,
    DIFFERENCES,
    LEFT,
    LESIONS,
    PROBE,
    SAID,
    SCORES,
    SPEED,
    WORDS,
    Parts,
)
from campaign.processes import read
from campaign.settings import EXPERIMENTS, Campaign, Row, size_key
from campaign.word_tables import probe_table, word_table
from textseg.metrics.scores import SCORES as KNOWN

MAIN = ("dice", "miou", "dice_global", "dice_patient", "hd95", "nsd")
OF_LESIONS = ("dice_with_lesion", "missed_rate", "false_alarm_rate", "false_area")
COMPARED = ("dice", "dice_global")
NO_REAL_DATA = "NO REAL DATA"


def tables(campaign: Campaign, rows: Sequence[Row]) -> Parts:
    """All tables by their headings; the first has every row, others those that were begun."""
    begun = [row for row in rows if campaign.note(row)["done"]]
    begun = begun or [row for row in rows if row.stage == rows[0].stage]
    parts = {
        "": [machine(campaign)],
        SCORES: score_table(campaign, rows),
        DIFFERENCES: difference_table(campaign),
        WORDS: word_table(campaign, begun),
        PROBE: probe_table(campaign, begun),
        LESIONS: lesion_table(campaign, begun),
        CALIBRATION: calibration_table(campaign, begun),
        COST: cost_table(campaign, begun),
        SPEED: speed_table(campaign, begun),
        "Theirs": published_table(campaign),
        SAID: warnings(campaign, begun),
        LEFT: left(campaign, rows),
    }
    return parts | failures(campaign, rows)


def machine(campaign: Campaign) -> str:
    """A line with the command, and machine, versions and commit that the results were made by."""
    found = read(campaign.out / "machine.json") or {}
    cores = [f"{found['cores']} cores, {campaign.threads or 'all'} used"] if found else []
    makers = made(campaign)
    file = Path("campaign") / f"{campaign.name}.yaml"
    given = f"experiments/{file}" if (EXPERIMENTS / file).is_file() else file.name
    command = f"`python experiments/campaign.py {given}`"
    data = f"{campaign.synthesize} phantoms, {NO_REAL_DATA}. " if campaign.synthesize else ""
    if not makers:
        return data + command + ": not run yet."
    shared = [one for one in next(iter(makers)) if all(one in of for of in makers)]
    text = data + ", ".join([command, *cores, *shared])
    if len(makers) > 1:
        own = [", ".join(one for one in of if one not in shared) for of in makers]
        parts = [
            ", ".join(
                campaign.title_of(row) + tasks_of(campaign, row, did) for row, did in of.items()
            )
            for of in makers.values()
        ]
        apart = [f"{a or 'no other'}: {b}" for a, b in zip(own, parts, strict=True)]
        text += f". Not all was made alike; {'; '.join(apart)}"
    return text + "."


def tasks_of(campaign: Campaign, row: Row, some: Sequence[str]) -> str:
    """Which of a row's tasks these are, in brackets; nothing where they are all that are done."""
    if set(some) == set(campaign.note(row)["done"]):
        return ""
    kinds = [task.partition(" ")[0] for task in some]
    return f" ({', '.join(dict.fromkeys(kinds))})"


def made(campaign: Campaign) -> dict[tuple[str, ...], dict[Row, list[str]]]:
    """The makers of the results, each with the rows and their tasks that it made or a part of."""
    found: dict[tuple[str, ...], dict[Row, list[str]]] = {}
    for row in campaign.rows:
        note = campaign.note(row)
        for task in note["done"]:
            for maker in note.get("made", {}).get(task) or [{}]:
                named = [maker[one] for one in ("gpu", "cpu") if one in maker]
                rest = ("driver", "torch", "lightning", "timm", "commit")
                named += [f"{one} {maker[one]}" for one in rest if one in maker]
                rows = found.setdefault(tuple(named) or ("a machine not noted",), {})
                tasks = rows.setdefault(row, [])
                tasks += [] if task in tasks else [task]
    return found


def score_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """The scores with their intervals over patients, or over images where none is known."""
    found = {row: main_test(campaign, row) for row in rows}
    names = [n for n in MAIN if n != "dice_patient" or any(n in (m or {}) for m in found.values())]
    head = ["network", "epochs", "val/dice", *names]
    out = []
    for row, metrics in found.items():
        note, best = campaign.note(row), campaign.validated(row)
        cells = [campaign.title_of(row), str(note.get("epochs", ""))]
        trained = "train" in note["done"] and best is not None
        cells.append(f"{best[1]:.4f} ({best[0]})" if trained and best else "")
        out.append(cells + [score(metrics, name) for name in names])
    counts = sorted({(m["cases"], m["bootstrap_units"]) for m in found.values() if m})
    said = [f"{cases} test images, {units} patients or single images" for cases, units in counts]
    legend = "val/dice: the best epoch's and, in brackets, which. In brackets behind a score: 95% "
    legend += "interval by a bootstrap over patients."
    units = {m["surface_unit"] for m in found.values() if m and m.get("surface_unit")}
    limits = {m["nsd_tolerance"] for m in found.values() if m and m.get("nsd_tolerance")}
    for unit, limit in zip(sorted(units), sorted(limits), strict=False):
        legend += f" hd95 in {unit}, nsd at {limit:g} {unit}."
    return [*table(head, out), "", " ".join([legend, *(f"{one}." for one in said)])]


def difference_table(campaign: Campaign) -> list[str]:
    """What `textseg compare` found: means over seeds, and differences from the first.

    A score for which nothing was tested has no column of p.
    """
    found = read(campaign.out / "compare" / "comparison.json")
    if found is None:
        return []
    tested = {one["score"] for one in found["differences"] if one["p_holm"] is not None}
    head = ["method", "seeds"]
    for name in COMPARED:
        head += [name, f"minus {found['baseline']}", *["p (Holm)"] * (name in tested)]
    rows = []
    for method in found["methods"]:
        cells = [method["name"], str(len(method["runs"]))]
        for name in COMPARED:
            own = method["scores"][name]
            spread = "" if own["std"] is None else f" +- {own['std']:.4f}"
            gap = [
                one
                for one in found["differences"]
                if one["method"] == method["name"] and one["score"] == name
            ]
            cells += [number(own["value"]) + spread, *map(difference, gap or [None])]
            cells += ["" if not gap else number(gap[0]["p_holm"])] * (name in tested)
        rows.append(cells)
    return table(head, rows)


def difference(found: Mapping[str, Any] | None) -> str:
    """A difference of `textseg compare` with its interval; empty for the baseline itself."""
    return "" if found is None else estimate(found["value"], found["low"], found["high"], sign="+")


def lesion_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """Cases with and without a lesion apart, where there are any without."""
    found = {row: main_test(campaign, row) for row in rows}
    counts = [m["cases_without_lesion"] for m in found.values() if m]
    if not any(counts):
        return []
    head = ["network", "images without a lesion", *OF_LESIONS]
    out = []
    for row, metrics in found.items():
        count = str(metrics["cases_without_lesion"]) if metrics else ""
        cells = [score(metrics, name) for name in OF_LESIONS]
        out.append([campaign.title_of(row), count, *cells])
    legend = [f"{name}: {KNOWN[name].title.lower()}" for name in OF_LESIONS]
    return [*table(head, out), "", "; ".join(legend) + "."]


def calibration_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """Calibration errors of the test, and what `textseg calibrate` fitted on validation rows."""
    head = ["network", "test ece", "test ece_margin", "temperature", "val ece"]
    head += ["val ece with temperature", "best threshold", "val dice at it (at 0.5)"]
    out = []
    for row in rows:
        metrics, cells = main_test(campaign, row) or {}, [campaign.title_of(row)]
        cells += [number(metrics.get(name)) for name in ("ece", "ece_margin")]
        fitted = campaign.results(row, "calibration/calibration.json")
        if fitted is None or "calibrate" not in campaign.note(row)["done"]:
            out.append(cells + [""] * 5)
            continue
        cells += [f"{fitted['temperature']:.3f}"]
        cells += [number(fitted[of]["ece"]) for of in ("measured", "scaled")]
        cells += [f"{fitted['threshold']:.2f}"]
        out.append([*cells, f"{fitted['dice_best']:.4f} ({fitted['dice']:.4f})"])
    legend = (
        "Of the test at temperature 1. Temperature and threshold are fitted on validation rows: "
    )
    legend += "the temperature to the likelihood of the pixels, which need not lower ece, the "
    legend += "threshold to dice."
    return [*table(head, out), "", legend]


def cost_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """What each training has cost, over all its starts, and what its network costs."""
    head = ["network", "parameters M", "trainable M", "GFLOPs", "GFLOPs without text encoder"]
    head += ["epochs", "CPU hours", "hours on the clock", "starts"]
    out = []
    for row in rows:
        size, note = size_of(campaign, row), campaign.note(row)
        cells = [campaign.title_of(row)]
        of = ("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder")
        cells += [f"{size[name]:.2f}" if size else "" for name in of]
        trained = "train" in note["done"]
        hours = [(campaign.cost(row, one) or 0) / 3600 for one in ("cpu_seconds", "seconds")]
        cells += [str(note.get("epochs", "")) if trained else ""]
        cells += [f"{hour:.2f}" if trained else "" for hour in hours]
        out.append([*cells, str(len(note["cost"].get("train", []))) if trained else ""])
    legend = "Hours are of all starts of the training, from the start of the command to its end, "
    legend += (
        "steps that a break lost included; tests are not. Work beside a training slows it, so "
    )
    legend += (
        "CPU hours rank no networks that are near each other. GFLOPs: of one image, 2 for each "
    )
    legend += "multiply-add."
    given = [row for row in rows if row.cpu_hours is not None]
    for row in given:
        of = f"as many as {row.cpu_hours}" if isinstance(row.cpu_hours, str) else f"{row.cpu_hours}"
        legend += f" {campaign.title_of(row)} is given CPU hours ({of}), not epochs"
        planned = campaign.note(row).get("budget")
        if planned:
            epoch = planned["cpu_seconds_of_an_epoch"] / 3600
            legend += f": {planned['cpu_hours']:.2f}, an epoch being some {epoch:.2f}"
        legend += "; whole epochs, one at least."
    return [*table(head, out), "", legend]


def size_of(campaign: Campaign, row: Row) -> dict[str, Any] | None:
    """A row's last line of its benchmark; None without one. Seeds have that of the first."""
    key = size_key(campaign.resolved(row) or row)
    alike = [one for one in campaign.rows if size_key(campaign.resolved(one) or one) == key]
    for one in [row, *alike]:
        result = read(campaign.out / "benchmark" / f"{one.name}.json")
        if result is not None:
            return dict(result["networks"][-1])
    return None


def speed_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """Steps in the first and the last mode of the benchmarks, where there are several modes."""
    results = [(row, read(campaign.out / "benchmark" / f"{row.name}.json")) for row in rows]
    modes = (campaign.benchmark or {}).get("modes") or []
    if len(modes) < 2:
        return []
    head = ["network", f"step s, {modes[0]}", f"step s, {modes[-1]}", "speedup", "share of peak"]
    out = []
    for row, result in results:
        if result is None:
            out.append([campaign.title_of(row), *[""] * 5])
            continue
        first, last = result["networks"][0], result["networks"][-1]
        memory = last["peak_memory_mib"]  # counted on a GPU alone
        out.append(
            [
                campaign.title_of(row),
                *(f"{one['step_s']:.4f} ({one['step_median_s']:.4f})" for one in (first, last)),
                f"{last['speedup']:.2f}",
                f"{last['share_of_peak']:.1%}",
                "-" if memory is None else f"{memory / 1024:.2f}",
            ]
        )
    return table([*head, "peak memory GiB"], out)


def published(campaign: Campaign) -> list[dict[str, Any]]:
    """What others publish on the dataset."""
    if campaign.published is None:
        return []
    file = EXPERIMENTS / "campaign" / "published.yaml"
    return list(yaml.safe_load(file.read_text(encoding="utf-8"))[campaign.published])


def published_table(campaign: Campaign) -> list[str]:
    """The rows of published.yaml."""
    words = {True: "public", False: "none", None: ""}
    names = ("dice", "miou", "dice_global", "iou_global")
    head = ["network", *names, "GFLOPs", "parameters M", "figure by", "source", "code"]
    out = []
    for one in published(campaign):
        cells = [f"{one['name']} (theirs)", *(number(one.get(name)) for name in names)]
        cells += [str(one.get(name, "")) for name in ("gflops", "parameters_m")]
        out.append([*cells, one["by"], one["source"], words[one["code"]]])
    legend = "Figures are by the authors (paper), from another paper's comparison (table), or of a "
    legend += (
        "training or test of their code by somebody else (re-scored). GFLOPs and parameters were "
    )
    legend += "counted here, on their networks with random weights at 224x224."
    return [*table(head, out), "", legend] if out else []


def warnings(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """What tests and the comparison warn of, each once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for text in (main_test(campaign, row) or {}).get("warnings", []):
            said.setdefault(text, []).append(campaign.title_of(row))
    for text in (read(campaign.out / "compare" / "comparison.json") or {}).get("warnings", []):
        said.setdefault(text, []).append(COMPARISON)
    return [f"* {text} ({', '.join(dict.fromkeys(names))})" for text, names in said.items()]


def left(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """What is not done."""
    begun = {row: bool(campaign.note(row)["done"]) for row in rows}
    todo = [(campaign.title_of(row), campaign.left(row)) for row in rows if begun[row]]
    lines = [f"* {title}: {', '.join(tasks)}" for title, tasks in todo if tasks]
    names = [campaign.title_of(row) for row in rows if not begun[row]]
    return lines + [f"* not trained: {'; '.join(names)}"] * bool(names)
