"""What every DataModule promises. A test class inherits `DataModuleContract` and gives `make`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from datamodules.base import TextSegDataModule, setting_names
from datamodules.captions.modes import key
from datamodules.commands import divide_dataset, known_datasets
from textseg.batch import Batch, stable_id
from textseg.errors import UserError
from textseg.preprocess import read_image, read_mask, resize_image, resize_mask

SIZE = (64, 96)
ALWAYS = {
    *("image", "text", "caption_id", "image_id", "index", "case", "case_id"),
    *("original_size", "spacing"),
}
STAGES = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


def batches(datamodule: TextSegDataModule, split: str) -> list[Batch]:
    """As a step gets them."""
    loader = getattr(datamodule, f"{split}_dataloader")()
    return [datamodule.on_after_batch_transfer(loaded, 0) for loaded in loader]


def assert_equal(left: Batch, right: Batch) -> None:
    assert set(left) == set(right)
    for field, value in left.items():
        other = right[field]  # type: ignore[literal-required]
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
        elif field == "truth":
            assert all(torch.equal(a, b) for a, b in zip(value, other, strict=True))
        else:
            assert value == other


@contextmanager
def refused(*values: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Something raises a UserError of two lines that names fields and values."""
    with pytest.raises(UserError) as caught:
        yield caught
    message = str(caught.value)
    assert [value for value in values if str(value) not in message] == [], message
    assert len(message.splitlines()) == 2


