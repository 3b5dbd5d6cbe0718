from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from datamodules.duke_breast_mri.sheets import (
    Box,
    Findings,
    joined,
    patient_number,
    read_boxes,
    read_clinical,
    read_mamamia,
    read_phases,
    series_key,
)
from tests.datamodules.duke_files import (
    Patient,
    clinical_row,
    write_book,
    write_boxes,
    write_clinical_rows,
    write_info,
)
from textseg.errors import UserError


def clinical(file: Path, *rows: list[object]) -> dict[int, Findings]:
    write_clinical_rows(file, rows)
    return read_clinical(file)


# --- names


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Breast_MRI_042", 42),
        ("BreastMRI042", 42),
        ("DUKE_042", 42),
        ("duke_922", 922),
        ("ISPY1_1001", None),
        ("manifest-1654812109500", None),
    ],
)
def test_both_releases_name_a_patient_by_the_same_number(name: str, number: int | None) -> None:
    assert patient_number(name) == number


# --- the clinical sheet


def test_codes_of_missing_values_are_not_taken_for_values(tmp_path: Path) -> None:
    row = clinical_row(
        "Breast_MRI_001",
        Nottingham_grade="NA",
        Mol_Subtype="NC",
        Multicentric="NP",
        Position="R",
        Tumor_Location="",
    )
    found = clinical(tmp_path / "c.xlsx", row)[1]
    assert found == Findings(position="R")


def test_columns_without_a_name_are_found_by_their_legend(tmp_path: Path) -> None:
    row = clinical_row(
        "Breast_MRI_002",
        Tumor_Location="R",
        Position="R 12, L",
        Bilateral=1,
        Side_Annotated="L",
        For_Other="L",
        other_grade=1,
        other_subtype=3,
    )
    found = clinical(tmp_path / "c.xlsx", row)[2]
    assert (found.location, found.annotated, found.other_side) == ("right", "left", "left")
    assert (found.subtype, found.grade) == ("luminal-like", 2)
    assert (found.other_subtype, found.other_grade) == ("triple-negative", 1)


