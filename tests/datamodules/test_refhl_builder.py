"""Built referring sets, read again with code of the test's own.

Expressions are parsed word by word, lesions are measured in the NIfTI files by their affines, and
thresholds lie in the middle of what the builder leaves unsaid.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datamodules.refhl_seg.builder import build_refhl
from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from datamodules.refhl_seg.summary import format_summary, read_summary
from tests.datamodules.liver_volumes import write_liver_volumes
from tests.datamodules.reading import pixels, rows_of
from textseg.errors import UserError

CASES = 16
TOUCHING = np.ones((3, 3))

# --------------------------------------------------------------------------- reading back


class Grid(NamedTuple):
    """A volume sorted by world coordinates: [rows from anterior, columns from left, z upwards]."""

    values: np.ndarray
    spacing: tuple[float, float, float]  # mm between rows, columns and slices


def by_world(path: Path) -> Grid:
    image = nibabel.load(path)
    index = np.indices(image.shape).reshape(3, -1)
    world = image.affine[:3, :3] @ index + image.affine[:3, 3:]
    steps = np.abs(image.affine[:3, :3]).max(axis=1)  # mm along x, y and z
    x, y, z = np.rint((world - world.min(axis=1, keepdims=True)) / steps[:, None]).astype(int)
    values = np.empty((y.max() + 1, x.max() + 1, z.max() + 1))
    values[y.max() - y, x, z] = np.asarray(image.dataobj, dtype=float).ravel()
    return Grid(values, (steps[1], steps[0], steps[2]))


WORDS = {
    "size": {"small": "small", "little": "small", "large": "large", "big": "large"},
    "density": {
        **dict.fromkeys(("hypodense", "hypoattenuating", "dark"), "hypodense"),
        **dict.fromkeys(("hyperdense", "hyperattenuating", "dense"), "hyperdense"),
        **dict.fromkeys(("isodense", "isoattenuating"), "isodense"),
    },
    "vertical": {"upper": "upper", "top": "upper", "lower": "lower", "bottom": "lower"},
    "side": {"left": "left", "right": "right"},
    "rank": {"only": "only", "larger": "largest", "largest": "largest"}
    | {"smaller": "smallest", "smallest": "smallest"},
    "number": {"two": 2, "three": 3, "four": 4, "five": 5},
}
FILLER = {"the", "lesion", "lesions", "liver", "in", "at", "of", "part", "and"} | {
    "this",
    "slice",
    "shown",
}


def read(text: str) -> dict[str, Any]:
    """What an expression says; an unknown word fails."""
    said: dict[str, Any] = {}
    for word in text.replace(",", "").split():
        kinds = [kind for kind, words in WORDS.items() if word in words]
        assert kinds or word in FILLER, f"{word!r} in {text!r}"
        for kind in kinds:
            assert kind not in said
            said[kind] = WORDS[kind][word]
    assert said, text
    return said


def measure(values: Grid, labels: Grid, z: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Mask and description of every component of label 2 in a slice."""
    gray, drawn = values.values[..., z], labels.values[..., z]
    parts, count = ndimage.label(drawn == 2, TOUCHING)
    areas = ndimage.sum_labels(drawn == 2, parts, range(1, count + 1))
    middle = np.array(ndimage.center_of_mass(drawn > 0))
    found = []
    for k in range(1, count + 1):
        mask = parts == k
        row, column = np.array(ndimage.center_of_mass(mask)) - middle
        pixel = labels.spacing[0] * labels.spacing[1]
        contrast = gray[mask].mean() - np.median(gray[drawn == 1])
        area = areas[k - 1]
        ranks = {count == 1: "only", (areas <= area).all() and count > 1: "largest"}
        ranks |= {(areas >= area).all() and count > 1: "smallest"}
        alike = "isodense" if abs(contrast) < 10 else None
        found.append(
            (
                mask,
                {
                    "size": "small" if area * pixel < np.pi * 12.5**2 else "large",
                    "density": alike or ("hypodense" if contrast < 0 else "hyperdense"),
                    "vertical": "upper" if row < 0 else "lower",
                    "side": "left" if column < 0 else "right",
                    "rank": ranks.get(True),
                    "number": count,
                },
            )
        )
    return found


