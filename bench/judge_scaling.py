"""What a judge costs as the number of parallel traces grows: its tokens against the traces', and the net saving.

    python bench/judge_scaling.py [--problems 6] [--sizes 32 128 512] [--live 128] [--judges outputs/demo/judges]

The traces are the embedded model's (or `--model`'s), cut where the judges cut; the judges are those of `make demo`
for the base model: `linear_own_states`, and with `make demo JUDGE=linear` and `JUDGE=pairwise` the two others. All
costs are in tokens of the generator: a judge's tokens are weighted by its parameters, multiply-accumulates of a head
are divided by the generator's parameters. Ways of asking:

- own states: nothing is read, the head alone counts; measured, for all pairs and for those that matter ("asked
  lazily": what a run does beyond 64 traces).
- linear: a separate encoder reads the problem's prompt once, and cut and query of every trace; measured.
- pairwise, all pairs: every prompt in full (counted), and with a trace's own text read once for all pairs in which it
  is the newer one, as our judge does (measured up to `--live` traces, counted beyond by the same formula).
- pairwise, K1: the pairs that DeepPrune's rule (K 32, K1 10) looks at, every prompt in full at the problem's mean
  length; and those that are left when pairs that cannot matter are never asked and beginnings are shared. Up to
  `--live` traces the pairwise judge's own scores decide which these are, beyond it those of the own-state judge.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from secateur.deepprune.clustering import cluster_asking, cluster_traces
from secateur.deepprune.cut import CutDetector, CutRule, cut_pieces
from secateur.deepprune.decision import decision_seed
from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.folder import load_judge
from secateur.deepprune.judges.pairwise import PairwiseJudge
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage, net_cost
from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.detokenize import Detokenizer
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.runtime.console import console, progress, say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json, write_text
from secateur.runtime.pictures import PLOT_STYLE, save_png
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import extract_answer, group_answers
from secateur.tasks.prompts import encode_prompt, evaluation_messages, starts_inside_thinking
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems

GOAL = 0.02  # share of the traces' tokens that own states may cost
_COLUMNS = ("judge ÷ traces", "range", "judge ÷ cuts", "saved gross", "saved net")
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = ("#009e73", "#66c2a5", "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#000000")


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["to_traces_range"]
    return [
        f"{row['n']}",
        row["way"] + ("" if row["measured"] else " (counted)"),
        _percent(row["to_traces"]),
        f"{_percent(low)} – {_percent(high)}",
        f"{row['to_cuts']:,.2f} ×",
        f"{row['saving_gross']:.1%}",
        f"{row['saving_net']:.1%}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:,.0f} %"


def write_report(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], folder: Path, console: Console) -> None:
    """judge_scaling.json, .md and .png into `folder`, and the table to the console."""
    write_json(folder / "judge_scaling.json", {"rows": list(rows), **about})
    write_text(folder / "judge_scaling.md", _markdown(rows, about))
    _plot(rows, folder / "judge_scaling.png")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = _about(about)
    for index, name in enumerate(("n", "way of asking", _COLUMNS[0], *_COLUMNS[2:])):
        table.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
    before = None
    for row in rows:
        if before not in (None, row["n"]):
            table.add_section()
        cells = _cells(row)
        table.add_row(*cells[:3], *cells[4:])  # the range is in the other files
        before = row["n"]
    wide = Console(width=110, highlight=False, soft_wrap=True)
    (console if console.width >= 110 or console.is_terminal else wide).print(table)
    say(f"results: {folder / 'judge_scaling.json'}, judge_scaling.md, judge_scaling.png")


def _about(about: Mapping[str, Any]) -> str:
    return (
        f"{about['problems']} problems; per trace {about['mean_trace_tokens']:.0f} tokens, "
        f"cut {about['mean_cut_tokens']:.0f}, prompt {about['prompt_tokens']:.0f}"
    )


def _markdown(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    lines = [
        "# What a judge costs as the traces grow in number",
        "",
        f"`python bench/judge_scaling.py`: {_about(about)}. Costs are in tokens of the generator "
        "(multiply-accumulates of a head divided by its parameters); means over problems, the range is theirs; "
        "savings against consensus, DeepPrune by the published rule. *counted*: from real lengths, without "
        f"running the model for it; up to {about['live']} traces the pairwise judge's own scores decide, beyond it "
        "those of the own-state judge.",
        "",
        "![cost and net saving over n](judge_scaling.png)",
        "",
        f"| n | way of asking | {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    ways, sizes = list(dict.fromkeys(row["way"] for row in rows)), sorted({row["n"] for row in rows})
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for way, colour in zip(ways, _COLOURS, strict=True):
            own = [row for row in rows if row["way"] == way]
            style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.6}
            left.plot([row["n"] for row in own], [row["to_traces"] for row in own], label=way, **style)
            # what costs more than it saves is told by the left picture; here it would hide all else
            right.plot([row["n"] for row in own], [max(row["saving_net"], -1.05) for row in own], **style)
        left.axhline(GOAL, color="#777777", linewidth=1, linestyle=(0, (4, 2)))
        left.annotate("2 %", (sizes[0], GOAL), xytext=(0, 3), textcoords="offset points", color="#777777", fontsize=8)
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        right.axhline(0, color="#777777", linewidth=1)
        right.set_ylim(-1.05, 1)
        left.set_title("judge's cost ÷ tokens of all traces", fontsize=9, loc="left")
        right.set_title("net saving against consensus (cut off at −105 %)", fontsize=9, loc="left")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.set_xlabel("n, parallel traces")
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right center")
        save_png(figure, path, dpi=130)


EMBEDDED = "trainers/embedded_model"
KINDS = ("linear_own_states", "linear", "pairwise")
SEED = 0


@dataclass(frozen=True)
class Sampled:
    """The traces of one problem. Lengths are in tokens, `cut_tokens` None where a trace ended before its cut."""

    seed: int
    prompt_ids: tuple[int, ...]
    cuts: list[CutTrace]
    lengths: list[int]
    cut_tokens: list[int | None]
    keys: list[int | None]

    def first(self, n: int) -> "Sampled":
        lists = {key: getattr(self, key)[:n] for key in ("cuts", "lengths", "cut_tokens", "keys")}
        return dataclasses.replace(self, **lists)


def sample(engine: TransformersEngine, problems: Sequence[Problem], n: int, rule: CutRule) -> list[Sampled]:
    """`n` traces of every problem, with their states up to the cut."""
    jobs = []
    for problem in problems:
        ids = tuple(encode_prompt(engine.tokenizer, evaluation_messages(problem.problem, "plain")))
        jobs += [TraceJob(problem, index, ids, trace_seed(SEED, problem.id, index)) for index in range(n)]
    found: dict[str, list[FinishedTrace]] = {problem.id: [] for problem in problems}
    spec = SamplingSpec(max_tokens=500)
    with progress("traces", len(jobs)) as shown:
        for trace in sample_traces(engine, engine.tokenizer, jobs, spec, 256, lambda: CutDetector(rule), True):
            found[trace.job.problem.id].append(trace)
            shown.advance()
    return [_sampled(engine, sorted(traces, key=lambda t: t.job.sample), rule) for traces in found.values()]


def _sampled(engine: TransformersEngine, traces: Sequence[FinishedTrace], rule: CutRule) -> Sampled:
    detokenizer, thinking = Detokenizer(engine.tokenizer), starts_inside_thinking(engine.tokenizer)
    cuts = []
    for trace in traces:
        ids, stream = trace.token_ids[: trace.cut_tokens], detokenizer.stream()
        text = cut_pieces([stream.push(token) for token in ids], rule).text
        cuts.append(CutTrace(trace.job.prompt_ids, ids, text, trace.states))
    job = traces[0].job
    return Sampled(
        seed=decision_seed(SEED, job.problem.id),
        prompt_ids=job.prompt_ids,
        cuts=cuts,
        lengths=[trace.n_tokens for trace in traces],
        cut_tokens=[trace.cut_tokens for trace in traces],
        keys=group_answers([extract_answer(trace.text, thinking) for trace in traces]),
    )


def all_pairs(n: int) -> np.ndarray:
    """[pairs, 2] (later, earlier), all pairs of a trace together."""
    return np.stack(np.tril_indices(n, -1), axis=1)


class PairTokens:
    """How many tokens a pairwise judge reads for pairs, by the lengths of the two halves of its prompts."""

    def __init__(self, judge: PairwiseJudge, cuts: Sequence[CutTrace]) -> None:
        reader = judge.model.reader
        self.beginnings = np.array([len(reader.begin(cut.text)) for cut in cuts])
        self.endings = np.array([len(reader.end(cut.text)) for cut in cuts])

    def in_full(self, pairs: np.ndarray) -> int:
        """Every prompt by itself."""
        return int(self.beginnings[pairs[:, 0]].sum() + self.endings[pairs[:, 1]].sum())

    def shared(self, pairs: np.ndarray) -> int:
        """In one call: the beginning of each newer trace once."""
        return int(self.beginnings[np.unique(pairs[:, 0])].sum() + self.endings[pairs[:, 1]].sum())


def score_all(judge: Judge, cuts: Sequence[CutTrace]) -> tuple[np.ndarray, Usage]:
    """[n, n] and what the judge says it cost."""
    session = judge.open(cuts)
    pairs, matrix = all_pairs(len(cuts)), np.eye(len(cuts))
    values = session.scores([(int(a), int(b)) for a, b in pairs])
    matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = values
    return matrix, session.usage


@dataclass(frozen=True)
class Way:
    """One way of asking on one problem: what it costs, the scores that decide, whether the model ran for both."""

    name: str
    usage: Usage
    parameters: int
    scores: np.ndarray
    measured: bool = True


def ways(problem: Sampled, judges: dict[str, Judge], rule: PruneRule, live: int) -> list[Way]:
    """All ways of asking, on the traces of one problem."""
    n, own, linear = len(problem.cuts), judges["linear_own_states"], judges["linear"]
    scores, usage = score_all(own, problem.cuts)
    lazily = own.open(problem.cuts)
    cluster_asking(n, lambda pairs: lazily.scores([(int(a), int(b)) for a, b in pairs]), rule.cluster, problem.seed)
    found = [
        Way("own states, all pairs", usage, 0, scores),
        Way("own states, asked lazily", lazily.usage, 0, scores),
    ]
    matrix, usage = score_all(linear, problem.cuts)
    found.append(Way("linear encoder", usage, linear.parameters, matrix))
    return found + pairwise_ways(problem, judges["pairwise"], rule, scores, live)


def pairwise_ways(
    problem: Sampled, judge: PairwiseJudge, rule: PruneRule, stand_in: np.ndarray, live: int
) -> list[Way]:
    """The four ways of asking about pairs; `stand_in` are the scores that decide where the judge is not run."""
    n, tokens = len(problem.cuts), PairTokens(judge, problem.cuts)
    pairs, runs = all_pairs(n), n <= live
    usage = Usage(judge_prefill=tokens.shared(pairs))
    scores = stand_in
    if runs:
        scores, measured = score_all(judge, problem.cuts)
        assert measured.judge_prefill == usage.judge_prefill, "the count is not what the judge reads"
    asked: list[int] = []

    def ask(wanted: np.ndarray) -> np.ndarray:
        asked.append(tokens.shared(wanted))
        return scores[wanted[:, 0], wanted[:, 1]]

    cluster_asking(n, ask, rule.cluster, problem.seed)
    compared = cluster_traces(scores, rule.cluster, problem.seed).comparisons
    mean_prompt = tokens.in_full(pairs) / len(pairs)
    costs = {
        "pairwise, all pairs": tokens.in_full(pairs),
        "pairwise, all pairs, shared": usage.judge_prefill,
        "pairwise, K1 10": round(compared * mean_prompt),
        "pairwise, K1 10, asked lazily": sum(asked),
    }
    shared_measured = {"pairwise, all pairs, shared": runs}
    return [
        Way(name, Usage(judge_prefill=cost), judge.parameters, scores, shared_measured.get(name, False))
        for name, cost in costs.items()
    ]


def figures(problem: Sampled, way: Way, parameters: int, rule: PruneRule) -> dict[str, float]:
    """The judge's tokens against those of all traces and of all cuts, and what DeepPrune saves (shares, 1 = all)."""
    arguments = (problem.lengths, problem.cut_tokens, problem.keys, way.scores, rule, problem.seed)
    kept = replay(*arguments).usage.generated
    judge = net_cost(way.usage, parameters, way.parameters) / parameters
    total, cut = sum(problem.lengths), sum(len(cut.token_ids) for cut in problem.cuts)
    return {
        "judge_tokens": judge,
        "to_traces": judge / total,
        "to_cuts": judge / cut,
        "saving_gross": 1 - kept / total,
        "saving_net": 1 - (kept + judge) / total,
    }


