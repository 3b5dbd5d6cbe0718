"""The function of `textseg card`; it imports torch only when called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.errors import UserError, refusing


def card(
    run: str,
    *,
    output: str = "card",
    license: str | None = None,
    data_license: str | None = None,
    data: str | None = None,
) -> Path:
    """Write a run as a folder for a model hub: weights, settings, tokenizer and a model card.

    Nothing is uploaded. `textseg.load` and `textseg segment --ckpt_path` read the folder. The card
    tells what was measured and what was not. It holds no names of cases or patients and no paths
    of this machine, but strata and warnings of the test stand in it as they are, and the vocabulary
    of a text encoder from scratch has the words of the training captions: read it before you
    publish it.

    Args:
        run: folder of a run, runs/<config>/<time>; its best checkpoint is taken.
        output: the folder; where it exists, <output>_2 and so on is taken.
        license: of the weights, by the hub's name, such as apache-2.0 or cc-by-nc-4.0.
        data_license: of the training data, in your words.
        data: a sentence on the data: where it is from, who collected it.

    Returns:
        the folder that was written.

    Raises:
        UserError: the run has no best checkpoint, or one of its files is broken.
    """
    from textseg.card.readme import Stated, readme
    from textseg.checkpoint import read_checkpoint, weights_digest
    from textseg.output import output_folder
    from textseg.runs import Run
    from textseg.segment.network import network_from

    home = Run(Path(run).expanduser().resolve())
    path = home.checkpoint()
    if not path.is_file():
        raise UserError(f"{run} has no {path.relative_to(home.folder)}", "give a finished run")
    checkpoint = read_checkpoint(path)
    network = network_from(checkpoint, path)  # refuses what could not be read back
    class_path = f"{type(network).__module__}.{type(network).__qualname__}"
    weights = weights_digest(checkpoint["state_dict"])
    stated = Stated(license, data_license, data)
    text = readme(home, home.tests(), class_path, weights, stated)
    cause = f"output={output!r} cannot be written to"
    with (
        refusing(OSError, cause, "free space there, or give another folder"),
        output_folder(Path(output).expanduser().resolve(), "card") as claimed,
    ):
        folder = claimed.path
        try:
            (folder / "README.md").write_text(text, encoding="utf-8")
            _write_network(folder, checkpoint, class_path)
            _copy_run(home.folder, folder, home.settings())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder


def _write_network(folder: Path, checkpoint: Mapping[str, Any], class_path: str) -> None:
    from torch import Tensor

    from textseg.card.portable import portable
    from textseg.checkpoint import ABOUT
    from textseg.encoders.weights import write_tensors
    from textseg.metrics.text import to_json
    from textseg.segment.published import DESCRIPTION, TOKENIZER, TOKENIZER_STATE, WEIGHTS

    state_dict = checkpoint["state_dict"]
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}
    write_tensors(folder / WEIGHTS, tensors)
    states = {}
    for name, state in state_dict.items():
        if name in tensors:
            continue
        states[name] = state
        if isinstance(state, Mapping) and TOKENIZER_STATE in state:
            (folder / TOKENIZER).write_text(state[TOKENIZER_STATE], encoding="utf-8")
            states[name] = {**state, TOKENIZER_STATE: TOKENIZER}
    settings = dict(checkpoint.get("hyper_parameters") or {})
    kept = {k: portable(v) for k, v in settings.items() if not k.startswith("_")}
    stored = {
        "class_path": class_path,
        "hyper_parameters": kept,
        ABOUT: checkpoint.get(ABOUT) or {},
        "states": states,
    }
    (folder / DESCRIPTION).write_text(to_json(stored), encoding="utf-8")


def _copy_run(run: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """config.yaml without the machine's paths, and the calibration, which has none."""
    import yaml

    from textseg.card.portable import portable, public_settings
    from textseg.runs.calibration import CALIBRATION
    from textseg.runs.folder import RUN_CONFIG

    if settings:
        text = yaml.safe_dump(public_settings(settings), sort_keys=False, allow_unicode=True)
        (folder / RUN_CONFIG).write_text(text, encoding="utf-8")
    for source in sorted(run.glob(f"{CALIBRATION}*/{CALIBRATION}.json")):
        target = folder / source.parent.name
        target.mkdir()
        values = json.loads(source.read_text(encoding="utf-8"))
        (target / source.name).write_text(json.dumps(portable(values)), encoding="utf-8")
