"""The bar that matters: DeepPrune against consensus over the fewer full traces that the same net tokens buy.

    python bench/equal_tokens.py --run outputs/demo/combined --n 16 32 64 [--draws 8] [--note "machine, date, task"]

Replays rules on a finished eval/combined.py run with many traces per problem; no model is needed. For an n below the
stored number, random subsets of the stored traces are taken, for the stored number random orders of them; all
methods meet the same ones. The fewer full traces are drawn from all that are stored. Differences are paired by
problem, their intervals are bootstrap intervals over problems. Adaptive-Consistency, which asks finished answers
instead of cuts whether it may stop, has the same kind of control.

Mixes weigh problems by how contested they are, which is the share of their stored traces with the right answer.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from rich import box
from rich.console import Console
from rich.table import Table

from eval.studies.rule_sweep import StoredRun, load_run
from eval.table.method import Parameters
from eval.table.problems import Outcome, ReplayProblem, mean_outcome, part, rng_for
from eval.table.pruning import deepprune, prune_once
from eval.table.rules import changed_rule
from eval.table.sequential import adaptive_consistency, average
from eval.table.votes import consensus, consensus_equal_tokens, single, vote_of_some
from secateur.deepprune.rule import ADAPTIVE_RULE, PruneRule
from secateur.engines.accounting import net_cost
from secateur.runtime.console import console, progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json, write_text
from secateur.runtime.pictures import PLOT_STYLE, save_png
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import paired_difference

Rows = Sequence[Mapping[str, Any]]
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = ("#d55e00", "#e69f00", "#cc79a7", "#999933", "#0072b2", "#009e73", "#56b4e9", "#000000")
_DODGE = 0.035  # octaves between the methods' intervals
_WIDTH = 128


def write_report(result: Mapping[str, Any], folder: Path, console: Console) -> None:
    """equal_tokens.json, .md and .png into `folder`, and the tables to the console."""
    write_json(folder / "equal_tokens.json", result)
    write_text(folder / "equal_tokens.md", _markdown(result))
    _plot(result, folder / "equal_tokens.png")
    wide = console if console.width >= _WIDTH or console.is_terminal else Console(width=_WIDTH, highlight=False)
    for mix in result["mixes"]:
        wide.print(_table(result, mix))
    say(f"results: {folder / 'equal_tokens.json'}, equal_tokens.md, equal_tokens.png")


def _names(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in result["rows"]))


def _rows(result: Mapping[str, Any], **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in result["rows"] if all(row[key] == value for key, value in wanted.items())]


def _points(row: Mapping[str, Any]) -> str:
    """Percentage points, with the interval."""
    value, low, high = (round(100 * number, 1) + 0.0 for number in (row["difference"], *row["ci95"]))  # no "-0.0"
    return f"{value:+.1f} ({low:+.1f} … {high:+.1f})"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _title(result: Mapping[str, Any], mix: str) -> str:
    about = result["mixes"][mix]
    return (
        f"{mix}: {about['problems']} problems, {about['right_share']:.2f} of the traces right, "
        f"majority of all {about['majority_of_all']:.3f}"
    )


def _table(result: Mapping[str, Any], mix: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = f"{_title(result, mix)}; difference in points, accuracy at share of the tokens"
    table.add_column("", no_wrap=True)
    for n in result["sizes"]:
        table.add_column(f"n = {n}\nall n {_rows(result, mix=mix, n=n)[0]['consensus']:.3f}", no_wrap=True)
    for name in _names(result):
        rows = _rows(result, mix=mix, method=name)
        cells = (f"{row['accuracy']:.3f} at {_share(row['net_share'])}" for row in rows)
        points = (_points(row).replace(" … ", "…").replace(" ", "\n") for row in rows)
        table.add_row(name, *map("\n".join, zip(points, cells, strict=True)))
    return table


def _markdown(result: Mapping[str, Any]) -> str:
    lines = [
        "# DeepPrune against consensus over full traces for the same tokens",
        "",
        f"`python bench/equal_tokens.py`: {result['problems']} problems, {result['stored']} stored traces of each, "
        f"model `{result['model']}`, judge `{result['judge']}`; {result['draws']} random subsets per problem and n "
        "(beyond n = 64 fewer, at least 2, for methods that read all n cuts).",
        *(["", result["note"]] if result["note"] else []),
        "",
        "Net tokens count everything, the judge's work as tokens of the generator. *Difference*: accuracy minus that "
        "of consensus over as many full traces as the method's net tokens buy, in percentage points, paired by "
        "problem, with its 95 % bootstrap interval over problems. *Tokens*: net, as a share of those of all n; "
        "*full traces* is what they buy. Mixes weigh problems by the share of their stored traces that are right: "
        "contested is below 0.6, half contested gives such problems half of the weight.",
        "",
        "![difference and tokens over n](equal_tokens.png)",
    ]
    for mix in result["mixes"]:
        lines += ["", f"## {_title(result, mix).capitalize()}", "", *_markdown_table(result, mix)]
    return "\n".join(lines) + "\n"


def _markdown_table(result: Mapping[str, Any], mix: str) -> list[str]:
    lines = [
        "| n | consensus of n | method | accuracy | full traces, their accuracy | difference | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _rows(result, mix=mix):
        cells = (
            f"{row['n']}",
            f"{row['consensus']:.3f}",
            row["method"],
            f"{row['accuracy']:.3f}",
            f"{row['equal_traces']:.1f}, {row['equal_accuracy']:.3f}",
            _points(row),
            _share(row["net_share"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plot(result: Mapping[str, Any], path: Path) -> None:
    mixes = list(result["mixes"])
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(3.7 * len(mixes), 7.2), layout="constrained")
        grid = figure.subplots(2, len(mixes), sharex=True, sharey="row", squeeze=False)
        for mix, upper, lower in zip(mixes, *grid, strict=True):
            _draw_mix(result, mix, upper, lower)
        grid[0, 0].set_ylabel("accuracy − that of full traces\nfor the same tokens [points]")
        grid[1, 0].set_ylabel("net tokens ÷ tokens of all n")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), ncols=4, fontsize=9, loc="outside lower center")
        save_png(figure, path, dpi=110)


def _draw_mix(result: Mapping[str, Any], mix: str, upper: Axes, lower: Axes) -> None:
    names, sizes = _names(result), result["sizes"]
    for index, (name, colour) in enumerate(zip(names, _COLOURS, strict=True)):
        rows = _rows(result, mix=mix, method=name)
        style = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.5, "label": name}
        if index == len(names) - 1:
            style |= {"linestyle": (0, (4, 2)), "marker": "s"}
        values, low, high = 100 * np.array([(row["difference"], *row["ci95"]) for row in rows]).T
        beside = np.array(sizes) * 2.0 ** (_DODGE * (index - (len(names) - 1) / 2))
        errors = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
        upper.errorbar(beside, values, yerr=errors, elinewidth=0.8, **style)
        lower.plot(sizes, [row["net_share"] for row in rows], **style)
    upper.axhline(0, color="#777777", linewidth=1)
    about = result["mixes"][mix]
    upper.set_title(
        f"{mix} ({about['problems']} problems)\nmajority of all {about['majority_of_all']:.3f}", loc="left"
    )
    lower.set_yscale("log")
    lower.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    for axes in (upper, lower):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
    lower.set_xlabel("n, parallel traces")


PUBLISHED = PruneRule()
_CHANGES: dict[str, tuple[PruneRule, dict[str, Any]]] = {
    "published": (PUBLISHED, {}),
    "K2 3": (PUBLISHED, {"largest": 3}),
    "soft, K2 6": (PUBLISHED, {"policy": "soft", "largest": 6}),
    "stop when decided": (PUBLISHED, {"stop_when_decided": True}),
    "lead 3": (PUBLISHED, {"lead": 3}),
    "adaptive .95": (ADAPTIVE_RULE, {}),
    "adaptive .99": (ADAPTIVE_RULE, {"start_confidence": 0.99}),
}
RULES = {name: changed_rule(rule, values, f"rule '{name}'") for name, (rule, values) in _CHANGES.items()}
SEQUENTIAL = "Adaptive-Consistency"
CONTESTED = 0.6  # share of right answers below which a problem is contested
MIXES: dict[str, tuple[float, float | None]] = {
    "as stored": (CONTESTED, None),
    "half contested": (CONTESTED, 0.5),
    "contested": (CONTESTED, 1.0),
    "below one half": (0.5, 1.0),
}
"""Name → the share of right answers below which a problem is on the hard side, and the weight of that side (0-1);
None weighs all problems alike."""
_FIRST = 64  # traces of a batch-starting rule that are looked at first
_FEWEST = 2  # draws


def prune(record: ReplayProblem, rule: PruneRule, chosen: np.ndarray) -> Outcome:
    """One run on the chosen traces. Where traces start in batches, those that are never started change nothing, so
    they are left out as long as the first ones are enough."""
    sizes = [size for size in (_FIRST, 4 * _FIRST) if size < len(chosen)] if rule.start.start_batch else []
    for size in [*sizes, len(chosen)]:
        taken = part(record, chosen[:size])
        run = prune_once(taken, rule)
        if sum(tokens > 0 for tokens in run.kept_tokens) < size:
            break
    return deepprune(taken, [run])


def ask_in_turn(record: ReplayProblem, chosen: np.ndarray) -> Outcome:
    """Adaptive-Consistency on the chosen traces, one after another."""
    taken = part(record, chosen)
    return average(taken, adaptive_consistency(taken, orders=1))


@dataclass(frozen=True)
class Method:
    """`run` answers one problem with the chosen traces; `reads_all` cuts of them, so its time grows with n."""

    run: Callable[[ReplayProblem, np.ndarray], Outcome]
    reads_all: bool
    judged: bool = True

    def draws(self, draws: int, n: int) -> int:
        """Halved with every doubling of n beyond `_FIRST`, where time matters."""
        return max(min(draws, _FEWEST), draws * _FIRST // n) if self.reads_all and n > _FIRST else draws


def all_methods() -> dict[str, Method]:
    """What is compared with consensus, by name."""
    found = {
        name: Method(lambda record, chosen, rule=rule: prune(record, rule, chosen), not rule.start.start_batch)
        for name, rule in RULES.items()
    }
    return found | {SEQUENTIAL: Method(ask_in_turn, False, judged=False)}


def measure_problem(record: ReplayProblem, parameters: Parameters, n: int, draws: int, votes: int) -> dict[str, Any]:
    """One problem at one n: its consensus over n traces, and per method accuracy, net tokens, finished traces, and
    the accuracy and number of the full traces for the same net tokens."""
    rng = rng_for(record, f"equal_tokens {n}")
    chosen = [rng.permutation(len(record.traces))[:n] for _ in range(draws)]
    mean_length = float(np.mean([trace.n_tokens for trace in record.traces]))
    found = {}
    for name, method in all_methods().items():
        outcome = mean_outcome([method.run(record, traces) for traces in chosen[: method.draws(draws, n)]])
        own = parameters if method.judged else Parameters(parameters.generator)
        equal = consensus_equal_tokens(record, outcome, own, votes)
        found[name] = {
            "accuracy": outcome.accuracy,
            "net_tokens": net_cost(outcome.usage, own.generator, own.judge) / own.generator,
            "finished": outcome.finished,
            "equal_accuracy": equal.accuracy,
            "equal_traces": equal.finished,
        }
    full = vote_of_some(record, n, votes, rng_for(record, "consensus"))
    return {"consensus": full.accuracy, "tokens": n * mean_length, "methods": found}


def mix_weights(shares: Sequence[float], bar: float, hard_weight: float | None) -> np.ndarray | None:
    """[problems] with mean 1; None if the mix needs problems on a side of the bar that has none."""
    hard = np.asarray(shares) < bar
    if hard_weight is None:
        return np.ones(len(hard))
    sides = [(hard, hard_weight), (~hard, 1 - hard_weight)]
    if any(weight and not side.any() for side, weight in sides):
        return None
    return len(hard) * sum(side * (weight / max(int(side.sum()), 1)) for side, weight in sides)


def summary(found: Sequence[Mapping[str, Any]], weights: np.ndarray, name: str) -> dict[str, Any]:
    """One method on one mix at one n. Weights multiply both sides of a pair, so its difference stays paired; which
    problems are in the mix is left to chance by the bootstrap too."""
    rows, inside = [problem["methods"][name] for problem in found], weights > 0
    values = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    means = {key: float(np.average(value, weights=weights)) for key, value in values.items()}
    scale = weights[inside] / weights[inside].mean()
    a, b = (values[key][inside] * scale for key in ("accuracy", "equal_accuracy"))
    difference, low, high = paired_difference(a, b)
    full_tokens = np.average([problem["tokens"] for problem in found], weights=weights)
    return means | {
        "method": name,
        "difference": difference,
        "ci95": [low, high],
        "net_share": means["net_tokens"] / float(full_tokens),
    }


def usable_mixes(shares: Sequence[float]) -> dict[str, np.ndarray]:
    """The weights of all mixes that the problems allow; the stored one always."""
    found = {name: mix_weights(shares, bar, weight) for name, (bar, weight) in MIXES.items()}
    for name, weights in found.items():
        if weights is None:
            say(f"without the mix '{name}': the run has no problem for one side of it")
    return {name: weights for name, weights in found.items() if weights is not None}


def measure(run: StoredRun, sizes: Sequence[int], draws: int) -> dict[str, Any]:
    """All mixes, sizes and methods: `rows`, and what the mixes are."""
    problems = run.problems
    shares = [single(problem).accuracy for problem in problems]
    majority = np.array([consensus(problem).accuracy for problem in problems])
    mixes, rows = usable_mixes(shares), []
    with progress("problems × n", len(sizes) * len(problems)) as shown:
        for n in sizes:
            found = []
            for problem in problems:
                found.append(measure_problem(problem, run.parameters, n, draws, run.draws))
                shown.advance(note=f"n = {n}")
            full = [measured["consensus"] for measured in found]
            for mix, weights in mixes.items():
                place = {"mix": mix, "n": n, "consensus": float(np.average(full, weights=weights))}
                rows += [place | summary(found, weights, name) for name in all_methods()]
    about = {
        mix: {
            "problems": int((weights > 0).sum()),
            "majority_of_all": float(np.average(majority, weights=weights)),
            "right_share": float(np.average(shares, weights=weights)),
        }
        for mix, weights in mixes.items()
    }
    return {"rows": rows, "mixes": about}


def check_sizes(sizes: Sequence[int], stored: int) -> list[int]:
    """Ascending, each once."""
    for n in sizes:
        if not 2 <= n <= stored:
            raise InputError(f"--n: {n} is not between 2 and the {stored} traces per problem that the run has")
    return sorted(set(sizes))


def run_bench(run: StoredRun, folder: Path, sizes: Sequence[int], draws: int, note: str = "") -> dict[str, Any]:
    """Measure, and write everything into `folder`."""
    if draws < 1:
        raise InputError(f"--draws: {draws}; give at least 1")
    sizes = check_sizes(sizes, run.n)
    result = measure(run, sizes, draws)
    about = {"model": run.model, "judge": run.judge, "stored": run.n, "problems": len(run.problems)}
    result |= about | {"sizes": sizes, "draws": draws, "votes": run.draws, "note": note}
    write_report(result, folder, console)
    return result


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="output folder of eval/combined.py")
    parser.add_argument("--model")
    parser.add_argument("--judge")
    parser.add_argument("--n", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--draws", type=int, default=8, help="subsets per problem")
    parser.add_argument("--note", default="", help="what the figures were made with, for the report")
    parser.add_argument("--out", default="bench")
    options = parser.parse_args()
    run = load_run(options.run, model=options.model, judge=options.judge)
    run_bench(run, Path(options.out), options.n, options.draws, options.note)


if __name__ == "__main__":
    main()
