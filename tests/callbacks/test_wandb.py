"""What W&B is told and when it is tried: nothing unless asked."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from tests.models.stand_ins import make_batch
from tests.tiny_run import (
    SMALL,
    Outcome,
    call,
    only,
    shell,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.callbacks.sample_tables import SampleTables
from textseg.callbacks.wandb_offline import wandb_unreachable_reason
from textseg.errors import UserError
from textseg.metrics.strata import SIDES, SIZES
from textseg.report.dashboard import dashboard, workspace

with pytest.MonkeyPatch.context() as patch:
    patch.delenv("WANDB_BASE_URL", raising=False)
    CLOUD = urlsplit(wandb.Settings().base_url).hostname or ""


# --- W&B or not ---------------------------------------------------------------------------------


WANDB_VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL")
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A user who never logged in, on a machine where every connection fails the test."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    for name in (*WANDB_VARIABLES, *PROXY_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(socket, "create_connection", refused)
    return monkeypatch


def test_without_a_key_wandb_is_not_even_tried(nobody: pytest.MonkeyPatch) -> None:
    assert "no API key" in wandb_unreachable_reason()


def test_a_netrc_that_does_not_exist_or_is_broken_is_no_key(
    nobody: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody.setenv("NETRC", str(tmp_path / "none"))
    assert "no API key" in wandb_unreachable_reason()
    (tmp_path / "broken").write_text("machine api.wandb.ai frogs\n")
    nobody.setenv("NETRC", str(tmp_path / "broken"))
    assert "no API key" in wandb_unreachable_reason()


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_a_mode_other_than_online_is_an_obstacle_that_is_named(
    nobody: pytest.MonkeyPatch, mode: str
) -> None:
    nobody.setenv("WANDB_MODE", mode)
    nobody.setenv("WANDB_API_KEY", "k" * 40)
    assert mode in wandb_unreachable_reason()


def test_with_a_key_but_no_network_the_host_is_named(nobody: pytest.MonkeyPatch) -> None:
    def unreachable(address: tuple[str, int], timeout: float | None = None) -> None:
        assert timeout is not None, "it must not wait for ever"
        raise OSError("Network is unreachable")

    nobody.setenv("WANDB_API_KEY", "k" * 40)
    nobody.setattr(socket, "create_connection", unreachable)
    assert f"{CLOUD} cannot be reached (Network is unreachable)" in wandb_unreachable_reason()


# `wandb login` writes host and port; since its servers moved, a key for the old one still counts.
@pytest.mark.parametrize(
    ("url", "machine", "address"),
    [
        ("", CLOUD, (CLOUD, 443)),
        ("", "api.wandb.ai", (CLOUD, 443)),
        ("https://wandb.ward", "wandb.ward", ("wandb.ward", 443)),
        ("http://wandb.ward:8080", "wandb.ward:8080", ("wandb.ward", 8080)),
    ],
    ids=["cloud", "cloud's old name", "own server", "own server with a port"],
)
def test_a_key_where_wandb_finds_it_and_an_open_port_are_no_obstacle(
    nobody: pytest.MonkeyPatch, tmp_path: Path, url: str, machine: str, address: tuple[str, int]
) -> None:
    asked = []

    def reachable(address: tuple[str, int], timeout: float) -> SimpleNamespace:
        asked.append(address)
        return SimpleNamespace(close=lambda: None)

    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {'k' * 40}\n")
    nobody.setenv("WANDB_BASE_URL", url)
    nobody.setattr(socket, "create_connection", reachable)
    assert wandb_unreachable_reason() == ""
    assert asked == [address]


@pytest.mark.parametrize("proxy", ["http://proxy.ward:3128", "proxy.ward:3128"])
def test_a_proxy_is_asked_where_there_is_one(nobody: pytest.MonkeyPatch, proxy: str) -> None:
    """Behind a proxy the server itself is never to be reached, and W&B works."""

    def only_the_proxy(address: tuple[str, int], timeout: float) -> SimpleNamespace:
        if address != ("proxy.ward", 3128):
            raise OSError("Network is unreachable")
        return SimpleNamespace(close=lambda: None)

    nobody.setenv("WANDB_API_KEY", "k" * 40)
    nobody.setenv("HTTPS_PROXY", proxy)
    nobody.setattr(socket, "create_connection", only_the_proxy)
    assert wandb_unreachable_reason() == ""


# --- the sample table ---------------------------------------------------------------------------


class Recorder(WandbLogger):
    """A W&B logger that keeps what it is given."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log=lambda values: self.tables.append(values["val/samples"]))


