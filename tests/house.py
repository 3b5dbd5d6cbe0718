"""The structure of the two packages, counted: `python -m tests.house [CHECKOUT]`.

An entry is a module or a folder directly below a package; an arrow is an import of one entry by
another, wherever it stands in a file; a floor is a step of the longest chain of imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("datamodules", "textseg")


def module_name(file: Path, root: Path) -> str:
    """The dotted name of a file below `root`."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, root: Path) -> Iterator[str]:
    """Full dotted names of everything a file imports, inside functions too."""
    name = module_name(file, root)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows(package: str, root: Path) -> dict[str, set[str]]:
    """Entry -> the other entries that it imports. The package's own `__init__` is none."""
    folder = root / package
    entries = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/*.py")}
    entries -= {"__init__", "__pycache__"}
    found: dict[str, set[str]] = {entry: set() for entry in sorted(entries)}
    for file in folder.rglob("*.py"):
        entry = file.relative_to(folder).with_suffix("").parts[0]
        if entry == "__init__":
            continue
        for name in imported(file, root):
            first, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if first == package and other in entries - {entry}:
                found[entry].add(other)
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Entries of a circle of imports; [] where there is none."""
    left = {entry: set(others) for entry, others in graph.items()}
    while free := [entry for entry, others in left.items() if not others & left.keys()]:
        for entry in free:
            del left[entry]
    return sorted(left)


def floors(graph: Mapping[str, set[str]]) -> int:
    """Length of the longest chain of imports, in entries; 0 where there is a circle."""
    if circle(graph):
        return 0

    @cache
    def height(entry: str) -> int:
        return 1 + max((height(other) for other in graph[entry]), default=0)

    return max(height(entry) for entry in graph)


def lines(*paths: Path) -> int:
    """Lines of the Python files at or below some paths."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*.py"))]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def main(root: Path) -> None:
    """Print the counts of a checkout."""
    for package in PACKAGES:
        graph = arrows(package, root)
        count = sum(map(len, graph.values()))
        ring = circle(graph)
        print(
            f"{package}: {len(graph)} entries, {floors(graph) or 'no'} floors, {count} arrows, "
            f"circle: {', '.join(ring) or 'none'}"
        )
    product = lines(root / "lightning_cli.py", *(root / package for package in PACKAGES))
    print(f"lightning_cli.py: {lines(root / 'lightning_cli.py')} lines")
    print(f"product: {product} lines, tests: {lines(root / 'tests')} lines", end="")
    print(f", experiments: {lines(root / 'experiments')} lines of Python")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
