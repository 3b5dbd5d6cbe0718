"""What a `textseg segment` that was ended leaves to the next one."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from textseg.segment.rows import Row
from textseg.segment.written import left_of

KINDS = ("masks", "overlays")


def test_batches_are_those_of_a_command_that_was_not_ended(tmp_path: Path) -> None:
    rows = [Row(Path("x.png"), None, f"x__{number}", "") for number in range(7)]
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        for row in rows[:4]:
            Image.new("L", (2, 2)).save(tmp_path / kind / f"{row.case}.png")
    assert left_of(rows, tmp_path, KINDS, 2) == rows[4:]
    assert left_of(rows, tmp_path, KINDS, 3) == rows[3:], "the fourth again, with its neighbors"
    (tmp_path / "overlays/x__0.png").write_bytes(b"cut")
    assert left_of(rows, tmp_path, KINDS, 1) == [rows[0], *rows[4:]]