def validated(callback: SampleTables, *, epoch: int = 0, sanity: bool = False) -> list[Any]:
    """The tables a callback logs of a validation of two batches of two rows."""
    logger = Recorder()
    trainer: Any = SimpleNamespace(
        is_global_zero=True,
        loggers=[logger],
        current_epoch=epoch,
        sanity_checking=sanity,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        val_dataloaders=SimpleNamespace(dataset=range(4)),
    )
    module: Any = None
    callback.on_validation_epoch_start(trainer, module)
    for number in range(2):
        batch = make_batch(2, 32, 32)
        batch["index"] = torch.arange(2) + 2 * number
        pred = batch["mask"][:, 0] > 0.5
        pred[1] = False
        callback.on_validation_batch_end(trainer, module, {"pred": pred}, batch, number)
    callback.on_validation_epoch_end(trainer, module)
    return logger.tables


def test_without_upload_the_table_holds_numbers_only() -> None:
    (table,) = validated(SampleTables(samples=4, every_n_epochs=1))
    assert table.columns == ["index", "dice", "predicted", "true"]
    assert all(isinstance(value, (int, float)) for row in table.data for value in row)


def test_uploading_is_off_unless_asked_for() -> None:
    assert SampleTables().upload is False


def test_with_upload_the_table_holds_captions_and_pictures_with_both_masks() -> None:
    (table,) = validated(SampleTables(samples=4, every_n_epochs=1, upload=True))
    assert table.columns[-2:] == ["caption", "picture"]
    for row in table.data:
        assert row[-2] in make_batch(2)["text"]
        assert isinstance(row[-1], wandb.Image)
        assert set(row[-1]._masks) == {"truth", "prediction"}


def test_the_dice_of_the_table_is_that_of_the_masks() -> None:
    (table,) = validated(SampleTables(samples=4, every_n_epochs=1))
    assert [row[1] for row in table.data] == [1.0, 0.0, 1.0, 0.0]


def test_the_table_shows_the_same_rows_at_every_epoch() -> None:
    callback = SampleTables(samples=2, every_n_epochs=1)
    tables = [validated(callback, epoch=epoch)[0] for epoch in (0, 1)]
    assert [[row[0] for row in table.data] for table in tables] == [[0, 3], [0, 3]]


def test_a_table_is_logged_only_when_due() -> None:
    callback = SampleTables(samples=2, every_n_epochs=3)
    assert [bool(validated(callback, epoch=e)) for e in range(6)] == [False, False, True] * 2
    assert validated(callback, epoch=2, sanity=True) == []


# --- a run with the W&B logger --------------------------------------------------------------------

WANDB = {
    "logger": {"class_path": "WandbLogger", "init_args": {"project": "textseg", "group": "ward"}},
    "callbacks": [{"class_path": "SampleTables", "init_args": {"every_n_epochs": 1}}],
    "limit_train_batches": 2,
}


