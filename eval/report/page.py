"""report.html: what a run found, in one file that needs no network.

Reads the files of other stages and leaves out the sections whose files are not there. All text of models is escaped
by Jinja or compressed into a base64 block, from which the page's own scripts write it as text. The page's policy
allows those scripts and that style sheet, known by their hashes, and nothing else.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from eval.report import charts
from eval.report import scaling as report_scaling
from eval.report.answer import answers, rows_of
from eval.report.bars import printable, problem_views
from eval.report.cards import Card, OneTrace, Rung, chosen_model, headline_cards, ladder
from eval.report.explorer import TracedBenchmark, explorer_data, read_traced, text_sources
from eval.report.frontier import Frontier, frontier
from eval.report.story import stories
from eval.report.table import columns, live_rows, signed, table_rows
from eval.report.training import MeasuredJudge, judge_section, measured_judges, round_figures
from eval.report.views import Grid, View, benchmark_label, grid_of, recommendations, recommended_ids, run_folders
from eval.table.labels import mark_notes, planted_errors_note
from eval.table.registry import method_about, method_label
from secateur.results import TABLE_FILE, Difference, Table, read_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.runtime.pictures import COLOURS

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("report.js", "trace_panels.js", "explorer.js")
_STATIC_PROBLEMS = 2  # drawn for readers without JavaScript


@dataclass(frozen=True)
class ReportInputs:
    """Where the parts of a report lie; only `combined` is required.

    combined: folder with combined.json and explorer.json.
    title: by default the names of the models.
    thinkprune: run folder of the schedule.
    judges: model → judge folder; without any, those of the run's config are looked for.
    lengths: model → trace lengths [tokens] on held-out problems; without any, those of the run's traces are drawn.
    one_trace: model → what one trace comes to on held-out problems.
    wall_s: stage → seconds.
    """

    combined: Path
    title: str | None = None
    thinkprune: Path | None = None
    judges: Mapping[str, Path] = field(default_factory=dict)
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    one_trace: Mapping[str, OneTrace] = field(default_factory=dict)
    wall_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnView:
    """Everything that is drawn of one benchmark and n; `live_problems` of it ran live."""

    benchmark: str
    label: str
    n: int
    problems: int
    cards: list[Card]
    ladder: list[Rung]
    live_problems: int
    frontier: Frontier


@dataclass(frozen=True)
class DrawnDifference:
    benchmark: str
    n: int
    label: str
    difference: str
    interval: str


@dataclass(frozen=True)
class PageParts:
    """Style and scripts as they stand in the page, and the policy that allows these and nothing else."""

    style: Markup
    scripts: list[Markup]
    policy: Markup


def write_report(inputs: ReportInputs, path: str | Path) -> None:
    """Render the report and replace `path`."""
    write_text(path, render_report(inputs))


def render_report(inputs: ReportInputs) -> str:
    table = read_table(inputs.combined)
    if not table.rows:
        raise InputError(f"{inputs.combined / TABLE_FILE}: holds no row; run eval/combined.py again")
    traced = read_traced(run_folders(table, inputs.combined))
    judges = measured_judges(inputs.judges, table.config)
    values = _of_the_table(inputs, table, judges) | _of_the_traces(table, traced)
    return render_template(
        "report.html.j2",
        **values,
        page=page_parts(),
        rounds=round_figures(inputs.thinkprune),
        lengths=_lengths(inputs, traced),
        judges=[judge_section(judge) for judge in judges],
        wall=inputs.wall_s,
    )


def _of_the_table(inputs: ReportInputs, table: Table, judges: Sequence[MeasuredJudge]) -> dict[str, object]:
    """The values of the template that come from combined.json."""
    rows, models, config = table.rows, table.models, table.config
    grid, advice, shown = grid_of(rows), recommendations(table), columns(rows)
    views = [_view(view, inputs, table, judges) for view in grid.views]
    return {
        "title": inputs.title or _title(models, config.get("models", {})),
        "subtitle": _subtitle(grid, models, config),
        "note": planted_errors_note(config),
        "grid": grid,
        "views": views,
        "answers": answers(table),
        "advice": [(name, _advice(found.words)) for name, found in advice.items() if found.words],
        "columns": shown,
        "table": table_rows(rows, shown, recommended_ids(table)),
        "methods": [(method_label(name), method_about(name)) for name in dict.fromkeys(row.method for row in rows)],
        "mark_notes": mark_notes(rows),
        "differences": [_difference(one) for one in table.differences],
        "scaling": report_scaling.scaling(grid),
        "chart_width": report_scaling.WIDTH,
        "chart_height": report_scaling.HEIGHT,
        "models": [(printable(model, 80), *report_scaling.model_mark(model, models)) for model in models],
        "live": live_rows(table.live),
        "live_equals_replay": table.live_equals_replay,
        "orders": config["orders"],
        "configuration": printable(json.dumps({"config": config, "versions": table.versions}, indent=1)),
    }


def _of_the_traces(table: Table, traced: Sequence[TracedBenchmark]) -> dict[str, object]:
    """The values of the template that come from explorer.json and the trace folders."""
    problems = [problem for one in traced for problem in one.problems]
    some = problems[:: max(1, len(problems) // _STATIC_PROBLEMS)][:_STATIC_PROBLEMS]
    sources = text_sources(traced, table.config)
    pairs = {advice.benchmark: rows_of(table, advice) for advice in table.recommendations}
    recommended = {benchmark: pair[0] for benchmark, pair in pairs.items() if pair is not None}
    return {
        "static": problem_views(some),
        "stories": stories(table, traced, sources),
        "explorer": explorer_data(traced, sources, recommended) if traced else None,
    }


def _title(models: Sequence[str], places: Mapping[str, str]) -> str:
    """Every model with the end of its path, unless that is its name.

    >>> _title(["base", "qwen"], {"base": "outputs/real/tuned", "qwen": "qwen"})
    'base (real/tuned) and qwen'
    """
    ends = {name: "/".join(Path(places[name]).parts[-2:]) for name in models if name in places}
    named = [f"{name} ({ends[name]})" if ends.get(name, name) != name else name for name in models]
    return printable(_and(named), 200)


def _advice(words: Sequence[str]) -> list[tuple[str, str]]:
    """(model, what is recommended for it); what holds for all models comes first."""
    said = [printable(line).replace(" %", "\N{NO-BREAK SPACE}%") for line in words]
    parts = [line.partition(": ") for line in sorted(said, key=lambda line: not line.startswith("overall: "))]
    return [(head, rest) if colon else ("", head) for head, colon, rest in parts]


def _view(view: View, inputs: ReportInputs, table: Table, judges: Sequence[MeasuredJudge]) -> DrawnView:
    recommended, models = recommendations(table).get(view.benchmark), table.models
    chosen = chosen_model(models, recommended, view.rows)
    live = [one for one in table.live if one.benchmark == view.benchmark and view.n == max(table.n)]
    return DrawnView(
        benchmark=view.benchmark,
        label=printable(benchmark_label(view.benchmark), 80),
        n=view.n,
        problems=view.problems,
        cards=headline_cards(view.rows, models, inputs.one_trace, judges, chosen, live),
        ladder=ladder(view.rows, models, live),
        live_problems=live[0].problems if live else 0,
        frontier=frontier(view.rows, models, None if len(table.n) > 1 else recommended),
    )


def render_template(name: str, **values: object) -> str:
    """One of our templates; all that is no `Markup` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(name).render(values)


