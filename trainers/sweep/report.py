"""A judge sweep as sweep.json, table, CSV and picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from secateur.deepprune.judges.metrics import auroc, has_both_labels, ordered_counts, tnr_at_fnr
from secateur.runtime.files import write_text
from secateur.runtime.pictures import PLOT_STYLE

RESAMPLES = 1000
MISSED = 0.2  # share (0-1) of same-answer pairs that the threshold of the TNR may miss
_CHUNK = 50  # resamples at once: bounds memory to 50 numbers per pair


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure and its value in every resample [RESAMPLES], NaN where a resample lacks one of the labels."""

    value: float
    resampled: np.ndarray

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def to_json(self) -> dict[str, Any]:
        low, high = np.nanquantile(self.resampled, (0.025, 0.975))
        return {"value": self.value, "ci95": [float(low), float(high)]}


def mean(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.resampled for estimate in estimates], axis=0),
    )


def draw_problems(problems: int, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, problems]: how often each problem was drawn; every row sums to `problems`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES).astype(np.float64)


def auroc_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """Pooled AUROC (0-1); None without both labels. `problem` [pairs] numbers columns of `draws`."""
    if not has_both_labels(labels):
        return None
    present, numbers = np.unique(problem, return_inverse=True)
    drawn = draws[:, present]
    same = drawn @ np.bincount(numbers, weights=labels == 1)
    different = drawn @ np.bincount(numbers, weights=labels == 0)
    ordered = ((drawn @ ordered_counts(labels, scores, numbers)) * drawn).sum(1)
    total = same * different
    resampled = np.divide(ordered, total, out=np.full(len(draws), np.nan), where=total > 0)
    return Estimate(auroc(labels, scores), resampled)


