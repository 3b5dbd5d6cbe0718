"""Which of albumentations' transforms leave a caption true, and within which bounds.

| transform | allowed |
|---|---|
| pixel-only ones (`ImageOnlyTransform`) | all but those that exchange dark and bright |
| Affine, ShiftScaleRotate, Rotate, SafeRotate | one of them, within `check_motion` |
| ElasticTransform | alpha up to 20 sigma and to 200, of Gaussian noise |
| GridDistortion, OpticalDistortion | one of the three that bend, distort_limit up to 0.3 |
| all others | refused |

What comes in from outside the picture must be black, and background in the mask: a reflected border
would show a second lesion.
"""

from __future__ import annotations

import difflib
import inspect
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textseg.errors import UserError
from textseg.preprocess import Bytes

MAX_DEGREES = 30.0
MAX_DISTORTION = 0.3
MAX_ALPHA, MAX_ALPHA_OVER_SIGMA = 200.0, 20.0  # moves some 5 % of 96 pixels, measured
_MOVING = {  # and the argument that turns
    "Affine": "rotate",
    "ShiftScaleRotate": "rotate_limit",
    "Rotate": "limit",
    "SafeRotate": "limit",
}
_BENDING = ("ElasticTransform", "GridDistortion", "OpticalDistortion")
_WITHIN = "stay within what augmentation: strong does: 20 degrees, shifts of 0.1, scale 0.8 to 1.2"
# Why the commonest others falsify words, and what to write instead.
_REFUSED: dict[tuple[str, ...], tuple[str, str]] = {
    ("HorizontalFlip",): (
        "mirrors the picture and leaves left and right in its words",
        "set data.hflip, which mirrors both",
    ),
    ("VerticalFlip", "Transpose", "D4", "SquareSymmetry", "RandomRotate90", "RandomGridShuffle"): (
        "exchanges sides that the words name",
        "leave it out; Affine turns by up to 30 degrees",
    ),
    ("InvertImg", "Solarize"): (
        "exchanges dark and bright, which words such as hypodense name",
        "leave it out; RandomBrightnessContrast and RandomGamma vary them",
    ),
    ("CoarseDropout", "ConstrainedCoarseDropout", "Erasing", "GridDropout", "MaskDropout"): (
        "may hide the lesion that the words name",
        "leave it out",
    ),
}
_CROPS = (
    "may cut off the lesion that the words name, and moves it to another side of the picture",
    "leave it out; Affine with scale: [0.8, 1.2] enlarges a little",
)
_OTHERS = (
    "is not known to leave words true",
    f"give pixel-only transforms, or one of {', '.join((*_MOVING, *_BENDING))}",
)


