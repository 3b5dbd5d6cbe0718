"""The breast phantoms are read back with nibabel, pydicom and arithmetic of the test's own."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy import ndimage

from datamodules.duke_breast_mri.breast import draw_patient
from datamodules.duke_breast_mri.phantoms import write_duke_mamamia

CASES, SIZE, SLICES = 12, 48, 10


@pytest.fixture(scope="module")
def mamamia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mamamia") / "new" / "folder"
    write_duke_mamamia(folder, cases=CASES, image_size=SIZE, slices=SLICES)
    return folder


def clinical(folder: Path) -> pd.DataFrame:
    """As datasets.md says it must be read; the unnamed column 7 is the side annotated."""
    path = folder / "Clinical_and_Other_Features.xlsx"
    return pd.read_excel(path, header=1, skiprows=[2], keep_default_na=False).set_index(
        "Patient ID"
    )


def side_of(row: pd.Series) -> str:
    """The side annotated, or else the first letter of Position."""
    annotated = row["Unnamed: 7"]
    return str(annotated) if annotated in ("L", "R") else str(row["Position"])[0]


def image(folder: Path, number: int, phase: int) -> nibabel.Nifti1Image:
    return nibabel.load(folder / f"images/DUKE_{number:03d}/duke_{number:03d}_{phase:04d}.nii.gz")


def mask(folder: Path, number: int) -> nibabel.Nifti1Image:
    return nibabel.load(folder / f"segmentations/expert/duke_{number:03d}.nii.gz")


def places(image: nibabel.Nifti1Image, flags: np.ndarray) -> np.ndarray:
    """RAS mm [n, 3] of the true voxels."""
    return nibabel.affines.apply_affine(image.affine, np.argwhere(flags))


def voxels(image: nibabel.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def breast(image: nibabel.Nifti1Image, side: str) -> np.ndarray:
    """RAS mm of the tissue that hangs in front of the chest on one side."""
    tissue = places(image, voxels(image) > 25)
    front = tissue[tissue[:, 1] > 0]
    return front[front[:, 0] > 0] if side == "R" else front[front[:, 0] < 0]


def hours(position: str, side: str) -> list[float]:
    """The clock hours said of one side."""
    said = []
    for site in re.split(r"[,.]", position):
        found = re.fullmatch(rf"\s*{side} (\d+)(?::30|-(\d+))?( .*)?", site)
        if found:
            half = 0.5 if ":30" in site or found[2] else 0.0
            said.append(int(found[1]) + half)
    return said


# --- MAMA-MIA


def test_the_mamamia_tree_is_complete(mamamia: Path) -> None:
    expected = {
        "Clinical_and_Other_Features.xlsx",
        "clinical_and_imaging_info.xlsx",
        "train_test_splits.csv",
    }
    info = pd.read_excel(mamamia / "clinical_and_imaging_info.xlsx").set_index("patient_id")
    for n in range(1, CASES + 1):
        lower = f"duke_{n:03d}"
        count = int(info.loc[f"DUKE_{n:03d}", "num_phases"])
        assert 3 <= count <= 5
        expected |= {f"images/DUKE_{n:03d}/{lower}_{k:04d}.nii.gz" for k in range(count)}
        expected.add(f"segmentations/expert/{lower}.nii.gz")
    found = {str(p.relative_to(mamamia)) for p in mamamia.rglob("*") if p.is_file()}
    assert found == expected


def test_makers_and_slice_orders_give_four_ways_of_storing(mamamia: Path) -> None:
    codes = ["".join(nibabel.aff2axcodes(image(mamamia, n, 1).affine)) for n in range(1, 5)]
    assert codes == ["RAS", "LPS", "RAI", "LPI"]
    rows = clinical(mamamia)
    assert rows["Manufacturer"].tolist()[:4] == [0, 2, 0, 2]


def test_tumor_and_words_agree_on_side_and_clock_in_the_patients_own_frame(mamamia: Path) -> None:
    clocks = 0
    for n, (_, row) in enumerate(clinical(mamamia).iterrows(), start=1):
        side = side_of(row)
        truth = mask(mamamia, n)
        center = places(truth, voxels(truth) > 0).mean(axis=0)
        axis = breast(image(mamamia, n, 0), side).mean(axis=0)
        assert (center[0] > 0) == (side == "R")
        right, _, up = center - axis
        said = hours(row["Position"], side)
        if said:
            clocks += 1
            turn = np.exp(1j * np.array(said) / 6 * np.pi).mean()  # clockwise from 12
            drawn = np.exp(1j * np.arctan2(-right, up))  # the patient's right is the clock's left
            assert abs(np.degrees(np.angle(drawn / turn))) < 15
        elif "quadrant" in row["Position"]:
            assert ("upper" in row["Position"]) == (up > 0)
            assert ("outer" in row["Position"]) == ((right > 0) == (side == "R"))
        elif "subareolar" in row["Position"]:
            assert np.hypot(right, up) < 12
    assert clocks >= 6


def test_the_texts_take_many_forms(mamamia: Path) -> None:
    forms = {re.sub(r"\d+|^[LR]", "#", p) for p in clinical(mamamia)["Position"]}
    assert len(forms) >= 8
    assert any("quadrant" in form for form in forms)


def test_a_tumor_is_dim_before_contrast_and_the_brightest_breast_tissue_after(
    mamamia: Path,
) -> None:
    for n in range(1, CASES + 1):
        inside = voxels(mask(mamamia, n)) > 0
        before, after, later = (voxels(image(mamamia, n, k)) for k in range(3))
        assert before[inside].mean() < 100 < 240 < after[inside].mean()
        assert later[inside].mean() < after[inside].mean() - 15
        spread = ndimage.binary_dilation(inside, iterations=3) & ~inside
        assert after[inside].min() > after[spread].max() + 50


def test_several_tumors_are_there_exactly_where_the_sheets_say_multifocal(mamamia: Path) -> None:
    info = pd.read_excel(mamamia / "clinical_and_imaging_info.xlsx").set_index("patient_id")
    said = clinical(mamamia)["Multicentric/Multifocal"].astype(int).tolist()
    assert set(said) == {0, 1}
    for n, several in enumerate(said, start=1):
        _, count = ndimage.label(voxels(mask(mamamia, n)), np.ones((3, 3, 3)))
        assert count == 1 + several
        assert info.loc[f"DUKE_{n:03d}", "multifocal_cancer"] == several


def test_the_other_breast_enhances_in_bilateral_cancer_alone_and_is_not_annotated(
    mamamia: Path,
) -> None:
    for n, (_, row) in enumerate(clinical(mamamia).iterrows(), start=1):
        after = image(mamamia, n, 1)
        bright = places(after, voxels(after) > 200)
        bright = bright[bright[:, 1] > -40]  # not the heart
        other = bright[:, 0] > 0 if side_of(row) == "L" else bright[:, 0] < 0
        assert other.any() == (row["Bilateral Information"] == 1)


def test_bilateral_cancer_may_be_located_on_the_side_that_is_not_annotated() -> None:
    drawn = [draw_patient(np.random.default_rng(seed), 5) for seed in range(20)]
    assert all(patient.bilateral for patient in drawn)
    assert {patient.location == patient.side for patient in drawn} == {True, False}
    assert {patient.position[0] == patient.side for patient in drawn} == {True, False}


def test_the_splits_part_the_patients(mamamia: Path) -> None:
    table = pd.read_csv(mamamia / "train_test_splits.csv")
    assert list(table) == ["train_split", "test_split"]
    train, test = (table[column].dropna().tolist() for column in table)
    assert sorted(train + test) == [f"DUKE_{n:03d}" for n in range(1, CASES + 1)]
    assert len(test) == CASES // 4


def test_both_sheets_speak_of_the_same_patients(mamamia: Path) -> None:
    info = pd.read_excel(mamamia / "clinical_and_imaging_info.xlsx", sheet_name="dataset_info")
    assert info["dataset"].tolist() == ["DUKE"] * CASES + ["ISPY1"]
    rows = clinical(mamamia)
    subtypes = {0: "luminal", 1: "her2_enriched", 2: "her2_pure", 3: "triple_negative"}
    assert info["tumor_subtype"].tolist()[:-1] == [subtypes[c] for c in rows["Mol Subtype"]]
    grades = {1: "low", 2: "intermediate", 3: "high", "": None}
    told = [g if isinstance(g, str) else None for g in info["nottingham_grade"]]
    assert told[:-1] == [grades[g] for g in rows["Nottingham grade"]]


def test_every_fourth_patients_side_is_not_collected(mamamia: Path) -> None:
    rows = clinical(mamamia)
    for n, (_, row) in enumerate(rows.iterrows(), start=1):
        assert (row["Tumor Location"] == "") == (n % 4 == 0)
        assert (row["Bilateral Information"] == "NC") == (n % 4 == 0)


@pytest.mark.real_data
def test_the_sheets_columns_are_some_of_the_real_ones_in_their_order(
    mamamia: Path, real_data: Path
) -> None:
    for name, rows in (
        ("Clinical_and_Other_Features.xlsx", 3),
        ("clinical_and_imaging_info.xlsx", 1),
    ):
        headers = []
        for folder in (mamamia, real_data / "duke_tables"):
            book = openpyxl.load_workbook(folder / name, read_only=True)
            lines = list(book.worksheets[0].iter_rows(max_row=rows, values_only=True))
            groups = pd.Series(lines[0]).ffill()
            names_and_legends = zip(groups, *lines[1:], strict=True)
            headers.append((book.sheetnames, list(names_and_legends)))
        (our_titles, ours), (real_titles, real) = headers
        assert our_titles == real_titles
        assert ours == [column for column in real if column in ours]
