"""A key that stands twice in YAML is refused wherever YAML is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cli import main
from textseg.cli.messages import config_files, user_error
from textseg.cli.parser import CommandParser
from textseg.cli.yaml_keys import RepeatedKey
from textseg.runs.repeated_keys import check_keys


class Net:
    """A class that a config names."""

    def __init__(self, size: int = 1, labels: dict[str, int] | str | None = None) -> None: ...


def parser() -> CommandParser:
    parser = CommandParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Net, "model")
    parser.add_class_arguments(Net, "plain")
    parser.add_argument("--labels", type=dict[str, int] | str | None)
    return parser


def cause_of(*words: str) -> str:
    with pytest.raises(RepeatedKey) as refused:
        parser().parse_args(list(words))
    error = user_error(refused.value)
    assert error is not None
    return str(error).partition("\n")[0]


TWICE = "# An experiment.\nplain: {size: 1}\nplain: {size: 2}\n"


@pytest.mark.parametrize("name", ["a.yaml", "a.YAML", "a.txt", "a.json", "a"])
def test_a_config_of_any_suffix_is_refused_with_file_and_lines(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(TWICE)
    words = ["--config", str(tmp_path / name)]
    assert f"{name}, line 3: plain is there already, in line 2" in cause_of(*words)
    with pytest.raises(SystemExit):  # before any parser, also of commands that read data alone
        main(["data", "prepare", *words])
    assert f"{tmp_path / name}, line 3: plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--plain", "{size: 1, size: 2}"),
        ("--plain.labels", "{size: 1, size: 2}"),
        ("--labels", "{size: 1, size: 2}"),
        ("--labels={size: 1, size: 2}",),
        ("--config", "{plain: {size: 1, size: 2}}"),
        ("--model=Net", "--model.labels", "{size: 1, size: 2}"),
    ],
)
def test_a_typed_value_is_refused_also_where_any_text_would_do(words: tuple[str, ...]) -> None:
    assert "size is there already" in cause_of(*words)


def test_the_file_of_a_section_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub.yaml").write_text("class_path: Net\ninit_args: {size: 1, size: 2}\n")
    (tmp_path / "a.yaml").write_text("model: sub.yaml\n")
    for words in (("--model", "sub.yaml"), ("--config", "a.yaml")):
        given = (words[0], str(tmp_path / words[1]))
        assert "line 2: size is there already, in line 2" in cause_of(*given)


def test_what_is_no_repetition_is_read() -> None:
    check_keys("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [{b: 1}, {b: 2}]\n")
    check_keys("a: [1\nb: }")  # no YAML: the parser says so
    given = parser().parse_args(["--labels", "{a: 1, b: 1}", "--plain.labels", "a: b: c"])
    assert given.labels == {"a": 1, "b": 1}
    assert given.plain.labels == "a: b: c"


def test_config_files_are_found_whatever_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    words = ["--config", str(tmp_path / "a.txt"), "--trainer", "{a: 1}" * 1000, "--data", "Net"]
    assert config_files(words) == [tmp_path / "a.txt"]
