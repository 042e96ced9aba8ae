"""Budget forcing: the thinking of stored traces ended by force, what comes after it, and the curve over budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.markup import escape

from eval.one_model.figures import ModelFigures
from eval.one_model.report import draw_point, flat_figures, use_token_axis
from eval.one_model.sampling import OpenedModel
from eval.traces.sampling import prompt_ids
from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.detokenize import Detokenizer
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.engines.trace_folder import ProblemTraces, TraceFolderWriter
from secateur.runtime.console import CsvValue, console, interval_text, plain_table, print_table, progress, write_csv
from secateur.runtime.files import JSON
from secateur.runtime.pictures import PLOT_STYLE, model_colours, save_png
from secateur.runtime.process import current_ranks
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds, Interval
from secateur.tasks.prompts import Forcing, Prompt
from secateur.tasks.records import Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1
_FILE = "budget_forcing.json"


@dataclass(frozen=True)
class Budget:
    """Thinking ends after `tokens`; the answer is sampled with `answer_spec`, `rows` at once."""

    tokens: int
    forcing: Forcing
    answer_spec: SamplingSpec
    prompt: Prompt
    seed: int
    rows: int


class Forcer:
    """Puts stored traces and their forced ends together; needs the tokenizer, not the engine."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", forcing: Forcing) -> None:
        self._tokenizer, self._forcing = tokenizer, forcing
        self._detokenizer = Detokenizer(tokenizer)
        self._injected_ids = self._encode(forcing.injected)
        self._newline_ids = () if forcing.injected.startswith("\n") else self._encode("\n")

    def is_due(self, trace: Trace, budget: int) -> bool:
        """Whether the trace was still thinking after `budget` tokens."""
        ids = trace.token_ids or ()
        ended_with_it = len(ids) == budget and trace.finish_reason == "stop"
        if len(ids) < budget or ended_with_it:
            return False
        text = self._tokenizer.decode(ids[:budget], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return self._forcing.end not in text

    def injected(self, thinking: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """What is put behind the ids of a thinking, as text and as ids: on a line of its own, as s1 and ThinkPrune's
        budget_forcing_gen.py have it."""
        if not self._newline_ids or self._text(thinking).endswith("\n"):
            return self._forcing.injected, self._injected_ids
        return f"\n{self._forcing.injected}", (*self._newline_ids, *self._injected_ids)

    def job(self, problem: Problem, trace: Trace, prompt: Sequence[int], budget: Budget) -> TraceJob:
        """The continuation of a trace; its seed depends on problem, sample and budget alone."""
        thinking = (trace.token_ids or ())[: budget.tokens]
        ids = (*prompt, *thinking, *self.injected(thinking)[1])
        number = int(trace.sample)
        return TraceJob(problem, number, ids, trace_seed(budget.seed, f"{problem.id}|budget {budget.tokens}", number))

    def forced(self, trace: Trace, budget: int, answer: FinishedTrace) -> Trace:
        """Thinking, string and answer as one trace; `n_tokens` counts all three."""
        thinking = (trace.token_ids or ())[:budget]
        injected, injected_ids = self.injected(thinking)
        ids = (*thinking, *injected_ids, *answer.token_ids)
        return replace(
            trace,
            text=self._text(thinking) + injected + answer.text,
            token_ids=ids,
            n_tokens=len(ids),
            finish_reason=answer.finish_reason,
        )

    def _text(self, ids: Sequence[int]) -> str:
        stream = self._detokenizer.stream()
        return "".join([stream.push(token) for token in ids]) + stream.finish()

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def force_missing(
    model: OpenedModel, budget: Budget, unforced: Sequence[ProblemTraces], writer: TraceFolderWriter
) -> None:
    """Store every trace of `unforced` that `writer`'s folder lacks, forced or, if it ended in time, untouched."""
    forcer = Forcer(model.tokenizer, budget.forcing)
    due: dict[tuple[str, int | str], Trace] = {}
    jobs = []
    for entry in unforced:
        prompt = prompt_ids(model.tokenizer, entry.problem, budget.prompt)
        for trace in (stored.trace for stored in entry.traces):
            if (trace.problem_id, trace.sample) in writer.done:
                continue
            if forcer.is_due(trace, budget.tokens):
                due[trace.problem_id, trace.sample] = trace
                jobs.append(forcer.job(entry.problem, trace, prompt, budget))
            else:
                writer.add(trace, group=entry.problem.group)
    if not jobs:
        return
    with progress(f"{model.name}, budget {budget.tokens:,}{current_ranks().note}", len(jobs)) as shown:
        for answer in sample_traces(model.engine, None, jobs, budget.answer_spec, budget.rows):
            problem = answer.job.problem
            trace = forcer.forced(due[problem.id, answer.job.sample], budget.tokens, answer)
            writer.add(trace, cut_tokens=budget.tokens, group=problem.group)
            shown.advance()


@dataclass(frozen=True, kw_only=True)
class BudgetPoint(ModelFigures):
    """One model on one benchmark at one `budget` [tokens], None where nothing is forced.

    `forced_share` (0-1) of the traces, with its 95 % interval over problems, were still thinking at the budget;
    `injected_tokens` is the sum over all traces of what was put behind their thinking. Lengths count it, as part of
    the output; it was read as a prompt, not generated, and so is not among `generated_tokens`.
    """

    budget: int | None
    forced_share: float
    forced_share_ci95: Bounds
    injected_tokens: int

    @property
    def label(self) -> str:
        return "none" if self.budget is None else f"{self.budget:,}"


def budget_point(budget: int, figures: ModelFigures, forced_share: Interval, injected_tokens: int) -> BudgetPoint:
    """`figures` are of the traces as they are stored, with what was injected."""
    known = vars(figures) | {"generated_tokens": figures.generated_tokens - injected_tokens}
    share, interval = forced_share[0], forced_share[1:]
    return BudgetPoint(
        **known, budget=budget, forced_share=share, forced_share_ci95=interval, injected_tokens=injected_tokens
    )


def unforced_point(figures: ModelFigures) -> BudgetPoint:
    return BudgetPoint(
        **vars(figures), budget=None, forced_share=0.0, forced_share_ci95=(0.0, 0.0), injected_tokens=0
    )


Curves = Mapping[str, Mapping[str, Sequence[BudgetPoint]]]
"""Model → benchmark → the points of its curve, the unforced one last."""


@dataclass(frozen=True)
class BudgetReport:
    """All of budget_forcing.json."""

    config: Mapping[str, JSON]
    grader: str
    forcing: Forcing
    models: Mapping[str, Mapping[str, tuple[BudgetPoint, ...]]]


def write(report: BudgetReport, folder: Path) -> None:
    """Replace budget_forcing.json and budget_forcing.csv in `folder`."""
    write_record(folder / _FILE, report, _FORMAT)
    write_csv(folder / "budget_forcing.csv", csv_rows(report.models))


def read_budget_forcing(folder: str | Path) -> BudgetReport:
    """Raises `InputError` for a folder without budget_forcing.json, or with one of another format."""
    return read_record(Path(folder) / _FILE, BudgetReport, _FORMAT, "start eval/budget_forcing.py again")


def csv_rows(curves: Curves) -> list[dict[str, CsvValue]]:
    """One row per model, benchmark and budget."""
    return [
        {"model": model, "benchmark": name, "budget": "none" if point.budget is None else point.budget}
        | {"forced_share": point.forced_share, "injected_tokens": point.injected_tokens}
        | flat_figures(point)
        for model, parts in curves.items()
        for name, points in parts.items()
        for point in points
    ]


def show(curves: Curves) -> None:
    columns = ("model, benchmark", "budget", "forced", "pass@1", "95 %", "tokens", "95 %", "truncated")
    table = plain_table("", columns)
    for model, parts in curves.items():
        for name, points in parts.items():
            table.add_section()
            table.add_row(f"[bold]{escape(model)}[/bold], {escape(name)}", *[""] * 7)
            for point in points:
                table.add_row("", *_cells(point))
    print_table(table)
    console.print(
        "budget: tokens after which thinking ends by force; tokens: mean of the output, the injected string included;"
        "\ntruncated: share that ran into the cap on the answer, or on the output where nothing was forced",
        style="dim",
    )


def _cells(point: BudgetPoint) -> list[str]:
    return [
        point.label,
        f"{point.forced_share:.1%}",
        f"{point.pass_at_1:.3f}",
        interval_text(*point.pass_at_1_ci95),
        f"{point.mean_tokens:,.0f}",
        interval_text(*point.mean_tokens_ci95, digits=0),
        f"{point.truncated_share:.1%}",
    ]


def draw(curves: Curves, path: Path) -> None:
    """A panel per benchmark: accuracy over mean tokens, a curve over the budgets per model, its unforced point
    large."""
    benchmarks = list(next(iter(curves.values())))
    colours = model_colours(list(curves))
    with matplotlib.rc_context(PLOT_STYLE):
        columns = min(3, len(benchmarks))
        rows = -(-len(benchmarks) // columns)
        figure = Figure(figsize=(max(6.0, 4.4 * columns), 3.6 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(panels, benchmarks, strict=False):
            _draw_curves(axes, {model: parts[name] for model, parts in curves.items()}, colours)
            axes.set_title(name)
        for axes in panels[len(benchmarks) :]:
            axes.set_axis_off()
        handles = [Line2D([], [], color=colour, label=model) for model, colour in colours.items()]
        handles.append(
            Line2D([], [], color="#555555", marker="o", markersize=4, label="forced at the budget beside it")
        )
        handles.append(Line2D([], [], color="#555555", marker="D", markersize=8, ls="", label="unforced"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        save_png(figure, path)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[BudgetPoint]], colours: Mapping[str, str]) -> None:
    for number, (model, points) in enumerate(curves.items()):
        places = [(point.mean_tokens, point.pass_at_1) for point in points]
        axes.plot(*zip(*places, strict=True), color=colours[model], linewidth=1.3, alpha=0.6, zorder=1)
        for point in points:
            unforced = point.budget is None
            draw_point(axes, point, colours[model], "D" if unforced else "o", 8 if unforced else 4)
            if point.forced_share > 0:
                _name_point(axes, point, colours[model], below=number % 2 == 0)
    use_token_axis(axes, [point.mean_tokens for points in curves.values() for point in points])
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel("mean tokens of a sample, thinking and answer")
    axes.set_ylabel("pass@1")


def _name_point(axes: Axes, point: BudgetPoint, colour: str, below: bool) -> None:
    """On the other side for every other model, so that names stand apart."""
    offset, side = ((5, -10), "left") if below else ((-5, 6), "right")
    style = {"textcoords": "offset points", "fontsize": 7, "ha": side, "color": colour}
    axes.annotate(point.label, (point.mean_tokens, point.pass_at_1), xytext=offset, **style)
