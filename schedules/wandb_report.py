"""Writes a W&B report of a schedule: length, accuracy and truncated share by round, the training, the tables.

    pip install -e ".[wandb-report]"
    python -m schedules.wandb_report --run outputs/r1_distill_qwen_1.5b

It goes to the project that the schedule's runs went to and prints its address. Written again it is a new report;
W&B's own page duplicates one for another schedule.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from schedules.records import FinishedRound, finished_rounds
from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.runtime.tracking import SCHEDULE_RUN, Home, first_line, tracked_home

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

_CHOICE = {
    "tokens of the chosen checkpoint": "chosen/mean_tokens",
    "pass@1 of the chosen checkpoint": "chosen/pass_at_1",
    "truncated share of the chosen checkpoint": "chosen/truncated_share",
    "limit [tokens]": "limit",
}
_TRAINING = {
    "mean length of completions [tokens]": "train/completions/mean_length",
    "reward": "train/reward",
    "truncated share of completions": "train/truncated_share",
    "correct share of completions": "train/correct_share",
}
_TABLES = ("validation/candidates", "validation/samples")  # the first has a row for each checkpoint, one is chosen


def make_report(folder: Path, home: Home, entity: str) -> "wr.Report":
    """What will be saved. `entity` is whose project it is in."""
    import wandb_workspaces.reports.v2 as wr

    choices = [_words(one) for one in finished_rounds(folder)]
    tables = [wr.WeavePanelSummaryTable(table_name=name) for name in _TABLES]
    return wr.Report(
        project=home.project,
        entity=entity,
        title=f"{home.group}: a schedule of length pruning"[:128],
        description="Made by schedules/wandb_report.py; every panel follows the runs of the schedule's group.",
        blocks=[
            wr.H1("What was chosen"),
            wr.UnorderedList(choices) if choices else wr.P("Nothing yet."),
            wr.PanelGrid(runsets=[_runs(home, entity, SCHEDULE_RUN)], panels=[*_curves(_CHOICE, "round"), *tables]),
            wr.H1("Training"),
            wr.PanelGrid(runsets=[_runs(home, entity, None)], panels=_curves(_TRAINING, "train/global_step")),
        ],
        width="fluid",
    )


def _words(one: FinishedRound) -> str:
    return f"{one.folder.name}: {one.selection.reason}"


def _runs(home: Home, entity: str, job_type: str | None) -> "wr.Runset":
    """Those of the schedule's group: its own run, or all."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr

    filters = [expr.Metric("Group") == home.group]
    filters += [expr.Metric("JobType") == job_type] if job_type else []
    return wr.Runset(entity=entity, project=home.project, name=home.group, filters=filters)


def _curves(named: dict[str, str], x: str) -> "list[wr.LinePlot]":
    import wandb_workspaces.reports.v2 as wr

    return [wr.LinePlot(title=title, x=x, y=[metric]) for title, metric in named.items()]


@entry_point
def main() -> None:
    parser = OneLineParser()
    parser.add_argument("--run", required=True, type=Path, help="run folder of a schedule with report_to: wandb")
    parser.add_argument("--entity", help="user or team whose project it is in; by default the one of your key")
    options = parser.parse_args()
    home = tracked_home(options.run)
    if home is None:
        raise InputError(f"{options.run}: nothing of it was sent to W&B; run the schedule with report_to: wandb")
    say(f"report: {escape(_saved(options.run, home, options.entity))}")


def _saved(folder: Path, home: Home, entity: str | None) -> str:
    """The address of the report. Raises `InputError` where W&B or the package is not there for it."""
    try:
        import wandb
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError:
        raise InputError("wandb-workspaces is not installed; pip install -e '.[wandb-report]'") from None
    try:
        report = make_report(folder, home, entity or wandb.Api().default_entity)
        return report.save().url
    except Exception as error:  # of the network, the key or the server, in kinds of their own
        raise InputError(
            f"W&B did not take the report ({first_line(error)}); `wandb login`, then try again"
        ) from None


if __name__ == "__main__":
    main()
