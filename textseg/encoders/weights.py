"""Weights of image encoders from local files: read without running code, and loaded in full.

A file may hold the tensors themselves or have them under ``state_dict`` or ``model``; of a file of
a whole network, the part named ``backbone.`` or ``encoder.`` is read. Every tensor must find its
place and every weight of the encoder its tensor, but for a classifier, which no encoder here has.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from textseg.checkpoint import check_finite, load_plain
from textseg.encoders.recognize import recognize
from textseg.errors import UserError, first_line

FIELD = "image_weights"
WRAPPERS = ("state_dict", "model")
# What stands before every name of a file, and what before the encoder's names in a whole network.
PREFIXES = ("module.", "_orig_mod.", "model.")
PARTS = ("backbone.", "encoder.")
COUNTER = ".num_batches_tracked"  # of batch norms: older files lack it, and nothing reads it
WANTED = "a file of weights: .pth, .pt, .bin or .safetensors"
SHOWN = 3  # names of each kind in a message

_STRIP = re.compile(r"\.spatial_gating_unit\.(conv\d_[12])\.")

Tensors = dict[str, Tensor]


class Mismatch(NamedTuple):
    """Names of what does not fit: tensors of the file, weights of the encoder, and both."""

    unknown: list[str]
    unfilled: list[str]
    misshapen: list[str]

    @property
    def total(self) -> int:
        """How many names there are."""
        return len(self.unknown) + len(self.unfilled) + len(self.misshapen)


# --- reading


def read_tensors(path: str | Path, wanted: str = WANTED, *, field: str = FIELD) -> Tensors:
    """The tensors of a weights file by name: torch's formats, or .safetensors.

    Args:
        path: the file.
        wanted: what to give instead, for messages.
        field: the setting that names it, for messages.

    Raises:
        UserError: the file is missing, cut short, holds code, no tensors, or NaN.
    """
    if Path(path).suffix == ".safetensors" and Path(path).is_file():
        from safetensors.torch import load_file

        try:
            content: Any = load_file(path)
        except Exception as error:  # its errors share no class
            raise UserError(
                f"{field}={str(path)!r} cannot be read as safetensors ({first_line(error)})",
                f"it is cut short, or of another format: give {wanted}",
            ) from error
    else:
        content = load_plain(path, field=field, wanted=wanted)
    while isinstance(content, Mapping):
        inner = [content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)]
        if not inner:
            break
        content = inner[0]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{field}={str(path)!r} holds no tensors by name", f"give {wanted}")
    check_finite({"state_dict": tensors}, f"{field}={str(path)!r}")
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as .safetensors, each a copy: the format knows no shared memory."""
    from safetensors.torch import save_file

    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # as the user's other files: safetensors writes for its owner alone
    save_file(copies, path, metadata={"format": "pt"})
    path.chmod(mode)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- loading


def load_pyramid(
    body: nn.Module,
    whole: nn.Module,
    path: str,
    *,
    asked: str,
    field: str = FIELD,
    remedy: str | None = None,
) -> None:
    """Fill a feature pyramid of timm from a file of the whole network.

    The file may have timm's names, those of the pyramid, or those that timm translates when it
    fetches weights: the authors' own of ConvNeXt and Swin, for example.

    Args:
        body: the pyramid.
        whole: the same network with a classifier; only its names and shapes are read.
        path: the file.
        asked: the network's name, for messages.
        field: what messages call the file.
        remedy: what to do where the file does not fit, for messages.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    stored = read_tensors(path, field=field)
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    whole_names = _names_in_whole(body, whole)
    plain = {
        whole_names.get(name, name): value for name, value in _unprefixed(stored, shapes).items()
    }
    config = getattr(whole, "default_cfg", {})
    readings = [
        _colored(reading, shapes, config)
        for reading in (plain, *_translated(stored, whole), *_translated(plain, whole))
    ]
    heads = names_in(config, "classifier")
    in_head = tuple(f"{head}." for head in heads)
    named = [whole_names[name] for name in body.state_dict()]
    needed = [name for name in named if not name.startswith(in_head)]
    found = {id(r): mismatch(r, shapes, needed, heads=heads) for r in readings}
    best = min(readings, key=lambda reading: found[id(reading)].total)
    if found[id(best)].total:
        called = f"{field}={path!r}"
        raise misfit(called, asked, stored, best, shapes, found[id(best)], remedy)
    own = body.state_dict()
    offered = {name: best.get(whole_names[name], value) for name, value in own.items()}
    fitting = {n: v if v.shape == own[n].shape else own[n] for n, v in offered.items()}
    body.load_state_dict(fitting, strict=True)  # what does not fit is of a classifier


def load_encoder(encoder: nn.Module, path: str, *, asked: str) -> None:
    """Fill an encoder of segmentation-models-pytorch from a file with the library's own names.

    Its own ``load_state_dict`` drops the classifier and renames what older files call otherwise.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    own = encoder.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    stored = read_tensors(path)
    named = _unprefixed(stored, shapes)
    arrived: list[Mapping[str, Tensor]] = []
    hook = encoder.register_load_state_dict_pre_hook(
        lambda _, state_dict, prefix, *rest: arrived.append(dict(state_dict))
    )
    counters = {n: v for n, v in own.items() if n.endswith(COUNTER)}
    try:
        encoder.load_state_dict({**counters, **named})
    except (RuntimeError, KeyError) as error:
        reading = dict(arrived[0]) if arrived else named
        found = mismatch(reading, shapes, list(shapes))
        if not found.total:
            raise
        raise misfit(f"{FIELD}={path!r}", asked, stored, reading, shapes, found) from error
    finally:
        hook.remove()


