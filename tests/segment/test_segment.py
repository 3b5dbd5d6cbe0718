"""`textseg.load` and what `textseg segment` runs, against what `textseg predict` writes."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import textseg
import textseg.models
from tests.segment.refusals import message
from tests.segment.trained import Trained, train
from tests.tiny_run import ROWS, call, fingerprints, masks_in
from textseg.errors import UserError
from textseg.metrics.case_table import resize_logits
from textseg.preprocess import read_image, resize_image
from textseg.segment import segment
from textseg.segment.network import Segmenter
from textseg.visualize.overlay import overlay

TEXT = "the large lesion on the left"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def net(trained: Trained) -> Segmenter:
    return textseg.load(trained.checkpoint)


# --- equal to predict ------------------------------------------------------------------------


def test_the_masks_compared_here_have_both_values(trained: Trained) -> None:
    assert len(trained.predicted) == ROWS["test"]
    assert sum(0 < mask.mean() < 255 for mask in trained.predicted.values()) >= 3


def test_one_image_and_text_give_the_mask_that_predict_writes(
    trained: Trained, net: Segmenter
) -> None:
    for number, row in enumerate(trained.rows()):
        name = f"{Path(row['image']).stem}__{number}.png"
        if row["split"] == "test":
            result = net.segment(trained.root / row["image"], row["text"])
            assert result.mask.dtype == bool
            assert np.array_equal(result.mask, trained.predicted[name] > 0), name


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_table_gives_the_masks_that_predict_writes_under_their_names(
    trained: Trained, tmp_path: Path, batch_size: int
) -> None:
    table = str(trained.root / "manifest.jsonl")
    output = str(tmp_path / "out")
    segment(table, ckpt_path=trained.checkpoint, output=output, batch_size=batch_size)
    masks = masks_in(tmp_path / "out/masks")
    assert len(masks) == sum(ROWS.values())
    for name, mask in trained.predicted.items():
        assert mask.dtype == masks[name].dtype
        assert np.array_equal(mask, masks[name]), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_runs_precision_is_used_as_predict_does(
    trained: Trained, tmp_path: Path, precision: str
) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["precision"] = precision
    config["data"]["init_args"]["batch_size"] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    best = run / "checkpoints/best.ckpt"
    assert call("predict", "--ckpt_path", best, cwd=tmp_path).status == 0
    predicted = masks_in(run / "predict")
    half, full = textseg.load(best), textseg.load(trained.checkpoint)
    differ = 0.0
    for number, row in enumerate(trained.rows()):
        name = f"{Path(row['image']).stem}__{number}.png"
        if row["split"] == "test":
            result = half.segment(trained.root / row["image"], row["text"])
            assert np.array_equal(result.mask, predicted[name] > 0), name
            whole = full.segment(trained.root / row["image"], row["text"])
            differ = max(differ, float(np.abs(result.probs - whole.probs).max()))
    assert 1e-5 < differ < 0.1, "bfloat16 rounds"


def test_probabilities_are_the_sigmoid_of_the_logits_at_the_images_size(
    trained: Trained, net: Segmenter
) -> None:
    image = Image.open(trained.image()).convert("RGB")
    small = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR), np.float32) / 255
    with torch.no_grad():
        logits = net.model(torch.from_numpy(small).permute(2, 0, 1)[None].contiguous(), [TEXT])
        plane = resize_logits(logits.logits[0, 0], (image.height, image.width)).double().numpy()
    result = net.segment(trained.image(), TEXT)
    assert result.probs.dtype == np.float32
    assert result.probs.shape == (image.height, image.width)
    np.testing.assert_allclose(result.probs, 1 / (1 + np.exp(-plane)), atol=1e-6)
    assert np.array_equal(result.mask, plane > 0)


def test_other_words_give_other_probabilities(trained: Trained, net: Segmenter) -> None:
    one, other = (net.segment(trained.image(), text) for text in (TEXT, "lung in the upper right"))
    assert not np.array_equal(one.probs, other.probs)


# --- what an image may be --------------------------------------------------------------------


def test_a_path_a_pil_image_and_an_array_give_the_same(trained: Trained, net: Segmenter) -> None:
    pil = Image.open(trained.image())
    gray, rgb = np.asarray(pil), np.asarray(pil.convert("RGB"))
    assert (gray.ndim, rgb.ndim) == (2, 3)
    wanted = net.segment(Path(trained.image()), TEXT)
    for image in (trained.image(), pil, gray, rgb):
        assert np.array_equal(net.segment(image, TEXT).probs, wanted.probs)
    assert np.array_equal(wanted.image, rgb)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
def test_values_of_another_type_or_shape_are_refused(net: Segmenter, image: Any) -> None:
    with pytest.raises(UserError) as error:
        net.segment(image, TEXT)
    cause, remedy = message(error)
    assert str(list(image.shape)) in cause
    assert str(image.dtype) in cause
    assert "uint8" in remedy


def test_several_images_are_told_of_the_function_that_takes_them(
    trained: Trained, net: Segmenter
) -> None:
    two = [trained.image()] * 2
    for image, text in ((two, ["a", "b"]), (two, "a"), (two[0], ["a"])):
        with pytest.raises(UserError, match="segment_all"):
            net.segment(image, text)  # type: ignore[arg-type]


def test_a_missing_or_broken_file_is_named(net: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    for name in ("missing.png", "note.png"):
        with pytest.raises(UserError) as error:
            net.segment(tmp_path / name, TEXT)
        assert str(tmp_path / name) in message(error)[0]


# --- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_a_network_that_reads_words_asks_for_some(
    trained: Trained, net: Segmenter, tmp_path: Path, text: str | None
) -> None:
    assert net.takes_text
    with pytest.raises(UserError, match=r"text=.*TMCA"):
        net.segment(trained.image(), text)
    output = str(tmp_path / "out")
    with pytest.raises(UserError, match="text") as error:
        segment(trained.image(), text, ckpt_path=trained.checkpoint, output=output)
    assert trained.image() in message(error)[0]
    assert not (tmp_path / "out").exists()


def test_an_image_only_network_needs_no_text_and_reads_none(
    trained: Trained, image_only: str, tmp_path: Path
) -> None:
    net = textseg.load(image_only)
    assert not net.takes_text
    without = net.segment(trained.image())
    assert np.array_equal(without.probs, net.segment(trained.image(), TEXT).probs)
    out = segment(trained.image(), ckpt_path=image_only, output=str(tmp_path / "out"))
    (mask,) = masks_in(out / "masks").values()
    assert np.array_equal(mask > 0, without.mask)


def test_texts_that_are_cut_are_told_of_once(
    trained: Trained, net: Segmenter, tmp_path: Path
) -> None:
    long = "small lesion " * 40
    images = [trained.image()] * 3
    with pytest.warns(UserWarning, match=r"2 of 3 captions.*max_tokens") as warned:
        list(net.segment_all(images, [long, TEXT, long], batch_size=1))
    assert sum("max_tokens" in str(one.message) for one in warned) == 1


# --- the command's function ------------------------------------------------------------------


def test_the_share_of_unknown_words_is_told_of_networks_that_read_words(
    net: Segmenter, image_only: str
) -> None:
    assert net.unknown_share("\u75c5") == 1  # a Chinese word, which the training has not
    shares = [net.unknown_share(text) or 0.0 for text in ("", TEXT, f"{TEXT} \u75c5")]
    assert shares[0] == 0
    assert shares[1] < shares[2] < 1
    assert textseg.load(image_only).unknown_share(TEXT) is None


def test_one_image_gives_mask_overlay_and_probabilities_of_16_bit(
    trained: Trained, net: Segmenter, tmp_path: Path
) -> None:
    output = str(tmp_path / "new" / "out")
    folder = segment(
        trained.image(), TEXT, ckpt_path=trained.checkpoint, output=output, probabilities=True
    )
    assert folder == tmp_path / "new" / "out"
    name = "train0__0.png"
    assert set(fingerprints(folder)) == {"averaging.json", *(f"{f}/{name}" for f in FOLDERS)}
    wanted = net.segment(trained.image(), TEXT)
    mask = Image.open(folder / "masks" / name)
    assert (mask.mode, set(np.unique(mask).tolist())) == ("L", {0, 255})
    assert np.array_equal(np.asarray(mask) > 0, wanted.mask)
    stored = Image.open(folder / "probabilities" / name)
    assert stored.mode == "I;16"
    levels = np.asarray(stored)
    assert np.abs(levels / 65535 - wanted.probs).max() <= 0.5 / 65535 + 1e-9
    sure = np.abs(wanted.probs - 0.5) > 1 / 65535  # what no rounding can carry over the threshold
    assert sure.mean() > 0.99
    assert np.array_equal((levels > 32767)[sure], wanted.mask[sure])
    page = overlay(
        read_image(Path(trained.image())), None, wanted.mask, caption=TEXT, title=["train0__0"]
    )
    assert np.array_equal(np.asarray(Image.open(folder / "overlays" / name)), page)


FOLDERS = ("masks", "overlays", "probabilities")


def test_results_are_never_written_over(trained: Trained, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    folders = [
        segment(trained.image(), TEXT, ckpt_path=trained.checkpoint, output=output)
        for _ in range(2)
    ]
    assert [folder.name for folder in folders] == ["out", "out_2"]
    assert fingerprints(folders[0]) == fingerprints(folders[1])
    assert {path.name for path in folders[0].iterdir()} == {"averaging.json", "masks", "overlays"}


def test_a_folder_gives_every_image_by_name_and_leaves_other_files(
    image_only: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "a.PNG", "below/c.png"):
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(images / name)
    (images / "notes.txt").write_text("not an image")
    out = segment(str(images), ckpt_path=image_only, output=str(tmp_path / "out"))
    names = [f"{Path(name).stem}__{i}.png" for i, name in enumerate(("a.PNG", "a.jpg", "b.png"))]
    assert sorted(masks_in(out / "masks")) == names


def rewritten(trained: Trained, kind: str) -> Path:
    """The manifest's images and texts as another kind of table, beside it."""
    frame = pd.DataFrame(trained.rows())[["image", "text"]]
    frame = frame.rename(columns={"image": "Image", "text": "Description"})
    frame.loc[0, "Description"] = 'the left; "large", of two'
    file = trained.root / f"table.{kind}"
    if kind == "xlsx":
        frame.to_excel(file, index=False)
    else:
        separator = ";" if kind == "semicolons.csv" else ","
        frame.to_csv(file, index=False, sep=separator, quoting=csv.QUOTE_ALL, encoding="utf-8-sig")
    return file