def sources(source: Path, case: str) -> tuple[Path, Path]:
    if (source / "imagesTr").is_dir():
        return source / "imagesTr" / f"{case}.nii.gz", source / "labelsTr" / f"{case}.nii.gz"
    return source / f"{case}.nii", source / f"{case.replace('volume', 'segmentation')}.nii"


def check_all_true(source: Path, built: Path) -> int:
    """Every expression fits its own mask's component and no other; returns how many there are."""
    groups = defaultdict(list)
    for row in rows_of(built):
        groups[row["case_id"]].append(row)
    number = 0
    for case, rows in groups.items():
        values, labels = (by_world(path) for path in sources(source, case))
        for row in rows:
            found_z = re.fullmatch(rf"images/{case}_z(\d+)\.png", row["image"])
            assert found_z is not None
            found = measure(values, labels, int(found_z[1]))
            said = read(row["text"])
            fits = [mask for mask, lesion in found if said.items() <= lesion.items()]
            assert len(fits) == 1, f"{row['text']!r} fits {len(fits)} of {found}"
            mask = pixels(built / row["mask"])
            assert set(np.unique(mask)) == {0, 255}
            if mask.shape == fits[0].shape:
                np.testing.assert_array_equal(mask > 0, fits[0])
            else:
                small = Image.fromarray(fits[0].astype(np.float32)).resize(mask.shape[::-1])
                assert (np.asarray(small) > 0.5)[mask > 0].mean() > 0.6
            np.testing.assert_allclose(
                row["spacing"],
                np.array(values.spacing[:2]) * fits[0].shape / mask.shape,
                rtol=1e-3,
            )
            number += 1
    return number


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

LIVER = (slice(20, 80), slice(20, 80))  # of 100 x 100 pixels of 2 mm, from anterior and left


def draw(
    folder: Path,
    number: int,
    boxes: list[tuple[slice, slice, float]],
    *,
    liver: int = 1,
    steps: tuple[float, float] = (2.0, 2.0),
) -> None:
    """A case of one slice with boxes: rows, columns, HU above a liver of 100 HU."""
    gray, labels = np.full((100, 100), -1000.0), np.zeros((100, 100))
    gray[5:95, 5:95] = -100
    gray[LIVER], labels[LIVER] = 100, liver
    for rows, columns, contrast in boxes:
        gray[rows, columns], labels[rows, columns] = 100 + contrast, 2
    affine = np.diag([*steps, 5.0, 1.0])
    folder.mkdir(exist_ok=True)
    for kind, values in (("volume", gray), ("segmentation", labels)):
        ras = values[::-1].T[..., None].astype(np.int16)  # row 0 is anterior, column 0 left
        nibabel.save(nibabel.Nifti1Image(ras, affine), folder / f"{kind}-{number}.nii")


def box(row: int, column: int, side: int, contrast: float) -> tuple[slice, slice, float]:
    """A square by its center and side in pixels."""
    half = side // 2
    return (
        slice(row - half, row - half + side),
        slice(column - half, column - half + side),
        contrast,
    )


def drawn_set(tmp_path: Path, boxes: list[tuple[slice, slice, float]], **settings: Any) -> Path:
    """One set of three like cases."""
    for number in range(3):
        draw(tmp_path / "source", number, boxes)
    return build_refhl(tmp_path / "source", tmp_path / "built", **settings)


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