def test_a_row_that_ends_early_has_empty_cells(tmp_path: Path) -> None:
    assert clinical(tmp_path / "c.xlsx", clinical_row("Breast_MRI_003")[:5])[3] == Findings(
        subtype="luminal-like", grade=2
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([clinical_row("Breast_MRI_001", Mol_Subtype=7)], r"row 4: 'mol subtype' is '7'"),
        ([clinical_row("Breast_MRI_001"), clinical_row("Breast_MRI_001")], "listed twice"),
        ([clinical_row("patient 1")], "'patient 1' is no patient"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(
    tmp_path: Path, rows: list[list[object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        clinical(tmp_path / "c.xlsx", *rows)


def test_a_workbook_without_the_expected_sheet_names_those_it_has(tmp_path: Path) -> None:
    file = tmp_path / "c.xlsx"
    write_clinical_rows(file, [clinical_row("Breast_MRI_001")], sheet="Tabelle1")
    with pytest.raises(UserError, match=r"sheets 'Tabelle1', 'Legend'; 'Data' is expected"):
        read_clinical(file)


def test_a_sheet_without_its_header_rows_says_so(tmp_path: Path) -> None:
    write_book(tmp_path / "c.xlsx", {"Data": [["Breast_MRI_001", 1], ["Breast_MRI_002", 0]]})
    with pytest.raises(UserError, match="'Patient ID'"):
        read_clinical(tmp_path / "c.xlsx")


def test_a_workbook_with_a_damaged_sheet_says_so(tmp_path: Path) -> None:
    file = tmp_path / "c.xlsx"
    write_clinical_rows(file, [clinical_row(f"Breast_MRI_{n:03d}") for n in range(1, 200)])
    with zipfile.ZipFile(file) as book:
        start = book.getinfo("xl/worksheets/sheet1.xml").header_offset + 400
    damaged = bytearray(file.read_bytes())
    damaged[start : start + 200] = bytes(200)
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"c\.xlsx cannot be read"):
        read_clinical(file)


# --- MAMA-MIA's sheet


def test_only_duke_patients_are_read_from_mamamia(tmp_path: Path) -> None:
    write_info(tmp_path / "i.xlsx", [Patient(1), Patient(5)])
    found = read_mamamia(tmp_path / "i.xlsx")
    assert found == {
        n: Findings(bilateral=False, multifocal=True, subtype="triple-negative", grade=3)
        for n in (1, 5)
    }


def test_mamamia_fills_only_what_tcia_leaves_open() -> None:
    tcia = Findings(position="L 2", subtype="luminal-like", multifocal=False)
    mamamia = Findings(bilateral=True, multifocal=True, subtype="luminal A", grade=3)
    assert joined(tcia, mamamia) == Findings(
        position="L 2", bilateral=True, multifocal=False, subtype="luminal-like", grade=3
    )


# --- boxes


def test_boxes_are_the_same_from_csv_and_workbook(tmp_path: Path) -> None:
    write_boxes(tmp_path / "b.xlsx", [Patient(7)])
    pd.read_excel(tmp_path / "b.xlsx").to_csv(tmp_path / "b.csv", index=False, sep=";")
    boxes = read_boxes(tmp_path / "b.xlsx")
    assert boxes == read_boxes(tmp_path / "b.csv")
    # rows run to posterior and columns to the left: 20 - 16 and 24 - 7
    assert boxes == {7: Box(4, 8, 17, 20, 3, 6)}


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_wrong_box_after_an_empty_row_is_named_by_its_place_in_the_file(
    tmp_path: Path, suffix: str
) -> None:
    write_boxes(tmp_path / "b.xlsx", [Patient(7), Patient(8)])
    table = pd.read_excel(tmp_path / "b.xlsx", dtype=str, keep_default_na=False)
    table.loc[1, "End Row"] = "wide"
    blank = pd.DataFrame([[""] * len(table.columns)], columns=table.columns)
    spaced = pd.concat([table[:1], blank, table[1:]])
    file = tmp_path / f"spaced{suffix}"
    spaced.to_csv(file, index=False) if suffix == ".csv" else spaced.to_excel(file, index=False)
    with pytest.raises(UserError, match="row 4"):
        read_boxes(file)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["Breast_MRI_001", 5, 5, 1, 2, 1, 2], "begins at 5 and ends at 5"),
        (["Breast_MRI_001", 5, "x", 1, 2, 1, 2], "write whole numbers"),
    ],
)
def test_an_impossible_box_is_an_error(tmp_path: Path, cells: list[object], message: str) -> None:
    header: list[object] = ["Patient ID"]
    header += [f"{e} {a}" for a in ("Row", "Column", "Slice") for e in ("Start", "End")]
    write_book(tmp_path / "b.xlsx", {"Sheet1": [header, cells]})
    with pytest.raises(UserError, match=message):
        read_boxes(tmp_path / "b.xlsx")


# --- the mapping sheet


def mapping(file: Path, *rows: list[object]) -> dict[str, str]:
    header: list[object] = ["original_path_and_filename", "classic_path", "descriptive_path"]
    write_book(file, {"Sheet1": [header, *rows]})
    return read_phases(file)


@pytest.mark.parametrize(
    ("classic", "descriptive"),
    [
        ("D/Breast_MRI_003/1.2/1.2.3/1-01.dcm", "D/Breast_MRI_003/MRI-1/2.0-Ph1ax dyn-3/1-01.dcm"),
        ("D/Breast_MRI_003//1.2/1.2.3//1-001.dcm", "D//BreastMRI003/MRI-1/2.0-Ph1/ax dyn-3//1.dcm"),
    ],
)
def test_the_mapping_sheets_faults_do_not_hide_a_series(
    tmp_path: Path, classic: str, descriptive: str
) -> None:
    original = "DICOM_Images/Breast_MRI_003/post_1/Breast_MRI_003_post_1_0001.dcm"
    phases = mapping(tmp_path / "m.xlsx", [original, classic, descriptive])
    assert phases == {
        series_key(3, "1.2/1.2.3"): "post_1",
        series_key(3, "MRI-1/2.0-Ph1ax dyn-3"): "post_1",
    }


def test_the_mapping_may_be_saved_as_csv(tmp_path: Path) -> None:
    rows = ["original_path_and_filename,classic_path,descriptive_path"]
    rows += ["DICOM_Images/Breast_MRI_003/T1/a_01.dcm,D/Breast_MRI_003/1/2/1-01.dcm,"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    assert read_phases(tmp_path / "m.csv") == {series_key(3, "1/2"): "T1"}


def test_a_series_that_the_mapping_gives_two_phases_is_none_of_them(tmp_path: Path) -> None:
    phases = mapping(
        tmp_path / "m.xlsx",
        ["DICOM_Images/Breast_MRI_003/pre/a.dcm", "D/Breast_MRI_003/1.2/1.2.3/1-01.dcm", ""],
        ["DICOM_Images/Breast_MRI_003/post_1/b.dcm", "D/Breast_MRI_003/1.2/1.2.3/1-02.dcm", ""],
    )
    assert phases == {series_key(3, "1.2/1.2.3"): "mixed"}


def test_a_mapping_without_phases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no series"):
        mapping(tmp_path / "m.xlsx", ["a/b.dcm", "D/Breast_MRI_003/1/2/1-01.dcm", ""])


# --- real sheets


@pytest.mark.slow
@pytest.mark.real_data
def test_every_real_clinical_row_is_read_as_pandas_reads_it(real_data: Path) -> None:
    file = real_data / "duke_tables" / "Clinical_and_Other_Features.xlsx"
    found = read_clinical(file)
    table = pd.read_excel(
        file, sheet_name="Data", header=1, skiprows=[2], keep_default_na=False, dtype=str
    )
    assert sorted(found) == list(range(1, 923)) == [int(p[-3:]) for p in table["Patient ID"]]
    letters = {"left": "L", "right": "R", "": ""}
    assert [letters[f.location] for f in found.values()] == table["Tumor Location"].tolist()
    assert [f.position for f in found.values()] == table["Position"].str.strip().tolist()
    grades = table["Nottingham grade"].replace("NA", "")
    assert [str(f.grade or "") for f in found.values()] == grades.tolist()
    assert [str(int(bool(f.multifocal))) for f in found.values()] == (
        table["Multicentric/Multifocal"].tolist()
    )
    assert sum(f.location != "" for f in found.values()) == 651
    assert sum(f.grade is not None for f in found.values()) == 638
    assert sum(bool(f.bilateral) for f in found.values()) == 28
    annotated = Counter(f.annotated for f in found.values() if f.bilateral)
    assert annotated == {"left": 16, "right": 12}
    assert Counter(f.subtype for f in found.values()) == {
        "luminal-like": 595,
        "triple-negative": 164,
        "hormone-receptor-positive, HER2-positive": 104,
        "HER2-positive": 59,
    }


@pytest.mark.real_data
def test_real_mamamia_findings_agree_with_tcias_for_every_common_patient(real_data: Path) -> None:
    tables = real_data / "duke_tables"
    tcia = read_clinical(tables / "Clinical_and_Other_Features.xlsx")
    mamamia = read_mamamia(tables / "clinical_and_imaging_info.xlsx")
    assert len(mamamia) == 291
    for number, findings in mamamia.items():
        for field in ("subtype", "grade", "multifocal", "bilateral"):
            here, there = getattr(findings, field), getattr(tcia[number], field)
            assert here == there or not here or there is None, (number, field)


@pytest.mark.real_data
def test_all_real_boxes_are_read(real_data: Path) -> None:
    boxes = read_boxes(real_data / "duke_tables" / "Annotation_Boxes.xlsx")
    assert boxes == read_boxes(real_data / "duke_tables" / "Annotation_Boxes.csv")
    assert len(boxes) == 922
    assert boxes[1] == Box(234, 271, 308, 341, 89, 112)