@pytest.mark.parametrize("kind", ["csv", "semicolons.csv", "xlsx"])
def test_every_kind_of_table_gives_the_same_masks(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    table = str(rewritten(trained, kind))
    out = segment(table, ckpt_path=trained.checkpoint, output=str(tmp_path / "out"))
    masks = masks_in(out / "masks")
    assert {name: masks[name].tobytes() for name in trained.predicted} == {
        name: mask.tobytes() for name, mask in trained.predicted.items()
    }


def test_a_table_without_texts_takes_the_one_that_is_given(
    trained: Trained, net: Segmenter, tmp_path: Path
) -> None:
    images = [trained.rows()[i]["image"] for i in (0, 5, 0)]
    (tmp_path / "list.csv").write_text("image\n" + "\n".join(images) + "\n\n")
    settings = {"ckpt_path": trained.checkpoint, "root": str(trained.root)}
    out = segment(str(tmp_path / "list.csv"), TEXT, output=str(tmp_path / "out"), **settings)
    masks = masks_in(out / "masks")
    assert len(masks) == 3
    for number, image in enumerate(images):
        wanted = net.segment(trained.root / image, TEXT).mask
        assert np.array_equal(masks[f"{Path(image).stem}__{number}.png"] > 0, wanted)


TABLES = {
    "no image column": ("a.csv", "picture,text\na.png,x\n", "picture"),
    "no rows": ("a.csv", "image,text\n", "a.csv"),
    "nothing": ("a.csv", "", "a.csv"),
    "missing image": ("a.csv", "image,text\nfar.png,x\n", "row 2 .*far.png"),
    "outside": ("a.csv", "image,text\n../a.png,x\n", r"row 2 .*\.\./a\.png"),
    "empty text": ("a.csv", "image,text\nhere.png,x\n\nhere.png, \n", "row 4 "),
    "empty image": ("a.csv", "image,text\n,x\n", "row 2 "),
    "loose separator": ("a.csv", "image,text\nhere.png,left, small\n", "row 2.*3.*2"),
    "two texts": ("a.csv", "image,text,caption\nhere.png,x,y\n", "2 .*text"),
    "a name twice": ("a.csv", "image,text,text\nhere.png,x,y\n", "column.*text"),
    "broken book": ("a.xlsx", "no workbook", "a.xlsx"),
    "broken line": ("a.jsonl", '{"image": \n', "a.jsonl"),
    "a list": ("a.jsonl", '["here.png"]\n', "line 1"),
    "many texts": ("a.jsonl", '{"image": "here.png", "text": ["x"]}\n', "entry 1: text="),
    "broken image": ("a.csv", "image,text\nnote.png,x\n", "note.png"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_table_at_fault_is_refused_before_anything_is_written(
    trained: Trained, tmp_path: Path, fault: str
) -> None:
    name, content, words = TABLES[fault]
    (tmp_path / name).write_text(content)
    (tmp_path / "note.png").write_text("no picture")
    shutil.copy(trained.image(), tmp_path / "here.png")
    with pytest.raises(UserError, match=words) as error:
        segment(
            str(tmp_path / name), ckpt_path=trained.checkpoint, output=str(tmp_path / "results")
        )
    assert str(tmp_path) in message(error)[0]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"image": "nowhere.csv"}, "nowhere.csv"),
        ({"image": "empty"}, "empty"),
        ({"root": "."}, "root='.'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"device": "toaster"}, "device='toaster'"),
        ({"image_size": 33}, "image_size=33"),
        ({"ckpt_path": "nowhere.ckpt"}, "nowhere.ckpt"),
        ({"output": "here.png/out"}, "here.png/out"),
    ],
)
def test_a_wrong_setting_is_named_with_a_remedy(
    image_only: str,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    shutil.copy(trained.image(), "here.png")
    given: dict[str, Any] = {"image": "here.png", "ckpt_path": image_only, **settings}
    with pytest.raises(UserError, match=re.escape(words)) as error:
        segment(**given)
    assert message(error)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "here.png"}


