"""Headline numbers of the report, and what an answer costs by the few methods that it is about."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.training import JudgeFolder
from eval.table.labels import method_label
from eval.table.rules import PUBLISHED
from secateur.runtime.files import read_json
from secateur.runtime.pictures import colour_of

Row = Mapping[str, Any]
_FULL_VOTE = "vote of all {n} traces"


def find_row(rows: Sequence[Row], model: str, method: str) -> Row | None:
    """The row of a method; where several judges have one, that of the first, which is the model's own."""
    return next((row for row in rows if row["model"] == model and row["method"] == method), None)


def _signed_percent(change: float) -> str:
    return f"{100 * change:+.0f} %".replace("-", "−")


def _card(label: str, value: str, detail: str, main: bool = False) -> dict[str, Any]:
    return {"label": label, "value": value, "detail": detail, "main": main}


def headline_cards(
    rows: Sequence[Row], models: Sequence[str], summary: Mapping[str, Any], judges: Sequence[JudgeFolder], chosen: str
) -> list[dict[str, Any]]:
    """`rows` of one benchmark and n; `chosen` is the model whose saving matters most."""
    return [*_length_cards(summary), *_saving_cards(rows, models, chosen), *_judge_cards(judges)]


def chosen_model(models: Sequence[str], recommendation: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """That of the method recommended overall, else the pruned one, else the last."""
    overall = recommendation.get("overall")
    named = next((row["model"] for row in rows if overall is not None and row.get("id") == overall), None)
    return named or ("pruned" if "pruned" in models else models[-1])


def _length_cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "base" not in summary or "pruned" not in summary:
        return []
    base, pruned, control = (summary.get(name) for name in ("base", "pruned", "control"))
    change = pruned["mean_tokens"] / base["mean_tokens"] - 1
    lengths = f"{base['mean_tokens']:.0f} → {pruned['mean_tokens']:.0f} tokens, after the length blade"
    answers = "one trace, held-out problems"
    if control:
        lengths += f"; {_signed_percent(control['mean_tokens'] / base['mean_tokens'] - 1)} without a binding limit"
        answers += f"; {control['pass_at_1']:.2f} without a binding limit"
    return [
        _card("Tokens per trace", _signed_percent(change), lengths),
        _card("pass@1", f"{base['pass_at_1']:.2f} → {pruned['pass_at_1']:.2f}", answers),
    ]


def _saving_cards(rows: Sequence[Row], models: Sequence[str], chosen: str) -> list[dict[str, Any]]:
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
        cards.append(_card(label, f"{100 * row['saving_net']:.0f} %", detail, main=model == chosen))
    return cards


def _pruned_rows(rows: Sequence[Row], model: str) -> list[Row]:
    """DeepPrune with the first judge of the model, by every rule."""
    found = [row for row in rows if row["model"] == model and row["method"].startswith(PUBLISHED)]
    return [row for row in found if row["judge"] == found[0]["judge"]]


def _judge_cards(judges: Sequence[JudgeFolder]) -> list[dict[str, Any]]:
    """The first judge's AUROC, and the others' below it."""
    if not judges:
        return []
    found = [(judge.model, read_json(judge.folder / "metrics.json")) for judge in judges]
    (model, first), *others = found
    detail = f"{model}: {_interval(first)}, unseen problems"
    detail += "".join(f"; {name} {metrics['auroc']:.3f}" for name, metrics in others)
    return [_card("Judge AUROC", f"{first['auroc']:.3f}", detail)]


def _interval(metrics: Mapping[str, Any]) -> str:
    return "{:.3f} – {:.3f}".format(*metrics["auroc_ci95"])


def ladder(rows: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    rungs = []
    for model in models:
        full = find_row(rows, model, "consensus")
        for row in [*([full] if full else []), *_pruned_rows(rows, model)]:
            label = _FULL_VOTE if row is full else method_label(row["method"])
            cost, generated = 1 - row["saving_net"], 1 - row["saving_gross"]
            rungs.append(
                {
                    "first": row is full,
                    "label": f"{model}, {label.format(n=row['n'])}",
                    "cost": cost,
                    "generated": min(generated, cost),
                    "judge": max(cost - generated, 0.0),
                    "accuracy": row["accuracy"],
                    "colour": colour_of(model, models),
                }
            )
    return rungs
