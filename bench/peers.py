"""Every rule without a judge on recorded answers, by one accounting: accuracy, tokens, longest path, the frontier.

    python bench/peers.py --answers qwen3_8b_answers.jsonl.gz [--n 16 64 128] [--orders 24]
    python bench/peers.py --texts traces.jsonl.gz --n 8      # with PoLR, which reads the beginnings of traces

The file is that of bench/ahead.py, with forced answers. Tokens are those of the traces and of what was forced out of
them: each probe pays the string that forces it and what is read behind it; what an engine with a prefix cache finds
there is free. A rule stands on the frontier of tokens (or of the longest path) where no other is as accurate and as
cheap, and better in one of them; "together" where only both costs in one hold it up. Switch rates (MARS) are learned
on the other benchmarks. Parallel-Probe is also put beside the figures that its authors print of these very answers. A
file of texts has a line per trace: `problem_id, gold, text`; its words and signs stand for tokens.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from rich.markup import escape

from bench.ahead import PRESETS, Figures, ProblemFigures, problem_figures, read_answers, summarise
from eval.table.answers import PUBLISHED_RULES, adaptive_consistency, answer_once, early_stopping, probed
from eval.table.assemble import keys_and_right_ones
from eval.table.method import Pruned, ReplayProblem, ReplayTrace, WithoutJudge
from eval.table.pruning import prune_once
from eval.table.registry import METHODS
from secateur.deepprune.answers import FEWEST_TOKENS, AnswerRule
from secateur.deepprune.cut import CutRule, cut_pieces
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.untrained import TfidfJudge
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.probing import Mars, ParallelProbe, SwitchRates, learn_switch_rates
from secateur.deepprune.rule import POLR_RULE
from secateur.deepprune.starting import AllAtOnce
from secateur.deepprune.stopping import FirstEnded, Lead, Never
from secateur.runtime.console import plain_table, print_table, progress, say
from secateur.runtime.files import JSON, read_jsonl
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import mean_with_interval, paired_difference
from secateur.tasks.answers.extraction import extract_anywhere

Problems = Mapping[str, Sequence[ReplayProblem]]
Run = Callable[[ReplayProblem], Pruned]
RuleOf = Callable[[str, int], WithoutJudge]
RunOf = Callable[[str, int], Run]
"""Both of a benchmark and n: a rule, and a rule at work."""
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "consensus": {"aime24": (80.4, 30.1, 910.8), "aime25": (76.7, 30.7, 1124.4), "hmmt25": (48.9, 34.8, 1267.0)},
    "Parallel-Probe": {"aime24": (81.5, 20.3, 730.8), "aime25": (76.9, 21.9, 846.7), "hmmt25": (47.1, 22.4, 897.2)},
}
"""Rule → benchmark → what Parallel-Probe's authors print for 64 traces of Qwen3-8B (their repository,
evaluation/table.tex): accuracy [%], longest path and tokens [thousands]."""


def contenders(problems: Problems) -> dict[str, RunOf]:
    """Name → rule, of those that the problems have enough for."""
    rules: dict[str, RuleOf] = {name: partial(_always, rule) for name, rule in _of_answers().items()}
    rules["first half to end"] = lambda benchmark, n: AnswerRule(FirstEnded(n // 2), AllAtOnce())
    first = next(iter(problems.values()))[0]
    if first.probe_every is not None:
        rules |= _of_forced_answers(problems)
    runs: dict[str, RunOf] = {name: partial(_answering, rule_of) for name, rule_of in rules.items()}
    if first.scores is not None:
        runs["PoLR"] = lambda benchmark, n: partial(prune_once, rule=POLR_RULE)
    return runs


def _of_answers() -> dict[str, WithoutJudge]:
    return {
        "consensus": AnswerRule(Never(), AllAtOnce()),
        **{f"ahead, {name}": rule for name, rule in PRESETS.items()},
        **{f"lead of {lead}, as few run": AnswerRule(Lead(lead), FEWEST_TOKENS.start) for lead in (3, 4)},
        "Adaptive-Consistency": adaptive_consistency(),
        "ESC, windows of 5": early_stopping(),
        **{METHODS[name].label: rule for name, rule in PUBLISHED_RULES.items()},
    }


def _of_forced_answers(problems: Problems) -> dict[str, RuleOf]:
    """Switch rates of a benchmark are those of the others."""
    rates = {name: _rates([other for other in problems if other != name], problems) for name in problems}
    return {
        "Parallel-Probe": partial(_always, ParallelProbe()),
        "MARS-like, worst case": lambda benchmark, n: Mars(rates=rates[benchmark]),
        "MARS-like, error .05": lambda benchmark, n: Mars(rates=rates[benchmark], delta=0.05),
        "MARS-like, relaxed .75": lambda benchmark, n: Mars(rates=rates[benchmark], gamma=0.75),
    }


def _always(rule: WithoutJudge, benchmark: str, n: int) -> WithoutJudge:
    return rule


def _answering(rule_of: RuleOf, benchmark: str, n: int) -> Run:
    return partial(answer_once, rule=rule_of(benchmark, n))


def _rates(names: Sequence[str], problems: Problems) -> SwitchRates:
    return learn_switch_rates(probed(one.traces, one.probe_every) for name in names for one in problems[name])


@dataclass(frozen=True)
class Standing:
    """One rule at one n: every problem's figures, and their summary."""

    name: str
    problems: Sequence[ProblemFigures]
    summary: Figures

    @property
    def rights(self) -> list[float]:
        """Accuracy (0-1) by problem."""
        return [one.right for one in self.problems]

    @property
    def probed(self) -> float:
        """Share of the consensus' tokens (0-1) that was spent on forced answers."""
        return sum(one.probes for one in self.problems) / sum(one.all_tokens for one in self.problems)

    @property
    def accuracy(self) -> float:
        return mean_with_interval(self.rights)[0]


