"""`textseg export` and what reads it: the one-file loader, `textseg.load` and `textseg segment`."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import textseg
from tests.docs.page import read_page
from tests.export.checkpoints import SIZE, THIRTY, write_checkpoint
from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.models.tiny import NETWORKS
from tests.tiny_run import ROOT, call, masks_in
from textseg.errors import UserError
from textseg.export import export
from textseg.export.write import TOLERANCE

pytest.importorskip("onnxscript", reason="needs the extra [export]")
Segmenter = pytest.importorskip("textseg.export.run", reason="needs the extra [export]").Segmenter

SIZES = [SIZE, (64, 64), (160, 96)]  # of which a network of one size takes the first
PICTURE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Exported:
    """An export, the checkpoint that it is of, and the checkpoint's network."""

    folder: Path
    checkpoint: Path
    network: Any


def exported(home: Path, name: str, form: str = "onnx", **settings: Any) -> Exported:
    checkpoint, network = write_checkpoint(home / name, name, **settings)
    out = home / f"{name}_{form}"
    replaced = {
        "RUN/checkpoints/best.ckpt": checkpoint,
        "--format onnx": f"--format {form}",
        "--output exported": f"--output {out}",
    }
    outcome = call(*read_page("export.md").command("export", replaced), cwd=home)
    assert outcome.status == 0, outcome.err
    assert f"written to {out}" in outcome.out
    return Exported(out, checkpoint, network)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A small network on a BERT whose folder is gone, as ONNX."""
    home = tmp_path_factory.mktemp("bert")
    write_bert(home / "encoder")
    made = exported(home, "WordsNetwork", text_encoder=str(home / "encoder"))
    shutil.rmtree(home / "encoder")
    return made


def check_logits(one: Exported, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Logits are PyTorch's at all sizes, for 1 and 3 images, and captions of 1 and 30 words."""
    manifest = json.loads((one.folder / "manifest.json").read_text())
    if not all(manifest["image"]["dynamic"]):
        sizes = [SIZE]
    rows = [(1, [CAPTIONS[0].split()[0]]), (3, [THIRTY, "lesion", CAPTIONS[1]])]
    assert len(THIRTY.split()) == 30
    onnx = manifest["format"] == "onnx"
    runner: Any = Segmenter(one.folder, threads=1) if onnx else textseg.load(one.folder).model
    for size in sizes:
        for count, texts in rows:
            pixels = (pictures(count, *size, seed=count) * 255).byte()  # [B, 3, H, W]
            with torch.no_grad():
                wanted = one.network(pixels / 255, texts).logits.numpy()
                if onnx:
                    found = runner.logits(pixels.permute(0, 2, 3, 1).numpy(), texts)
                else:
                    found = runner(pixels / 255, texts).logits.numpy()
            assert found.shape == (count, 1, *size)
            # Logits of some untrained networks hardly vary: what differs must be small beside that.
            difference = np.abs(found - wanted).max()
            assert difference <= min(TOLERANCE, wanted.std() / 100), (size, count)


def test_logits_are_those_of_pytorch(bert: Exported) -> None:
    check_logits(bert)


