"""What all DataModules share: settings, caption modes and loaders of checked rows."""

from __future__ import annotations

import inspect
import signal
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from datamodules.base.rows import CheckedRows
from datamodules.cache.pictures import CachedRows
from datamodules.captions.languages import LanguageSetting
from datamodules.captions.lvit_template import Template
from datamodules.captions.modes import CaptionMode, apply_caption_mode, swap_sides
from datamodules.captions.rephrasing import check_rephrasings, rephrasings
from datamodules.captions.word_classes import WordClasses
from datamodules.dataset import EpochSampler, Sample, TextSegDataset, collate, to_batch
from datamodules.files.checks import split_missing
from datamodules.records import Record, Stage
from datamodules.transforms import (
    NONE,
    Augmentation,
    TrainAugmentation,
    check_augmentation,
    mirror_probability,
    report_unmirrored,
)
from textseg.batch import Batch, LoadedBatch
from textseg.errors import check_at_least, check_choice, check_probability, check_seed
from textseg.preprocess import Resize, checked_size

# torchdata 0.11 calls it for every loader; torch 2.15 no longer wants it called.
warnings.filterwarnings("ignore", message="'set_vital' is deprecated", category=UserWarning)

_STAGES: dict[str | None, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val", "test"),
}


def _ignore_job_signals(worker: int) -> None:
    """Ignore what SLURM signals to every process of a job; a worker's death would fail the run."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class TextSegDataModule(CheckedRows):
    """Reads a dataset's captions and files, checks them all in `setup`, and yields batches.

    Loaders yield LoadedBatch, whose pixels are bytes; `on_after_batch_transfer` makes a Batch of it
    on the device. A Trainer that is given the DataModule, not its loaders, calls it.

    A subclass says how its dataset lies on disk in `read_records` and `write_phantoms`, what it is
    called in `name`, and how its folder is recognized in `fits` and `recognized_by`.

    Args:
        root: folder of the unpacked dataset.
        captions: caption table, or the folder that holds the tables; by default they are looked
            for in root.
        split: how rows are divided into train, val and test.
        image_size: side of the network's square input, or [height, width]; multiples of 32.
        resize: how pictures come to image_size: stretch, or pad, which keeps their aspect ratio
            with black borders; what lies in those is cut off again before masks are scored.
        batch_size: rows per batch and process.
        num_workers: processes that load data; 0 loads in the main process.
        on_missing: what to do about captions without images and images without captions.
        synthesize: write and use phantoms in the dataset's layout under data/phantoms instead of
            root; a number asks for that many training images.
        caption_mode: true captions, empty ones, or true ones shuffled among the rows of a split.
        normalize_captions: repair spelling and spacing of captions.
        augmentation: how training images vary, words staying true: none, light, standard, strong,
            or a list of albumentations' transforms (docs/your_own_data.md).
        hflip: probability that a training image is mirrored, with its mask and its words; by
            default 0.5, and 0 where augmentation is none.
        language: of the captions, by which their sides are read: auto finds out for each, by its
            script and words; en, zh, de, fr, es, it, pt, ru. A caption in another language, or with
            words for sides that are not surely read, is never mirrored.
        paraphrase: probability that a training caption is put in other words, where it is of a kind
            that can be: LViT's, Duke's, referring expressions. `textseg probe` uses other ones.
        caption_dropout: probability that a training image comes with an empty caption, anew in
            each epoch; a network so learns what to do without words.
        word_classes: classes of words of your own that `textseg probe` leaves out one at a time,
            each a list of words and phrases, such as {severity: [mild, severe]}; a word that is
            listed is of that class alone.
        cache: folder for the decoded, resized pictures, built once and memory-mapped; null reads
            the files every time.
        mask_values: the values of a mask's file that are foreground, of a palette its entries, such
            as [1, 2] of a class map; [0] reads an inverted mask. By default all above 127 are.
        seed: of shuffling, augmentation and caption_mode=shuffled.
        folds: table by which the rows of train, val and test are divided in place of `split`, as
            `textseg crossval` writes it; null follows `split`.
        fold: column of that table, from 1: which of its folds is the test set.
    """

    name: str | None = None
    """What `textseg data audit --dataset` calls it."""
    caption_template: ClassVar[Template | None] = None
    """The template that captions follow; None where they are free."""
    mask_source: str = ""
    """What the masks are where they are not outlines, such as "boxes"."""

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: str = "manifest",
        image_size: int | list[int] = 224,
        resize: Resize = "stretch",
        batch_size: int = 16,
        num_workers: int = 4,
        on_missing: Literal["error", "skip"] = "error",
        synthesize: bool | int = False,
        caption_mode: CaptionMode = "true",
        normalize_captions: bool = False,
        augmentation: Augmentation = "standard",
        hflip: float | None = None,
        language: LanguageSetting = "auto",
        paraphrase: float = 0.0,
        caption_dropout: float = 0.0,
        word_classes: dict[str, list[str]] | None = None,
        cache: str | None = "data/cache",
        mask_values: list[int] | None = None,
        seed: int = 0,
        folds: str | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            captions=captions,
            split=split,
            image_size=image_size,
            resize=resize,
            on_missing=on_missing,
            synthesize=synthesize,
            normalize_captions=normalize_captions,
            cache=cache,
            mask_values=mask_values,
            folds=folds,
            fold=fold,
        )
        check_augmentation(augmentation)
        mirror_probability(augmentation, hflip)
        check_choice("language", language, LanguageSetting)
        check_probability("paraphrase", paraphrase)
        check_probability("caption_dropout", caption_dropout)
        WordClasses(word_classes)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("num_workers", num_workers, 0, "give 0 to read in the training's process")
        check_seed(seed)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.caption_mode: CaptionMode = caption_mode
        self.augmentation = augmentation
        self.hflip = hflip
        self.language: LanguageSetting = language
        self.paraphrase = paraphrase
        self.caption_dropout = caption_dropout
        self.word_classes = word_classes
        self.seed = seed
        self._records: dict[Stage, list[Record]] = {}

    # --- what others use -----------------------------------------------------------------------

    def records(self, split: str) -> list[Record]:
        """Give the rows of "train", "val", "test" or "predict", as `caption_mode` wants them.

        Raises:
            UserError: there is no such split, or it cannot be used.
        """
        check_choice("split", split, Stage)
        stage = cast(Stage, split)
        if stage not in self._records:
            self._prepare((stage,))
        return self._records[stage]

    def captions(self, split: str) -> list[str]:
        """Give the texts of a split, in row order.

        After those of train come the wordings that `paraphrase` may put in their place, so that a
        vocabulary holds their words.
        """
        texts = [record.text for record in self.records(split)]
        if split != "train" or not self.paraphrase:
            return texts
        return texts + [w for text in dict.fromkeys(texts) for w in rephrasings(text)]

    def altered_captions(self, split: str = "test") -> dict[str, dict[str, str]]:
        """Give the altered captions that the dataset itself offers, which `textseg probe` runs too.

        A reader puts those of a row into `Record.altered`, or a subclass overrides this.

        Args:
            split: whose rows.

        Returns:
            by the name of the set, such as "contradictory", caption by `Record.case`; a row that
            the set leaves out is absent. A caption may equal the true one.
        """
        altered: dict[str, dict[str, str]] = {}
        for record in self.records(split):
            for name, text in record.altered.items():
                altered.setdefault(name, {})[record.case] = text
        return altered

    def check_caption_mode(self, split: str, mode: CaptionMode) -> None:
        """Check that `caption_mode` can be set to `mode` for a split that was set up.

        Raises:
            UserError: it cannot, as where one caption is on most rows.
        """
        texts = [record.text for record in self._checked[cast(Stage, split)]]
        apply_caption_mode(texts, mode, self.seed)

    def mirror_text(self, text: str) -> str | None:
        """Rewrite a caption for the mirrored picture; None where that is not safe."""
        return swap_sides(text, self.language)

    def cached_rows(self, split: str) -> CachedRows | None:
        """Give the cached pictures and masks of a split's `records`; None without a cache."""
        records = self.records(split)
        pictures = self._open_cache()
        if pictures is None:
            return None
        masks = [record.mask for record in records if record.mask is not None]
        return pictures.rows([record.image for record in records], masks)

    # --- Lightning -----------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Build phantoms and the cache, where the settings want them and they are not there yet."""
        checked_size(self.image_size)
        root = self.folder()
        self._read_once(root)
        scored = [r for split, rows in self._read.items() if split != "predict" for r in rows]
        # Missing files are an error of `setup`, which must not follow minutes of caching.
        if self.on_missing == "skip" or not split_missing(scored, scored=True)[1]:
            self._open_cache()

    def setup(self, stage: str | None = None) -> None:
        """Check everything the stage will read; `caption_mode` takes effect here.

        Raises:
            UserError: a wrong setting, path, table or file.
        """
        self._prepare(_STAGES[stage])

    def train_dataloader(self) -> StatefulDataLoader[Sample]:
        """Shuffle and augment; the loader's state is its position, from which a run goes on."""
        hflip = mirror_probability(self.augmentation, self.hflip)
        varied = self.augmentation != NONE or hflip > 0
        augment = None
        if varied:
            augment = TrainAugmentation(self.augmentation, hflip, language=self.language)
        dataset = self._dataset("train", augment)
        sampler = EpochSampler(dataset, seed=self.seed)
        if self.trainer is not None:  # Lightning starts a resumed epoch before it calls set_epoch
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return StatefulDataLoader(
            dataset,
            sampler=sampler,
            drop_last=len(sampler) > self.batch_size,  # of this process's share
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Yield every row of val once, in order."""
        return DataLoader(self._dataset("val"), **self._loading())

    def test_dataloader(self) -> DataLoader[Sample]:
        """Yield every row of test once, in order."""
        return DataLoader(self._dataset("test"), **self._loading())

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Yield every row of predict once, in order."""
        return DataLoader(self._dataset("predict"), **self._loading())

    def on_after_batch_transfer(self, batch: LoadedBatch, dataloader_idx: int) -> Batch:
        """Make numbers of the batch's bytes, on its device."""
        ready = to_batch(batch)
        if self.trainer is None:
            return ready
        # Precisions such as bf16-true convert a batch before it is moved, when pixels are bytes.
        return self.trainer.precision_plugin.convert_input(ready)

    # --- inside --------------------------------------------------------------------------------

    def _dataset(self, stage: Stage, augment: TrainAugmentation | None = None) -> TextSegDataset:
        return TextSegDataset(
            self.records(stage),
            root=self.folder(),
            size=checked_size(self.image_size),
            resize=self.resize,
            stage=stage,
            augment=augment,
            paraphrase=self.paraphrase if stage == "train" else 0.0,
            caption_dropout=self.caption_dropout if stage == "train" else 0.0,
            seed=self.seed,
            cached=self.cached_rows(stage),
            mask_values=self.mask_values,
        )

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            # A generator of the loaders' own: starting workers must not move a dropout mask.
            "generator": torch.Generator().manual_seed(self.seed),
            "worker_init_fn": _ignore_job_signals,
        }

    def _prepare(self, stages: Sequence[Stage]) -> None:
        checked_size(self.image_size)
        self._check([stage for stage in stages if stage not in self._checked])
        for stage in stages:
            rows = self._checked[stage]
            texts = apply_caption_mode([r.text for r in rows], self.caption_mode, self.seed)
            self._records[stage] = [
                replace(row, text=text) for row, text in zip(rows, texts, strict=True)
            ]
        if "train" in stages:
            captions = tuple(record.text for record in self._records["train"])
            if self.paraphrase:
                check_rephrasings(captions)
            if mirror_probability(self.augmentation, self.hflip):
                report_unmirrored(captions, self.language)


def setting_names(datamodule: type[TextSegDataModule]) -> set[str]:
    """Names of a DataModule's settings, also of those that ``**kwargs`` passes on to its bases."""
    names: set[str] = set()
    for kind in datamodule.__mro__:
        if "__init__" in vars(kind):
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names - {"self"}
