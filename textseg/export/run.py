"""Segments an image by what a text names, with the exported network in this file's folder.

    pip install numpy pillow tokenizers onnxruntime
    python run.py IMAGE "TEXT" --output mask.png

From Python, with this folder in sys.path:

    from run import Segmenter
    mask, probs = Segmenter().segment("image.png", "lesion in the left lung")

It was copied here by `textseg export` and needs neither textseg nor torch. Research use; no medical
device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image
from tokenizers import Tokenizer

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16-bit gray
SHALLOW = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
FULL_SCALE = 65535
NARROW, NARROW_DEEP = 16, 64  # of 255 levels: what 12 and 14 bits read as 16 do not exceed
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 262, 0
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNKNOWN = ("[UNK]", "<unk>")
# What Pillow raises for a file that is cut short, spoiled, or claims to be gigantic.
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(struct.error, Image.DecompressionBombError),
)


class InputError(ValueError):
    """A file, text or setting that cannot be used."""


class Segmenter:
    """The network of an export.

    Args:
        folder: that `textseg export` wrote; by default the one of this file.
        threads: of onnxruntime; 0 takes as many as there are cores.

    Attributes:
        takes_text: whether it reads words.
        size: height and width that images are resized to.

    Raises:
        InputError: a file is missing or is not what was exported, or it is no ONNX export.
    """

    def __init__(self, folder: str | Path | None = None, *, threads: int = 0) -> None:
        home = Path(folder or Path(__file__).parent)
        self.manifest = read_manifest(home)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        start = onnxruntime.InferenceSession
        self._network = start(str(home / "network.onnx"), options, providers)
        self.takes_text = self.manifest["text"] is not None
        if self.takes_text:
            self._encoder = start(str(home / "text_encoder.onnx"), options, providers)
            self._tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
        self.size: tuple[int, int] = tuple(self.manifest["image"]["size"])
        self._resize = self.manifest["image"]["resize"]

    def segment(
        self, image: str | Path | np.ndarray, text: str | None = None, *, threshold: float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Segment what a text names in an image.

        Args:
            image: a file, or uint8 values [H0, W0, 3] (RGB).
            text: the expression; an image-only network needs none.
            threshold: probability above which a pixel belongs to the mask.

        Returns:
            mask [H0, W0] bool and probabilities [H0, W0] float32.

        Raises:
            InputError: the image cannot be read, the text is empty, or threshold is out of range.
        """
        if not 0 < threshold < 1:
            raise InputError(f"threshold={threshold} is not between 0 and 1")
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        own = pixels.shape[:2]
        top, left, height, width = frame(own, self.size, self._resize)
        fitted = fit(pixels, self.size, (top, left, height, width))
        plane = self.logits(fitted[None], [text])[0, 0]
        logits = resize_logits(plane[top : top + height, left : left + width], own)
        with np.errstate(over="ignore"):
            probs = 1 / (1 + np.exp(-logits))
        return logits > np.float32(math.log(threshold / (1 - threshold))), probs

    def logits(self, pixels: np.ndarray, texts: list[str | None]) -> np.ndarray:
        """Logits [B, 1, H, W] float32 of uint8 pixels [B, H, W, 3] and B texts.

        Raises:
            InputError: a text is empty, or the network takes no images of this size.
        """
        self._check_size(pixels.shape[1:3])
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 255
        inputs: dict[str, Any] = {"image": values.astype(np.float32)}
        if self.takes_text:
            inputs |= self._words(texts)
        names = {one.name for one in self._network.get_inputs()}
        used = {name: value for name, value in inputs.items() if name in names}
        return self._network.run(["logits"], used)[0]

    def _check_size(self, size: tuple[int, ...]) -> None:
        facts = self.manifest["image"]
        sides = zip(size, facts["size"], facts["dynamic"], strict=True)
        for side, fixed, dynamic in sides:
            other = dynamic and side >= facts["least"] and side % facts["multiple_of"] == 0
            if side != fixed and not other:
                raise InputError(
                    f"a size of {list(size)} cannot be taken: the network was exported for "
                    f"{facts['size']}"
                    + f" and multiples of {facts['multiple_of']} from {facts['least']} on"
                    * dynamic
                )

    def _words(self, texts: list[str | None]) -> dict[str, np.ndarray]:
        """Tokens [B, L, D] and their mask [B, L]."""
        for text in texts:
            if not (text or "").strip():
                raise InputError(f"text={text!r} is empty, but the network segments what is named")
        encodings = self._tokenizer.encode_batch([text or "" for text in texts])
        unknown = {self._tokenizer.token_to_id(name) for name in UNKNOWN} - {None}
        for text, encoding in zip(texts, encodings, strict=True):
            if encoding.overflowing:
                warnings.warn(f"{text!r} is cut to {len(encoding.ids)} tokens", stacklevel=3)
            count = sum(token in unknown for token in encoding.ids)
            if count:
                warnings.warn(f"{count} words of {text!r} are unknown to the network", stacklevel=3)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=bool)
        encoded = {"input_ids": ids, "attention_mask": mask}
        return {"tokens": self._encoder.run(["last_hidden_state"], encoded)[0], "mask": mask}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export, whose files are there and unchanged.

    Raises:
        InputError: they are not, or the export is of another form.
    """
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        form, files = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error})") from error
    if form != "onnx":
        raise InputError(f"{folder} was exported with --format {form}, and run.py takes onnx")
    for name, wanted in files.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted["sha256"]:
            raise InputError(f"{folder / name} is not the file that was exported")
    return manifest


# --- images, as the network was shown them in training -----------------------------------------


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3], turned as viewers show it.

    Raises:
        InputError: it cannot be read, has several frames, transparent pixels or float values.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_header(image, path)
            turn = orientation_of(image)
            tiff = image.format == "TIFF"  # Pillow turns this one by itself
            deep = is_deep(image)
            image.load()
            turned = image.transpose(TURNS[turn]) if turn and not tiff else image
            pixels = pixels_of(turned, path)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from error
    warn_of_range(pixels, path, deep=deep)
    return pixels


def check_header(image: Image.Image, path: Path) -> None:
    """Refuse what has no certain meaning as one picture."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{path} holds {frames} pictures")
    if image.mode not in (*DEEP, *SHALLOW):
        raise InputError(f"{path} has mode {image.mode}: save it as 8-bit gray or RGB")
    tags: Any = getattr(image, "tag_v2", {})
    odd = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO or "transparency" in image.info
    if image.mode in DEEP and odd:
        raise InputError(f"{path} is 16-bit gray with white as 0, or with a transparent value")