def test_a_vocabulary_of_the_suites_own_is_exported(tmp_path: Path) -> None:
    check_logits(exported(tmp_path, "WordsNetwork", "torch_export"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_every_network_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    check_logits(exported(tmp_path, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LSMS", "TMC"])  # of any size, and of one
def test_the_torch_form_of_a_network_gives_its_logits(name: str, tmp_path: Path) -> None:
    check_logits(exported(tmp_path, name, "torch_export"))


def check_masks(found: np.ndarray, net: Any, text: str | None) -> None:
    """A mask is the checkpoint's but where the probability is within the tolerance of 0.5."""
    wanted = net.segment(PICTURE, text)
    sure = np.abs(wanted.probs - 0.5) > TOLERANCE
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], wanted.mask[sure])


def test_every_reader_of_an_export_gives_the_masks_of_the_checkpoint(
    bert: Exported, tmp_path: Path
) -> None:
    """By docs/export.md: in the suite, and run.py where torch and textseg cannot be imported."""
    page, replaced = read_page("export.md"), {"IMAGE": "a.png"}
    image, text = tmp_path / "a.png", CAPTIONS[0]
    shutil.copytree(bert.folder, tmp_path / "exported")
    Image.fromarray(PICTURE).save(image)
    net = textseg.load(bert.checkpoint)
    assert net.resize == "pad"
    assert 0 < net.segment(PICTURE, text).mask.mean() < 1
    check_masks(textseg.load(bert.folder).segment(PICTURE, text).mask, net, text)

    arguments = page.command("segment", replaced)
    assert arguments[2] == text
    outcome = call(*arguments, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    (mask,) = masks_in(tmp_path / "segmented/masks").values()
    check_masks(np.asarray(mask) > 0, net, text)

    blocked = tmp_path / "blocked"
    for package in ("torch", "textseg", "datamodules", "transformers", "onnx"):
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text("raise SystemExit('imported')")
    runtime = Path(sys.modules["onnxruntime"].__file__ or "").parents[1]

    def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": f"{blocked}:{runtime}"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)

    program, *arguments = shlex.split(page.tested["run"].replace("IMAGE", "a.png"))
    assert program == "python"
    done = alone(*arguments)
    assert done.returncode == 0, done.stderr
    check_masks(np.asarray(Image.open(tmp_path / "mask.png")) > 0, net, text)
    again = alone(*arguments)
    assert (again.returncode, "mask.png" in again.stderr) == (2, True)
    code = page.tested["function"].replace("IMAGE", "a.png") + "\nprint(mask.sum(), probs.dtype)"
    done = alone("-c", code)
    assert done.stdout.split() == [
        str(np.count_nonzero(Image.open(tmp_path / "mask.png"))),
        "float32",
    ]


def test_the_loader_says_what_it_did_not_read_and_refuses_what_it_cannot(
    bert: Exported, tmp_path: Path
) -> None:
    loader = Segmenter(bert.folder)
    with pytest.warns(UserWarning, match=r"1 words of 'small q'"):
        loader.segment(PICTURE, "small q")
    with pytest.warns(UserWarning, match="cut to 32"):
        loader.segment(PICTURE, "lesion " * 40)
    for text in (None, " "):
        with pytest.raises(ValueError, match=repr(text)):
            loader.segment(PICTURE, text)
    with pytest.raises(ValueError, match=r"threshold=1\.0"):
        loader.segment(PICTURE, "lesion", threshold=1.0)
    for size in ((96, 97), (32, 96)):
        with pytest.raises(ValueError, match=r"multiples of 32 from 64"):
            loader.logits(np.zeros((1, *size, 3), dtype=np.uint8), ["lesion"])
    few = loader.segment(PICTURE, "lesion", threshold=0.9)[0].sum()
    assert few <= loader.segment(PICTURE, "lesion", threshold=0.1)[0].sum()


def test_an_export_names_what_it_holds_and_nothing_of_the_machine(bert: Exported) -> None:
    manifest = json.loads((bert.folder / "manifest.json").read_text())
    files = {file.name for file in bert.folder.iterdir()}
    assert files == {*manifest["files"], "manifest.json"}
    assert files >= {"network.onnx", "text_encoder.onnx", "tokenizer.json", "run.py"}
    assert manifest["image"]["size"] == list(SIZE)
    assert manifest["check"]["largest_difference"] <= TOLERANCE
    for file in bert.folder.iterdir():
        data = file.read_bytes()
        for path in (str(ROOT), str(bert.checkpoint.parent), sys.prefix):
            assert path.encode() not in data, file.name


def test_a_changed_or_missing_file_is_named(bert: Exported, tmp_path: Path) -> None:
    copy = shutil.copytree(bert.folder, tmp_path / "copy")
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("lesion", "legion"))
    for spoil in (lambda: None, tokenizer.unlink):
        spoil()
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            textseg.load(copy)
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Segmenter(copy)


def test_an_export_refuses_what_only_a_checkpoint_can(bert: Exported) -> None:
    net = textseg.load(bert.folder)
    with pytest.raises(UserError, match="explains no masks"):
        net.model.explain(torch.rand(1, 3, *SIZE), ["lesion"])
    with pytest.raises(UserError, match="is an export"):
        export(ckpt_path=str(bert.folder))
    with pytest.raises(UserError, match="calibration"):
        textseg.load(bert.folder, threshold="best")


def test_exports_can_be_averaged_and_mirrored(bert: Exported) -> None:
    """What works with any network works with an export among others."""
    both = textseg.load([bert.checkpoint, bert.folder], tta="flip", mirror_text=str)
    wanted = textseg.load(bert.checkpoint, tta="flip", mirror_text=str)
    text = CAPTIONS[1]
    found, own = (one.segment(PICTURE, text).probs for one in (both, wanted))
    np.testing.assert_allclose(found, own, rtol=0, atol=TOLERANCE)


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        textseg.load(tmp_path)
