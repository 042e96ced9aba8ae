"""report.html: what a run found, in one file that needs no network.

Reads the files of other stages and leaves out the sections whose files are not there. All text of models goes through
Jinja's escaping, and the page forbids scripts and requests.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval import figures
from eval.figures import Candidate, CostPoint, RocCurve, RoundRecord
from eval.rules import PUBLISHED
from eval.table import judge_label, method_label, planted_errors_note
from eval.trace_view import printable, problem_views
from runtime.errors import InputError
from runtime.files import read_json, read_jsonl, write_text

Row = Mapping[str, Any]
_REWARD_KEYS = ("reward",)
_LENGTH_KEYS = ("completions/mean_length",)
_FULL_VOTE = "vote of all {n} traces"


@dataclass(frozen=True)
class ReportInputs:
    """Where the parts of a report lie; only `combined` is required.

    combined: folder with combined.json and examples.json.
    thinkprune: run folder of the schedule.
    judges: model → judge folder.
    lengths: model → trace lengths [tokens] on held-out problems.
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
    rows = combined["rows"]
    if not rows:
        raise InputError(f"{inputs.combined / 'combined.json'}: holds no row; run eval/combined.py again")
    config = combined["config"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    examples = inputs.combined / "examples.json"
    views = problem_views(read_json(examples)) if examples.is_file() else []
    rounds = read_rounds(inputs.thinkprune) if inputs.thinkprune else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=inputs.title,
        subtitle=_subtitle(rows, models, config),
        note=planted_errors_note(config),
        cards=_cards(rows, models, inputs),
        ladder=_ladder(rows, models),
        table=_table(rows, models),
        judge_reads=any(row["tokens"]["judge_prefill"] + row["tokens"]["judge_generated"] for row in rows),
        method_label=method_label,
        judge_label=judge_label,
        differences=combined["differences"],
        figures=_figures(rows, models, rounds, inputs),
        choices=_choices(inputs.thinkprune) if inputs.thinkprune else [],
        views=views,
        live=combined.get("live_equals_replay"),
        wall=inputs.summary.get("wall_s"),
        n=rows[0]["n"],
        problems=rows[0]["problems"],
        orders=config.get("orders", 1),
        configuration=printable(json.dumps({k: combined[k] for k in ("config", "versions")}, indent=1)),
    )


def find_row(rows: Sequence[Row], model: str, method: str) -> Row | None:
    """The row of a method; where several judges have one, that of the first, which is the model's own."""
    return next((row for row in rows if row["model"] == model and row["method"] == method), None)


def _subtitle(rows: Sequence[Row], models: Sequence[str], config: Mapping[str, Any]) -> str:
    first = rows[0]
    return (
        f"{first['problems']} problems ({config['problems']}), {first['n']} traces each, "
        f"{' and '.join(models)} model{'s' if len(models) > 1 else ''}"
    )


def _signed_percent(change: float) -> str:
    return f"{100 * change:+.0f} %".replace("-", "−")


def _card(label: str, value: str, detail: str, main: bool = False) -> dict[str, Any]:
    return {"label": label, "value": value, "detail": detail, "main": main}


def _cards(rows: Sequence[Row], models: Sequence[str], inputs: ReportInputs) -> list[dict[str, Any]]:
    return [*_length_cards(inputs.summary), *_saving_cards(rows, models), *_judge_cards(inputs.judges)]


def _length_cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "base" not in summary or "pruned" not in summary:
        return []
    base, pruned = summary["base"], summary["pruned"]
    change = pruned["mean_tokens"] / base["mean_tokens"] - 1
    detail = f"{base['mean_tokens']:.0f} → {pruned['mean_tokens']:.0f} tokens, after the length blade"
    control = summary.get("control")
    if control:
        detail += f"; {_signed_percent(control['mean_tokens'] / base['mean_tokens'] - 1)} without a binding limit"
    return [
        _card("Tokens per trace", _signed_percent(change), detail),
        _card("pass@1", f"{base['pass_at_1']:.2f} → {pruned['pass_at_1']:.2f}", "one trace, held-out problems"),
    ]