def built_transforms(library: Any, listed: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Build the transforms of a list, if each leaves words true.

    Args:
        library: the module albumentations.
        listed: ``{class_path: albumentations.RandomGamma, init_args: {...}}`` each; the short name
            RandomGamma will do.

    Raises:
        UserError: a transform does not exist, cannot be built or run, or may falsify words.
    """
    transforms = [_built(library, entry) for entry in listed]
    names = [type(transform).__name__ for transform in transforms]
    for group in (tuple(_MOVING), _BENDING):
        several = [name for name in names if name in group]
        if len(several) > 1:
            raise UserError(
                f"augmentation lists {' and '.join(several)}, whose bounds hold for one alone",
                f"keep one of {', '.join(group)}",
            )
    return transforms


def _built(library: Any, entry: Mapping[str, Any]) -> Any:
    kind, settings = _class_and_settings(library, entry)
    name = kind.__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # advice about other transforms
            transform, trial = kind(**settings), kind(**{**settings, "p": 1.0})
    except (TypeError, ValueError) as error:
        raise UserError(
            f"augmentation: {name} refuses {settings} ({' '.join(str(error).split())[:200]})",
            "see albumentations' page of this transform",
        ) from error
    if name in _MOVING:
        check_motion(transform)
    elif name in _BENDING:
        _check_bending(transform)
    if name in (*_MOVING, *_BENDING):
        _check_border(transform)
    _check_trial(library, trial)
    return transform


def _class_and_settings(library: Any, entry: Any) -> tuple[type, dict[str, Any]]:
    """The transform's class, allowed by the table, and its arguments, known by their names.

    Raises:
        UserError: it is no entry of a list of transforms, or one that is not allowed.
    """
    path = entry.get("class_path") if isinstance(entry, Mapping) else None
    settings = (entry.get("init_args") or {}) if isinstance(entry, Mapping) else {}
    if (
        not isinstance(path, str)
        or not isinstance(settings, Mapping)
        or set(entry) - {"class_path", "init_args"}
    ):
        raise UserError(
            f"augmentation: {entry!r} is no transform",
            "write {class_path: albumentations.RandomGamma, init_args: {gamma_limit: [80, 120]}}",
        )
    package, _, name = path.rpartition(".")
    found = getattr(library, name, None)
    own = package in ("", "albumentations") or package.startswith("albumentations.")
    if not (own and isinstance(found, type) and issubclass(found, library.BasicTransform)):
        known = [n for n in dir(library) if _is_allowed(library, n)]
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(
            f"augmentation: {path} is no single transform of albumentations",
            f"perhaps {' or '.join(near)}" if near else _OTHERS[1],
        )
    if not _is_allowed(library, name):
        reason, remedy = _refusal(name)
        raise UserError(f"augmentation: {name} {reason}", remedy)
    arguments = [a for a in inspect.signature(found).parameters if a != "self"]
    odd = [argument for argument in settings if argument not in arguments]
    if odd:
        near = difflib.get_close_matches(odd[0], arguments, n=3)
        raise UserError(
            f"augmentation: {name} has no argument {odd[0]}",
            f"perhaps {' or '.join(near)}" if near else f"it takes {', '.join(arguments)}",
        )
    return found, dict(settings)


def _is_allowed(library: Any, name: str) -> bool:
    kind = getattr(library, name)
    if not isinstance(kind, type) or name in ("ImageOnlyTransform", "InvertImg", "Solarize"):
        return False
    return name in (*_MOVING, *_BENDING) or issubclass(kind, library.ImageOnlyTransform)


def _refusal(name: str) -> tuple[str, str]:
    if "Crop" in name:
        return _CROPS
    return next((why for names, why in _REFUSED.items() if name in names), _OTHERS)


# --- bounds --------------------------------------------------------------------------------------


def check_motion(transform: Any) -> None:
    """Check that a transform of Affine's kind leaves a lesion on the side that words name.

    It turns by up to 30 degrees, and whatever is drawn, the middle of each quarter of a square
    picture stays in its quarter: with the largest turn t, shear h and shift d (share of a side) and
    scales from s to S, ``s/4 (cos t - sin t - tan h) >= d`` and
    ``S/4 (cos t + sin t + tan h) + d <= 1/2``.

    Raises:
        UserError: it may move further, or changes the picture's size.
    """
    name = type(transform).__name__
    degrees = _largest(transform.limit if name == "Rotate" else transform.rotate)
    affine = name in ("Affine", "ShiftScaleRotate")
    if getattr(transform, "crop_border", False) or (affine and transform.fit_output):
        raise UserError(
            f"augmentation: {name} with crop_border or fit_output zooms by what it has drawn",
            "leave that out",
        )
    if degrees > MAX_DEGREES:
        raise UserError(
            f"augmentation: {name} turns by up to {degrees:g} degrees, beyond {MAX_DEGREES:g}: "
            '"upper" or "left" would become false',
            f"give {_MOVING[name]} within [-{MAX_DEGREES:g}, {MAX_DEGREES:g}]",
        )
    if not affine:
        return
    if _largest(transform.translate_px) > 0:
        raise UserError(
            f"augmentation: {name} with translate_px moves further on smaller pictures",
            "give translate_percent, shares of a side such as [-0.05, 0.05]",
        )
    shift, shear = _largest(transform.translate_percent), _largest(transform.shear)
    scales = [scale for axis in transform.scale.values() for scale in axis]
    turned, sheared = math.radians(degrees), math.tan(math.radians(min(shear, 80.0)))
    inner = min(scales) / 4 * (math.cos(turned) - math.sin(turned) - sheared) - shift
    outer = max(scales) / 4 * (math.cos(turned) + math.sin(turned) + sheared) + shift
    if inner < 0 or outer > 0.5:
        raise UserError(
            f"augmentation: {name} turns by {degrees:g} degrees, shears by {shear:g}, shifts by "
            f"{shift:g} of a side and scales from {min(scales):g} to {max(scales):g}: together "
            "they may move a lesion to another side than its words name",
            _WITHIN,
        )


def _check_bending(transform: Any) -> None:
    name = type(transform).__name__
    if name == "ElasticTransform":
        most = min(MAX_ALPHA, MAX_ALPHA_OVER_SIGMA * transform.sigma)
        if transform.alpha > most or transform.noise_distribution != "gaussian":
            raise UserError(
                f"augmentation: {name} with alpha={transform.alpha:g}, sigma={transform.sigma:g} "
                f"and noise_distribution={transform.noise_distribution} moves parts too far",
                f"give alpha of {most:g} or less, and Gaussian noise",
            )
        return
    distortion = _largest(transform.distort_limit)
    if distortion > MAX_DISTORTION or not getattr(transform, "normalized", True):
        raise UserError(
            f"augmentation: {name} with distort_limit up to {distortion:g}, or not normalized, "
            "moves parts too far",
            f"give distort_limit within [-{MAX_DISTORTION}, {MAX_DISTORTION}]",
        )


def _check_border(transform: Any) -> None:
    for argument in ("border_mode", "fill_mask"):
        value = getattr(transform, argument)
        if np.any(value):
            raise UserError(
                f"augmentation: {type(transform).__name__} with {argument}={value} may show at the "
                "border a lesion that the words do not name",
                f"leave {argument} out: 0 is the default",
            )


def _largest(ranges: Any) -> float:
    """The largest magnitude in (low, high), or in such pairs by axis; 0 where there is none."""
    if ranges is None:
        return 0.0
    pairs = ranges.values() if isinstance(ranges, Mapping) else [ranges]
    return max(abs(float(end)) for pair in pairs for end in pair)


# --- a trial -------------------------------------------------------------------------------------


def _check_trial(library: Any, transform: Any) -> None:
    """Check on a small picture that pixels stay bytes of one shape, decided by the seeds alone."""
    name, pixels = type(transform).__name__, np.random.default_rng(0)
    image = pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = (image[..., 0] > 127).astype(np.uint8)
    pipeline = library.Compose([transform], is_check_shapes=False)
    runs: list[tuple[Bytes, Bytes]] = []
    try:
        for seed in (0, 1, 0):
            set_state(pipeline, seed)
            moved = pipeline(image=image.copy(), mask=mask.copy())
            runs.append((moved["image"], moved["mask"]))
    except Exception as error:  # whatever a transform raises that lacks what it needs
        raise UserError(
            f"augmentation: {name} cannot be run on an image and a mask "
            f"({' '.join(str(error).split())[:200]})",
            "leave it out",
        ) from error
    for kind, given, got in (("image", image, runs[0][0]), ("mask", mask, runs[0][1])):
        if got.dtype != np.uint8 or got.shape != given.shape:
            raise UserError(
                f"augmentation: {name} makes an {kind} of type {got.dtype} and shape "
                f"{list(got.shape)} of bytes {list(given.shape)}",
                "leave it out; the image encoder scales and normalizes by itself",
            )
    if not all(np.array_equal(first, again) for first, again in zip(runs[0], runs[2], strict=True)):
        raise UserError(
            f"augmentation: {name} gives other pixels for the same seed",
            "leave it out; a run could not be repeated",
        )


def set_state(pipeline: Any, seed: int, draw: random.Random | None = None) -> None:
    """Seed both generators that transforms draw from.

    One generator for the whole pipeline: Compose.set_random_seed would start every transform from
    the same number, so that strong shifts always came with strong contrast.
    """
    pipeline.set_random_state(np.random.default_rng(seed), draw or random.Random(seed))
