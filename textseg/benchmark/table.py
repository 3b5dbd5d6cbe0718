"""The figures of a benchmark as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textseg.metrics.text import aligned

_SETTINGS = ("image_size", "batch_size", "threads", "rounds")


def format_benchmark(result: Mapping[str, Any]) -> str:
    """One line for each figure of one network; tables of several."""
    rows = result["networks"]
    return _lines(result, rows[0]) if len(rows) == 1 else _tables(result, rows)


def _lines(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Without the ratios of a network to itself."""
    hidden = {"name", "forward_ratio", "step_ratio", "speedup"}
    figures = {name: value for name, value in row.items() if name not in hidden}
    peak = result["matrix_product_gflops_per_s"][row["mode"]]
    shown = {
        "network": figures.pop("network"),
        **{name: result[name] for name in _SETTINGS},
        **result["environment"],
        **figures,
        "matrix_product_gflops_per_s": peak,
    }
    width = max(map(len, shown))
    return "\n".join(f"{name.ljust(width)}  {_text(value)}" for name, value in shown.items())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tables(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    where = result["environment"]
    notes = [
        f"image_size {result['image_size']}, batch_size {result['batch_size']}, "
        f"threads {result['threads']}; GFLOPs of one image, without text: less the text encoder",
        f"least of {result['rounds']} interleaved rounds, in brackets the median; "
        f"ratios to {result['reference']}",
    ]
    peaks = result["matrix_product_gflops_per_s"].items()
    further = [
        "text: strings to features, of a step; peak: of the matrix product's "
        + ", ".join(f"{value:.0f} GFLOP/s ({mode})" for mode, value in peaks),
        f"{where['device_name']}, torch {where['torch']}, lightning {where['lightning']}, "
        f"seed {where['seed']}, load average {where['load_average']}",
    ]
    costs, shares = (
        aligned([list(cells(rows[0])), *(list(cells(row).values()) for row in rows)], right=True)
        for cells in (_cells, _further_cells)
    )
    return "\n".join([*costs, *notes, "", *shares, *further])


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": row["name"],
        "params M": f"{row['parameters_m']:.2f}",
        "trainable M": f"{row['trainable_m']:.2f}",
        "GFLOPs": f"{row['gflops']:.2f}",
        "without text": f"{row['gflops_without_text_encoder']:.2f}",
        "memory format": row["memory_format"],
        "forward s": f"{row['forward_s']:.3f} ({row['forward_median_s']:.3f})",
        "forward ratio": f"{row['forward_ratio']:.2f}",
        "step s": f"{row['step_s']:.3f} ({row['step_median_s']:.3f})",
        "step ratio": f"{row['step_ratio']:.2f}",
    }


def _further_cells(row: Mapping[str, Any]) -> dict[str, str]:
    memory = row["peak_memory_mib"]
    return {
        "name": row["name"],
        "mode": row["mode"],
        "speedup": f"{row['speedup']:.2f}",
        "step GFLOPs": f"{row['step_gflops']:.2f}",
        "peak": f"{row['share_of_peak']:.1%}",
        "memory MiB": "-" if memory is None else f"{memory:.0f}",
        "text": f"{row['text_share']:.2%}",
        "bit-equal": {True: "yes", False: "NO", None: "-"}[row["text_bit_equal"]],
    }