def test_a_text_beside_a_table_of_texts_is_refused(trained: Trained) -> None:
    table = str(trained.root / "manifest.jsonl")
    with pytest.raises(UserError, match=r"manifest.jsonl.*text"):
        segment(table, TEXT, ckpt_path=trained.checkpoint)


# --- the checkpoint --------------------------------------------------------------------------


def test_the_size_is_the_runs_unless_another_is_given(trained: Trained, image_only: str) -> None:
    assert textseg.load(trained.checkpoint).image_size == (32, 64)
    net = textseg.load(image_only, image_size=(64, 96))
    assert net.image_size == (64, 96)
    picture = read_image(Path(trained.image()))
    by_hand = resize_image(picture, (64, 96))
    own = net.model(torch.from_numpy(by_hand / np.float32(255)).permute(2, 0, 1)[None], [""])
    plane = resize_logits(own.logits[0, 0], picture.shape[:2])
    np.testing.assert_allclose(
        net.segment(picture).probs, plane.sigmoid().detach().numpy(), atol=1e-5
    )


def test_a_network_is_in_eval_and_gives_the_same_twice(image_only: str, trained: Trained) -> None:
    net = textseg.load(image_only)
    assert not any(module.training for module in net.model.modules())
    first, second = (net.segment(trained.image()).probs for _ in range(2))
    assert np.array_equal(first, second)


def test_the_command_writes_a_mask_and_says_where(tmp_path: Path) -> None:
    missing = call("segment", "nothing.png", "a lesion", "--ckpt", "no.ckpt", cwd=tmp_path)
    assert missing.status == 2
    assert "nothing.png" in missing.err
    unasked = call("segment", cwd=tmp_path)
    assert unasked.status == 2
    assert "image" in unasked.err


def test_the_command_segments_an_image_as_python_does(trained: Trained, tmp_path: Path) -> None:
    text = trained.rows()[0]["text"]
    done = call("segment", trained.image(), text, "--ckpt", trained.checkpoint, cwd=tmp_path)
    assert done.status == 0, done.err
    (mask,) = (tmp_path / "segmented/masks").glob("*.png")
    net = textseg.load(trained.checkpoint)
    expected = net.segment(trained.image(), text).mask
    assert np.array_equal(np.asarray(Image.open(mask)) > 127, expected)
