"""`ahead` on recorded answers: its settings are chosen on all benchmarks but one and reported on that one, in turn.

    python bench/ahead.py --answers qwen3_8b_answers.jsonl.gz [--n 16 64 128] [--orders 48]

The file has a line per problem, `problem_id, benchmark, gold, traces: [{n_tokens, answer}]`, or other traces of
docs/data.md; it may have `probe_every`, and `probes` of each trace, the answers that were forced out of it. Of a grid
of settings (growth, contest) the one that saves most is chosen, among those that keep the bounds of the preset on the
other benchmarks at n = 16 and 64: accuracy lost with lengths as they are, and with lengths turned round (the longest
trace of a problem as short as its shortest), and the critical path. Turned round, because short traces are right on
some benchmarks and wrong on others, and a rule that hears the short ones first must hold on both.
"""

import argparse
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.markup import escape

from eval.table.answers import answer_once
from eval.table.assemble import keys_and_right_ones
from eval.table.method import Pruned, ReplayProblem, ReplayTrace, WithoutJudge, blocks, part
from eval.traces.foreign import ForeignProblem, read_foreign
from secateur.deepprune.answers import FEWEST_TOKENS, SHORTEST_WAIT, AnswerRule
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.starting import OnDemand
from secateur.deepprune.stopping import Lead
from secateur.deepprune.vote import majority
from secateur.engines.accounting import net_cost
from secateur.runtime.console import plain_table, print_table, progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import mean_with_interval

GROWTHS, CONTESTS = (1.0, 1.5, 2.0, 2.5, 3.0), (0.0, 0.5, 0.75, 1.0, 2.0)
PRESETS = {"fewest tokens": FEWEST_TOKENS, "shortest wait": SHORTEST_WAIT}
CHOSEN_AT = (16, 64)
LONGEST_PATH = {"fewest tokens": 1.5, "shortest wait": 1.0}
"""Preset → bound of its longest path ÷ that of the consensus."""
LOSS, LOSS_TURNED = 0.01, 0.02
"""Accuracy (fraction 0-1) that may be lost against the consensus, with lengths as they are and turned round."""


@dataclass(frozen=True)
class Figures:
    """A rule on some problems against the consensus of all n traces.

    Accuracy less the consensus' (fraction 0-1) with its 95 % interval over problems, share of tokens saved, longest
    path ÷ the consensus' (of the means over problems, and the mean of the problems' ratios), and the share of runs
    that give the consensus' answer.
    """

    difference: float
    ci95: tuple[float, float]
    saving: float
    path: float
    path_by_problem: float
    agreement: float


@dataclass(frozen=True)
class ProblemFigures:
    """One problem, means over orders: accuracy of the rule and of the consensus, tokens, of which `probes` for forced
    answers, paths, agreement."""

    right: float
    consensus_right: float
    tokens: float
    probes: float
    all_tokens: float
    path: float
    consensus_path: float
    agreement: float


Grading = Callable[[Sequence[str | None], str], tuple[Sequence[Hashable | None], frozenset[Hashable]]]
"""Answers and the gold one → a key for each, equal ones sharing it, and the keys that are right."""


def read_answers(path: Path, grading: Grading = keys_and_right_ones) -> dict[str, list[ReplayProblem]]:
    """Benchmark → its problems. Raises `InputError` for a file that is not there or has other lines."""
    if not path.is_file():
        raise InputError(f"--answers {path}: no such file")
    found: dict[str, list[ReplayProblem]] = {}
    for entries in read_foreign(path).values():
        for entry in entries:
            found.setdefault(str(entry.benchmark), []).append(_problem(entry, grading))
    return found


def _problem(entry: ForeignProblem, grading: Grading) -> ReplayProblem:
    traces, probes = entry.traces, [trace.probes or () for trace in entry.traces]
    texts = [*(trace.answer for trace in traces), *itertools.chain.from_iterable(probes)]
    keys, right = grading(texts, entry.problem.answer)
    forced = iter(keys[len(traces) :])
    found = tuple(
        ReplayTrace(key, trace.n_tokens, None, tuple(itertools.islice(forced, len(mine))))
        for key, trace, mine in zip(keys, traces, probes, strict=False)
    )
    return ReplayProblem(
        entry.problem.id, right, found, decision_seed(0, entry.problem.id), probe_every=traces[0].probe_every
    )


def turned_round(problem: ReplayProblem) -> ReplayProblem:
    """The same answers, each with the length at the other end of the problem's lengths."""
    order = sorted(range(len(problem.traces)), key=lambda index: problem.traces[index].n_tokens)
    lengths = [problem.traces[index].n_tokens for index in order]
    traces = list(problem.traces)
    for index, length in zip(order, reversed(lengths), strict=True):
        traces[index] = replace(traces[index], n_tokens=length)
    return replace(problem, traces=tuple(traces))


def figures(problems: Sequence[ReplayProblem], rule: WithoutJudge, n: int, orders: int) -> Figures:
    """Means over the disjoint blocks of n traces and `orders` orders of all of them."""
    return summarise([problem_figures(problem, partial(answer_once, rule=rule), n, orders) for problem in problems])


def problem_figures(
    problem: ReplayProblem, run: Callable[[ReplayProblem], Pruned], n: int, orders: int
) -> ProblemFigures:
    """A rule's `run` on `orders` draws of n of the traces."""
    parts = [part(problem, chosen) for chosen in _chosen(problem, n, orders)]
    runs = [run(one) for one in parts]
    votes = [majority(one.keys) for one in parts]
    return ProblemFigures(
        _mean(run.key in problem.right for run in runs),
        _mean(vote in problem.right for vote in votes),
        _mean(net_cost(run.usage, 1, 0) for run in runs),
        _mean(net_cost(run.usage, 1, 0) - run.usage.generated for run in runs),
        _mean(sum(trace.n_tokens for trace in one.traces) for one in parts),
        _mean(run.usage.longest_path for run in runs),
        _mean(max(trace.n_tokens for trace in one.traces) for one in parts),
        _mean(run.key == vote for run, vote in zip(runs, votes, strict=True)),
    )