def standings(problems: Problems, n: int, orders: int) -> list[Standing]:
    found = []
    runs = contenders(problems)
    with progress(f"n = {n}", len(runs)) as shown:
        for name, run_of in runs.items():
            mine = [
                problem_figures(one, run_of(benchmark, n), n, orders)
                for benchmark, taken in problems.items()
                for one in taken
            ]
            found.append(Standing(name, mine, summarise(mine)))
            shown.advance()
    return found


Costs = Callable[[Figures], tuple[float, ...]]
FRONTIERS: Mapping[str, Costs] = {
    "tokens": lambda found: (-found.saving,),
    "path": lambda found: (found.path,),
    "together": lambda found: (-found.saving, found.path),
}


def on_frontier(one: Standing, others: Sequence[Standing], costs: Costs) -> bool:
    """Nobody is at least as accurate and as cheap in every cost, and better in something."""
    mine = (-one.accuracy, *costs(one.summary))
    theirs = [(-other.accuracy, *costs(other.summary)) for other in others]
    return not any(all(a <= b for a, b in zip(its, mine, strict=True)) and its != mine for its in theirs)


def show_frontier(found: Sequence[Standing], n: int) -> None:
    columns = ("rule", "accuracy", "95 % CI", "− consensus", "95 % CI", "saved", "probes", "path", "frontier")
    grid = plain_table(f"n = {n}", columns, left=1)
    for one in found:
        stands = [name for name, costs in FRONTIERS.items() if on_frontier(one, found, costs)]
        _, low, high = mean_with_interval(one.rights)
        summary = one.summary
        grid.add_row(
            escape(one.name),
            f"{100 * one.accuracy:.1f}",
            f"{100 * low:.1f} … {100 * high:.1f}",
            f"{100 * summary.difference:+.1f}",
            "{:+.1f} … {:+.1f}".format(*(100 * bound for bound in summary.ci95)),
            f"{summary.saving:.1%}",
            f"{one.probed:.1%}",
            f"{summary.path:.2f} ×",
            "tokens, path" if {"tokens", "path"} <= set(stands) else stands[0] if stands else "",
        )
    print_table(grid)


def show_against(found: Sequence[Standing], n: int) -> None:
    """Each preset of `ahead` against each other rule, paired by problem."""
    ours = [one for one in found if one.name.startswith("ahead")]
    columns = ("rule", *(title for one in ours for title in (escape(one.name), "95 % CI", "tokens", "path", "above")))
    grid = plain_table(f"n = {n}: ahead − rule, ahead ÷ rule", columns, left=1)
    for other in found:
        if other not in ours:
            grid.add_row(escape(other.name), *(cell for one in ours for cell in _against(one, other)))
    print_table(grid)


