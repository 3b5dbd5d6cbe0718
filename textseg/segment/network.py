"""A network from its checkpoint, and what it finds in an image."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from torch import Tensor

import textseg.models
from textseg.checkpoint import class_path_of, same_class, subclasses_of
from textseg.encoders import TextEncoder, reads_text, restoring
from textseg.errors import NotFiniteError, UserError, first_line, refusing
from textseg.metrics.case_table import resize_logits, threshold_logits, without_border
from textseg.models.base import SegmentationModule, settings_of
from textseg.models.ensemble import Ensemble, MirrorText, Tta
from textseg.models.odd_logits import check_logits
from textseg.models.tiles import tiles_of
from textseg.preprocess import Bytes, Oddities, Resize, Size, frame_of, narrow_ranges
from textseg.runs import Run
from textseg.runs.calibration import (
    Temperature,
    Threshold,
    find_calibration,
    operating_point,
)
from textseg.runs.outputs import averaging_suffix
from textseg.segment.exported import ExportedNetwork
from textseg.segment.members import averaged, check_one_task
from textseg.segment.pictures import Picture, read_ahead, to_tensor
from textseg.segment.stored import EXPORT, digest_of, read_stored, shown_images


@dataclass(frozen=True)
class Segmentation:
    """What a network finds in one image, at the image's own size.

    `probs` [H0, W0] float32 is the probability of every pixel; `mask` [H0, W0] bool is where it
    exceeds the threshold; `image` [H0, W0, 3] uint8 is the image as it was read.
    """

    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    image: Bytes

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.mask.nbytes + self.probs.nbytes + self.image.nbytes


class Segmenter:
    """A trained network that takes images and texts; `load` makes one.

    Args:
        model: the network, with its weights.
        image_size: height and width of its input, pixels.
        resize: how a picture comes to that size, as in training.
        precision: of the forward pass, by Lightning's names.
        device: as for `load`.

    Attributes:
        takes_text: whether it reads words; an image-only network does not.
    """

    def __init__(
        self,
        model: SegmentationModule,
        *,
        image_size: Size,
        resize: Resize = "stretch",
        precision: str | int | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model.eval()
        self.image_size = image_size
        self.resize: Resize = resize
        self.takes_text = reads_text(model)
        self._fabric = _fabric(device, precision)
        self._fabric.setup_module(model)  # moves it, and casts it for bf16-true and the like
        own = (p.dtype for p in model.parameters() if p.is_floating_point())
        self._dtype = next(own, torch.float32)  # an export has none

    def segment(self, image: Picture, text: str | None = None) -> Segmentation:
        """Segment what `text` names in `image`.

        Args:
            image: a file, a PIL image, or uint8 values [H0, W0] or [H0, W0, 3] (RGB).
            text: the caption or expression; an image-only network needs none and reads none.

        Raises:
            UserError: the image cannot be read, a network that reads words is given none, or there
                are several images or texts.
        """
        if isinstance(image, list | tuple) or not isinstance(text, str | None):
            cause = f"segment takes one image, not {type(image).__name__}, and one text, not "
            raise UserError(f"{cause}{text!r}", "give several to segment_all(images, texts)")
        [result] = self.segment_all([image], [text])
        return result

    def segment_all(
        self,
        images: Sequence[Picture],
        texts: Sequence[str | None],
        *,
        batch_size: int = 8,
    ) -> Generator[Segmentation, None, None]:
        """Segment images of any sizes, each by its own text, in their order.

        Args:
            images: as for `segment`; a file is read a little before its turn, in a thread. After
                the last, a warning tells if all stay within a few of 255 levels.
            texts: one for each image. All are checked before the first result.
            batch_size: images in one forward pass.
        """
        with closing(self.segment_each(images, texts, batch_size=batch_size)) as results:
            for result in results:
                if isinstance(result, UserError):
                    raise result
                yield result

    def segment_each(
        self,
        images: Sequence[Picture],
        texts: Sequence[str | None],
        *,
        batch_size: int = 8,
    ) -> Generator[Segmentation | UserError, None, None]:
        """As `segment_all`, with the error in the place of each image that cannot be segmented."""
        if len(images) != len(texts) or batch_size < 1:
            raise UserError(
                f"{len(images)} images, {len(texts)} texts and batch_size={batch_size}",
                "give one text for each image, and a batch_size of 1 or more",
            )
        words = [self._checked_text(text) for text in texts]
        self.model.prepare_captions(words, training=False)  # warns of cut and unknown words
        names: list[str] = []
        oddities: list[Oddities] = []
        step = batch_size if self.model.tiles is None else 1  # tiles make a batch of their own
        ahead = read_ahead(images, step)
        try:
            for first in range(0, len(images), step):
                read = ahead.take(step)
                sound = []
                for one, text in zip(read, words[first : first + step], strict=True):
                    if not isinstance(one, UserError):
                        name, picture = one
                        sound.append((picture.pixels, text))
                        names.append(name)
                        oddities.append(picture.oddities)
                results = self._results(sound, batch_size)
                for one in read:
                    yield one if isinstance(one, UserError) else next(results)
        finally:
            ahead.close()
        _warn_of_range(names, oddities)

    def unknown_share(self, text: str | None) -> float | None:
        """Share of [UNK] in a text's tokens, the largest of all networks; None of none."""
        shares = (encoder.unknown_shares([text or ""])[0] for encoder in self._text_encoders())
        return max(shares, default=None)

    def is_cut(self, text: str | None) -> bool:
        """Whether a text is longer than one of the networks reads."""
        return any(encoder.count_truncated([text or ""]) for encoder in self._text_encoders())

    def _text_encoders(self) -> list[TextEncoder]:
        networks = self.model.members if isinstance(self.model, Ensemble) else [self.model]
        encoders = [getattr(network, "text_encoder", None) for network in networks]
        return [encoder for encoder in encoders if isinstance(encoder, TextEncoder)]

    def _checked_text(self, text: str | None) -> str:
        if self.takes_text and not (text or "").strip():
            raise UserError(
                f"text={text!r} is empty, but {self.model.network_name} segments what is named",
                "say what to look for, in the words of the captions it was trained on",
            )
        return text or ""

    def _results(
        self, rows: Sequence[tuple[Bytes, str]], batch_size: int
    ) -> Iterator[Segmentation | UserError]:
        """The results of pictures and texts that are one batch, each made when it is asked for."""
        if not rows:
            return
        try:
            planes = self._logits(rows, batch_size)
        except _NO_MEMORY as error:
            if not _is_memory(error):
                raise
            if len(rows) > 1:  # perhaps it is one of them
                for row in rows:
                    yield from self._results([row], batch_size)
                return
            yield _too_large(rows[0][0], error)
            return
        for plane, (picture, _) in zip(planes, rows, strict=True):
            try:
                result: Segmentation | UserError = self._segmentation(plane, picture)
            except NotFiniteError as error:
                result = error
            except _NO_MEMORY as error:
                if not _is_memory(error):
                    raise
                result = _too_large(picture, error)
            yield result

    def _logits(self, rows: Sequence[tuple[Bytes, str]], batch_size: int) -> list[Tensor]:
        """B logits [1, h, w] at the network's size, or of tiles [1, H0, W0]."""
        pictures, texts = [picture for picture, _ in rows], [text for _, text in rows]
        sizes = [(p.shape[0], p.shape[1]) for p in pictures]
        tiles = self.model.tiles
        # As in `textseg predict`: Fabric's own forward would also round the image.
        with torch.inference_mode(), self._fabric.autocast():
            if tiles is not None and tiles.needed(sizes[0]):
                assert isinstance(self.model, Ensemble)
                assert len(rows) == 1
                like = self._fabric.to_device(torch.empty(1, 3, *self.image_size)).to(self._dtype)
                plane = self.model.tiled(
                    *rows[0], like=like, resize=self.resize, batch_size=batch_size
                )
                return [plane[None]]
            inputs = [to_tensor(p, self.image_size, self.resize) for p in pictures]
            frames = torch.tensor([frame_of(s, self.image_size, self.resize) for s in sizes])
            image = torch.stack(inputs)  # [B, 3, H, W]
            image = self._fabric.to_device(image).to(self._dtype)
            return list(without_border(self.model(image, texts).logits, frames))

    @torch.inference_mode()
    def _segmentation(self, plane: Tensor, picture: Bytes) -> Segmentation:
        """Mask and probabilities at the picture's own size, of logits [1, h, w]."""
        check_logits([plane], [f"a picture of {picture.shape[0]} x {picture.shape[1]}"])
        own = resize_logits(plane, picture.shape[:2])[0]  # [H0, W0]
        mask = threshold_logits(own, self.model.cut_logit)
        probs = (own / self.model.mask_temperature).sigmoid()
        return Segmentation(mask.cpu().numpy(), probs.cpu().numpy(), picture)


