"""Headline numbers of the report, and what an answer costs by the few methods that it is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.report.training import JudgeMetrics, MeasuredJudge
from eval.table.registry import method_label, prunes
from secateur.results import LiveEntry, Recommendation, Row
from secateur.runtime.pictures import model_colours


@dataclass(frozen=True)
class OneTrace:
    """What one trace of a model comes to on held-out problems: pass@1 (0-1), mean length [tokens]."""

    pass_at_1: float
    mean_tokens: float


@dataclass(frozen=True)
class Card:
    """A headline number; `main` stands out."""

    label: str
    value: str
    detail: str
    main: bool = False


@dataclass(frozen=True)
class Rung:
    """One way to an answer: its net cost, of which `generated` and `judge` are the parts, as shares (0-1) of what the
    base model's consensus costs. `first` of its model; `tokens` for an answer; `seconds` live, "" where unknown."""

    label: str
    first: bool
    cost: float
    generated: float
    judge: float
    accuracy: float
    colour: str
    tokens: float
    seconds: str


def find_row(rows: Sequence[Row], model: str, method: str) -> Row | None:
    """The row of a method; where several judges have one, that of the first, which is the model's own."""
    return next((row for row in rows if row.model == model and row.method == method), None)


def _signed_percent(change: float) -> str:
    return f"{100 * change:+.0f} %".replace("-", "−")


def headline_cards(
    rows: Sequence[Row],
    models: Sequence[str],
    one_trace: Mapping[str, OneTrace],
    judges: Sequence[MeasuredJudge],
    chosen: str,
    live: Sequence[LiveEntry] = (),
) -> list[Card]:
    """`rows` of one benchmark and n; `chosen` is the model whose saving matters most; `live`: runs of the same
    benchmark and n."""
    return [*_length_cards(one_trace), *_saving_cards(rows, models, chosen, live), *_judge_cards(judges)]


def chosen_model(models: Sequence[str], advice: Recommendation | None, rows: Sequence[Row]) -> str:
    """That of the method recommended overall, else the pruned one, else the last."""
    named = next((row.model for row in rows if advice is not None and row.id == advice.overall), None)
    return named or ("pruned" if "pruned" in models else models[-1])


def _length_cards(one_trace: Mapping[str, OneTrace]) -> list[Card]:
    if not {"base", "pruned"} <= one_trace.keys():
        return []
    base, pruned, control = one_trace["base"], one_trace["pruned"], one_trace.get("control")
    lengths = f"{base.mean_tokens:.0f} → {pruned.mean_tokens:.0f} tokens, after length pruning"
    answers = "pass@1, held-out problems"
    if control:
        lengths += f"; {_signed_percent(control.mean_tokens / base.mean_tokens - 1)} without a binding limit"
        answers += f"; {control.pass_at_1:.2f} without a binding limit"
    return [
        Card("Tokens per trace", _signed_percent(pruned.mean_tokens / base.mean_tokens - 1), lengths),
        Card("Right with one trace", f"{base.pass_at_1:.2f} → {pruned.pass_at_1:.2f}", answers),
    ]


def _saving_cards(rows: Sequence[Row], models: Sequence[str], chosen: str, live: Sequence[LiveEntry]) -> list[Card]:
    reference = find_row(rows, models[0], "consensus")
    cards = []
    for model in models:
        pruned = _pruned_rows(rows, model)
        if not pruned or reference is None:
            continue
        row = max(pruned, key=lambda row: row.saving_net)
        name = method_label(row.method)
        label = f"Net saving, {name} alone" if model == models[0] else f"Net saving, {name} on {model}"
        change = 100 * (row.accuracy - reference.accuracy)
        detail = f"{change:+.1f} points against the {models[0]} model's consensus".replace("-", "−")
        seconds = _seconds(reference, live), _seconds(row, live)
        detail += f"; live {' → '.join(seconds)}" if all(seconds) else ""
        cards.append(Card(label, f"{100 * row.saving_net:.0f} %", detail, main=model == chosen))
    return cards


def _pruned_rows(rows: Sequence[Row], model: str) -> list[Row]:
    """DeepPrune with the first judge of the model, by every rule."""
    found = [row for row in rows if row.model == model and prunes(row.method)]
    return [row for row in found if row.judge == found[0].judge]


def _judge_cards(judges: Sequence[MeasuredJudge]) -> list[Card]:
    """The first judge's AUROC, and the others' below it."""
    if not judges:
        return []
    first, *others = judges
    detail = f"AUROC, 0.5 is chance; {first.model}: {_interval(first.metrics)}, unseen problems"
    detail += "".join(f"; {judge.model} {judge.metrics.auroc:.3f}" for judge in others)
    return [Card("How well the judge ranks", f"{first.metrics.auroc:.3f}", detail)]


def _interval(metrics: JudgeMetrics) -> str:
    return "{:.3f} – {:.3f}".format(*metrics.auroc_ci95)


def ladder(rows: Sequence[Row], models: Sequence[str], live: Sequence[LiveEntry] = ()) -> list[Rung]:
    """The consensus of every model, and DeepPrune with its first judge by every rule; `live`: runs of the same
    benchmark and n."""
    colours = model_colours(models)
    rungs = []
    for model in models:
        consensus = find_row(rows, model, "consensus")
        for row in [*([consensus] if consensus else []), *_pruned_rows(rows, model)]:
            rungs.append(_rung(row, row is consensus, colours[model], _seconds(row, live)))
    return rungs


def _seconds(row: Row, live: Sequence[LiveEntry]) -> str:
    """Of the live run; for a consensus those of sampling all traces of the same problems, "≈" where estimated."""
    mine = [one for one in live if one.model == row.model]
    if row.method == "consensus":
        sign = "" if mine and mine[0].sampling_wall_measured else "≈ "
        found = mine[0].sampling_wall_s if mine else None
    else:
        sign = ""
        found = next((one.live.wall_s for one in mine if (one.method, one.judge) == (row.method, row.judge)), None)
    return "" if found is None else f"{sign}{found:,.1f} s"


def _rung(row: Row, first: bool, colour: str, seconds: str) -> Rung:
    cost, generated = 1 - row.saving_net, 1 - row.saving_gross
    return Rung(
        label=f"{row.model}, {method_label(row.method)}",
        first=first,
        cost=cost,
        generated=min(generated, cost),
        judge=max(cost - generated, 0.0),
        accuracy=row.accuracy,
        colour=colour,
        tokens=row.net_tokens,
        seconds=seconds,
    )
