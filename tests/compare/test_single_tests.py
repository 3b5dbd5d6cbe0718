"""Folders of single tests, which settle captions and data, in comparisons and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare.quick import quality, quick
from tests.run_folder import time_stamp, write_run, write_test
from textseg.compare.load import check_test_chosen
from textseg.errors import UserError
from textseg.report import report


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"captions": "shuffled"}, "captions='shuffled'"),
        ({"data": "zz"}, "data='zz'"),
        ({"captions": "empty", "data": "test"}, "captions='empty'"),
    ],
)
def test_captions_and_data_beside_folders_of_tests_are_refused(
    tmp_path: Path, given: dict[str, str], named: str
) -> None:
    run = write_run(tmp_path / "lsms" / time_stamp(1), quality(0.8))
    write_test(run / "test/empty", quality(0.7))
    tests = [str(run / "test/true"), str(run / "test/empty")]
    with pytest.raises(UserError, match=named):
        quick(tests, **given)
    with pytest.raises(UserError, match=named):
        report(tests[:1], **given)  # type: ignore[arg-type]


def test_captions_and_data_that_name_the_test_itself_are_taken(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lsms" / time_stamp(1), quality(0.8), test="test_on_x/empty")
    test = run / "test_on_x/empty"
    for data in ("x", "test_on_x"):
        check_test_chosen(test, "empty", data)
    check_test_chosen(test, "true", None)


def test_captions_are_of_the_run_beside_the_folder_of_a_test(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lsms" / time_stamp(1), quality(0.8))
    write_test(run / "test/empty", quality(0.7))
    other = write_run(tmp_path / "unet" / time_stamp(1), quality(0.6), test="test/shuffled")
    found = quick([str(run / "test/empty"), str(other)], captions="shuffled")
    assert [Path(one).parts[-2:] for m in found.methods for one in m.runs] == [
        ("test", "empty"),
        ("test", "shuffled"),
    ]