def _saving_cards(rows: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    reference = find_row(rows, models[0], "consensus")
    cards = []
    for model in models:
        pruned = _pruned_rows(rows, model)
        if not pruned or reference is None:
            continue
        row = max(pruned, key=lambda row: row["saving_net"])
        change = 100 * (row["accuracy"] - reference["accuracy"])
        name = method_label(row["method"])
        label = f"Net saving, {name} alone" if model == models[0] else f"Net saving, {name} on {model}"
        detail = f"{change:+.1f} points against the {models[0]} model's full vote".replace("-", "−")
        cards.append(_card(label, f"{100 * row['saving_net']:.0f} %", detail, main=model == models[-1]))
    return cards


def _pruned_rows(rows: Sequence[Row], model: str) -> list[Row]:
    """DeepPrune with the first judge of the model, by every rule."""
    found = [row for row in rows if row["model"] == model and row["method"].startswith(PUBLISHED)]
    return [row for row in found if row["judge"] == found[0]["judge"]]


def _judge_cards(judges: Mapping[str, Path]) -> list[dict[str, Any]]:
    for name, folder in judges.items():
        metrics = read_json(Path(folder) / "metrics.json")
        low, high = metrics["auroc_ci95"]
        return [_card("Judge AUROC", f"{metrics['auroc']:.3f}", f"{name}: {low:.3f} – {high:.3f}, unseen problems")]
    return []


def _ladder(rows: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    rungs = []
    for model in models:
        full = find_row(rows, model, "consensus")
        for row in [*([full] if full else []), *_pruned_rows(rows, model)]:
            label = _FULL_VOTE if row is full else method_label(row["method"])
            cost, generated = 1 - row["saving_net"], 1 - row["saving_gross"]
            rungs.append(
                {
                    "label": f"{model}, {label.format(n=row['n'])}",
                    "cost": cost,
                    "generated": min(generated, cost),
                    "judge": max(cost - generated, 0.0),
                    "accuracy": row["accuracy"],
                    "colour": figures.colour_of(model, models),
                }
            )
    return rungs


def _table(rows: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"model": m, "colour": figures.colour_of(m, models), "rows": [row for row in rows if row["model"] == m]}
        for m in models
    ]


def _figures(
    rows: Sequence[Row], models: Sequence[str], rounds: Sequence[RoundRecord], inputs: ReportInputs
) -> dict[str, Any]:
    points = [
        CostPoint(r["model"], r["method"], 100 * (1 - r["saving_net"]), r["accuracy"], *r["accuracy_ci95"])
        for r in rows
        if r["judge"] != "random"
    ]
    charts: dict[str, Any] = {"cost": Markup(figures.cost_and_accuracy(points, models, method_label))}
    charts["length_rounds"] = Markup(figures.length_over_rounds(rounds)) if rounds else None
    charts["accuracy_rounds"] = Markup(figures.accuracy_over_rounds(rounds)) if rounds else None
    charts["lengths"] = Markup(figures.length_histograms(dict(inputs.lengths))) if inputs.lengths else None
    charts["roc"] = [_roc_figure(name, Path(folder)) for name, folder in inputs.judges.items()]
    return charts


def _roc_figure(name: str, folder: Path) -> dict[str, Any]:
    metrics = read_json(folder / "metrics.json")
    curves = [
        RocCurve(printable(metrics.get("kind", name)).replace("_", " "), metrics["roc"], metrics["auroc"], main=True)
    ]
    for label, baseline in metrics.get("baselines", {}).items():
        if isinstance(baseline, dict) and baseline.get("roc"):
            curves.append(RocCurve(printable(label).replace("_", " "), baseline["roc"], baseline["auroc"]))
    caption = f"{metrics['pairs']:,} pairs, {metrics['same_answer_share']:.0%} with the same answer."
    return {"title": f"Judge for the {name} model", "svg": Markup(figures.roc(curves, name)), "caption": caption}


def _choices(folder: Path) -> list[dict[str, Any]]:
    choices = []
    for path in _round_folders(folder):
        if (path / "selection.json").is_file():
            selection = read_json(path / "selection.json")
            chosen = next(c for c in selection["candidates"] if c["step"] == selection["chosen_step"])
            choices.append(
                {
                    "round": int(path.name.split("-")[0]),
                    "limit": selection["limit"],
                    "step": selection["chosen_step"],
                    "pass_at_1": chosen["pass_at_1"],
                    "mean_tokens": chosen["mean_tokens"],
                    "reason": printable(selection["reason"]),
                }
            )
    return choices


def _round_folders(folder: Path) -> list[Path]:
    """Folders such as `rounds/1-limit-220`, in the order of the rounds."""
    found = [path for path in (Path(folder) / "rounds").glob("*") if re.fullmatch(r"\d+-limit-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[0]))


def read_rounds(folder: str | Path) -> list[RoundRecord]:
    """Rounds of a schedule's run folder that were finished, their steps counted through."""
    rounds, first = [], 0
    for path in _round_folders(Path(folder)):
        if not (path / "selection.json").is_file():
            continue
        log = [record for _, record in read_jsonl(path / "train.jsonl")] if (path / "train.jsonl").is_file() else []
        selection = read_json(path / "selection.json")
        candidates = [
            Candidate(first + c["step"], c["pass_at_1"], c["mean_tokens"], c["step"] == selection["chosen_step"])
            for c in selection["candidates"]
        ]
        steps = [record["step"] for record in log if "step" in record]
        last = first + max([*steps, *(c["step"] for c in selection["candidates"])])
        number = int(path.name.split("-")[0])
        rounds.append(
            RoundRecord(
                number,
                selection["limit"],
                first,
                last,
                _series(log, _LENGTH_KEYS, first),
                _series(log, _REWARD_KEYS, first),
                candidates,
            )
        )
        first = last
    return rounds


def _series(log: Sequence[Mapping[str, Any]], keys: Sequence[str], first: int) -> list[tuple[int, float]]:
    """(step, value) of the first of `keys` that a record has; a step that was logged twice counts once, the later."""
    values = {
        record["step"]: float(record[key]) for record in log if "step" in record for key in keys if key in record
    }
    return [(first + step, values[step]) for step in sorted(values)]