def _against(one: Standing, other: Standing) -> list[str]:
    mean, low, high = paired_difference(one.rights, other.rights)
    tokens = (1 - one.summary.saving) / (1 - other.summary.saving)
    path = one.summary.path / other.summary.path
    above = "ahead" if mean >= 0 and tokens <= 1 else "rule" if mean <= 0 and tokens >= 1 else "neither"
    interval = f"{100 * low:+.1f} … {100 * high:+.1f}"
    return [f"{100 * mean:+.1f}", interval, f"{tokens:.2f} ×", f"{path:.2f} ×", above]


def as_written(texts: Sequence[str | None], gold: str) -> tuple[Sequence[str | None], frozenset[str]]:
    """As the authors of Parallel-Probe grade: answers are equal where their strings are, no answer is one as well."""
    return texts, frozenset({gold})


def show_published(problems: Problems, written: Problems, orders: int) -> None:
    """Parallel-Probe of 64 traces, and the consensus: as printed by its authors; by their equality and without the
    probes' tokens; by ours and with them."""
    columns = ("rule", "on", "by", "accuracy", "path, thousands", "tokens, thousands")
    grid = plain_table("Parallel-Probe's own figures, n = 64", columns, left=3)
    rules = {"consensus": AnswerRule(Never(), AllAtOnce()), "Parallel-Probe": ParallelProbe()}
    runs = {name: partial(answer_once, rule=rule) for name, rule in rules.items()}
    for rule, printed in PUBLISHED.items():
        for benchmark in problems:
            theirs = [problem_figures(one, runs[rule], 64, orders) for one in written[benchmark]]
            ours = [problem_figures(one, runs[rule], 64, orders) for one in problems[benchmark]]
            names = escape(rule), escape(benchmark)
            if benchmark in printed:
                grid.add_row(*names, "printed", *(f"{value:.1f}" for value in printed[benchmark]))
            grid.add_row(*names, "their equality, probes free", *_three(theirs, with_probes=False))
            grid.add_row(*names, "this table", *_three(ours, with_probes=True))
    print_table(grid)


def _three(found: Sequence[ProblemFigures], with_probes: bool) -> list[str]:
    tokens = [one.tokens - (0 if with_probes else one.probes) for one in found]
    accuracy, path = fmean(one.right for one in found), fmean(one.path for one in found)
    return [f"{100 * accuracy:.1f}", f"{path / 1000:.1f}", f"{fmean(tokens) / 1000:.1f}"]


def read_texts(path: Path) -> Problems:
    """The problems of a file of traces, with the similarity of their beginnings as PoLR reads them."""
    found: dict[str, list[Mapping[str, JSON]]] = {}
    for _, line in read_jsonl(path):
        found.setdefault(str(line["problem_id"]), []).append(line)
    return {path.name.split(".")[0]: [_with_scores(name, lines) for name, lines in found.items()]}


def _with_scores(name: str, lines: Sequence[Mapping[str, JSON]]) -> ReplayProblem:
    pieces = [re.findall(r"\s*(?:\w+|[^\w\s])", str(line["text"])) for line in lines]
    cuts = [cut_pieces(mine, POLR_CUT) for mine in pieces]
    keys, right = keys_and_right_ones([extract_anywhere(str(line["text"])) for line in lines], str(lines[0]["gold"]))
    scores = TfidfJudge(POLR_CUT).score([CutTrace((), (), cut.text, None) for cut in cuts])
    traces = tuple(
        ReplayTrace(key, len(mine), cut.n_tokens) for key, mine, cut in zip(keys, pieces, cuts, strict=True)
    )
    return ReplayProblem(name, right, traces, decision_seed(0, name), scores)


POLR_CUT = CutRule("tokens", 256)


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--answers", type=Path)
    source.add_argument("--texts", type=Path)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--orders", type=int, default=24)
    options = parser.parse_args()
    problems = read_texts(options.texts) if options.texts else read_answers(options.answers)
    say(f"{sum(map(len, problems.values()))} problems of {escape(', '.join(problems))}, {options.orders} orders")
    for n in options.n:
        found = standings(problems, n, options.orders)
        show_frontier(found, n)
        show_against(found, n)
    if options.answers:
        show_published(problems, read_answers(options.answers, as_written), options.orders)


if __name__ == "__main__":
    main()