@pytest.fixture(scope="module")
def wandb_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A fit by a user without a key: its folder and what it printed."""
    home = tmp_path_factory.mktemp("wandb")
    root = write_refhl(home / "refhl")
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "online")
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(home / "no-netrc"))
        experiment = write_experiment(home, trainer=WANDB, model=SMALL)
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            outcome = call(*train_arguments(experiment, root), cwd=home)
        wandb.finish()
        wandb.teardown()  # its service writes to paths as seen from the folder that it began in
    assert outcome.status == 0, outcome.err
    return home, replace(outcome, err="\n".join([outcome.err, *(str(w.message) for w in raised)]))


def test_a_fit_without_a_key_goes_on_offline_and_says_so(wandb_fit: tuple[Path, Outcome]) -> None:
    said = "W&B runs offline: no API key (wandb login sets one)"
    assert said in wandb_fit[1].err.splitlines()
    assert only(wandb_fit[0] / "runs/tiny", "*/wandb/offline-run-*").is_dir()


def test_a_fit_that_goes_on_from_last_goes_on_with_its_wandb_run(
    wandb_fit: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = shutil.copytree(only(wandb_fit[0] / "runs/tiny"), tmp_path / "run")
    more = ["--trainer.max_epochs", "2", "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    root = wandb_fit[0] / "refhl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        outcome = call(*train_arguments(wandb_fit[0] / "tiny.yaml", root, *more), cwd=tmp_path)
        wandb.finish()  # or the next test in this process would log into a run that is gone
        wandb.teardown()
    assert outcome.status == 0, outcome.err
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1, "one id"
    assert (
        yaml.safe_load((run / "config.yaml").read_text())["trainer"]["logger"]["init_args"]["id"]
        is None
    ), "a new run of this config is a new run on W&B"


def test_a_fit_with_wandb_writes_nothing_outside_its_run_folder(
    wandb_fit: tuple[Path, Outcome],
) -> None:
    assert {p.name for p in wandb_fit[0].iterdir()} == {"refhl", "runs", "tiny.yaml"}
    run = only(wandb_fit[0] / "runs/tiny")
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "checkpoints", "wandb"}


def log_of(home: Path) -> bytes:
    """The transaction log, which a later `wandb sync` sends."""
    return only(home / "runs/tiny", "*/wandb/offline-run-*/run-*.wandb").read_bytes()


def test_the_wandb_run_holds_metrics_and_the_resolved_config(
    wandb_fit: tuple[Path, Outcome],
) -> None:
    log = log_of(wandb_fit[0])
    for word in (
        b"val/dice_global",
        b"train/loss",
        b"test_convnext",
        b"weight_decay",
        b"image_size",
    ):
        assert word in log


def test_without_upload_no_caption_and_no_picture_reaches_wandb(
    wandb_fit: tuple[Path, Outcome],
) -> None:
    assert b"val/samples" in log_of(wandb_fit[0])
    media = only(wandb_fit[0] / "runs/tiny", "*/wandb/offline-run-*")
    sent = [path for path in media.rglob("*") if path.is_file()]
    assert not [path for path in sent if path.suffix in (".png", ".jpg")]
    assert not [path for path in sent if b"lesion on the left" in path.read_bytes()]
    (table,) = media.rglob("*.table.json")
    assert json.loads(table.read_text())["columns"] == ["index", "dice", "predicted", "true"]
    assert "upload: false keeps pictures here" in wandb_fit[1].err


def test_no_deletion_is_announced_that_does_not_happen(wandb_fit: tuple[Path, Outcome]) -> None:
    assert "will be deleted" not in wandb_fit[1].err


def test_testing_a_wandb_runs_checkpoint_starts_no_wandb_run(
    wandb_fit: tuple[Path, Outcome],
) -> None:
    (best,) = wandb_fit[0].glob("runs/tiny/*/checkpoints/best.ckpt")
    assert call("test", "--ckpt_path", best, cwd=wandb_fit[0]).status == 0
    assert len(list((best.parents[1] / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "left"), [("online", 1), ("disabled", 0)])
def test_wandb_never_waits_for_an_answer_and_writes_nothing_where_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, left: int
) -> None:
    """Standard input is closed and there is no key: a question would end or hang the run."""
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    root = write_refhl(tmp_path / "refhl")
    experiment = write_experiment(tmp_path, trainer=WANDB, model=SMALL)
    done = shell("-m", "lightning_cli", *train_arguments(experiment, root), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("W&B runs offline: no API key" in done.stderr) == bool(left)
    assert len(list(tmp_path.rglob("*.wandb"))) == left


# --- a view of the project ----------------------------------------------------------------------


def panels_of(view: Any) -> list[dict[str, Any]]:
    spec = view._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [panel["config"] for section in sections for panel in section["panels"]]


def test_the_views_panels_show_keys_that_a_run_has() -> None:
    pytest.importorskip("wandb_workspaces", reason="an extra")
    view = workspace("ward", "textseg", dataset="QaTaCov19", name="a view")
    scores = ("dice", "miou", "dice_global", "iou_global")
    known = {f"{part}/{score}" for part in ("val", "test") for score in scores}
    known |= {"train/loss", "test_empty/dice", "test_shuffled/dice"}
    known |= {"test/dice_ci_low", "test/dice_ci_high"}
    known |= {f"test/strata/size/{name}/dice" for name in SIZES}
    known |= {f"test/strata/side/{name}/dice" for name in SIDES}
    shown: set[str] = set()
    for panel in panels_of(view):
        axes = [panel.get("xAxis", ""), panel.get("yAxis", "")]
        summary = {axis.removeprefix("summary:") for axis in axes if "summary:" in axis}
        shown |= {*panel.get("metrics", []), *summary}
    assert shown <= known
    assert {f"test/{score}" for score in scores} <= shown


def test_a_view_is_sent_only_if_asked(nobody: pytest.MonkeyPatch) -> None:
    views = pytest.importorskip("wandb_workspaces.workspaces", reason="an extra")
    sent = []
    nobody.setattr(views.Workspace, "save", lambda view: sent.append(view.name))
    nobody.setattr(views.Workspace, "url", "https://wandb.ward/view")
    text = dashboard("ward", name="a view")
    assert "Test, both conventions: dice, miou, dice_global, iou_global" in text.splitlines()
    assert sent == []
    assert dashboard("ward", name="a view", save=True) == "https://wandb.ward/view"
    assert sent == ["a view"]


def test_without_its_package_a_view_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r'pip install "textseg\[dashboard\]"'):
        dashboard("ward")