def orientation_of(image: Image.Image) -> int:
    """EXIF's number where the picture is stored turned, else 0."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken entry turns nothing
        return 0
    return found if found in TURNS else 0


def pixels_of(image: Image.Image, path: Path) -> np.ndarray:
    """The values of a decoded image as uint8 [H, W, 3]."""
    if image.mode in DEEP:
        gray = np.asarray(image, dtype=np.float64)
        if gray.size and (gray.min() < 0 or gray.max() > FULL_SCALE):
            raise InputError(f"{path} has values beyond 0 to {FULL_SCALE}")
        shades = (gray / FULL_SCALE * 255).round().astype(np.uint8)
        return np.repeat(shades[..., None], 3, axis=2)
    if image.has_transparency_data and (np.asarray(image.convert("RGBA"))[..., 3] < 255).any():
        raise InputError(f"{path} has transparent pixels")
    return np.asarray(image.convert("RGB"))


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not decoded yet has 16 bits a color or gray."""
    tiles: list[Any] = list(getattr(image, "tile", ()))
    return image.mode in DEEP or any(";16" in str(tile[3]) for tile in tiles)


def warn_of_range(pixels: np.ndarray, path: Path, *, deep: bool) -> None:
    """Warn of values that stay within a few levels, as those of another range do."""
    low, high = int(pixels.min()), int(pixels.max())
    bound, scale = (NARROW_DEEP, FULL_SCALE) if deep else (NARROW, 255)
    if 0 < high - low <= bound:
        warnings.warn(
            f"{path} fills no more than {bound} of 255 levels ({low} to {high} of 255); scale the "
            f"whole set alike to 0..{scale}",
            stacklevel=3,
        )


def frame(own: tuple[int, int], size: tuple[int, int], resize: str) -> tuple[int, int, int, int]:
    """Where the picture lies in the network's input: top, left, height, width."""
    if resize == "stretch":
        return 0, 0, *size
    (height, width), (rows, columns) = own, size
    if rows * width <= columns * height:
        columns = max(1, (2 * width * rows + height) // (2 * height))
    else:
        rows = max(1, (2 * height * columns + width) // (2 * width))
    return (size[0] - rows) // 2, (size[1] - columns) // 2, rows, columns


def fit(pixels: np.ndarray, size: tuple[int, int], place: tuple[int, int, int, int]) -> np.ndarray:
    """The network's input [H, W, 3]: resized bilinearly with anti-aliasing, borders black."""
    top, left, height, width = place
    if pixels.shape[:2] != (height, width):
        small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(small)
    canvas = np.zeros((*size, 3), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def resize_logits(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w] -> [H, W] float32, bilinear by pixel centers, as torch's interpolate."""
    plane = plane.astype(np.float32)
    low, high, share = neighbors(plane.shape[0], size[0])
    rows = plane[low] * (1 - share)[:, None] + plane[high] * share[:, None]
    low, high, share = neighbors(plane.shape[1], size[1])
    return rows[:, low] * (1 - share) + rows[:, high] * share


def neighbors(count: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `wanted` positions the two among `count`, and the share of the second."""
    scale = np.float32(count) / np.float32(wanted)
    place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    place = np.maximum(place, 0)
    low = np.minimum(place.astype(np.int64), count - 1)
    return low, np.minimum(low + 1, count - 1), place - low.astype(np.float32)


# --- the command -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Write the mask of an image as a PNG of 0 and 255; the exit status."""
    parser = argparse.ArgumentParser(description="Segment an image by what a text names.")
    parser.add_argument("image", help="PNG, JPEG, TIFF and so on")
    parser.add_argument("text", nargs="?", help="what to segment")
    parser.add_argument("--output", default="mask.png", help="a new file")
    parser.add_argument("--probabilities", help="a new 16-bit PNG: probability = value / 65535")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--folder", help="of the export; by default this file's")
    given = parser.parse_args(arguments)
    try:
        files = [Path(name) for name in (given.output, given.probabilities) if name]
        for file in files:
            if file.exists():
                raise InputError(f"{file} exists: name a new file")
        segmenter = Segmenter(given.folder, threads=given.threads)
        mask, probs = segmenter.segment(given.image, given.text, threshold=given.threshold)
        Image.fromarray(mask.astype(np.uint8) * 255).save(files[0])
        if given.probabilities:
            levels = (probs.astype(np.float64) * FULL_SCALE).round().astype(np.uint16)
            Image.fromarray(levels).save(files[1])
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{int(mask.sum())} of {mask.size} pixels; written to {files[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