_NO_MEMORY = (MemoryError, RuntimeError)  # torch raises the second, with these words
_MEMORY_WORDS = ("out of memory", "allocate memory", "not enough memory")


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(w in str(error) for w in _MEMORY_WORDS)


def _too_large(picture: Bytes, error: BaseException) -> UserError:
    height, width = picture.shape[:2]
    return UserError(
        f"a picture of {height} x {width} takes more memory than there is ({first_line(error)})",
        "make it smaller, or give a smaller batch_size",
    )


def load(
    ckpt_path: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str = "auto",
    tta: Tta = "none",
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    mirror_text: MirrorText | None = None,
    threshold: Threshold = 0.5,
    temperature: Temperature = 1.0,
) -> Segmenter:
    """The network of a checkpoint, or the mean of several, ready for images and texts.

    A network of your own is found if its module was imported before, or if `model` names its class:
    no file decides what is imported.

    Args:
        ckpt_path: a checkpoint of `textseg fit` or of a Trainer, of which no code is run; or the
            folder of `textseg card`, or of `textseg export`, which runs on the CPU in fp32.
            Several, of networks trained on the same data, are an ensemble; image size and precision
            are those of the first.
        model: class of a network of your own, such as my_package.MyNet, whose module is imported.
        image_size: side of the network's square input, or (height, width); by default that of the
            config.yaml in the checkpoint's run, or of the checkpoint where there is no config.yaml.
        device: auto, cpu, cuda, cuda:1, mps and so on.
        tta: "flip" averages the logits of an image and its mirror image; see
            `textseg.models.ensemble.Ensemble`.
        tile_size: pictures with more pixels on a side are seen through tiles of so many; see
            `textseg.models.tiles`.
        tile_overlap: share of a tile that the next one covers too, 0.25 unless given.
        mirror_text: for "flip", unless no network reads words: rewrites a text for the mirrored
            image or gives None, such as `datamodules.captions.modes.swap_sides`.
        threshold: probability above which a pixel is outlined; "best" takes the one that
            `textseg calibrate` found on the validation rows of the first checkpoint's run.
        temperature: what logits are divided by before they become probabilities; "fitted" takes
            what `textseg calibrate` found.

    Raises:
        UserError: a checkpoint cannot be read or is of no known network, networks are of different
            tasks, nothing tells the image size, tta lacks what it needs, or the run was not
            calibrated.
    """
    paths = [ckpt_path] if isinstance(ckpt_path, (str, Path)) else list(ckpt_path)
    if not paths:
        raise UserError("ckpt_path=[] names no network", "give a checkpoint or several")
    if model is not None:
        _import_network(model)
    tiles = tiles_of(tile_size, tile_overlap)
    checkpoints = [read_stored(path) for path in paths]
    check_one_task(paths, checkpoints, image_size_given=image_size is not None)
    shown = shown_images(checkpoints[0], paths[0], image_size)
    networks = list(map(network_from, checkpoints, paths))
    network = averaged(networks, paths, tta=tta, tiles=tiles, mirror_text=mirror_text)
    suffix = averaging_suffix(network)
    weights = list(map(digest_of, checkpoints))
    network.mask_threshold, network.mask_temperature = operating_point(
        threshold,
        temperature,
        lambda: find_calibration(
            Run.of_checkpoint(paths[0]), suffix, weights, tiled=tiles is not None
        ),
    )
    return Segmenter(
        network,
        image_size=shown.size,
        resize=shown.resize,
        precision=shown.precision,
        device=device,
    )


