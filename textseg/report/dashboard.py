"""A saved view of a W&B project that sets up the comparison of networks by Dice and mIoU."""

from __future__ import annotations

from typing import Any

from textseg.errors import UserError
from textseg.metrics.scores import MAIN

MODES = {"true": "test", "empty": "test_empty", "shuffled": "test_shuffled"}
STRATA = {"size": ("small", "medium", "large"), "side": ("left", "right", "both")}
COLUMNS = ("dice", "dice_ci_low", "dice_ci_high", *MAIN[1:])
# Mean and standard deviation of a group of runs, which differ in their seed alone.
OVER_SEEDS = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}


def dashboard(
    entity: str,
    project: str = "textseg",
    *,
    dataset: str | None = None,
    name: str = "Networks by Dice and mIoU",
    save: bool = False,
) -> str:
    """Set up a view of a W&B project that compares networks; docs/dashboards.md shows it.

    Args:
        entity: user or team that the project belongs to.
        project: the project that the runs were logged to.
        dataset: only runs on this dataset, by the config key of that name, such as QaTaCov19.
        name: of the view.
        save: send it to W&B. Without it nothing is sent, and what would be is printed.

    Returns:
        The view's address, or without `save` a list of its sections and panels.

    Raises:
        UserError: the package wandb-workspaces is missing, or W&B refuses the view.
    """
    view = workspace(entity, project, dataset=dataset, name=name)
    if not save:
        lines = [f"{name}, {entity}/{project} (not sent: --save true sends it)"]
        for section in view.sections:
            titles = ", ".join(panel.title for panel in section.panels)
            lines.append(f"{section.name}: {titles}")
        return "\n".join(lines)
    try:
        view.save()
        return str(view.url)
    except Exception as error:  # requests, wandb and graphql fail each in their own way
        raise UserError(
            f"W&B does not take the view for {entity}/{project} ({error})",
            "check entity, project and the network, and log in once with `wandb login`",
        ) from error


def workspace(entity: str, project: str, *, dataset: str | None, name: str) -> Any:
    """Build the view as wandb-workspaces' own object; this reaches no network."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as views
        from wandb_workspaces import expr
    except ImportError as error:
        raise UserError(
            "the package wandb-workspaces is not installed", 'pip install "textseg[dashboard]"'
        ) from error

    return views.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=_sections(views, panels),
        settings=views.WorkspaceSettings(x_axis="epoch", max_runs=50),
        runset_settings=views.RunsetSettings(
            # A later test of a run would count its seed twice; a fit holds its own test.
            filters=[
                expr.Metric("JobType") == "fit",
                *([expr.Config("dataset") == dataset] if dataset else []),
            ],
            groupby=[expr.Config("dataset"), expr.Metric("Group")],
            order=[expr.Ordering(expr.Summary("test/dice"), ascending=False)],
            pinned_columns=[f"summary:test/{column}" for column in COLUMNS],
        ),
    )


def _sections(views: Any, panels: Any) -> list[Any]:
    """The view's sections; `views` and `panels` are modules of wandb-workspaces."""

    def section(title: str, *content: Any, is_open: bool = True) -> Any:
        return views.Section(name=title, panels=list(content), is_open=is_open)

    def bars(title: str, *keys: str) -> Any:
        """A bar for each group of runs."""
        return panels.BarPlot(title=title, metrics=list(keys), **OVER_SEEDS)

    def curve(key: str) -> Any:
        return panels.LinePlot(title=key, x="epoch", y=[key], **OVER_SEEDS)

    def against(title: str, x: str, y: str) -> Any:
        return panels.ScatterPlot(
            title=title, x=panels.SummaryMetric(x), y=panels.SummaryMetric(y), regression=False
        )

    strata = [
        bars(f"dice by lesion {kind}: {one}", f"test/strata/{kind}/{one}/dice")
        for kind, classes in STRATA.items()
        for one in classes
    ]
    return [
        section("Test, both conventions", *(bars(s, f"test/{s}") for s in MAIN)),
        section(
            "Conventions and intervals",
            against("mean over images and pooled pixels", "test/dice", "test/dice_global"),
            against("Dice and mIoU", "test/dice", "test/miou"),
            against("95% interval of dice", "test/dice_ci_low", "test/dice_ci_high"),
        ),
        section(
            "Are the words read?",
            *(bars(f"dice, {mode} captions", f"{key}/dice") for mode, key in MODES.items()),
        ),
        section("Strata", *strata, is_open=False),
        section("Training", *(curve(f"val/{s}") for s in MAIN), curve("train/loss")),
    ]