def measure(problems: Sequence[Sampled], judges: dict[str, Judge], sizes: Sequence[int], live: int, parameters: int):
    """One row for each number of traces and way of asking: means over problems, and the range of `to_traces`."""
    rule, rows = PruneRule(), []
    with progress("judges", len(sizes) * len(problems)) as shown:
        for n in sizes:
            found: dict[str, list[dict[str, float]]] = {}
            measured: dict[str, bool] = {}
            for problem in problems:
                part = problem.first(n)
                for way in ways(part, judges, rule, live):
                    found.setdefault(way.name, []).append(figures(part, way, parameters, rule))
                    measured[way.name] = way.measured
                shown.advance()
            for name, values in found.items():
                row: dict[str, Any] = {"n": n, "way": name, "measured": measured[name]}
                row |= {key: float(np.mean([value[key] for value in values])) for key in values[0]}
                row["to_traces_range"] = [f(value["to_traces"] for value in values) for f in (min, max)]
                rows.append(row)
    return rows


def load_judges(folder: Path, model: str) -> dict[str, Judge]:
    """The judges of the three kinds; `InputError` says how to make one that is missing."""
    for kind in KINDS:
        if not (folder / kind / "base" / "judge.json").is_file():
            raise InputError(
                f"--judges: no judge in {folder / kind / 'base'}; make it with: make demo JUDGE={kind}, or "
                f"python trainers/judge.py --config configs/demo/judge_{kind.removeprefix('linear_')}.yaml"
            )
    judges = {kind: load_judge(folder / kind / "base", model) for kind in KINDS}
    rules = {judge.cut_rule for judge in judges.values()}
    if len(rules) > 1:
        raise InputError(f"--judges: those in {folder} cut at {', '.join(map(str, rules))}; train them at one cut")
    return judges


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--live", type=int, default=128)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--judges", type=Path, default=Path("outputs/demo/judges"))
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    if options.problems < 1 or min(options.sizes) < 3:
        raise InputError("--problems must be at least 1, and every number in --sizes at least 3")
    use_one_torch_thread()
    judges = load_judges(options.judges, options.model)
    own = judges["linear_own_states"]
    engine = TransformersEngine(options.model, capture_layers=own.capture_layers)
    problems = load_problems("arithmetic:combined", options.problems, SEED)
    traces = sample(engine, problems, max(options.sizes), own.cut_rule)
    parameters = engine.model.num_parameters()
    rows = measure(traces, judges, sorted(options.sizes), options.live, parameters)
    about = {
        "problems": options.problems,
        "live": options.live,
        "parameters": parameters,
        "mean_trace_tokens": float(np.mean([length for problem in traces for length in problem.lengths])),
        "mean_cut_tokens": float(np.mean([len(cut.token_ids) for problem in traces for cut in problem.cuts])),
        "prompt_tokens": float(np.mean([len(problem.prompt_ids) for problem in traces])),
    }
    write_report(rows, about, options.out, console)


if __name__ == "__main__":
    main()