def _warn_of_range(names: Sequence[str], oddities: Sequence[Oddities]) -> None:
    """Warn where images stay within a few levels, as those of another range do."""
    for narrow in narrow_ranges(names, oddities):
        count = f"{len(narrow.images)} of {len(oddities)} images"
        warnings.warn(f"{count} {narrow.text}; {narrow.remedy}", stacklevel=3)


# --- the network -------------------------------------------------------------------------------


def network_from(checkpoint: Mapping[str, Any], path: str | Path) -> SegmentationModule:
    """The network that a checkpoint describes, with its weights; nothing is fetched.

    Args:
        checkpoint: what `read_stored` gives.
        path: of the checkpoint, for messages.

    Raises:
        UserError: it names no known network, or its settings or weights are another version's.
    """
    if EXPORT in checkpoint:
        return ExportedNetwork(Path(path).expanduser(), checkpoint[EXPORT])
    stored = checkpoint.get("hyper_parameters")
    settings = dict(stored) if isinstance(stored, dict) else {}
    class_path = class_path_of(checkpoint)
    for name in ("_class_path", "_instantiator"):  # of LightningCLI, no settings
        settings.pop(name, None)
    if class_path is None:
        raise UserError(
            f"{path} does not say which network it is of",
            "give a checkpoint of `textseg fit` or of a Trainer",
        )
    network = _network_class(class_path, path)
    odd = sorted(set(settings) - settings_of(network))
    if odd:
        raise UserError(
            f"{path} has settings that {network.__name__} does not know: {', '.join(odd)}",
            "it is of another version of textseg: use that one, or train again",
        )
    with restoring(checkpoint["state_dict"]):
        model = network(**settings)
    model.on_load_checkpoint(checkpoint)  # refuses weights that do not fit
    model.load_state_dict(checkpoint["state_dict"])
    return model


