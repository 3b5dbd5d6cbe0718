"""The commands that need a Trainer, by LightningCLI."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

import textseg.models
import textseg.training  # noqa: F401  short class names in YAML
from textseg.callbacks.explanation_writer import ExplanationWriter
from textseg.callbacks.loggers import (
    comparable_keys,
    configured_loggers,
    prepare_loggers,
    with_csv_logger,
)
from textseg.callbacks.monitor_check import MonitorCheck
from textseg.callbacks.prediction_writer import PredictionWriter
from textseg.callbacks.results_writer import ResultsWriter
from textseg.callbacks.run_config import RunConfig
from textseg.callbacks.sample_tables import SampleTables  # noqa: F401  short class name in YAML
from textseg.callbacks.score_log import ScoreLog
from textseg.callbacks.wandb_offline import fall_back_to_offline
from textseg.checkpoint import (
    class_path_of,
    read_checkpoint,
    same_class,
    subclasses_of,
)
from textseg.cli.arguments import (
    experiment_name,
    with_checkpoint_of_run,
    with_first_checkpoint,
    with_run_config,
)
from textseg.cli.check_help import check_help
from textseg.cli.commands import Command, Datasets, load
from textseg.cli.evaluation import EvaluationCLI
from textseg.cli.messages import explain, user_error
from textseg.cli.options import add_options, check_no_option_of_a_test, check_options_act
from textseg.cli.parser import (
    CommandParser,
    ParseError,
    check_nulls,
    read_whole_numbers_as_int,
)
from textseg.cli.quiet import silence_noise
from textseg.cli.refusals import lost_process, refusal, settings_by_name
from textseg.cli.signals import Stopped, keep_sigterm
from textseg.encoders import reads_text, restoring
from textseg.errors import UserError, check_seed
from textseg.models.base import SegmentationModule, check_state_dict, settings_of
from textseg.models.tiles import tiles_of
from textseg.runs.calibration import operating_point
from textseg.runs.folder import (
    CAPTION_MODES,
    LAST,
    Run,
    data_identity,
    experiment_of,
    new_run_dir,
    remove_if_empty,
    runs_dir,
)
from textseg.training import FiniteTraining, Restart
from textseg.training.checkpoint_files import (
    clear_cut_files,
    default_checkpoint_callbacks,
    last_checkpoint,
    with_atomic_checkpoints,
)
from textseg.training.resume import STATE
from textseg.training.resume_checks import (
    check_same_settings,
    check_trainer,
    check_trainer_settings,
)


class SuiteParser(CommandParser, LightningArgumentParser):
    """Lightning's parser with errors that are raised."""


