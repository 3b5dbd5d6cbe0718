"""How validate, test and predict run: what averages logits, where masks are cut, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from textseg.callbacks.results_writer import ResultsWriter
from textseg.checkpoint import read_checkpoint, weights_digest
from textseg.errors import UserError, printable
from textseg.metrics.text import averaging_text, format_results
from textseg.models.base import SegmentationModule, check_state_dict
from textseg.models.tiles import Tiles, tiles_of
from textseg.runs.calibration import find_calibration, operating_point
from textseg.runs.folder import Run
from textseg.runs.outputs import averaging_of, averaging_suffix, callbacks_of

_USUAL = {"tta": "none", "threshold": 0.5, "temperature": 1.0}
_TILED = ("fit", "test", "predict")  # commands that see large pictures through tiles


class EvaluationCLI(LightningCLI):
    """LightningCLI's commands that score or predict.

    Attributes:
        other_paths, others: paths and contents of the checkpoints beside the first.
        modes_left_out: caption mode -> why it is not tested.
        run_folder: of the run.
    """

    other_paths: list[str]
    others: list[dict[str, Any]]
    modes_left_out: dict[str, str]
    run_folder: Path

    def _averaged(self, given: dict[str, Any]) -> dict[str, Any]:
        """The model and ckpt_path of a command, with threshold and temperature.

        What averages logits comes with its weights.
        """
        settings = self.config[self.subcommand]
        wanted = {name: settings[name] for name in ("tta", "threshold", "temperature")}
        asked = [f"{k}={v}" for k, v in wanted.items() if v != _USUAL[k]]
        tiles = tiles_of(settings.tile_size, settings.tile_overlap)
        if tiles is not None:
            asked.append(f"tile_size={tiles.size}")
            if self.subcommand not in _TILED:
                raise UserError(f"{self.subcommand} takes no {asked[-1]}", "leave tile_size out")
        if asked and "ckpt_path" not in given:
            what = ", ".join(asked)
            raise UserError(f"{self.subcommand} takes no {what}", "leave it out")
        if not asked and not self.others:
            return given
        paths = [given["ckpt_path"], *self.other_paths]
        weights = read_checkpoint(paths[0])["state_dict"]
        if wanted["tta"] != "none" or tiles is not None or self.others:
            model = self._ensemble(paths, weights, wanted["tta"], tiles)
            given = given | {"model": model, "ckpt_path": None}
        model = given["model"]
        digests = [weights_digest(w) for w in (weights, *(o["state_dict"] for o in self.others))]
        run, suffix = Run(self.run_folder), averaging_suffix(model)
        model.mask_threshold, model.mask_temperature = operating_point(
            wanted["threshold"],
            wanted["temperature"],
            lambda: find_calibration(run, suffix, digests, tiled=tiles is not None),
        )
        text = averaging_text(averaging_of(model, [])) or f"threshold {model.mask_threshold}"
        rank_zero_info(f"at test time: {text}")
        return given

    def _ensemble(
        self, paths: list[str], weights: Any, tta: Any, tiles: Tiles | None
    ) -> SegmentationModule:
        """What averages the networks of some checkpoints, of which the first is the config's."""
        from textseg.segment.members import averaged
        from textseg.segment.network import network_from

        check_state_dict(self.model, weights)
        self.model.load_state_dict(weights)
        networks = [self.model, *map(network_from, self.others, self.other_paths)]
        mirror_text = self.datamodule.mirror_text
        return averaged(networks, paths, tta=tta, tiles=tiles, mirror_text=mirror_text)

    def validate(self, **kwargs: Any) -> None:
        """Score the validation set."""
        self.trainer.validate(**self._averaged(kwargs))

    def test(self, **kwargs: Any) -> None:
        """Test, and print the scores of both conventions."""
        self.trainer.test(**self._averaged(kwargs) | {"verbose": False, "weights_only": True})
        self._print_results()

    def predict(self, **kwargs: Any) -> None:
        """Predict to disk; the masks are not kept in memory."""
        given = self._averaged(kwargs)
        self.trainer.predict(**given | {"return_predictions": False, "weights_only": True})

    def _print_results(self) -> None:
        (writer,) = callbacks_of(self.trainer, ResultsWriter)
        if not writer.results:
            raise UserError(
                "the test saw no case", "give trainer.limit_test_batches a batch or more"
            )
        if self.trainer.is_global_zero:
            print(printable(format_results(writer.results)))
            for line in self.modes_left_out.values():
                print(line)
            print(f"written to {writer.folder.parent}")
