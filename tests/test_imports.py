"""Who may import whom: the one-way imports of the suite, read from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import textseg.models
from tests.house import PACKAGES, arrows, circle, imported, lines, module_name
from tests.models.tiny import PUBLIC

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "lightning_cli.py",
    *(f for p in PACKAGES for f in sorted((ROOT / p).rglob("*.py"))),
]

# A third-party package -> the only modules that may import it.
CONFINED = {
    "timm": {f"textseg.encoders.{m}" for m in ("image", "timm_source")},
    "safetensors": {"textseg.encoders.weights"},
    "transformers": {"textseg.encoders.pretrained"},
    "tokenizers": {
        *(f"textseg.encoders.{m}" for m in ("pretrained", "ready", "text")),
        *(f"textseg.encoders.{m}" for m in ("unknown_words", "vocabulary")),
        "textseg.export.run",  # is copied beside an export, and imports nothing of textseg
    },
    **{name: {"textseg.demo.page"} for name in ("gradio", "fastapi")},  # optional packages
    "uvicorn": {"textseg.demo.server"},  # comes with gradio
    "onnxruntime": {"textseg.export.run"},  # an optional package, which segment loads by name
    "albumentations": {"datamodules.transforms"},
    "wandb": {f"textseg.callbacks.{m}" for m in ("sample_tables", "wandb_offline")},
    "jinja2": {"textseg.report.page"},
    "wandb_workspaces": {"textseg.report.dashboard"},
    "segmentation_models_pytorch": {"textseg.models.baseline", "textseg.losses"},
    "matplotlib": {"textseg.report.plots"},
    "nibabel": {
        f"datamodules.{m}" for m in ("files.volumes", "files.nifti", "duke_breast_mri.phantoms")
    },
    "pydicom": {f"datamodules.files.{m}" for m in ("dicom", "dicom_seg")},
}
# Modules of textseg, from those that all may import to those that none of the others may. A name
# that is not here, such as cli, belongs to the last layer.
LAYERS = [
    {"batch", "errors", "limits", "output"},
    {"preprocess", "tables"},
    {"layers", "losses", "metrics", "optim", "visualize", "checkpoint", "explain"},
    {"encoders"},
    {"backbone"},
    {"models"},
    {"runs", "callbacks", "training"},
    {"compare", "probe", "segment", "benchmark", "calibrate"},
    {"report", "export"},
    {"card"},
]
DATAMODULES_MAY_USE = {
    f"textseg.{m}" for m in ("batch", "errors", "limits", "output", "preprocess", "tables")
}


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def layer_of(name: str) -> int:
    part = name.split(".")[1] if "." in name else ""
    if part == "__version__":
        return 0
    return next((i for i, names in enumerate(LAYERS) if part in names), len(LAYERS))


IMPORTS = {module_name(file, ROOT): sorted(set(imported(file, ROOT))) for file in FILES}


def test_the_reader_of_imports_sees_through_functions_and_relative_names(tmp_path: Path) -> None:
    assert "monai.metrics.utils.get_mask_edges" in IMPORTS["textseg.metrics.case_table"], (
        "in a function"
    )
    assert "timm" in IMPORTS["textseg.encoders.image"]
    assert "textseg.encoders.Normalize" in IMPORTS["textseg.models.lsms.encoder"]


@pytest.mark.parametrize("package", CONFINED)
def test_a_heavy_package_is_imported_only_where_it_is_confined(package: str) -> None:
    users = {m for m, names in IMPORTS.items() if any(within(n, package) for n in names)}
    assert users <= CONFINED[package]


def test_textseg_never_imports_datamodules_or_the_command_line() -> None:
    wrong = {
        m: [n for n in names if within(n, "datamodules") or within(n, "lightning_cli")]
        for m, names in IMPORTS.items()
        if within(m, "textseg")
    }
    assert {m: names for m, names in wrong.items() if names} == {}


def test_datamodules_import_from_textseg_only_its_vocabulary() -> None:
    wrong = {
        m: [
            n
            for n in names
            if (within(n, "textseg") and not any(within(n, ok) for ok in DATAMODULES_MAY_USE))
            or within(n, "lightning_cli")
        ]
        for m, names in IMPORTS.items()
        if within(m, "datamodules")
    }
    assert {m: names for m, names in wrong.items() if names} == {}


@pytest.mark.parametrize("module", [m for m in IMPORTS if within(m, "textseg") and m != "textseg"])
def test_a_module_imports_from_its_own_layer_or_from_below(module: str) -> None:
    own = layer_of(module)
    above = [n for n in IMPORTS[module] if within(n, "textseg") and layer_of(n) > own]
    assert above == []


@pytest.mark.parametrize(("package", "most"), [("datamodules", 17), ("textseg", 30)])
def test_a_package_is_few_rooms_without_a_circle(package: str, most: int) -> None:
    rooms = arrows(package, ROOT)
    assert len(rooms) <= most
    assert circle(rooms) == []


def test_a_circle_of_imports_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b"}, "b": set()}) == []


def test_the_file_that_joins_the_packages_is_short() -> None:
    assert lines(ROOT / "lightning_cli.py") <= 100


def home_of(network: str) -> str:
    """The file or folder of textseg/models that a network is in."""
    return getattr(textseg.models, network).__module__.split(".")[2]


def test_networks_do_not_import_each_other_and_nothing_beside_them_imports_one() -> None:
    networks = set(map(home_of, PUBLIC))
    for module, names in IMPORTS.items():
        own = module.split(".")[2:3]
        if module.startswith("textseg.models."):
            others = {n.split(".")[2] for n in names if n.startswith("textseg.models.")}
            assert others & networks <= {*own}, module


def test_importing_textseg_imports_neither_torch_nor_lightning() -> None:
    code = "import sys, textseg; print(sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = set(ast.literal_eval(found))
    assert "textseg" in loaded
    assert not loaded & {"torch", "lightning", "numpy", "timm", "transformers", "datamodules"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_network_says_what_is_the_papers_and_what_is_ours(name: str) -> None:
    text = importlib.import_module(f"textseg.models.{home_of(name)}").__doc__ or ""
    if name != "ImageBaseline":  # segmentation-models-pytorch's, which rebuild no paper here
        assert re.search(r"^From (the|its) [\w ]+:\n(.|\n)+^Our choice:\n", text, re.MULTILINE)
