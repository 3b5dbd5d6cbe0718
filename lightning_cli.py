"""The command ``textseg``: fit, validate, test and predict by LightningCLI, and the suite's own."""

from __future__ import annotations

import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # nothing reaches the network unasked

import lightning as L
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import datamodules  # noqa: F401  short class names in YAML
import textseg.models  # noqa: F401  short class names in YAML
from datamodules.base import TextSegDataModule
from datamodules.captions.perturbations import caption_variants
from datamodules.commands import audit_dataset, prepare_dataset
from datamodules.refhl_seg.builder import build_refhl
from datamodules.refhl_seg.summary import format_summary, read_summary
from textseg.benchmark.measure import benchmark
from textseg.benchmark.table import format_benchmark
from textseg.callbacks.explanation_writer import ExplanationWriter
from textseg.callbacks.loggers import (
    comparable_keys,
    configured_loggers,
    prepare_loggers,
    with_csv_logger,
)
from textseg.callbacks.prediction_writer import PredictionWriter
from textseg.callbacks.results_writer import ResultsWriter
from textseg.callbacks.run_config import RunConfig
from textseg.callbacks.sample_tables import SampleTables
from textseg.callbacks.score_log import ScoreLog
from textseg.callbacks.wandb_offline import fall_back_to_offline
from textseg.checkpoint import class_path_of, read_checkpoint, same_class
from textseg.cli.arguments import (
    NEED_CHECKPOINT,
    config_name,
    data_part_of_configs,
    with_checkpoint_of_run,
    with_run_config,
)
from textseg.cli.commands import COMMANDS
from textseg.cli.messages import broken_yaml
from textseg.cli.parser import Refused, SuiteParser, summary_of
from textseg.encoders import restoring, token_counter
from textseg.errors import UserError
from textseg.metrics.text import format_results
from textseg.models.base import SegmentationModule, check_state_dict, settings_of
from textseg.probe import plain_table as format_probe
from textseg.probe import probe
from textseg.runs.folder import (
    Run,
    data_identity,
    unique_dir,
)
from textseg.training import CompiledTraining, GradientCheckpointing, Restart
from textseg.training.checkpoint_files import (
    LAST,
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

# Classes that a config names without their module.
__all__ = ["CompiledTraining", "GradientCheckpointing", "SampleTables", "main"]

CAPTION_MODES_AFTER_FIT = ("true", "empty", "shuffled")


class SuiteCLI(LightningCLI):
    """LightningCLI with run folders, checkpoints that bring their config, and more subcommands."""

    def __init__(self, args: Sequence[str]) -> None:
        self.arguments = SuiteParser.arguments = with_checkpoint_of_run(list(args))
        SuiteParser.known_names = _known_names
        self.run_folder = Path()
        self.checkpoint_path: str | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.continued = False  # a fit that goes on in the folder of the run it resumes
        try:
            self._run_cli()
        except BaseException:
            self._forget_empty_folder()
            raise

    def _run_cli(self) -> None:
        super().__init__(
            SegmentationModule,
            TextSegDataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=SuiteParser,
            parser_kwargs={"description": main.__doc__, "prog": "textseg"},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=with_run_config(self.arguments),
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        # Abbreviated options would slip past what reads the command line before the parser does.
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        commands = parser._subcommands_action
        assert commands is not None
        for name, function in SUITE_COMMANDS.items():
            description = summary_of(function)
            own = self.init_parser(description=description)
            self._add_arguments(own)
            # What the CLI gives itself is no setting.
            given: set[str | int] = {"model", "datamodule", "trainer", "variants"}
            given &= {*inspect.signature(function).parameters}
            added = own.add_function_arguments(function, skip=given)
            self._subcommand_method_arguments[name] = added
            self._subcommand_parsers[name] = own
            commands.add_subcommand(name, own, help=description)
        # Listed here and parsed by functions of their own: these need no trainer.
        own_parsers = {"data": DATA_HELP}
        own_parsers |= {name: summary_of(described) for name, (_, described) in COMMANDS.items()}
        for name, description in own_parsers.items():
            commands.add_subcommand(name, SuiteParser(description=description), help=description)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ResultsWriter, "results_writer")
        parser.add_lightning_class_args(ExplanationWriter, "explain")
        parser.add_lightning_class_args(Restart, "restart")
        # Where the files go is known only after parsing: this lets a logger be named by its class.
        parser.link_arguments(
            "trainer.default_root_dir",
            "trainer.logger.init_args.save_dir",
            compute_fn=lambda base: base or "runs",
        )
        # Known to every subcommand, so that all of them take the same experiment files.
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="fit only: then test the best checkpoint with true, empty and shuffled captions.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint against the config, which Lightning would let it override."""
        subcommand = self.config.subcommand
        settings = self.config[subcommand]
        self.checkpoint_path = settings.get("ckpt_path")
        if self.checkpoint_path is None:
            if subcommand in NEED_CHECKPOINT:
                raise UserError(
                    f"{subcommand} has no checkpoint, so the network would be untrained",
                    "give --ckpt_path runs/<config>/<time>/checkpoints/best.ckpt",
                )
            return
        if subcommand == "fit":
            if self.checkpoint_path == "last":
                self.checkpoint_path = str(last_checkpoint(self._runs(settings)))
                settings.ckpt_path = self.checkpoint_path
            self.continued = Path(self.checkpoint_path).parts[-2:] == LAST.parts
        self.checkpoint = read_checkpoint(self.checkpoint_path)
        stored = class_path_of(self.checkpoint)
        wanted = settings.model.class_path
        if stored and not same_class(stored, wanted):
            raise UserError(
                f"{self.checkpoint_path} is of {stored}, but the config asks for {wanted}",
                "leave --config out to use the run's own, or give a checkpoint of that network",
            )
        if self.continued:
            text = self._parser("fit").dump(settings, skip_none=False, skip_validation=True)
            run = Run.of_checkpoint(self.checkpoint_path).folder
            began_with = check_same_settings(run, yaml.safe_load(text))
            if settings.seed_everything is True:  # "draw one": the run has
                settings.seed_everything = began_with.get("seed_everything", True)

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        self.run_folder = self._run_folder(settings)
        self.keys = comparable_keys(
            settings, self._experiment(), tested_on=self._tested_on(settings.data)
        )
        prepare_loggers(settings, self.keys, job=str(self.subcommand), run_folder=self.run_folder)
        for logger in configured_loggers(settings):
            if logger.class_path.endswith("WandbLogger"):
                logger.init_args.id = self._wandb_id() or logger.init_args.get("id")
                fall_back_to_offline(logger)

    def instantiate_classes(self) -> None:
        # A checkpoint brings the encoders' config and tokenizer, so that no hub is asked for them.
        with restoring(self.checkpoint["state_dict"]) if self.checkpoint else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        if self.checkpoint:  # before a logger goes on with the files of the run
            check_state_dict(self.model, self.checkpoint["state_dict"])
        fitting = self.subcommand == "fit"
        given = self._get(self.config_init, "trainer")
        if fitting:
            check_trainer_settings(given)
        # A benchmark and a probe have nothing to say by step.
        own = self.subcommand in SUITE_COMMANDS
        loggers = [] if own else self._loggers(given.logger, fitting)
        callbacks: list[L.Callback] = [PredictionWriter(), ScoreLog(self.keys)]
        if fitting:
            callbacks += default_checkpoint_callbacks(self.run_folder)
            callbacks += [LearningRateMonitor("step")] if loggers else []
            kwargs["plugins"] = with_atomic_checkpoints(given.plugins)
        self.trainer_defaults["callbacks"] = callbacks
        kwargs |= {"default_root_dir": str(self.run_folder), "logger": loggers or False}
        trainer = super().instantiate_trainer(**kwargs)
        check_trainer(trainer, sync_batchnorm=given.sync_batchnorm)
        return trainer

    def _loggers(self, configured: Any, fitting: bool) -> list[Logger]:
        """The configured loggers and, in a fit, metrics.csv in the run's folder."""
        if configured is False:
            return []
        given = configured if isinstance(configured, list) else [configured]
        loggers = [logger for logger in given if isinstance(logger, Logger)]
        steps = self.checkpoint["global_step"] if self.checkpoint and self.continued else 0
        return with_csv_logger(loggers, self.run_folder, steps) if fitting else loggers

    def before_fit(self) -> None:
        """Where a test follows, check its data before the training, not after."""
        if self.config.fit.test_after_fit:
            self.datamodule.prepare_data()
            self.datamodule.setup("test")

    def after_fit(self) -> None:
        """Report where the run lies and, if asked, test its best checkpoint three ways."""
        rank_zero_info(f"run folder: {self.run_folder}")
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not self.config.fit.test_after_fit:
            return
        if not best:
            raise UserError(
                "test_after_fit found no checkpoint to test",
                "let at least one validation run (no fast_dev_run, limit_val_batches above 0)",
            )
        mode = self.datamodule.caption_mode
        for self.datamodule.caption_mode in CAPTION_MODES_AFTER_FIT:
            self.trainer.test(self.model, self.datamodule, best, verbose=False, weights_only=True)
        self.datamodule.caption_mode = mode
        self._print_results()

    def test(self, **kwargs: Any) -> None:
        """Test, and print the scores of both conventions."""
        self.trainer.test(**kwargs | {"verbose": False, "weights_only": True})
        self._print_results()

    def predict(self, **kwargs: Any) -> None:
        """Predict to disk; the masks are not kept in memory."""
        self.trainer.predict(**kwargs | {"return_predictions": False, "weights_only": True})

    def benchmark(self, **kwargs: Any) -> None:
        """Measure and print."""
        print(format_benchmark(benchmark(**kwargs)))

    def probe(self, **kwargs: Any) -> None:
        """Run the test set with changed words, and print how far the masks move."""
        self.datamodule.prepare_data()
        rows = self.datamodule.records("test")
        texts, case_ids = [row.text for row in rows], [row.case_id for row in rows]
        variants = caption_variants(texts, case_ids, seed=kwargs["seed"])
        result = probe(**kwargs, trainer=self.trainer, variants=variants)
        if self.trainer.is_global_zero:
            print(f"{format_probe(result)}\nwritten to {result.output}")

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand in SUITE_COMMANDS:
            getattr(self, subcommand)(**self._prepare_subcommand_kwargs(subcommand))
        else:
            super()._run_subcommand(subcommand)

    def _print_results(self) -> None:
        (report,) = (c for c in _callbacks(self.trainer) if isinstance(c, ResultsWriter))
        if not report.results:
            raise UserError(
                "the test saw no case", "give trainer.limit_test_batches a batch or more"
            )
        if self.trainer.is_global_zero:
            print(format_results(report.results))
            print(f"written to {report.folder.parent}")

    def _experiment(self) -> str:
        """The config's name; with a checkpoint, that of its run's."""
        of_run = Run(self.run_folder).config.is_file()
        return self.run_folder.parent.name if of_run else config_name(self.arguments)

    def _tested_on(self, data: Any) -> str | None:
        """A name for the data where they are not those of the checkpoint's run."""
        if self.subcommand == "fit" or self.checkpoint_path is None:
            return None
        identity = data_identity(data.class_path, data.init_args.as_dict())
        return Run(self.run_folder).name_of_other_data(identity)

    def _run_folder(self, settings: Any) -> Path:
        if self.subcommand != "fit":
            given = self.checkpoint_path
            own = Path("runs") / config_name(self.arguments)
            return Run.of_checkpoint(given).folder if given else own
        if self.continued:
            assert self.checkpoint_path is not None
            return Run.of_checkpoint(self.checkpoint_path).folder
        base = self._runs(settings)
        if getattr(rank_zero_only, "rank", 0):  # every path that is written to comes from rank 0
            return base
        return unique_dir(base / time.strftime("%Y-%m-%d_%H-%M-%S"))

    def _runs(self, settings: Any) -> Path:
        """The folder of this config's runs."""
        return Path(settings.trainer.default_root_dir or "runs") / config_name(self.arguments)

    def _wandb_id(self) -> str | None:
        """The W&B run that a continued fit goes on with."""
        if not self.continued or self.checkpoint is None:
            return None
        return self.checkpoint.get(STATE, {}).get("wandb_id")

    def _forget_empty_folder(self) -> None:
        """A run that was refused before it wrote anything leaves nothing."""
        if getattr(self, "subcommand", None) == "fit":
            with suppress(OSError):
                self.run_folder.rmdir()
                self.run_folder.parent.rmdir()


SUITE_COMMANDS: dict[str, Callable[..., Any]] = {"benchmark": benchmark, "probe": probe}
DATA_HELP = "Audit a dataset, prepare its cache, or build a referring set from volumes."


def _callbacks(trainer: Any) -> list[L.Callback]:
    return trainer.callbacks


def _data_command(arguments: Sequence[str]) -> int:
    """`textseg data ...`; returns the exit status."""
    parser = SuiteParser(prog="textseg data", description=DATA_HELP, allow_abbrev=False)
    commands = parser.add_subcommands(required=True, dest="command")
    audit = SuiteParser(description=summary_of(audit_dataset), allow_abbrev=False)
    audit.add_function_arguments(audit_dataset, as_positional=True, skip={"count_tokens"})
    audit.add_argument(
        "--tokenizer",
        default="scratch",
        help="whose tokens max_tokens counts: a local folder or hub name of a text encoder; "
        "scratch counts words and marks, the fewest that any encoder needs.",
    )
    commands.add_subcommand("audit", audit, help=summary_of(audit_dataset))
    prepare = SuiteParser(description=summary_of(prepare_dataset), allow_abbrev=False)
    prepare.add_argument("-c", "--config", action="config", help="an experiment; its data is read.")
    prepare.add_subclass_arguments(TextSegDataModule, "data", required=True)
    commands.add_subcommand("prepare", prepare, help=summary_of(prepare_dataset))
    build = SuiteParser(description=summary_of(build_refhl), allow_abbrev=False)
    build.add_function_arguments(build_refhl, as_positional=True)
    commands.add_subcommand("build-refhl", build, help=summary_of(build_refhl))

    settings = parser.parse_args(data_part_of_configs(arguments))
    command = settings.command
    chosen = settings[command]
    if command == "audit":
        counter = token_counter(chosen.pop("tokenizer"))
        return audit_dataset(**chosen.as_dict(), count_tokens=counter)
    if command == "prepare":
        prepare_dataset(prepare.instantiate_classes(chosen).data)
    else:
        output = build_refhl(**chosen.as_dict())
        print(f"{format_summary(read_summary(output))}\nwritten to {output}")
    return 0


def _known_names() -> set[str]:
    """Names of classes and settings, for proposals."""
    names = {"seed_everything", "trainer", "model", "data", "class_path", "init_args", "config"}
    names |= {"test_after_fit", "results_writer", "explain", "restart", "ckpt_path"}
    own = (ResultsWriter, ExplanationWriter, Restart)
    for base in (SegmentationModule, TextSegDataModule, L.Trainer, *own):
        for kind in (base, *base.__subclasses__()):
            names |= {kind.__name__} | settings_of(kind)
    commands: list[Callable[..., Any]] = [
        *SUITE_COMMANDS.values(),
        *(audit_dataset, build_refhl),
        *(described for _, described in COMMANDS.values()),
    ]
    for command in commands:
        names |= {*inspect.signature(command).parameters}
    return names


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an error, however often it was wrapped on its way."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, Refused):
            return error.args[0]
        error = error.__cause__
    return error


def _fail(error: UserError) -> NoReturn:
    # Of an error in a worker process only its own words are kept, not the traceback it brought.
    cause, _, remedy = str(error).rsplit("UserError: ", 1)[-1].strip().partition("\n")
    sys.stderr.write(f"error: {cause}\n" + (f"remedy: {remedy}\n" if remedy else ""))
    sys.exit(2)


def main(args: Sequence[str] | None = None) -> None:
    """Text-guided medical image segmentation. Add --debug to any command to see tracebacks."""
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    SuiteParser.arguments, SuiteParser.known_names = arguments, _known_names
    status = 0
    try:
        if arguments[:1] == ["data"]:
            status = _data_command(arguments[1:])
        elif arguments and arguments[0] in COMMANDS:
            COMMANDS[arguments[0]][0](arguments[1:])
        else:
            SuiteCLI(arguments)
    except (Exception, Refused) as error:
        cause = _user_error(error)
        if cause is None and isinstance(error, UnicodeDecodeError):
            cause = broken_yaml(arguments)
        if cause is None:
            raise
        if debug:
            traceback.print_exception(error)
        _fail(cause)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
