"""What the layouts of all datasets share, on trees of no dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from datamodules.files.layouts import (
    Layout,
    LayoutSpec,
    TableNames,
    find_layout,
    images_of,
    index_images,
    make_records,
    read_keys,
    read_tables,
    split_by_lists,
)
from datamodules.files.named_tables import named_table, plain_stem
from tests.datamodules.trees import write_table
from textseg.errors import UserError
from textseg.tables import Caption

LAYOUTS = {
    "flat": LayoutSpec(bases=("", "set"), splits=(("",), (), ()), folders=(("a", "b"),)),
    "divided": LayoutSpec(
        bases=("",), splits=(("Tr",), ("Va",), ("Te",)), folders=(("a", "b"), ("c", "d"))
    ),
}
TABLES = TableNames(
    splits={"train": ("tr", "train"), "val": ("va",), "test": ("te",)},
    joint=("all",),
    needed=("train", "test"),
    remedy="fetch them",
)
ROWS = [("one.png", "left"), ("two.png", "right")]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(file)


def find(root: Path, layout: str = "auto") -> Layout:
    return find_layout(root, layout, specs=LAYOUTS, dataset="Phantoms")


def flat(root: Path) -> Layout:
    touch(root / "a/one.png", root / "b/one.png")
    return find(root)


def divided(root: Path) -> Layout:
    for split in ("Tr", "Te"):
        touch(root / split / "c/one.png", root / split / "d/one.png")
    return find(root)


# --- trees


def test_a_tree_is_found_with_the_splits_it_has(tmp_path: Path) -> None:
    layout = divided(tmp_path)
    assert (layout.name, set(layout.splits)) == ("divided", {"train", "test"})
    assert layout.splits["test"].masks == tmp_path / "Te/d"


def test_a_base_may_lie_further_in(tmp_path: Path) -> None:
    touch(tmp_path / "set/a/one.png", tmp_path / "set/b/one.png")
    layout = find(tmp_path)
    assert (layout.base, layout.splits["train"].images) == (tmp_path / "set", tmp_path / "set/a")


def test_an_image_folder_without_its_mask_folder_is_no_tree(tmp_path: Path) -> None:
    touch(tmp_path / "a/one.png", tmp_path / "d/one.png")
    with pytest.raises(UserError, match=r"flat: \[set/\]\{a\+b\}; divided: \{Tr\}/\{a\+b or c\+d"):
        find(tmp_path)


def test_a_layout_that_was_asked_for_is_the_only_one_tried(tmp_path: Path) -> None:
    flat(tmp_path)
    assert find(tmp_path, "flat").name == "flat"
    with pytest.raises(UserError, match=r"no Phantoms images .*layout=divided") as error:
        find(tmp_path, "divided")
    assert "flat" not in str(error.value)


def test_the_first_of_two_spellings_of_an_image_counts(tmp_path: Path) -> None:
    touch(tmp_path / "ONE.png", tmp_path / "one.png", tmp_path / "mask_two.jpg")
    (tmp_path / "notes.txt").touch()
    assert index_images(tmp_path) == {
        "one": tmp_path / "ONE.png",
        "two": tmp_path / "mask_two.jpg",
    }


def test_all_images_are_those_of_every_split(tmp_path: Path) -> None:
    layout = divided(tmp_path)
    touch(tmp_path / "Te/c/two.png")
    assert images_of(layout) == [
        tmp_path / path for path in ("Tr/c/one.png", "Te/c/one.png", "Te/c/two.png")
    ]


# --- records


def test_a_row_finds_image_and_mask_by_name_and_never_by_order(tmp_path: Path) -> None:
    layout = flat(tmp_path)
    touch(*(tmp_path / f for f in ("a/x.png", "b/mask_X.PNG", "a/y.png", "b/w.png", "b/y.png")))
    captions = [Caption("sub\\x.png", "left", 3)]
    [record] = make_records(
        captions, layout, ("train",), mask_prefix="mask_", case_id=lambda name: name[:1]
    )
    assert (record.image, record.mask) == (tmp_path / "a/x.png", tmp_path / "b/mask_X.PNG")
    assert (record.text, record.case, record.case_id, record.row) == ("left", "x__3", "s", 3)


@pytest.mark.parametrize("name", ["New_1.png", "mask_New_1.PNG", "a/Mask_New_1", "c\\New_1.tif"])
def test_a_missing_file_is_expected_under_the_tables_spelling(tmp_path: Path, name: str) -> None:
    captions = [Caption(name, "left", 0)]
    [record] = make_records(captions, flat(tmp_path), ("train",), mask_prefix="mask_", case_id=str)
    assert record.image == tmp_path / "a/New_1.png"
    assert record.mask == tmp_path / "b/mask_New_1.png"


def test_the_likeliest_split_is_searched_first(tmp_path: Path) -> None:
    layout = divided(tmp_path)
    touch(tmp_path / "Te/c/two.png")
    captions = [Caption("one.png", "left", 0), Caption("two.png", "left", 0)]
    one, two = make_records(captions, layout, ("train", "val", "test"), mask_prefix="", case_id=str)
    assert one.image == tmp_path / "Tr/c/one.png"
    assert (two.image, two.mask) == (tmp_path / "Te/c/two.png", tmp_path / "Tr/d/two.png")


# --- tables


@pytest.mark.parametrize(
    ("stem", "plain"),
    [
        ("Train_text_MosMedData+ 1(in)", "train_text_mosmeddata"),
        ("Train_text_MosMedData+ 1", "train_text_mosmeddata"),
        ("Test_text_MosMedData+(in)", "test_text_mosmeddata"),
        ("Test_text_MosMedData+", "test_text_mosmeddata"),
        ("Test_text_MosMedData_ (1)", "test_text_mosmeddata"),
        ("Train_text_for_Covid19", "train_text_for_covid19"),
        ("Train_ID", "train_id"),
        ("train 2", "train"),
    ],
)
def test_what_downloads_add_to_a_name_is_dropped(stem: str, plain: str) -> None:
    assert plain_stem(stem) == plain


def test_a_table_is_taken_by_name_before_folder_order_and_text_before_workbook(
    tmp_path: Path,
) -> None:
    for name in ("b/train.csv", "b/TR 1.xlsx", "b/tr 1(in).csv", "c/tr.csv", "b/~$tr.xlsx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / name for name in ("absent", "b", "c")]
    assert named_table(folders, ("tr", "train")) == tmp_path / "b/tr 1(in).csv"
    assert named_table(folders, ("other",)) is None


@pytest.mark.parametrize(
    ("exact", "copy"),
    [
        ("train.csv", "train (1).csv"),
        ("train.csv", "Train 2.CSV"),
        ("te+.xlsx", "te+ 1.xlsx"),
    ],
)
def test_a_second_copy_of_a_table_never_silently_wins(
    tmp_path: Path, exact: str, copy: str
) -> None:
    stem = plain_stem(Path(exact).stem)
    (tmp_path / exact).write_bytes(b"same")
    (tmp_path / copy).write_bytes(b"same")
    assert named_table([tmp_path], (stem,)) == tmp_path / exact
    (tmp_path / copy).write_bytes(b"else")
    with pytest.raises(UserError, match=r"which differ.*\nremove one") as error:
        named_table([tmp_path], (stem,))
    assert repr(exact) in str(error.value)
    assert repr(copy) in str(error.value)


def test_a_table_that_names_no_file_is_answered_with_its_row(tmp_path: Path) -> None:
    layout = flat(tmp_path)
    write_table(tmp_path / "te.csv", ROWS)
    # With mask_ and .png around it, the second is a byte too long for a mask's name.
    for name, good in (("n" * 246, True), ("n" * 247, False), ("é" * 124, False)):
        write_table(tmp_path / "tr.csv", [ROWS[0], (name, "left")])
        if good:
            tables = read_tables(tmp_path, layout, None, TABLES)
            [record] = make_records(
                tables["train"][1:], layout, ("train",), mask_prefix="mask_", case_id=str
            )
            assert not record.image.is_file()
            assert record.mask is not None
            assert not record.mask.is_file()
            continue
        with pytest.raises(UserError, match=r"tr\.csv, row 3 .*too many for a file's name\nhave"):
            read_tables(tmp_path, layout, None, TABLES)


def test_a_row_outside_root_is_named_by_its_line_after_empty_ones(tmp_path: Path) -> None:
    layout = flat(tmp_path)
    write_table(tmp_path / "te.csv", ROWS)
    (tmp_path / "tr.csv").write_text("Image,text\n\none.png,left\n,\n../x.png,left\n")
    with pytest.raises(UserError, match=r"tr\.csv, row 5 .*'\.\./x\.png' lies outside"):
        read_tables(tmp_path, layout, None, TABLES)


def test_a_splits_own_folder_may_hold_its_table_under_any_name_in_text(tmp_path: Path) -> None:
    layout = divided(tmp_path)
    write_table(tmp_path / "Tr/Text/whatever.xlsx", ROWS)
    (tmp_path / "Tr/Text/~$whatever.xlsx").touch()  # as Excel leaves while it has the file open
    write_table(tmp_path / "Tr/Text/train_ID.csv", [("one.png",)], ("Image",))
    write_table(tmp_path / "Te/text_alpha.csv", ROWS[:1])
    tables = read_tables(tmp_path, layout, None, TABLES)
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 2, "test": 1}


def test_a_flat_trees_lone_table_is_not_taken_for_a_splits(tmp_path: Path) -> None:
    layout = flat(tmp_path)
    write_table(tmp_path / "Text/whatever.csv", ROWS)
    with pytest.raises(UserError, match=r"no train captions in .* for tr, train, all .*\nfetch"):
        read_tables(tmp_path, layout, None, TABLES)


def test_a_joint_table_stands_in_for_missing_ones(tmp_path: Path) -> None:
    layout = flat(tmp_path)
    rows = [("one.png", "left", "train"), ("two.png", "right", "test")]
    write_table(tmp_path / "prompt/all.csv", rows, ("Image", "text", "split"))
    tables = read_tables(tmp_path, layout, None, TABLES)
    assert {split: rows[0].name for split, rows in tables.items()} == {
        "train": "one.png",
        "test": "two.png",
    }
    write_table(tmp_path / "prompt/all.csv", rows[:1], ("Image", "text", "split"))
    with pytest.raises(UserError, match="does not say which rows are train and test"):
        read_tables(tmp_path, layout, None, TABLES)


# --- lists


def test_rows_go_where_the_one_list_that_names_them_says() -> None:
    pool = [Caption(name, text, row) for row, (name, text) in enumerate(ROWS)]
    lists = {"train": {"two"}, "val": {"one"}, "test": set()}
    parts = split_by_lists(pool, lists, split="lists", remedy="mend them")
    assert parts == {"train": [pool[1]], "val": [pool[0]], "test": []}
    for wrong in ({"two"}, {"one", "two"}):
        with pytest.raises(UserError, match=r"split=lists: 1 captions .*\nmend them"):
            split_by_lists(
                pool, {"train": wrong, "val": wrong & {"one"}}, split="lists", remedy="mend them"
            )


def test_a_list_names_its_images_under_any_of_the_accepted_columns(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    write_table(file, [("x/mask_One.png", "m.png")], ("original_image_filename", "mask_filename"))
    assert read_keys(file) == {"one"}
    write_table(file, [("one.png",)], ("picture",))
    with pytest.raises(UserError, match=r"list\.csv .*picture\n.*original_image_fil"):
        read_keys(file)
    write_table(file, [], ("Image",))
    with pytest.raises(UserError, match=r"list\.csv has no rows"):
        read_keys(file)