def load_mscan(
    encoder: nn.Module, path: str, *, asked: str, wanted: str, belongs: Callable[[str], bool]
) -> None:
    """Fill the MSCAN within an encoder from a file with SegNeXt's names or OpenMMLab's.

    OpenMMLab's copies have no module around the depthwise convolution of the MLP:
    ``mlp.dwconv.weight`` is SegNeXt's ``mlp.dwconv.dwconv.weight``. An encoder made without some of
    the strip convolutions leaves theirs unread.

    Args:
        encoder: with SegNeXt's names, and perhaps others beside them, which are left as they are.
        path: the file.
        asked: the variant, for messages.
        wanted: what to give where the file cannot be read, for messages.
        belongs: whether a name of the encoder is MSCAN's.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    own = encoder.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items() if belongs(name)}
    wrapped = ".mlp.dwconv.dwconv."
    stored = read_tensors(path, wanted)
    named = {
        name.replace(wrapped, ".mlp.dwconv.").replace(".mlp.dwconv.", wrapped): value
        for name, value in _unprefixed(stored, shapes).items()
    }
    strips = {strip[1] for name in shapes if (strip := _STRIP.search(name))}
    reading = {
        name: value
        for name, value in named.items()
        if not (strip := _STRIP.search(name)) or strip[1] in strips
    }
    found = mismatch(reading, shapes, list(shapes), heads=("head",))
    if found.total:
        raise misfit(f"{FIELD}={path!r}", asked, stored, reading, shapes, found)
    encoder.load_state_dict({n: reading.get(n, v) for n, v in own.items()}, strict=True)


# --- names


def _unprefixed(stored: Tensors, known: Mapping[str, Any]) -> Tensors:
    """Names without what a wrapper or a whole network put before them."""
    for prefix in (*PREFIXES, *PARTS, *PREFIXES):
        has = [name.startswith(prefix) for name in stored]
        own = any(name.startswith(prefix) for name in known)
        if not own and (all(has) or (prefix in PARTS and any(has))):
            stored = {
                name.removeprefix(prefix): value
                for name, value in stored.items()
                if name.startswith(prefix)
            }
    return stored


def _names_in_whole(body: nn.Module, whole: nn.Module) -> dict[str, str]:
    """Names of a pyramid's weights -> those of the whole network.

    timm's pyramids keep the names, put a module's name before them, or make one module of a
    sequence's name and number: ``stages_0.blocks`` of ``stages.0.blocks``.
    """
    renamed: dict[str, str] = {}
    for name, module in whole.named_children():
        if isinstance(module, nn.Sequential):
            children = (child for child, _ in module.named_children())
            renamed |= {f"{name}_{child}": f"{name}.{child}" for child in children}
    known = whole.state_dict()
    names = {}
    for own in body.state_dict():
        first, dot, rest = own.partition(".")
        same = (own, renamed.get(first, first) + dot + rest, own.partition(".")[2])
        names[own] = next((name for name in same if name in known), own)
    return names


def names_in(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Modules that timm's description names under `key`: none, one or several."""
    named = config.get(key) or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _colored(stored: Tensors, shapes: Mapping[str, Any], config: Mapping[str, Any]) -> Tensors:
    """Weights of a network that was described as one for gray pictures, for three colors.

    Its first convolution is repeated and divided by three, as timm does it: a gray picture gives
    what it gave. A network that keeps its one channel, or is for colors already, stays as it is.
    """
    if (config.get("input_size") or (3,))[0] != 1:
        return stored
    for name in (f"{module}.weight" for module in names_in(config, "first_conv")):
        weight, wanted = stored.get(name), shapes.get(name, ())
        if weight is None or not weight.ndim == len(wanted) == 4:
            continue
        if (weight.shape[1], wanted[1]) == (1, 3):
            stored = {**stored, name: weight.repeat(1, 3, 1, 1) * (1 / 3)}
    return stored


