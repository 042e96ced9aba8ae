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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.judge_scaling_report import ScalingReport, ScalingRow, WayFigures, write_report
from secateur.deepprune.clustering import cluster_asking, cluster_traces
from secateur.deepprune.cut import CutDetector, CutRule, cut_pieces
from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.folder import load_judge
from secateur.deepprune.judges.kinds import linear, own_states, pairwise
from secateur.deepprune.judges.pairwise import PairwiseJudge
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage, net_cost
from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.detokenize import Detokenizer
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.runtime.console import progress, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages, starts_inside_thinking
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems

EMBEDDED = "trainers/embedded_model"
KINDS = (own_states.KIND.name, linear.KIND.name, pairwise.KIND.name)
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
        ids = tuple(encode_prompt(engine.tokenizer, evaluation_messages(problem.problem, Prompt("plain"))))
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
    n, own, encoder = len(problem.cuts), judges[own_states.KIND.name], judges[linear.KIND.name]
    scores, usage = score_all(own, problem.cuts)
    lazily = own.open(problem.cuts)
    cluster_asking(n, lambda pairs: lazily.scores([(int(a), int(b)) for a, b in pairs]), rule.cluster, problem.seed)
    found = [
        Way("own states, all pairs", usage, 0, scores),
        Way("own states, asked lazily", lazily.usage, 0, scores),
    ]
    matrix, usage = score_all(encoder, problem.cuts)
    found.append(Way("linear encoder", usage, encoder.parameters, matrix))
    return found + pairwise_ways(problem, judges[pairwise.KIND.name], rule, scores, live)


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


def figures(problem: Sampled, way: Way, parameters: int, rule: PruneRule) -> WayFigures:
    """Of one problem."""
    arguments = (problem.lengths, problem.cut_tokens, problem.keys, way.scores, rule, problem.seed)
    kept = replay(*arguments).usage.generated
    judge = net_cost(way.usage, parameters, way.parameters) / parameters
    total, cut = sum(problem.lengths), sum(len(cut.token_ids) for cut in problem.cuts)
    return WayFigures(judge, judge / total, judge / cut, 1 - kept / total, 1 - (kept + judge) / total)


def measure(
    problems: Sequence[Sampled], judges: dict[str, Judge], sizes: Sequence[int], live: int, parameters: int
) -> list[ScalingRow]:
    """One row for each number of traces and way of asking."""
    rule, rows = PruneRule(), []
    with progress("judges", len(sizes) * len(problems)) as shown:
        for n in sizes:
            found: dict[str, list[WayFigures]] = {}
            measured: dict[str, bool] = {}
            for problem in problems:
                part = problem.first(n)
                for way in ways(part, judges, rule, live):
                    found.setdefault(way.name, []).append(figures(part, way, parameters, rule))
                    measured[way.name] = way.measured
                shown.advance()
            rows += [_row(n, name, values, measured[name]) for name, values in found.items()]
    return rows


def _row(n: int, way: str, values: Sequence[WayFigures], measured: bool) -> ScalingRow:
    means = {key: float(np.mean([getattr(value, key) for value in values])) for key in vars(values[0])}
    shares = [value.to_traces for value in values]
    return ScalingRow(**means, n=n, way=way, measured=measured, to_traces_range=(min(shares), max(shares)))


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
    own = judges[own_states.KIND.name]
    engine = TransformersEngine(options.model, capture_layers=own.capture_layers)
    problems = load_problems("arithmetic:combined", options.problems, SEED)
    traces = sample(engine, problems, max(options.sizes), own.cut_rule)
    parameters = engine.parameters
    rows = measure(traces, judges, sorted(options.sizes), options.live, parameters)
    report = ScalingReport(
        rows=tuple(rows),
        problems=options.problems,
        live=options.live,
        parameters=parameters,
        mean_trace_tokens=float(np.mean([length for problem in traces for length in problem.lengths])),
        mean_cut_tokens=float(np.mean([len(cut.token_ids) for problem in traces for cut in problem.cuts])),
        prompt_tokens=float(np.mean([len(problem.prompt_ids) for problem in traces])),
    )
    write_report(report, options.out)


if __name__ == "__main__":
    main()