class SuiteCLI(EvaluationCLI):
    """LightningCLI for one command of the table.

    Args:
        command: its row.
        arguments: the command line after its name.
        datasets: the datasets' side.
    """

    def __init__(self, command: Command, arguments: Sequence[str], datasets: Datasets) -> None:
        self.command, self.datasets = command, datasets
        self.arguments = list(arguments)
        if command.takes_run:
            self.arguments = with_checkpoint_of_run(self.arguments)
        self.arguments, self.other_paths = with_first_checkpoint(self.arguments)
        self.others: list[dict[str, Any]] = []  # an ensemble's checkpoints beside the first
        self.run_folder = Path()
        self.checkpoint_path: str | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.modes_left_out: dict[str, str] = {}  # caption modes of tests after a fit, and why
        self.continued = False  # a fit that goes on in the folder of the run it resumes
        try:
            self._run_cli()
        except BaseException as error:
            if getattr(self, "subcommand", None) == "fit":
                remove_if_empty(self.run_folder)
            if isinstance(error, ParseError):
                known = self._known_names()
                raise explain(str(error), self.arguments, known, command) from error
            self._end(error)
            raise

    def _end(self, error: BaseException) -> None:
        """End the processes that a stopped command started; say what is no bug in two lines.

        Raises:
            UserError: a library refused a setting, or the machine failed.
        """
        launcher = self.trainer.strategy.launcher if hasattr(self, "trainer") else None
        if isinstance(error, Stopped):
            if launcher is not None:
                launcher.kill(error.number)
            last = self.run_folder / LAST
            if getattr(self, "subcommand", None) == "fit" and last.is_file():
                error.left = f"{last} is whole; --ckpt_path last goes on from it"
            return
        if user_error(error) is not None or not isinstance(error, Exception):
            return
        # Those of Popen or of multiprocessing.
        processes = getattr(launcher, "procs", [])
        lost = lost_process([p.poll() if hasattr(p, "poll") else p.exitcode for p in processes])
        config = getattr(self, "config", {})
        settings = settings_by_name(config[self.subcommand]) if config else {}
        refused = lost or refusal(error, settings, self.command.name)
        if refused is not None:
            raise refused from error

    def _run_cli(self) -> None:
        silence_noise()
        check_options_act(self.command.name, self.arguments)
        check_help(self.command.name, self.arguments, self.datasets.datamodule)
        arguments = self.arguments
        if self.command.needs_checkpoint:
            arguments = with_run_config(arguments)
        super().__init__(
            SegmentationModule,
            self.datasets.datamodule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=SuiteParser,
            parser_kwargs={"prog": "textseg"},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=[self.command.name, *arguments],
        )

    # --- the parser ----------------------------------------------------------------------------

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that takes no abbreviated options: they are read before it reads them."""
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Add the one command that runs; a parser of all settings takes a second to build."""
        name, summary = self.command.name, self.command.summary
        if self.command.function is None:
            own = self._prepare_subcommand_parser(L.Trainer, name, description=summary)
        else:
            own = self.init_parser(description=summary)
            self._add_arguments(own)
            function = load(self.command.function)
            made: set[str | int] = {*self.command.takes}
            made &= {*inspect.signature(function).parameters}
            added = own.add_function_arguments(function, skip=made)
            self._subcommand_method_arguments[name] = added
        read_whole_numbers_as_int(own)
        self._subcommand_parsers = {name: own}
        parser.add_subcommands().add_subcommand(name, own, help=summary)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the suite's own groups; every command takes the same experiment files."""
        parser.add_lightning_class_args(ResultsWriter, "results_writer")
        parser.add_lightning_class_args(ExplanationWriter, "explain")
        parser.add_lightning_class_args(Restart, "restart")
        # Where the files go is known only after parsing: this lets a logger be named by its class.
        parser.link_arguments(
            "trainer.default_root_dir",
            "trainer.logger.init_args.save_dir",
            compute_fn=lambda base: base or "runs",
        )
        add_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; Lightning's own would warn of a sys.argv beside `args`."""
        self.config = parser.parse_args(args)
        kinds = {"data": self.datasets.datamodule, "model": SegmentationModule}
        check_nulls(self.config[self.command.name], kinds)

    def _known_names(self) -> set[str]:
        """Names of settings and classes, for proposals."""
        names = {"class_path", "init_args"}
        parsers = getattr(self, "_subcommand_parsers", {})
        for action in (action for parser in parsers.values() for action in parser._actions):
            names |= {*action.dest.split(".")}
        for base in (SegmentationModule, self.datasets.datamodule):
            for kind in (base, *subclasses_of(base)):
                names |= {kind.__name__, *settings_of(kind)}
        return names

    # --- checkpoint and run --------------------------------------------------------------------

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint against the config, which Lightning would let it override."""
        settings = self.config[self.command.name]
        self.checkpoint_path = settings.get("ckpt_path")
        if self.checkpoint_path is None:
            if self.command.needs_checkpoint:
                raise UserError(
                    f"{self.command.name} has no checkpoint, so the network would be untrained",
                    "give --ckpt_path runs/<config>/<time>/checkpoints/best.ckpt",
                )
            return
        # A file may name it too, so that no shell has written out its ~.
        self.checkpoint_path = settings.ckpt_path = str(Path(self.checkpoint_path).expanduser())
        if self.command.name == "fit":
            if self.checkpoint_path == "last":
                self.checkpoint_path = str(last_checkpoint(self._runs(settings)))
                settings.ckpt_path = self.checkpoint_path
            self.continued = Path(self.checkpoint_path).parts[-2:] == LAST.parts
        self.checkpoint = read_checkpoint(self.checkpoint_path)
        stored = class_path_of(self.checkpoint)
        wanted = settings.model.class_path
        if stored and not same_class(stored, wanted):
            raise UserError(
                f"{self.checkpoint_path} is of {stored}, but the config names {wanted}",
                "leave --config out to use the run's own, or give a checkpoint of that network",
            )
        if self.other_paths:
            self._check_ensemble()
        if self.continued:
            text = self._parser("fit").dump(settings, skip_none=False, skip_validation=True)
            run = Run.of_checkpoint(self.checkpoint_path).folder
            began_with = check_same_settings(run, yaml.safe_load(text))
            if settings.seed_everything is True:  # "draw one": the run has
                settings.seed_everything = began_with.get("seed_everything", True)

    def _check_ensemble(self) -> None:
        """Read the checkpoints beside the first, which are of the same task."""
        from textseg.segment.members import check_one_task

        paths = [str(self.checkpoint_path), *self.other_paths]
        if not self.command.needs_checkpoint:
            raise UserError(f"{self.command.name} takes one checkpoint, not {paths}", "give one")
        assert self.checkpoint is not None
        self.others = [read_checkpoint(path) for path in self.other_paths]
        check_one_task(paths, [self.checkpoint, *self.others])

    def _run_folder(self, settings: Any) -> Path:
        if self.checkpoint_path and (self.subcommand != "fit" or self.continued):
            return Run.of_checkpoint(self.checkpoint_path).folder
        if self.subcommand == "fit":
            return new_run_dir(self._runs(settings))
        return runs_dir(None, experiment_name(self.arguments))

    def _runs(self, settings: Any) -> Path:
        return runs_dir(settings.trainer.default_root_dir, experiment_name(self.arguments))

    def _tested_on(self, data: Any) -> str | None:
        """A name for the data where they are not those of the checkpoint's run."""
        if self.subcommand == "fit" or self.checkpoint_path is None:
            return None
        identity = data_identity(data.class_path, data.init_args.as_dict())
        return Run(self.run_folder).name_of_other_data(identity)

    # --- what is built -------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder, and tell the configured loggers of it."""
        settings = self.config[self.subcommand]
        if self.subcommand == "fit" and not settings.test_after_fit:
            check_no_option_of_a_test(self.arguments)
        tiles_of(settings.tile_size, settings.tile_overlap)  # refuses before a fit, not after it
        self.run_folder = self._run_folder(settings)
        self.keys = comparable_keys(
            settings,
            experiment_of(self.run_folder) or experiment_name(self.arguments),
            tested_on=self._tested_on(settings.data),
        )
        prepare_loggers(settings, self.keys, job=str(self.subcommand), run_folder=self.run_folder)
        for logger in configured_loggers(settings):
            if logger.class_path.endswith("WandbLogger"):
                logger.init_args.id = self._wandb_id() or logger.init_args.get("id")
                fall_back_to_offline(logger)

    def _wandb_id(self) -> str | None:
        """The W&B run that a continued fit goes on with."""
        if not self.continued or self.checkpoint is None:
            return None
        return self.checkpoint.get(STATE, {}).get("wandb_id")

    def instantiate_classes(self) -> None:
        """Build all; a checkpoint brings the encoders' config and tokenizer, so no hub is asked."""
        with restoring(self.checkpoint["state_dict"]) if self.checkpoint else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer, with the suite's callbacks and loggers in the run's folder."""
        if self.checkpoint:  # before a logger goes on with the files of the run
            check_state_dict(self.model, self.checkpoint["state_dict"])
        fitting = self.subcommand == "fit"
        if self.continued:
            clear_cut_files(self.run_folder)
        settings = self._get(self.config_init, "trainer")
        if fitting:
            check_trainer_settings(settings)
        # A benchmark and a probe log nothing.
        lightnings_own = self.command.function is None
        loggers = self._loggers(settings.logger, fitting) if lightnings_own else []
        callbacks: list[L.Callback] = [PredictionWriter(), ScoreLog(self.keys)]
        if fitting:
            callbacks += [FiniteTraining(self._get(self.config_init, "on_nan")), MonitorCheck()]
            callbacks += default_checkpoint_callbacks(self.run_folder)
            callbacks += [LearningRateMonitor("step")] if loggers else []
            kwargs["plugins"] = with_atomic_checkpoints(settings.plugins)
        self.trainer_defaults["callbacks"] = callbacks
        kwargs |= {"default_root_dir": str(self.run_folder), "logger": loggers or False}
        trainer = super().instantiate_trainer(**kwargs)
        if not fitting:
            keep_sigterm(trainer)
        check_trainer(trainer, sync_batchnorm=settings.sync_batchnorm)
        return trainer

    def _loggers(self, configured: Any, fitting: bool) -> list[Logger]:
        """The configured loggers and, in a fit, metrics.csv in the run's folder."""
        if configured is False:
            return []
        listed = configured if isinstance(configured, list) else [configured]
        loggers = [logger for logger in listed if isinstance(logger, Logger)]
        steps = self.checkpoint["global_step"] if self.checkpoint and self.continued else 0
        return with_csv_logger(loggers, self.run_folder, steps) if fitting else loggers

    # --- the commands --------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        if self.command.function is None:
            super()._run_subcommand(subcommand)
            return
        function, values = load(self.command.function), self._prepare_subcommand_kwargs(subcommand)
        values["trainer"] = self.trainer
        values |= self._averaged(values)
        if "variants" in self.command.takes:
            values["variants"] = self._caption_variants(values["seed"])
        parameters = inspect.signature(function).parameters
        result = function(**{k: v for k, v in values.items() if k in parameters})
        if self.command.show and self.trainer.is_global_zero:
            print(self.command.show(result))

    def _caption_variants(self, seed: int) -> Any:
        """The test set's captions, true and changed."""
        check_seed(seed)
        self.datamodule.prepare_data()
        rows = self.datamodule.records("test")
        offered = self.datamodule.altered_captions("test")
        return self.datasets.caption_variants(
            [row.text for row in rows],
            [row.case_id for row in rows],
            seed=seed,
            images=[str(row.image) for row in rows],
            altered={
                name: [by_case.get(row.case) for row in rows] for name, by_case in offered.items()
            },
            word_classes=self.datamodule.word_classes,
            language=self.datamodule.language,
        )

    def before_fit(self) -> None:
        """Where a test follows, check its data and captions before the training, not after."""
        settings = self.config.fit
        operating_point(settings.threshold, settings.temperature, _no_calibration_yet)
        if not settings.test_after_fit:
            return
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        for mode in CAPTION_MODES:
            try:
                self.datamodule.check_caption_mode("test", mode)
            except UserError as error:
                cause = str(error).partition("\n")[0]
                self.modes_left_out[mode] = f"the test with {mode} captions is left out: {cause}"
        for line in self.modes_left_out.values():
            rank_zero_info(line)

    def after_fit(self) -> None:
        """Say where the run is and, with test_after_fit, test its best checkpoint."""
        rank_zero_info(f"run folder: {self.run_folder}")
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not self.config.fit.test_after_fit:
            return
        if not best:
            raise UserError(
                "test_after_fit found no checkpoint to test",
                "let at least one validation run (no fast_dev_run, limit_val_batches above 0)",
            )
        tested = self._averaged({"model": self.model, "ckpt_path": best})
        mode = self.datamodule.caption_mode
        modes = [m for m in CAPTION_MODES if m not in self.modes_left_out]
        if not reads_text(self.model):
            modes = modes[:1]
            rank_zero_info(f"{self.model.network_name} reads no captions: tested once")
        for self.datamodule.caption_mode in modes:
            self.trainer.test(
                datamodule=self.datamodule, verbose=False, weights_only=True, **tested
            )
        self.datamodule.caption_mode = mode
        self._print_results()


def _no_calibration_yet() -> NoReturn:
    raise UserError(
        "a fit has no calibration yet to take threshold=best or temperature=fitted from",
        "give numbers, or calibrate and test the run afterwards",
    )