def _translated(stored: Tensors, whole: nn.Module) -> Iterator[Tensors]:
    """What timm makes of an author's own names; nothing where it does not know the network."""
    translate = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return
    try:
        translated = translate(dict(stored), whole)
    except Exception:  # it presumes the right network, and fails in many ways on another
        return
    yield {name: value for name, value in translated.items() if isinstance(value, Tensor)}


# --- what does not fit


def mismatch(
    stored: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    needed: Sequence[str],
    *,
    heads: Sequence[str] = (),
) -> Mismatch:
    """Compare a file with a network.

    Args:
        stored: the file.
        shapes: of the network's weights.
        needed: those that must be filled, counters of batch norms excepted.
        heads: modules of the classifier, whose weights may be absent or of another shape.
    """
    in_head = tuple(f"{head}." for head in heads)
    body = [name for name in stored if not name.startswith(in_head)]
    return Mismatch(
        unknown=[name for name in body if name not in shapes],
        unfilled=[name for name in needed if name not in stored and not name.endswith(COUNTER)],
        misshapen=[n for n in body if n in shapes and tuple(stored[n].shape) != shapes[n]],
    )


def misfit(
    called: str,
    asked: str,
    stored: Mapping[str, Tensor],
    reading: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    found: Mismatch,
    remedy: str | None = None,
) -> UserError:
    """The error of a file that does not fit; it names the network of both.

    Args:
        called, asked: what messages call the file and the network.
        stored, reading: the file, and what of it was compared, by the network's names.
        shapes: of the network's weights.
        found: what does not fit.
        remedy: by default another file, or the network of this one.
    """
    of_file = f"of its {len(stored)} tensors"

    def of(name: str) -> str:
        """A tensor of the file with its shape."""
        return f"{name} {_shape(reading[name].shape)}"

    parts = [
        *_listed(
            f"{of_file} have another shape",
            found.misshapen,
            lambda name: f"{of(name)} for {_shape(shapes[name])}",
        ),
        *_listed(f"{of_file} are unknown", found.unknown, of),
        *_listed(
            "weights are missing",
            found.unfilled,
            lambda name: f"{name} {_shape(shapes.get(name, ()))}",
        ),
    ]
    detail = "; ".join(parts)
    if _in_another_order(reading, shapes, found):
        return UserError(
            f"{called} has the names of image_encoder={asked!r}, but its kernels have "
            f"their axes in another order, such as TensorFlow's: {detail}",
            "convert it to torch's order, (out, in, height, width), with its maker's own tool",
        )
    likely = recognize(reading) or recognize(stored) or "an unknown network"
    return UserError(
        f"{called} does not fit image_encoder={asked!r}, it looks like {likely}: {detail}",
        remedy
        or f"give a file of {asked} with the same image_encoder_options, or set image_encoder to "
        "the network of the file",
    )


def _listed(what: str, names: Sequence[str], describe: Callable[[str], str]) -> Iterator[str]:
    """Count and first names of what does not fit; nothing where all does."""
    if names:
        shown = ", ".join(map(describe, names[:SHOWN]))
        yield f"{len(names)} {what} ({shown}{', ...' if len(names) > SHOWN else ''})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _in_another_order(
    stored: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], found: Mismatch
) -> bool:
    """Whether nothing but the order of axes differs."""
    if found.unknown or found.unfilled or not found.misshapen:
        return False
    return all(sorted(stored[name].shape) == sorted(shapes[name]) for name in found.misshapen)