def tnr_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """TNR at FNR 0.2 (0-1), the threshold chosen anew in every resample; None without both labels."""
    if not has_both_labels(labels):
        return None
    order = np.argsort(-scores, kind="stable")
    labels, ranked, problem = labels[order], scores[order], problem[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)  # a threshold takes all pairs of one score or none
    resampled = [_tnrs(labels, problem, last_of_tie, chunk) for chunk in np.array_split(draws, len(draws) // _CHUNK)]
    return Estimate(tnr_at_fnr(labels, ranked, MISSED), np.concatenate(resampled))


def _tnrs(labels: np.ndarray, problem: np.ndarray, last_of_tie: np.ndarray, draws: np.ndarray) -> np.ndarray:
    weights = draws[:, problem]
    caught = np.cumsum(weights * (labels == 1), axis=1)[:, last_of_tie]
    let_through = np.cumsum(weights * (labels == 0), axis=1)[:, last_of_tie]
    same, different = caught[:, -1], let_through[:, -1]
    enough = caught >= (1 - MISSED) * same[:, None] - 1e-9
    at_threshold = np.take_along_axis(let_through, enough.argmax(1)[:, None], 1)[:, 0]
    usable = (same > 0) & (different > 0)
    return 1 - np.divide(at_threshold, different, out=np.full(len(draws), np.nan), where=usable)


WIDTH = 112
FIGURES = ("auroc", "auroc_unfinished", "tnr_at_fnr20", "tnr_at_fnr20_unfinished")
_SHARES = ("whole_cut_share", "median_cut_share", "mean_cut_tokens")
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = {(True, True): "#0072b2", (True, False): "#56b4e9", (False, True): "#d55e00", (False, False): "#e69f00"}
_CUTS = {"words": "k-th reasoning word", "tokens": "first k tokens"}
Entry = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]
Setting = tuple[str, int, bool, bool]


def variant_name(focal: bool, oversampling: bool) -> str:
    """How a loss is called in table and legend.

    >>> variant_name(True, False)
    'focal'
    """
    return f"{'focal' if focal else 'cross-entropy'}{' + oversampling' if oversampling else ''}"


def make_sweep(kind: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """sweep.json from the metrics and scores of the cells that are done; seeds of one setting are averaged."""
    groups: dict[Setting, list[Entry]] = {}
    for entry in entries:
        cell = entry[0]["cell"]
        setting = (cell["rule"]["kind"], cell["rule"]["k"], cell["focal"], cell["oversampling"])
        groups.setdefault(setting, []).append(entry)
    tests = list(entries[0][0]["tests"]) if entries else []
    found = {setting: _estimates(members, tests) for setting, members in groups.items()}
    rows = [_row(setting, members, found[setting]) for setting, members in groups.items()]
    if len(tests) > 1:
        for row, members in zip(rows, groups.values(), strict=True):
            row["tests"] = {test: _to_json(_estimates(members, [test])) for test in tests}
    best = max(rows, key=lambda row: (row["auroc_unfinished"] or {"value": 0.0})["value"], default=None)
    sizes = [entries[0][0]["tests"][test] for test in tests]
    return {
        "kind": kind,
        "tests": tests,
        "rows": rows,
        "effects": _effects(found),
        "best_unfinished": {key: best[key] for key in ("cut", "k", "focal", "oversampling")} if best else None,
        "pairs": sum(size["pairs"] for size in sizes),
        "problems": sum(size["problems"] for size in sizes),
    }


def _estimates(members: Sequence[Entry], tests: Sequence[str]) -> dict[str, Estimate | None]:
    """Each figure of one setting, averaged over its seeds and the tests; None where the pairs lack a label."""
    columns = [
        {key: scores[f"{test}/{key}"] for key in ("labels", "scores", "problem", "unfinished")}
        for _, scores in members
        for test in tests
    ]
    found: dict[str, Estimate | None] = {}
    for suffix in ("", "_unfinished"):
        for name, estimate in (("auroc", auroc_estimate), ("tnr_at_fnr20", tnr_estimate)):
            estimates = []
            for column in columns:
                draws = draw_problems(int(column["problem"].max()) + 1)
                kept = column["unfinished"] if suffix else np.ones(len(column["labels"]), dtype=bool)
                estimates.append(estimate(*(column[key][kept] for key in ("labels", "scores", "problem")), draws))
            found[name + suffix] = None if None in estimates else mean(estimates)
    return found


def _row(setting: Setting, members: Sequence[Entry], found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    cut, k, focal, oversampling = setting
    cells = [test for metrics, _ in members for test in metrics["tests"].values()]
    return {
        "cut": cut,
        "k": k,
        "focal": focal,
        "oversampling": oversampling,
        "seeds": len(members),
        **_to_json(found),
        **{name: float(np.mean([cell[name] for cell in cells])) for name in _SHARES},
        "unfinished_pairs": sum(test["unfinished"]["pairs"] for test in members[0][0]["tests"].values()),
        "training_cpu_s": float(np.mean([metrics["training"].get("cpu_s", 0.0) for metrics, _ in members])),
    }


def _to_json(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: estimate.to_json() if estimate else None for name, estimate in found.items()}


def _effects(found: Mapping[Setting, Mapping[str, Estimate | None]]) -> list[dict[str, Any]]:
    """What focal loss and oversampling change against plain cross-entropy: the mean over the k of one cut, paired."""
    effects = []
    for cut in dict.fromkeys(setting[0] for setting in found):
        for variant in ((True, False), (False, True), (True, True)):
            for name in FIGURES:
                differences = [
                    estimates[name] - found[plain][name]
                    for (kind, k, *own), estimates in found.items()
                    if kind == cut
                    and tuple(own) == variant
                    and (plain := (kind, k, False, False)) in found
                    and estimates[name]
                    and found[plain][name]
                ]
                if differences:
                    effect = {"cut": cut, "focal": variant[0], "oversampling": variant[1], "figure": name}
                    effects.append(effect | mean(differences).to_json())
    return effects


def _number(figure: Mapping[str, Any] | None, interval: bool) -> str:
    if figure is None:
        return "–"
    low, high = figure["ci95"]
    return f"{figure['value']:.3f}" + (f" {low:.3f}–{high:.3f}" if interval else "")


def sweep_table(sweep: Mapping[str, Any]) -> Table:
    """One line per setting; the best AUROC over unfinished pairs is green."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = f"judge {sweep['kind']}: {sweep['problems']} test problems, {sweep['pairs']:,} pairs"
    for name in ("cut", "loss"):
        table.add_column(name, no_wrap=True)
    for name in ("AUROC\nall", "AUROC unfinished\n95 % interval", "TNR\nall", "TNR unfinished\n95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("whole\ncuts", "median\nof trace"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in sweep["rows"]:
        cut = (row["cut"], row["k"])
        if before not in (None, cut):
            table.add_section()
        is_best = all(row[key] == value for key, value in sweep["best_unfinished"].items())
        table.add_row(
            f"{row['cut']} {row['k']}" if cut != before else "",
            variant_name(row["focal"], row["oversampling"]),
            _number(row["auroc"], False),
            _number(row["auroc_unfinished"], True),
            _number(row["tnr_at_fnr20"], False),
            _number(row["tnr_at_fnr20_unfinished"], True),
            f"{row['whole_cut_share']:.1%}",
            f"{row['median_cut_share']:.0%}",
            style="green" if is_best else None,
        )
        before = cut
    return table


def print_sweep(sweep: Mapping[str, Any], console: Console) -> None:
    """The table, what the losses change, and what the columns mean."""
    if sweep["rows"]:
        if console.width < WIDTH and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
            console = Console(width=WIDTH, highlight=False, soft_wrap=True)
        console.print(sweep_table(sweep))
        for effect in sweep["effects"]:
            if effect["figure"].endswith("_unfinished"):
                console.print(f" {_effect_line(effect)}")
        console.print(
            "whole cuts: traces that ended before their cut, which shows the answer; unfinished pairs hold none of "
            "them.\nTNR: share of different-answer pairs kept apart where 20 % of the same-answer pairs are missed.",
            style="dim",
        )
    if sweep["missing_cells"]:
        console.print(f"{sweep['missing_cells']} cells are still to be trained: run the command again")


def _effect_line(effect: Mapping[str, Any]) -> str:
    low, high = effect["ci95"]
    name = "AUROC" if effect["figure"].startswith("auroc") else "TNR"
    return (
        f"{effect['cut']}: {variant_name(effect['focal'], effect['oversampling'])} − cross-entropy: {name} "
        f"{effect['value']:+.3f} (95 % CI {low:+.3f} … {high:+.3f}; unfinished pairs, mean over k, paired)"
    )


def write_csv(sweep: Mapping[str, Any], path: Path) -> None:
    """One line per setting; intervals as two columns."""
    lines = []
    for row in sweep["rows"]:
        line = {key: value for key, value in row.items() if key not in (*FIGURES, "tests")}
        for key in FIGURES:
            value, interval = (row[key]["value"], row[key]["ci95"]) if row[key] else (None, (None, None))
            line |= {key: value, f"{key}_low": interval[0], f"{key}_high": interval[1]}
        lines.append(line)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, buffer.getvalue())


def write_plot(sweep: Mapping[str, Any], path: Path) -> None:
    """One column per kind of cut: each figure over k for every loss, and below how much of the traces is cut."""
    cuts = list(dict.fromkeys(row["cut"] for row in sweep["rows"]))
    if not cuts:
        return
    titles = (
        "AUROC\nall pairs",
        "AUROC\nunfinished pairs",
        "TNR at FNR 0.2\nall pairs",
        "TNR at FNR 0.2\nunfinished",
    )
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.6 * len(cuts) + 0.6, 10.5), layout="constrained")
        grid = figure.subplots(len(FIGURES) + 1, len(cuts), sharey="row", squeeze=False)
        for column, cut in enumerate(cuts):
            rows = [row for row in sweep["rows"] if row["cut"] == cut]
            ks = sorted({row["k"] for row in rows})
            for axes, name, title in zip(grid[:, column], FIGURES, titles, strict=False):
                _draw_figure(axes, rows, ks, name)
                axes.set_ylabel(title if column == 0 else "")
            _draw_shares(grid[-1, column], rows, ks)
            grid[-1, column].set_ylabel("share" if column == 0 else "")
            grid[-1, column].set_xlabel(f"k ({_CUTS[cut]})")
            for axes in grid[:, column]:
                axes.set_xticks(range(len(ks)), [str(k) for k in ks])
                axes.set_xlim(-0.5, len(ks) - 0.5)
        grid[0, 0].legend(fontsize=8)
        grid[-1, 0].legend(fontsize=8)
        figure.suptitle(
            f"judge {sweep['kind']}, {sweep['problems']} test problems; bars: 95 % intervals over problems",
            fontsize=9,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp.png")
        figure.savefig(temporary, dpi=130)
        temporary.replace(path)


def _draw_figure(axes: Axes, rows: Sequence[Mapping[str, Any]], ks: Sequence[int], name: str) -> None:
    variants = [
        variant for variant in _COLOURS if any((row["focal"], row["oversampling"]) == variant for row in rows)
    ]
    for index, variant in enumerate(variants):
        own = [row for row in rows if (row["focal"], row["oversampling"]) == variant and row[name]]
        own.sort(key=lambda row: row["k"])
        offset = 0.1 * (index - (len(variants) - 1) / 2)  # side by side, or their bars would hide one another
        values = [row[name]["value"] for row in own]
        bars = [[abs(row[name]["ci95"][side] - row[name]["value"]) for row in own] for side in (0, 1)]
        axes.errorbar(
            [ks.index(row["k"]) + offset for row in own],
            values,
            yerr=bars,
            color=_COLOURS[variant],
            marker="o",
            markersize=3.5,
            linewidth=1.2,
            elinewidth=0.8,
            label=variant_name(*variant),
        )


def _draw_shares(axes: Axes, rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> None:
    by_k = {row["k"]: row for row in rows}
    axes.bar(range(len(ks)), [by_k[k]["whole_cut_share"] for k in ks], color="#999999", label="whole cuts")
    medians = [by_k[k]["median_cut_share"] for k in ks]
    axes.plot(range(len(ks)), medians, color="black", marker="o", markersize=3.5, label="median cut ÷ trace")
    axes.set_ylim(0, 1)
