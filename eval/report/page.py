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
from typing import Any

import jinja2
from markupsafe import Markup

from eval.report import charts as figures
from eval.report import scaling as report_scaling
from eval.report.bars import printable, problem_views
from eval.report.cards import chosen_model, headline_cards, ladder
from eval.report.explorer import Traced, explorer_data, read_traced
from eval.report.frontier import frontier
from eval.report.live import live_rows
from eval.report.table import columns, signed, table_rows
from eval.report.training import JudgeFolder, judge_folders, judge_section, read_choices, read_rounds
from eval.report.views import Grid, View, benchmark_label, benchmark_of, grid_of, recommendations, run_folders
from eval.table.labels import mark_notes, planted_errors_note
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_text

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("report.js", "trace_panels.js", "explorer.js")
_STATIC_PROBLEMS = 2  # drawn for readers without JavaScript


@dataclass(frozen=True)
class ReportInputs:
    """Where the parts of a report lie; only `combined` is required.

    combined: folder with combined.json and examples.json.
    thinkprune: run folder of the schedule.
    judges: model → judge folder; without any, those of the run's config are looked for.
    lengths: model → trace lengths [tokens] on held-out problems; without any, those of the run's traces are drawn.
    summary: the parts of summary.json that are known by then (base, pruned, control, wall_s).
    """

    combined: Path
    title: str = "Two blades, one bill"
    thinkprune: Path | None = None
    judges: Mapping[str, Path] = field(default_factory=dict)
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


def write_report(inputs: ReportInputs, path: str | Path) -> None:
    """Render the report and replace `path`."""
    write_text(path, render_report(inputs))


def render_report(inputs: ReportInputs) -> str:
    combined = read_json(inputs.combined / "combined.json")
    rows, config = combined["rows"], combined["config"]
    if not rows:
        raise InputError(f"{inputs.combined / 'combined.json'}: holds no row; run eval/combined.py again")
    grid, models = grid_of(rows), list(dict.fromkeys(row["model"] for row in rows))
    traced = read_traced(run_folders(combined, inputs.combined))
    judges, shown, advice = judge_folders(inputs.judges, config), columns(rows), recommendations(combined)
    records = [record for one in traced for record in one.records]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=inputs.title,
        subtitle=_subtitle(grid, models, config),
        note=planted_errors_note(config),
        page=_page_parts(),
        grid=grid,
        views=[_view(view, models, inputs.summary, judges, advice, grid.several_n) for view in grid.views],
        advice=[(name, _advice(entry["words"])) for name, entry in advice.items() if entry.get("words")],
        columns=shown,
        table=table_rows(rows, shown),
        mark_notes=mark_notes(rows),
        differences=_differences(combined["differences"]),
        scaling=report_scaling.scaling(grid),
        chart_width=report_scaling.WIDTH,
        chart_height=report_scaling.HEIGHT,
        models=[(printable(model, 80), *report_scaling.model_mark(model, models)) for model in models],
        rounds=_rounds(inputs.thinkprune),
        lengths=_lengths(inputs, traced),
        judges=[judge_section(judge) for judge in judges],
        static=problem_views(records[:: max(1, len(records) // _STATIC_PROBLEMS)][:_STATIC_PROBLEMS]),
        explorer=explorer_data(traced, config) if traced else None,
        live=live_rows(combined.get("live") or []),
        live_equals_replay=combined.get("live_equals_replay"),
        wall=inputs.summary.get("wall_s"),
        orders=config.get("orders", 1),
        configuration=printable(json.dumps({k: combined[k] for k in ("config", "versions")}, indent=1)),
    )


def _advice(words: Sequence[str]) -> list[tuple[str, str]]:
    """(model, what is recommended for it); what holds for all models comes first."""
    said = [printable(line).replace(" %", "\N{NO-BREAK SPACE}%") for line in words]
    parts = [line.partition(": ") for line in sorted(said, key=lambda line: not line.startswith("overall: "))]
    return [(head, rest) if colon else ("", head) for head, colon, rest in parts]


def _view(
    view: View,
    models: Sequence[str],
    summary: Mapping[str, Any],
    judges: Sequence[JudgeFolder],
    advice: Mapping[str, Mapping[str, Any]],
    several_n: bool,
) -> dict[str, Any]:
    """Everything that is drawn of one benchmark and n."""
    recommended = advice.get(view.benchmark, {})
    chosen = chosen_model(models, recommended, view.rows)
    return {
        "benchmark": view.benchmark,
        "label": printable(benchmark_label(view.benchmark), 80),
        "n": view.n,
        "problems": view.problems,
        "cards": headline_cards(view.rows, models, summary, judges, chosen),
        "ladder": ladder(view.rows, models),
        "frontier": frontier(view.rows, models, {} if several_n else recommended),
    }


def _page_parts() -> dict[str, Any]:
    """Style and scripts as they stand in the page, and the policy that allows these and nothing else."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    scripts = [(_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    allowed = " ".join(_hash_source(script) for script in scripts)
    policy = f"default-src 'none'; style-src {_hash_source(style)}; script-src {allowed}; base-uri 'none'"
    return {"style": Markup(style), "scripts": [Markup(script) for script in scripts], "policy": Markup(policy)}


def _hash_source(content: str) -> str:
    """An inline block as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _differences(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark_of(entry),
            "n": entry.get("n"),
            "label": printable(entry["label"]),
            "difference": signed(entry["difference"]),
            "interval": f"{signed(entry['ci95'][0])} … {signed(entry['ci95'][1])}",
        }
        for entry in found
    ]


def _subtitle(grid: Grid, models: Sequence[str], config: Mapping[str, Any]) -> str:
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


def _rounds(folder: Path | None) -> dict[str, Any] | None:
    """The figures of the length blade; None where no round was finished."""
    rounds = read_rounds(folder) if folder else []
    if not folder or not rounds:
        return None
    drawn = {"lengths": figures.length_over_rounds(rounds), "accuracy": figures.accuracy_over_rounds(rounds)}
    return {name: Markup(figure) for name, figure in drawn.items()} | {"choices": read_choices(folder)}


def _lengths(inputs: ReportInputs, traced: Sequence[Traced]) -> list[tuple[str | None, Markup]]:
    """(benchmark, figure); None where it is of the held-out problems of another stage, whatever is looked at."""
    if inputs.lengths:
        return [(None, Markup(figures.length_histograms(inputs.lengths)))]
    found = [(one.benchmark, one.lengths()) for one in traced]
    return [(name, Markup(figures.length_histograms(lengths, printable(name, 80)))) for name, lengths in found]