def _import_network(class_path: str) -> None:
    """Import the module of a network that the user names.

    Raises:
        UserError: it cannot be imported, or has no such network.
    """
    module, _, name = class_path.rpartition(".")
    remedy = "run this in the folder that holds its module, or install the module"
    with refusing((ImportError, ValueError), f"model={class_path} cannot be imported", remedy):
        found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, SegmentationModule)):
        raise UserError(
            f"model={class_path} is no network", "name a subclass of textseg's SegmentationModule"
        )


def _network_class(class_path: str, path: str | Path) -> type[SegmentationModule]:
    """The class of a checkpoint's network, which must be imported already: no file imports any.

    Raises:
        UserError: there is no such network.
    """
    network = _imported_network(class_path)
    if network is None:
        own = [name for name in textseg.models.__all__ if name != SegmentationModule.__name__]
        raise UserError(
            f"{path} is of {class_path}, which is no network that is known here",
            f"known are {', '.join(own)}; if it is a network of your own, name it: --model "
            f"{class_path}, or in Python textseg.load(..., model={class_path!r})",
        )
    return network


def _imported_network(class_path: str) -> type[SegmentationModule] | None:
    """The imported subclass of SegmentationModule of this path; None where there is none."""
    found: type[SegmentationModule] | None = None
    for network in subclasses_of(SegmentationModule):
        if same_class(class_path, f"{network.__module__}.{network.__name__}"):
            found = network  # of a class that was defined again, the last
    return found


def _fabric(device: str, precision: Any) -> L.Fabric:
    cause = f"device={device!r} with the run's precision {precision or '32-true'} cannot be used"
    remedy = "give auto, cpu, or a device of this machine such as cuda:0"
    with refusing((RuntimeError, ValueError, MisconfigurationException), cause, remedy):
        kind, index = "auto", None
        if device != "auto":
            kind, index = (chosen := torch.device(device)).type, chosen.index
        devices: list[int] | int = 1 if index is None or kind == "cpu" else [index]
        return L.Fabric(accelerator=kind, devices=devices, precision=precision)
