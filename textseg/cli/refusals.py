"""What libraries refuse and what machines fail in, as a cause and a remedy.

A refusal is raised on purpose: by a ``raise`` in Lightning, jsonargparse or torch's own settings,
with nothing of ours between it and the command line. Whatever else is raised is a bug, and keeps
its traceback.
"""

from __future__ import annotations

import linecache
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from textseg.errors import UserError

_LIBRARIES = ("lightning", "lightning_utilities", "jsonargparse", "torch", "typing_extensions")
_REFUSING = (  # of torch, what has settings; elsewhere it raises at bugs
    *("lightning", "jsonargparse", "torch.distributed", "torch.cuda", "torch.amp"),
    *("torch.optim", "torch.utils.data", "torch.accelerator", "torch.xpu", "torch.mps"),
)
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
)
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout")


def refusal(error: BaseException, settings: Mapping[str, Any], command: str) -> UserError | None:
    """The two lines for an exception that is no bug of ours; None for one that may be.

    Args:
        error: what was raised.
        settings: the command's, such as ``trainer.devices``, by dotted name.
        command: its name.
    """
    fault = machine_fault(error, settings)
    if fault is not None:
        return fault
    if not (isinstance(error, Exception) and _is_deliberate(error)):
        return None
    text = " ".join(str(error).split())[:400] or type(error).__name__
    named = ", ".join(_named(text, settings))
    return UserError(
        f"{named}: {text}" if named else text,
        f"give another value; textseg {command} --help tells what each setting takes",
    )


def settings_by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """A command's plain settings: ``trainer.devices``, ``data.batch_size`` without init_args."""
    found: dict[str, Any] = {}
    for group in ("trainer", "model", "data"):
        given = config.get(group) or {}
        inner = given.get("init_args") or given
        found |= {
            f"{group}.{name}": value
            for name, value in vars(inner).items()
            if isinstance(value, int | float | str | list | tuple) and not isinstance(value, bool)
        }
    return found


def _is_deliberate(error: Exception) -> bool:
    """Whether a library raised it on purpose, called by the command line and by nothing between."""
    frames = list(_frames(error))
    if not frames:
        return False
    inner, line = frames[-1]
    if not (_within(_module(inner), _REFUSING) and line.startswith("raise")):
        return False
    within = ""
    for frame, _ in reversed(frames):
        if not _is_library(frame) and not _asks_for_steps(frame, within):
            return _within(_module(frame), ("textseg.cli", "lightning_cli", "__main__"))
        within = _module(frame)
    return False


def _asks_for_steps(frame: FrameType, within: str) -> bool:
    """Whether a network asks the Trainer how many steps there will be, which looks at the data."""
    asks = frame.f_code.co_name == "configure_optimizers"
    return asks and _within(within, ("lightning.pytorch.trainer",))


def _frames(error: BaseException) -> Iterator[tuple[FrameType, str]]:
    """The frames from the outermost to the one that raised, with the lines at which they stand."""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        yield trace.tb_frame, linecache.getline(file, trace.tb_lineno).strip()
        trace = trace.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    """Whether a frame is of an installed package or of Python's own library."""
    top = _module(frame).partition(".")[0]
    return top in sys.stdlib_module_names - {"__main__"} or top in _LIBRARIES


def _within(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _named(text: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings that a message names; where it names none, those whose value it repeats."""

    def repeated(word: str) -> bool:
        return re.search(rf"\b{re.escape(word)}\b", text) is not None

    by_name = [name for name in settings if repeated(name.rpartition(".")[2])]
    words = {k: v for k, v in settings.items() if isinstance(v, str) and v not in ("", "auto")}
    by_value = [name for name, value in words.items() if repeated(value)]
    return [f"{name}={settings[name]}" for name in by_name or by_value]


# --- machines ----------------------------------------------------------------------------------


def machine_fault(error: BaseException, settings: Mapping[str, Any]) -> UserError | None:
    """The two lines where memory was too small, or a process was killed; None for another error."""
    text = str(error)
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return _no_memory(text, settings)
    if found := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", text):
        return UserError(
            f"a loader's worker (process {found[1]}){found[2].split('.')[0] or ' was killed'}",
            "most often memory was too small: lower data.num_workers or data.batch_size; "
            "the system's log (dmesg) tells who killed it",
        )
    if any(words in text for words in _LOST):
        return UserError(
            f"another process of this training is gone ({text.splitlines()[0][-120:]})",
            "look for the first error of the others; --ckpt_path last goes on from last.ckpt",
        )
    return None


def _no_memory(text: str, settings: Mapping[str, Any]) -> UserError:
    """What to lower, with what it was measured to save (experiments/README.md)."""
    asked = re.search(r"[Tt]ried to allocate [\d.]+ \w+", text)
    why = asked[0] if asked else " ".join(text.split())[:120]
    now = [
        f"{name}={settings[name]}"
        for name in ("data.batch_size", "data.image_size", "trainer.precision")
        if settings.get(name) is not None
    ]
    where = f" with {', '.join(now)}" if now else ""
    cause = f"out of memory{where}" + (f" ({why})" if why else "")
    if "data.batch_size" not in settings:  # no network is trained or tested
        return UserError(cause, "give the command less at once, or a machine with more memory")
    return UserError(
        cause,
        "lower data.batch_size, with trainer.accumulate_grad_batches for the same steps (two halves"
        " took 0.78 of the memory of a whole, where it was measured), or data.image_size; "
        "or set trainer.callbacks+=textseg.training.GradientCheckpointing (0.66) "
        "or trainer.precision=bf16-mixed (0.77)",
    )


def lost_process(return_codes: Iterable[int | None]) -> UserError | None:
    """The two lines where a process that this one started was ended by a signal; else None."""
    for rank, code in enumerate(return_codes, 1):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return UserError(
                f"process {rank} of the training was ended by {name}",
                "most often memory was too small; --ckpt_path last goes on from last.ckpt",
            )
    return None
