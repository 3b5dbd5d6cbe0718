"""Built referring sets, read again with code of the test's own.

Expressions are parsed word by word, lesions are measured in the NIfTI files by their affines, and
thresholds lie in the middle of what the builder leaves unsaid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from datamodules.refhl_seg.builder import build_refhl
from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from datamodules.refhl_seg.summary import format_summary, read_summary
from tests.datamodules.liver_volumes import write_liver_volumes
from tests.datamodules.reading import pixels, rows_of
from tests.datamodules.refhl_sets import (
    TOUCHING,
    WORDS,
    box,
    by_world,
    check_all_true,
    draw,
    drawn_set,
    read,
    sources,
)
from textseg.errors import UserError

CASES = 16

# --------------------------------------------------------------------------- phantoms


@pytest.fixture(scope="module")
def lits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "lits"
    write_liver_volumes(folder, cases=CASES, layout="lits")
    return folder


@pytest.fixture(scope="module")
def built(lits: Path) -> Path:
    return build_refhl(lits, lits.parent / "built")


def test_every_expression_is_true_of_its_lesion_and_of_no_other(lits: Path, built: Path) -> None:
    codes = {"".join(nibabel.aff2axcodes(nibabel.load(p).affine)) for p in lits.glob("v*")}
    assert len(codes) == 4  # directions in which the phantoms are stored
    assert check_all_true(lits, built) == read_summary(built)["expressions"] > 40


def test_msd_gives_the_expressions_of_the_same_volumes_in_lits(tmp_path: Path, built: Path) -> None:
    source = tmp_path / "download" / "Task03_Liver"
    write_liver_volumes(source, cases=6, layout="msd")
    output = build_refhl(tmp_path / "download", tmp_path / "built")
    assert check_all_true(source, output) > 10
    assert {row["case_id"] for row in rows_of(output)} == {f"liver_{n}" for n in range(6)}
    masks = {(r["case_id"][6:], r["mask"].split("_z")[1]) for r in rows_of(output)}
    others = {(r["case_id"][7:], r["mask"].split("_z")[1]) for r in rows_of(built)}
    assert masks <= others


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_seeds_reword_the_same_truth(lits: Path, tmp_path: Path, seed: int) -> None:
    output = build_refhl(lits, tmp_path / "built", seed=seed, slices_per_case=9)
    assert check_all_true(lits, output) > 60


def test_the_picture_is_the_windowed_slice_from_anterior_and_from_the_patients_left(
    lits: Path, built: Path
) -> None:
    for row in rows_of(built)[::7]:
        values = by_world(sources(lits, row["case_id"])[0]).values
        slice_ = values[..., int(row["image"][-7:-4])]
        expected = np.rint(np.clip((slice_ + 160) / 400, 0, 1) * 255)  # 40 HU +- 200
        np.testing.assert_allclose(pixels(built / row["image"]), expected, atol=1)
        lesion = np.argwhere(pixels(built / row["mask"]))
        assert lesion[:, 1].mean() > 48  # the liver is on the patient's right


def test_another_window_gives_known_grays(tmp_path: Path) -> None:
    write_liver_volumes(tmp_path / "source", cases=3, layout="lits")
    output = build_refhl(
        tmp_path / "source", tmp_path / "built", window_center=100, window_width=200
    )
    picture = pixels(output / rows_of(output)[0]["image"])
    assert picture[0, 0] == 0  # air
    assert (picture == 255).sum() > 50  # bone, at 420 HU
    liver = picture[pixels(output / rows_of(output)[0]["mask"]) == 0]
    assert (np.abs(liver.astype(int) - 134) < 20).sum() > 50  # about 105 HU


def test_pictures_of_another_size_keep_the_truth_and_the_millimetres(
    lits: Path, tmp_path: Path
) -> None:
    output = build_refhl(lits, tmp_path / "built", image_size=160)
    assert check_all_true(lits, output) > 40
    assert all(pixels(output / row["image"]).shape == (160, 160) for row in rows_of(output))
    assert rows_of(output)[0]["spacing"] == [2.25, 2.25]
    small = build_refhl(lits, tmp_path / "small", image_size=32, min_lesion_pixels=5)
    assert all((pixels(small / row["mask"]) > 0).sum() >= 5 for row in rows_of(small))


def test_no_case_is_in_two_splits_and_none_is_empty(built: Path) -> None:
    homes = defaultdict(set)
    for row in rows_of(built):
        homes[row["case_id"]].add(row["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    counts = Counter(next(iter(splits)) for splits in homes.values())
    assert counts == {"train": CASES - 4, "val": 2, "test": 2}


def slices_of(built: Path) -> dict[str, list[int]]:
    slices = defaultdict(set)
    for row in rows_of(built):
        slices[row["case_id"]].add(int(row["image"][-7:-4]))
    return {case: sorted(numbers) for case, numbers in slices.items()}


def test_slices_of_a_case_lie_a_centimetre_apart(tmp_path: Path) -> None:
    write_liver_volumes(tmp_path / "source", cases=4, layout="lits", slices=25)  # 4 mm
    built = build_refhl(tmp_path / "source", tmp_path / "built", slices_per_case=4)
    gaps = [np.diff(numbers) for numbers in slices_of(built).values()]
    assert min(gap.min() for gap in gaps) == 3
    assert max(len(gap) + 1 for gap in gaps) == 4


def test_slices_that_show_several_lesions_come_first(
    lits: Path, built: Path, tmp_path: Path
) -> None:
    assert max(len(numbers) for numbers in slices_of(built).values()) == 3
    one = build_refhl(lits, tmp_path / "one", slices_per_case=1)
    assert read_summary(one)["slices_with_several"] == read_summary(one)["slices"] - sum(
        not _shows_several(lits, case) for case in slices_of(built)
    )


def _shows_several(source: Path, case: str) -> bool:
    labels = by_world(sources(source, case)[1]).values
    for z in range(labels.shape[2]):
        parts, count = ndimage.label(labels[..., z] == 2, TOUCHING)
        if (np.bincount(parts.ravel(), minlength=count + 1)[1:] >= 20).sum() > 1:
            return True
    return False


def test_the_data_module_reads_a_built_set_as_it_stands(built: Path, tmp_path: Path) -> None:
    data = RefHLSegDataModule(
        str(built), image_size=64, batch_size=4, num_workers=0, cache=str(tmp_path / "cache")
    )
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["image"].shape == (4, 3, 64, 64)
    assert all(mask.any() for mask in batch["mask"])
    assert all(read(text) for text in batch["text"])


def test_the_summary_counts_the_rows(built: Path) -> None:
    summary, rows = read_summary(built), rows_of(built)
    assert summary["expressions"] == len(rows) == len({row["mask"] for row in rows})
    assert summary["slices"] == len({row["image"] for row in rows})
    assert summary["expressions_by_split"] == Counter(row["split"] for row in rows)
    assert f"{len(rows)} expressions" in format_summary(summary)
    files = {f"{p.parent.name}/{p.name}" for p in built.glob("*/*.png")}
    assert files == {row[kind] for row in rows for kind in ("image", "mask")}


# --------------------------------------------------------------------------- drawn by hand


def attributes(built: Path) -> dict[int, dict[str, Any]]:
    return {row["lesion_id"]: row["attributes"] for row in rows_of(built)}


def test_words_follow_the_picture(tmp_path: Path) -> None:
    built = drawn_set(tmp_path, [box(32, 32, 7, -40), box(65, 65, 20, 30)])
    large, small = (attributes(built)[k] for k in (1, 2))
    assert (large["size"], large["density"], large["place"]) == (
        "large",
        "hyperdense",
        "lower right",
    )
    assert (small["size"], small["density"], small["place"]) == ("small", "hypodense", "upper left")
    assert (large["rank"], small["rank"]) == ("largest", "smallest")
    assert large["contrast_hu"] == 30
    np.testing.assert_allclose(small["diameter_mm"], 2 * 14 / np.sqrt(np.pi), atol=0.05)


def test_expressions_stay_true_where_lesions_are_hard_to_tell_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(150):  # of any size, place and density, some of them merged or hidden
        boxes = [
            box(*rng.integers(22, 78, 2), int(rng.integers(1, 18)), float(rng.integers(-40, 41)))
            for _ in range(rng.integers(1, 6))
        ]
        draw(tmp_path / "source", number, boxes, steps=(1.7, 2.3))
    built = build_refhl(tmp_path / "source", tmp_path / "built")
    summary = read_summary(built)
    assert check_all_true(tmp_path / "source", built) == summary["expressions"] > 150
    assert min(summary["lesions_not_told_apart"], summary["lesions_too_small"]) > 10
    assert {kind for row in rows_of(built) for kind in read(row["text"])} == set(WORDS)


def test_what_lies_near_a_boundary_is_not_said(tmp_path: Path) -> None:
    built = drawn_set(tmp_path, [box(50, 30, 11, -10)])  # 25 mm, half way down, -10 HU
    only = attributes(built)[1]
    assert set(only) == {"rank", "diameter_mm", "contrast_hu"}
    assert all(read(row["text"]) == {"rank": "only"} for row in rows_of(built))


def test_the_livers_middle_counts_its_lesions(tmp_path: Path) -> None:
    huge = (slice(20, 60), slice(20, 60), -40.0)  # of the rest, the middle is 57.5 pixels down
    built = drawn_set(tmp_path, [huge, box(54, 70, 5, 40)])
    assert attributes(built)[2]["place"] == "lower right"


def test_lesions_that_cannot_be_told_apart_get_no_expression(tmp_path: Path) -> None:
    twins = [box(28, 28, 6, -40), box(40, 28, 6, -40)]
    built = drawn_set(tmp_path, [*twins, box(65, 65, 6, 40)])
    assert {row["attributes"]["place"] for row in rows_of(built)} == {"lower right"}
    assert len(rows_of(built)) == 3
    assert read_summary(built)["lesions_not_told_apart"] == 6
    assert check_all_true(tmp_path / "source", built) == 3


def test_slices_of_twins_alone_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 of 3 cases show a lesion"):
        drawn_set(tmp_path, [box(28, 28, 6, -40), box(40, 28, 6, -40)])
    assert not (tmp_path / "built").exists()


def test_a_lesion_too_small_to_be_named_still_keeps_words_from_being_true_of_two(
    tmp_path: Path,
) -> None:
    for number in range(3):  # the speckle shares all but the rank, or all but the place
        draw(tmp_path / "source", 2 * number, [box(30, 30, 7, -40), box(45, 30, 3, -40)])
        draw(tmp_path / "source", 2 * number + 1, [box(30, 30, 7, -40), box(65, 65, 3, -40)])
    built = build_refhl(tmp_path / "source", tmp_path / "built")
    assert read_summary(built)["lesions_too_small"] == 6
    for row in rows_of(built):
        said = read(row["text"])
        assert "number" not in said
        assert said.get("rank") != "only"
        assert said.get("rank") == "largest" or int(row["case_id"][-1]) % 2
    assert check_all_true(tmp_path / "source", built) == 6


def test_pixels_that_touch_by_a_corner_are_one_lesion(tmp_path: Path) -> None:
    corner = [(slice(28, 34), slice(28, 34), -40.0), (slice(34, 40), slice(34, 40), -40.0)]
    built = drawn_set(tmp_path, corner)
    assert read_summary(built)["expressions"] == 3
    assert (pixels(built / rows_of(built)[0]["mask"]) > 0).sum() == 72


def test_without_an_outlined_liver_only_size_and_rank_are_said(tmp_path: Path) -> None:
    for number in range(3):
        boxes = [box(32, 32, 7, -40), box(65, 65, 20, 30)]
        draw(tmp_path / "source", number, boxes, liver=0)
    built = build_refhl(tmp_path / "source", tmp_path / "built", liver_label=None)
    for row in rows_of(built):
        assert set(read(row["text"])) <= {"size", "rank", "number"}
    assert len(rows_of(built)) == 6


# --------------------------------------------------------------------------- building


def test_a_second_call_builds_nothing_and_a_changed_setting_builds_again(tmp_path: Path) -> None:
    write_liver_volumes(tmp_path / "source", cases=3, layout="lits")
    built = build_refhl(tmp_path / "source", tmp_path / "built")
    first = (built / "manifest.jsonl").stat().st_mtime_ns
    assert build_refhl(tmp_path / "source", tmp_path / "built") == built
    assert (built / "manifest.jsonl").stat().st_mtime_ns == first
    texts = [row["text"] for row in rows_of(built)]
    build_refhl(tmp_path / "source", tmp_path / "built", seed=5)
    assert [row["text"] for row in rows_of(built)] != texts


def test_a_text_does_not_depend_on_the_other_cases(tmp_path: Path, built: Path) -> None:
    write_liver_volumes(tmp_path / "source", cases=4, layout="lits")
    fewer = build_refhl(tmp_path / "source", tmp_path / "built")
    texts = {row["mask"]: row["text"] for row in rows_of(fewer)}
    assert texts.items() <= {row["mask"]: row["text"] for row in rows_of(built)}.items()


@pytest.mark.parametrize("identity", [None, "another builder's"])
def test_files_that_are_no_earlier_build_are_left_alone(
    lits: Path, tmp_path: Path, identity: str | None
) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    if identity is not None:
        (tmp_path / ".identity").write_text(identity)
    with pytest.raises(UserError, match="no earlier build"):
        build_refhl(lits, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_source_inside_the_output_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / ".identity").write_text("refhl-build of something older")
    write_liver_volumes(tmp_path / "source", cases=3, layout="lits")
    with pytest.raises(UserError, match="replaced as a whole"):
        build_refhl(tmp_path / "source", tmp_path)
    assert len(list((tmp_path / "source").iterdir())) == 6
