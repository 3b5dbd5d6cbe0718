"""The campaigns' settings and experiments/gpu: what each training is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.experiments.fake_suite import FILES, campaign_of, settings
from tests.experiments.test_experiments import (
    EXPERIMENTS,
    class_named,
    load,
    network_of,
    parse,
    parse_command,
)

from campaign.processes import BadSettingsError  # isort: skip

OVERLAYS = sorted((EXPERIMENTS / "gpu").glob("*.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_trains_from_scratch_without_hub_and_wandb(overlay: Path) -> None:
    base = EXPERIMENTS / f"{overlay.stem}_qata.yaml"
    config = parse(base, overlay)
    assert (config.trainer.precision, config.trainer.max_epochs) == ("bf16-mixed", 100)
    assert config.trainer.benchmark is True
    assert config.data.init_args.image_size == 224
    assert config.data.init_args.split == "first80"
    assert "WandbLogger" not in str(config.trainer.logger)
    assert [one.class_path for one in config.trainer.callbacks] == [
        "textseg.training.CompiledTraining"
    ]
    with torch.device("meta"):  # no memory
        network = class_named(network_of(base))(**config.model.init_args.as_dict())
    assert sum(p.numel() for p in network.parameters()) < 30e6
    assert all(p.requires_grad for p in network.parameters())


def test_the_overlays_train_every_network_on_equal_terms() -> None:
    terms = [
        (load(path)["trainer"], load(path)["data"], load(path)["model"]["init_args"]["lr"])
        for path in OVERLAYS
    ]
    assert all(term == terms[0] for term in terms)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True], ids=["", "smoke"])
def test_every_row_of_a_settings_file_is_a_fit_that_the_command_line_takes(
    file: Path, smoke: bool, tmp_path: Path
) -> None:
    campaign = settings.read_campaign(file, smoke=smoke, out=tmp_path, root=tmp_path, captions=None)
    seen = set()
    for row in campaign.rows:
        key = (row.network, row.ablation)
        if row.network == settings.BEST or key in seen or (smoke and len(seen) > 1):
            continue
        seen.add(key)
        config = parse_command(["fit", *campaign.settings(row)])
        assert config.seed_everything == row.seed
        assert config.data.init_args.image_size == campaign.arguments["data.image_size"]
        assert config.data.init_args.synthesize == (campaign.synthesize or False)
    assert seen


def test_the_plan_of_qata_holds_every_claim_in_the_order_of_its_worth() -> None:
    campaign = settings.read_campaign(FILES[2], out=Path(), root=None, captions=None)
    planned = [row.ablation or row.name for row in campaign.rows]
    networks = ["tmca", "unet", "tmc", "lavt", "languidemedseg", "lsms", "lvit"]
    further = ["tmca_no_words", "tmc_224", "tmca_224"]
    further += ["tmca_seed2", "tmca_seed3", "unet_seed2", "unet_seed3"]
    strips = [f"lsms_qata_strips_{sides}" for sides in ("none", "7", "7_11")]
    variants = ["lsms_qata_no_text", *strips, "lsms_qata_shared"]
    without = {
        "MCM": "tmc_qata_ma_only",
        "MA loss": "tmc_qata_mcm_only",
        "alignment": "tmca_qata_enhancement",
        "enhancement": "tmca_qata_target_1234",
        "FSD": "lsms_qata_no_fsd",
        "L_con": "lsms_qata_no_contrast",
    }
    assert planned == [*networks, *further, *variants, *without.values()]
    titles = {row.ablation: row.title for row in campaign.rows}
    for part, ablation in without.items():
        assert (titles[ablation] or "").endswith(f"without {part}")
    assert {row.words for row in campaign.rows if row.name == "tmca_no_words"} == {False}


def test_the_gpu_form_has_every_network_of_the_overlays() -> None:
    campaign = settings.read_campaign(FILES[1], out=Path(), root=None, captions=None)
    assert FILES[1].stem == "gpu"
    found = {path.stem for path in (EXPERIMENTS / "gpu").glob("*.yaml")}
    assert {row.network for row in campaign.rows} == found


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage": {}}, "stage"),
        ({"stages": {"a": [{"netwrok": "lsms"}]}}, "netwrok"),
        ({"stages": {"a": ["lsms", "lsms"]}}, "lsms"),
        ({"stages": {"a": ["no_such"]}}, "no_such_qata.yaml"),
        ({"stages": {"a": [{"network": "best"}]}}, "best"),
        ({"stages": {"a": [{"network": "lsms", "cpu_hours": "tmca"}]}}, "tmca"),
        ({"stages": {"a": [{"network": "lsms", "name": "a b"}]}}, "a b"),
        ({"tests": ["tru"]}, "tru"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSettingsError) as error:
        campaign_of(tmp_path, **changes)
    assert named in error.value.args[0]