def page_parts(names: Sequence[str] = _SCRIPTS) -> PageParts:
    """The style sheet and the scripts with these names."""
    style = COLOURS + (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    scripts = [(_TEMPLATES / name).read_text(encoding="utf-8") for name in names]
    allowed = " ".join(_hash_source(script) for script in scripts)
    policy = f"default-src 'none'; style-src {_hash_source(style)}; script-src {allowed}; base-uri 'none'"
    return PageParts(Markup(style), [Markup(script) for script in scripts], Markup(policy))


def _hash_source(content: str) -> str:
    """An inline block as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _difference(found: Difference) -> DrawnDifference:
    interval = "{} … {}".format(*map(signed, found.ci95))
    return DrawnDifference(found.benchmark, found.n, printable(found.label), signed(found.difference), interval)


def _subtitle(grid: Grid, models: Sequence[str], config: Mapping[str, JSON]) -> str:
    """Which problems, how many traces and which models."""
    first = grid.views[0]
    if isinstance(config["problems"], Mapping):
        names = (name for name in config["problems"] if grid.of(name))
        problems = f"{first.problems} problems (" + ", ".join(f"{n} {grid.of(n)[0].problems}" for n in names) + ")"
    else:
        problems = f"{first.problems} problems ({config['problems']})"
    traces = _and([f"{n}" for n in reversed(grid.ns)])
    return printable(f"{problems}, {traces} traces each, {_and(models)} model{'s' if len(models) > 1 else ''}")


def _and(names: Sequence[str]) -> str:
    """As a sentence lists them.

    >>> _and(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _lengths(inputs: ReportInputs, traced: Sequence[TracedBenchmark]) -> list[tuple[str | None, Markup]]:
    """(benchmark, figure); None where it is of the held-out problems of another stage, whatever is looked at."""
    if inputs.lengths:
        return [(None, Markup(charts.length_histograms(inputs.lengths)))]
    found = [(one.benchmark, one.lengths()) for one in traced]
    return [(name, Markup(charts.length_histograms(lengths, printable(name, 80)))) for name, lengths in found]