class DataModuleContract(ABC):
    #: Settings with a list of choices, each with some of them.
    choices: ClassVar[dict[str, tuple[str, ...]]]
    #: Rows of train, val and test of 8 phantoms.
    phantom_rows: ClassVar[tuple[int, int, int]]

    @abstractmethod
    def make(self, folder: Path, **settings: Any) -> TextSegDataModule:
        """A DataModule over a tiny dataset written into `folder` (idempotent), at least 8 rows."""

    @pytest.fixture
    def ready(self, tmp_path: Path) -> TextSegDataModule:
        datamodule = self.small(tmp_path)
        datamodule.setup()
        datamodule.setup("predict")
        return datamodule

    def small(self, folder: Path, **settings: Any) -> TextSegDataModule:
        defaults = {"image_size": list(SIZE), "batch_size": 3, "num_workers": 0}
        return self.make(folder, **{**defaults, **settings})

    @pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
    def test_a_batch_has_exactly_the_fields_of_its_stage(
        self, ready: TextSegDataModule, split: str
    ) -> None:
        extra = {"train": {"mask"}, "val": {"mask"}, "predict": {"file"}}
        extra["test"] = {"mask", "truth", "file"}
        for batch in batches(ready, split):
            assert set(batch) == ALWAYS | extra[split]

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_fields_have_the_shapes_and_types_that_batch_documents(
        self, ready: TextSegDataModule, split: str
    ) -> None:
        batch = batches(ready, split)[0]
        B = len(batch["text"])
        assert batch["image"].shape == (B, 3, *SIZE)
        assert batch["image"].dtype == torch.float32
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
        assert batch["mask"].shape == (B, 1, *SIZE)
        assert batch["mask"].dtype == torch.float32
        assert set(batch["mask"].unique().tolist()) <= {0.0, 1.0}
        for field in ("caption_id", "image_id", "index"):
            ids = batch[field]  # type: ignore[literal-required]
            assert (ids.shape, ids.dtype) == ((B,), torch.int64)
        assert batch["original_size"].shape == (B, 2)
        assert batch["original_size"].dtype == torch.int64
        assert batch["spacing"].shape == (B, 2)
        assert batch["spacing"].dtype == torch.float32
        assert len(batch["case"]) == len(batch["case_id"]) == B

    def test_loaders_yield_the_bytes_of_the_files_and_steps_get_them_over_255(
        self, ready: TextSegDataModule
    ) -> None:
        records = ready.records("val")
        for loaded in ready.val_dataloader():
            assert loaded["image"].dtype == loaded["mask"].dtype == torch.uint8
            batch = ready.on_after_batch_transfer(loaded, 0)
            for row, index in enumerate(batch["index"].tolist()):
                record = records[index]
                assert record.mask is not None
                pixels = resize_image(read_image(record.image), SIZE).transpose(2, 0, 1)
                numbers = pixels.astype(np.float32) / np.float32(255)
                assert np.array_equal(batch["image"][row].numpy(), numbers)
                mask = resize_mask(read_mask(record.mask), SIZE)
                assert np.array_equal(batch["mask"][row, 0].numpy(), mask)

    def test_caption_id_is_the_digest_of_the_caption_in_the_batch(
        self, ready: TextSegDataModule
    ) -> None:
        for batch in batches(ready, "train"):
            assert batch["caption_id"].tolist() == [stable_id(key(t)) for t in batch["text"]]

    def test_truth_is_the_mask_on_disk_at_its_own_resolution(
        self, ready: TextSegDataModule
    ) -> None:
        records = ready.records("test")
        for batch in batches(ready, "test"):
            for index, truth, size in zip(
                batch["index"].tolist(), batch["truth"], batch["original_size"], strict=True
            ):
                path = records[index].mask
                assert path is not None
                assert truth.dtype == torch.uint8
                assert tuple(truth.shape) == tuple(size.tolist())
                assert torch.equal(truth, torch.from_numpy(read_mask(path).copy()))

    def test_evaluation_goes_through_every_row_once_in_order(
        self, ready: TextSegDataModule
    ) -> None:
        for split in ("val", "test", "predict"):
            indices = [i for batch in batches(ready, split) for i in batch["index"].tolist()]
            assert indices == list(range(len(ready.records(split))))

    def test_cases_are_unique_and_safe_as_file_names(self, ready: TextSegDataModule) -> None:
        for split in ("train", "val", "test"):
            cases = [record.case for record in ready.records(split)]
            assert len(set(cases)) == len(cases)
            assert not any(set(case) & set('/\\:*?"<>|\n') for case in cases)

    def test_splits_share_no_image(self, ready: TextSegDataModule) -> None:
        images = {s: {r.image for r in ready.records(s)} for s in ("train", "val", "test")}
        assert not images["train"] & images["val"]
        assert not (images["train"] | images["val"]) & images["test"]

    def test_prediction_needs_no_mask(self, tmp_path: Path) -> None:
        datamodule = self.small(tmp_path)
        for record in datamodule.records("test"):
            assert record.mask is not None
            record.mask.unlink(missing_ok=True)
        datamodule = self.small(tmp_path)
        datamodule.setup("predict")
        assert sum(len(batch["text"]) for batch in batches(datamodule, "predict")) > 0

    def test_an_odd_last_training_batch_is_dropped_but_a_lone_one_is_kept(
        self, tmp_path: Path
    ) -> None:
        n = len(self.small(tmp_path).records("train"))
        dropped = self.small(tmp_path, batch_size=n - 1)
        kept = self.small(tmp_path, batch_size=n + 1)
        assert [len(b["text"]) for b in batches(dropped, "train")] == [n - 1]
        assert [len(b["text"]) for b in batches(kept, "train")] == [n]

    # --- what a DataModule says of itself

    def test_a_setting_that_is_none_of_its_choices_is_named_with_them(self, tmp_path: Path) -> None:
        for setting, choices in self.choices.items():
            with refused(f"{setting}='banana'", *choices):
                self.small(tmp_path, **{setting: "banana"}).setup()
        with refused("split='banana'", *self.choices["split"]):  # before phantoms are written
            self.small(tmp_path, split="banana", synthesize=True)

    def test_its_name_is_known_and_its_settings_include_the_shared_ones(
        self, ready: TextSegDataModule
    ) -> None:
        kind = type(ready)
        assert known_datasets()[str(kind.name)] is kind
        shared = setting_names(TextSegDataModule)
        assert {"root", "language", "word_classes", "mask_values", "folds", "fold"} < shared
        assert setting_names(kind) >= shared | set(self.choices)
        with pytest.raises(TypeError, match="batch_sizee"):
            kind(batch_sizee=3)

    def test_a_reader_that_may_go_on_gives_the_rows_of_one_that_may_not(
        self, ready: TextSegDataModule
    ) -> None:
        reported: list[UserError] = []
        root = ready.folder()
        assert ready.read_records(root, reported.append) == ready.read_records(root)
        assert reported == []

    def test_phantoms_are_read_like_the_dataset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = type(self.small(tmp_path))
        monkeypatch.chdir(tmp_path)
        phantoms = kind("nowhere", synthesize=8, image_size=64, num_workers=0, batch_size=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            phantoms.prepare_data()
            phantoms.setup()
        counts = [len({r.image for r in phantoms.records(s)}) for s in ("train", "val", "test")]
        assert tuple(counts) == self.phantom_rows
        assert any(batch["mask"].any() for batch in batches(phantoms, "test"))

    # --- cache

    @pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
    def test_the_cache_changes_no_batch(self, tmp_path: Path, split: str) -> None:
        cached, plain = self.small(tmp_path), self.small(tmp_path)
        cached.cache, plain.cache = str(tmp_path / "cache"), None
        for left, right in zip(batches(cached, split), batches(plain, split), strict=True):
            assert_equal(left, right)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_the_cache_is_put_where_the_constructor_says(self, tmp_path: Path) -> None:
        self.small(tmp_path, cache=str(tmp_path / "here")).prepare_data()
        assert len(list((tmp_path / "here").iterdir())) == 1

    # --- captions

    def test_captions_are_the_texts_of_the_records(self, ready: TextSegDataModule) -> None:
        for split in ("train", "val", "test"):
            assert ready.captions(split) == [record.text for record in ready.records(split)]

    def test_caption_mode_empty_blanks_every_caption(self, tmp_path: Path) -> None:
        datamodule = self.small(tmp_path, caption_mode="empty")
        assert set(datamodule.captions("test")) == {""}
        assert all(set(batch["text"]) == {""} for batch in batches(datamodule, "train"))

    def test_caption_mode_shuffled_leaves_no_row_its_caption(self, tmp_path: Path) -> None:
        true = self.small(tmp_path).captions("train")
        shuffled = self.small(tmp_path, caption_mode="shuffled").captions("train")
        assert sorted(shuffled) == sorted(true)
        assert not any(key(a) == key(b) for a, b in zip(true, shuffled, strict=True))

    def test_caption_mode_takes_effect_at_the_next_setup(self, ready: TextSegDataModule) -> None:
        true = ready.captions("test")
        ready.caption_mode = "empty"
        assert ready.captions("test") == true
        ready.setup("test")
        assert set(ready.captions("test")) == {""}
        ready.caption_mode = "true"
        ready.setup("test")
        assert ready.captions("test") == true

    # --- augmentation

    def test_augmentation_depends_on_seed_epoch_and_index_alone(self, tmp_path: Path) -> None:
        def sample(epoch: int, index: int, seed: int = 5) -> torch.Tensor:
            loader = self.small(tmp_path, seed=seed).train_dataloader()
            return loader.dataset[epoch, index]["image"]  # type: ignore[index]

        assert torch.equal(sample(2, 1), sample(2, 1))
        assert not torch.equal(sample(2, 1), sample(3, 1))
        assert not torch.equal(sample(2, 1), sample(2, 1, seed=6))

    def test_workers_change_nothing(self, tmp_path: Path) -> None:
        alone = self.small(tmp_path, num_workers=0, caption_dropout=0.5).train_dataloader()
        helped = self.small(tmp_path, num_workers=2, caption_dropout=0.5).train_dataloader()
        for epoch in (0, 1):  # workers persist, so the epoch must reach them through the sampler
            for loader in (alone, helped):
                loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for left, right in zip(alone, helped, strict=True):
                assert_equal(left, right)

    def test_epochs_differ_in_order_and_in_pictures(self, tmp_path: Path) -> None:
        loader = self.small(tmp_path).train_dataloader()
        orders = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            orders.append([i for batch in loader for i in batch["index"].tolist()])
        assert orders[0] != orders[1]
        assert not torch.equal(loader.dataset[0, 0]["image"], loader.dataset[1, 0]["image"])

    def test_lightning_tells_the_sampler_the_epoch(self, tmp_path: Path) -> None:
        class Listener(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.epochs: list[int] = []
                self.weight = torch.nn.Parameter(torch.zeros(()))

            def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
                self.epochs.append(self.trainer.train_dataloader.sampler.epoch)
                return self.weight * batch["image"].mean()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        listener = Listener()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=3,
            limit_train_batches=1,
            enable_model_summary=False,
            **quiet,  # type: ignore[arg-type]
        )
        trainer.fit(listener, datamodule=self.small(tmp_path))
        assert listener.epochs == [0, 1, 2]

    def test_augmentation_none_gives_the_picture_as_it_is(self, tmp_path: Path) -> None:
        dataset = self.small(tmp_path, augmentation="none").train_dataloader().dataset
        assert torch.equal(dataset[0, 0]["image"], dataset[7, 0]["image"])  # type: ignore[index]

    def test_folds_divide_all_rows_anew(self, tmp_path: Path) -> None:
        whole = self.small(tmp_path / "data")
        everything = {split: whole.records(split) for split in ("train", "val", "test")}
        table = divide_dataset(whole, tmp_path, 3, 0)
        tested: list[str] = []
        for fold in (1, 2, 3):
            folded = self.small(tmp_path / "data", folds=str(table), fold=fold)
            parts = {split: folded.records(split) for split in everything}
            assert sum(map(len, parts.values())) == sum(map(len, everything.values()))
            patients = [{folded.patient_of(row) for row in rows} - {""} for rows in parts.values()]
            assert len(set.union(*patients)) == sum(map(len, patients)), "nobody is in two"
            tested += [row.case for row in parts["test"]]
        assert len(set(tested)) == len(tested) == sum(map(len, everything.values()))

    def test_caption_dropout_empties_as_many_training_captions_as_it_says(
        self, tmp_path: Path
    ) -> None:
        """Drawn by seed, epoch and index; pictures, masks and all other captions stay."""
        plain = self.small(tmp_path).train_dataloader().dataset
        dropping = self.small(tmp_path, caption_dropout=0.3).train_dataloader().dataset
        empty = []
        for item in ((epoch, index) for epoch in range(30) for index in range(4)):
            with_words, dropped = plain[item], dropping[item]
            assert torch.equal(with_words["image"], dropped["image"])
            assert torch.equal(with_words["mask"], dropped["mask"])
            assert dropped["text"] in ("", with_words["text"])
            empty.append(dropped["text"] == "")
        assert pytest.approx(np.mean(empty), abs=0.17) == 0.3  # four standard errors
        by_row = np.array(empty).reshape(30, 4)
        assert not (by_row.all(0) | ~by_row.any(0)).any(), "no row always, none never"
        again = self.small(tmp_path, caption_dropout=0.3).train_dataloader().dataset
        assert [again[e, i]["text"] == "" for e in range(30) for i in range(4)] == empty

    def test_caption_dropout_leaves_evaluation_alone(self, tmp_path: Path) -> None:
        datamodule = self.small(tmp_path, caption_dropout=1.0)
        assert {text for batch in batches(datamodule, "train") for text in batch["text"]} == {""}
        for split in ("val", "test", "predict"):
            assert all(text for batch in batches(datamodule, split) for text in batch["text"])
        with refused("caption_dropout=1.5"):
            self.small(tmp_path, caption_dropout=1.5)

    def test_validation_is_not_augmented(self, ready: TextSegDataModule) -> None:
        for first, second in zip(batches(ready, "val"), batches(ready, "val"), strict=True):
            assert_equal(first, second)