# --------------------------------------------------------------------------- refusals


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "source", number, [box(30, 30, 7, -40)])
    return tmp_path / "source"


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a volume again; not memory-mapped, as it would be cut off below its own reader."""
    image = nibabel.load(path, mmap=False)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def refuse(source: Path, message: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=message):
        build_refhl(source, source.parent / "built", **settings)
    assert not (source.parent / "built").exists()


def test_labels_without_their_volume_are_named(three: Path) -> None:
    (three / "volume-1.nii").unlink()
    refuse(three, r"1 labels without their volume: .*segmentation-1\.nii")


def test_volumes_without_labels_are_named(three: Path) -> None:
    (three / "segmentation-2.nii").unlink()
    refuse(three, r"1 volumes without their labels: .*volume-2\.nii")


def test_a_number_that_occurs_twice_is_refused(three: Path) -> None:
    (three / "again").mkdir()
    (three / "again" / "volume-1.nii").write_bytes((three / "volume-1.nii").read_bytes())
    refuse(three, "have the same number")


def test_a_mask_of_another_shape_is_refused(three: Path) -> None:
    edit(three / "segmentation-1.nii", lambda values: values[:-1])
    refuse(three, "100x100x1 but .* is 99x100x1")


def test_a_set_without_any_lesion_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 3 volumes has a lesion \(label 2\)"):
        drawn_set(tmp_path, [])


def test_healthy_cases_are_counted_and_two_others_are_too_few(three: Path) -> None:
    draw(three, 1, [])
    refuse(three, "2 of 3 cases show a lesion")
    draw(three, 7, [box(30, 30, 7, -40)])
    built = build_refhl(three, three.parent / "built")
    assert read_summary(built)["cases_without_lesion"] == 1
    assert read_summary(built)["cases"] == 3


@pytest.mark.parametrize("wrong", [255, 3, 1.5])
def test_labels_that_mean_nothing_known_are_named(three: Path, wrong: float) -> None:
    edit(
        three / "segmentation-1.nii",
        lambda values: np.where(values == 2, np.float32(wrong), values.astype(np.float32)),
    )
    refuse(three, rf"segmentation-1\.nii holds {wrong}; known are 0, 1, 2")


def test_lesions_without_a_liver_are_refused(three: Path) -> None:
    draw(three, 1, [box(30, 30, 7, -40)], liver=0)
    refuse(three, r"has lesions \(label 2\) but no liver \(label 1\)")


def test_a_broken_volume_is_named(three: Path) -> None:
    path = three / "volume-2.nii"
    path.write_bytes(path.read_bytes()[:4000])
    refuse(three, r"volume-2\.nii cannot be read")


def test_values_that_are_not_hounsfield_units_are_refused(three: Path) -> None:
    edit(three / "volume-0.nii", lambda values: values + np.int16(1024))
    refuse(three, "not in Hounsfield units: its smallest value is 24")


def test_vessels_are_not_taken_for_the_liver(tmp_path: Path) -> None:
    source = tmp_path / "Task08_HepaticVessel"
    write_liver_volumes(source, cases=3, layout="msd")
    file = source / "dataset.json"
    description = json.loads(file.read_text())
    description["labels"] = {"0": "background", "1": "Vessel", "2": "Tumour"}
    file.write_text(json.dumps(description))
    refuse(source, r"1 \(Vessel\).*not the liver[\s\S]*liver_label.*null")
    built = build_refhl(source, tmp_path / "built", liver_label=None)
    assert all({"place", "density"}.isdisjoint(row["attributes"]) for row in rows_of(built))
    file.unlink()
    for path in source.glob("*/liver_*"):
        path.rename(path.with_name(path.name.replace("liver", "hepaticvessel")))
    (tmp_path / "two").mkdir()
    refuse(source.rename(tmp_path / "two" / "renamed"), "Task08, whose label 1 is vessels")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "ircad"}, "layout='ircad'"),
        ({"layout": "msd"}, "looked for imagesTr"),
        ({"min_lesion_pixels": 0}, "min_lesion_pixels=0"),
        ({"slices_per_case": 0}, "slices_per_case=0"),
        ({"window_width": 0.0}, "window_width=0"),
        ({"image_size": 16}, "image_size=16"),
        ({"seed": -1}, "seed=-1"),
        ({"liver_label": 2}, "lesion_label and liver_label are both 2"),
    ],
)
def test_settings_out_of_range_are_refused(
    three: Path, wrong: dict[str, Any], message: str
) -> None:
    refuse(three, message, **wrong)


def test_a_folder_without_volumes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    refuse(tmp_path / "source", "looked for volume-<n>.nii, imagesTr")
    refuse(tmp_path / "nowhere", "is not a folder")


def test_a_liver_on_the_patients_left_is_pointed_out(three: Path) -> None:
    column = np.arange(100)[:, None, None]  # from the patient's left
    edit(three / "volume-1.nii", lambda values: np.where(column < 15, np.int16(-1000), values))
    built = build_refhl(three, three.parent / "built")
    assert read_summary(built)["liver_on_the_left"] == ["volume-1"]
    assert "volume-1" in format_summary(read_summary(built))