def _chosen(problem: ReplayProblem, n: int, orders: int) -> list[np.ndarray]:
    """`orders` draws of n of the traces: blocks of one order after another, so that each trace is met alike."""
    rng, size = np.random.default_rng([problem.decision_seed, n]), len(problem.traces)
    found: list[np.ndarray] = []
    while len(found) < orders:
        order = rng.permutation(size)
        found += [order[block] for block in blocks(size, n)]
    return found[:orders]


def summarise(found: Sequence[ProblemFigures]) -> Figures:
    mean, low, high = mean_with_interval([one.right - one.consensus_right for one in found])
    return Figures(
        mean,
        (low, high),
        1 - sum(one.tokens for one in found) / sum(one.all_tokens for one in found),
        sum(one.path for one in found) / sum(one.consensus_path for one in found),
        _mean(one.path / one.consensus_path for one in found),
        _mean(one.agreement for one in found),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def settings() -> list[AnswerRule]:
    return [AnswerRule(Lead(), OnDemand(None, *pair)) for pair in itertools.product(GROWTHS, CONTESTS)]


class Study:
    """All settings on all problems, each replayed once, by benchmark and n, as they are and turned round."""

    def __init__(self, problems: Mapping[str, Sequence[ReplayProblem]], sizes: Sequence[int], orders: int) -> None:
        self.reported, self.benchmarks = sizes, list(problems)
        self.sizes = sorted({*CHOSEN_AT, *sizes})
        self._found: dict[tuple[AnswerRule, str, int, bool], list[ProblemFigures]] = {}
        turned = {name: [turned_round(problem) for problem in mine] for name, mine in problems.items()}
        rules = list(dict.fromkeys([*settings(), *PRESETS.values()]))
        with progress("settings", len(rules)) as shown:
            for rule in rules:
                for name, n, is_turned in itertools.product(problems, self.sizes, (False, True)):
                    taken = (turned if is_turned else problems)[name]
                    run = partial(answer_once, rule=rule)
                    mine = [problem_figures(problem, run, n, orders) for problem in taken]
                    self._found[rule, name, n, is_turned] = mine
                shown.advance()

    def figures(self, rule: AnswerRule, benchmarks: Sequence[str], n: int, is_turned: bool = False) -> Figures:
        return summarise([one for name in benchmarks for one in self._found[rule, name, n, is_turned]])

    def choose(self, preset: str, benchmarks: Sequence[str]) -> AnswerRule:
        """The setting of a preset that saves most on these benchmarks, within its bounds."""
        allowed = [rule for rule in settings() if self._fits(rule, preset, benchmarks)]
        if not allowed:
            raise InputError(f"no setting of '{preset}' keeps its bounds on {', '.join(benchmarks)}")
        return max(allowed, key=lambda rule: _mean(self.figures(rule, benchmarks, n).saving for n in CHOSEN_AT))

    def _fits(self, rule: AnswerRule, preset: str, benchmarks: Sequence[str]) -> bool:
        return all(
            (found := self.figures(rule, benchmarks, n)).difference >= -LOSS
            and found.path <= LONGEST_PATH[preset]
            and self.figures(rule, benchmarks, n, is_turned=True).difference >= -LOSS_TURNED
            for n in CHOSEN_AT
        )


def report(study: Study) -> None:
    """Chosen on the others, reported on each; then the shipped presets on all."""
    for preset, shipped in PRESETS.items():
        grid = plain_table(f"ahead, {preset}", ("on", "n", "growth", "contest", *COLUMNS), left=1)
        chosen = {
            held_out: study.choose(preset, [name for name in study.benchmarks if name != held_out])
            for held_out in study.benchmarks
        }
        for n in study.reported:
            for held_out, rule in chosen.items():
                grid.add_row(escape(held_out), *_cells(rule, n, study.figures(rule, [held_out], n)))
            together = summarise([one for name, rule in chosen.items() for one in study._found[rule, name, n, False]])
            grid.add_row("all, chosen elsewhere", str(n), "", "", *_numbers(together))
            for title, is_turned in (("shipped, all", False), ("shipped, turned round", True)):
                found = study.figures(shipped, study.benchmarks, n, is_turned)
                grid.add_row(title, *_cells(shipped, n, found))
        print_table(grid, WIDTH)


WIDTH = 130
COLUMNS = ("acc. − consensus", "95 % CI", "saved", "path", "by problem", "same answer")


def _cells(rule: AnswerRule, n: int, found: Figures) -> list[str]:
    assert isinstance(rule.start, OnDemand)
    return [str(n), f"{rule.start.growth:g}", f"{rule.start.contest:g}", *_numbers(found)]


def _numbers(found: Figures) -> list[str]:
    return [
        f"{100 * found.difference:+.1f}",
        "{:+.1f} … {:+.1f}".format(*(100 * bound for bound in found.ci95)),
        f"{found.saving:.1%}",
        f"{found.path:.2f} ×",
        f"{found.path_by_problem:.2f} ×",
        f"{found.agreement:.1%}",
    ]


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--orders", type=int, default=48)
    options = parser.parse_args()
    problems = read_answers(options.answers)
    say(f"{sum(map(len, problems.values()))} problems of {escape(', '.join(problems))}")
    report(Study(problems, options.n, options.orders))


if __name__ == "__main__":
    main()
