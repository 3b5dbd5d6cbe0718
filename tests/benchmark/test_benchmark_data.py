"""The loader alone and a short training: what is counted, and what the command reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import textseg.benchmark.pipeline as pipeline
from tests.benchmark.tiny_benchmark import skip_costly, tiny
from tests.tiny_run import call, write_experiment
from textseg.batch import Batch
from textseg.benchmark.cost import random_batch
from textseg.benchmark.pipeline import NEXT_BATCH, loader_speed, samples_a_second, short_training
from textseg.benchmark.timing import WARM_UP, Mode
from textseg.encoders import TextEncoder
from textseg.errors import UserError

CPU = torch.device("cpu")
ROWS = random_batch(12, 32)


class Rows(L.LightningDataModule):
    """Twelve rows in memory, two a batch; `augment` swaps the first caption's words."""

    batch_size, num_workers, cache, augment = 2, 0, None, True

    def __init__(self) -> None:
        super().__init__()
        self.built: list[bool] = []

    def train_dataloader(self) -> DataLoader[Any]:
        self.built.append(self.augment)
        return DataLoader(list(range(6)), batch_size=1, collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, index: list[int]) -> Batch:
        rows = slice(2 * index[0], 2 * index[0] + 2)
        cut: Any = {name: value[rows] for name, value in ROWS.items()}  # type: ignore[index]
        if self.augment:
            cut["text"] = [text.replace("left", "right") for text in cut["text"]]
        return cut

    def captions(self, split: str) -> list[str]:
        return ROWS["text"]


def test_batches_fetched_ahead_of_the_clock_count_neither_as_samples_nor_as_time() -> None:
    now = 0.0

    def loader() -> Iterator[Any]:
        nonlocal now
        for seconds in (100, 100, 1, 2, 3, 4, 1000):
            now += seconds
            yield {"text": ["a", "b", "c"]}

    assert samples_a_second(loader(), 2, 4, lambda: now) == 3 * 4 / (1 + 2 + 3 + 4)


def test_an_epoch_shorter_than_asked_is_timed_whole() -> None:
    ticks = iter([0.0, 5.0, 9.0])
    batches: Any = [{"text": ["a"]}, {"text": ["a", "b"]}, {"text": ["a"]}]
    assert samples_a_second(batches, 1, 50, lambda: next(ticks)) == 3 / 4


def test_the_loader_is_measured_augmented_and_raw_and_the_datamodule_left_as_it_was() -> None:
    data = Rows()
    figures = loader_speed(data, batches=3, rounds=2, device=CPU)
    assert data.built == [True, False]
    assert data.augment
    assert figures["loader_workers"] == 0
    assert not figures["loader_cached"]
    ratio = figures["augmented_samples_per_s"] / figures["raw_samples_per_s"]
    assert figures["augmented_ratio"] == ratio > 0


def test_a_training_too_short_for_what_is_asked_is_a_user_error() -> None:
    with pytest.raises(UserError, match="training_steps cannot be measured: an epoch has 6"):
        train(steps=5)


def train(steps: int, model: Any = None) -> dict[str, float]:
    settings: dict[str, Any] = {"memory_format": "channels_last", "mode": Mode(), "device": CPU}
    return short_training(model or tiny(), Rows(), steps=steps, **settings)


def test_waiting_is_lightnings_time_for_the_next_batch_over_that_of_the_same_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []

    class Recorded(pipeline._Quiet):
        def __init__(self) -> None:
            super().__init__()
            found.append(self)

    monkeypatch.setattr(pipeline, "_Quiet", Recorded)
    figures = train(steps=3)
    waits = found[0].recorded_durations[NEXT_BATCH]
    assert len(waits) == WARM_UP + 3
    seconds = 3 * 2 / figures["training_samples_per_s"]
    assert figures["waiting_share"] == pytest.approx(sum(waits[WARM_UP:]) / seconds)
    assert seconds > sum(found[0].recorded_durations["run_training_batch"][WARM_UP:])


def test_training_encodes_no_caption_within_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    original = TextEncoder._encode_alone

    def recorded(self: TextEncoder, caption: str) -> Any:
        events.append(caption)
        return original(self, caption)

    class Marked(type(tiny())):  # type: ignore[misc]
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            events.append("step")
            assert self.training
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(TextEncoder, "_encode_alone", recorded)
    model = Marked("mscan_tiny", "scratch", pretrained=False, decoder_dim=32)
    model.text_encoder.freeze()
    train(steps=1, model=model)
    assert events[-3:] == ["step"] * 3
    assert events[:-3] == [text.replace("left", "right") for text in ROWS["text"][:6]]


def test_the_command_reports_the_data_and_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    skip_costly(monkeypatch)
    data = {"init_args": {"synthesize": 12, "image_size": 32, "batch_size": 2, "num_workers": 0}}
    write_experiment(tmp_path, "small", data=data)
    asked = ["--data_batches", "2", "--training_steps", "1", "--rounds", "1", "--batch_size", "2"]
    outcome = call(
        "benchmark", "--config", "small.yaml", *asked, "--output", "out.json", cwd=tmp_path
    )
    assert outcome.status == 0, outcome.err
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["data"]["loader_batch_size"] == 2
    assert written["environment"]["seed"] == 1
    assert 0 < written["networks"][0]["waiting_share"] < 1
    assert "training_samples_per_s" in outcome.out
    assert "augmented_samples_per_s" in outcome.out
    assert not (tmp_path / "lightning_logs").exists()
