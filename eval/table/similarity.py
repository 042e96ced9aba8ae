"""Methods to which any similarity of two cuts will do, so that no judge is trained, replayed on stored cuts. After
Slim-SC (arXiv 2509.13990) a trace that resembles one that runs is dropped; after PoLR (2601.21494) the largest
cluster finishes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eval.table.answers import check_share
from eval.table.method import (
    Method,
    Parameters,
    Pruned,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    Voters,
    average,
    trace_orders,
)
from eval.table.pruning import prune_in_orders
from eval.table.votes import controls_of
from secateur.deepprune.rule import POLR_RULE, PruneRule
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage


@dataclass(kw_only=True)
class SimilarityKeys(ReplayKeys):
    """similarity: what the methods "embedding" and "polr" compare cuts by: token_embedding, tfidf, values, or the
      folder of a judge of kind embedding.
    similarity_threshold: "embedding" drops cuts that are more alike than this (0-1).
    polr_threshold: "polr" merges clusters as long as they are this much alike on average (0-1).
    """

    similarity: str = "tfidf"
    similarity_threshold: float = 0.95
    polr_threshold: float = POLR_RULE.cluster.tau

    @property
    def polr_rule(self) -> PruneRule:
        return replace(POLR_RULE, cluster=replace(POLR_RULE.cluster, tau=self.polr_threshold))


def similar_dropped(problem: ReplayProblem, orders: int, threshold: float = 0.95) -> list[Voters]:
    """At its cut, a trace is dropped that is more than `threshold` similar to an earlier one that runs on; the others
    run to their end and vote.

    Slim-SC compares thought by thought while the chains run; here the cuts are compared, once. Similarities are
    `problem.scores`; traces that ended before their cut are neither dropped nor compared.
    """
    lengths = [trace.n_tokens for trace in problem.traces]
    cuts = [trace.cut_tokens for trace in problem.traces]
    whole = {index for index, trace in enumerate(problem.traces) if trace.whole}
    runs = []
    for order in trace_orders(problem, orders):
        running: list[int] = []
        for index in order:
            if index not in whole and not (problem.scores[index, running] > threshold).any():
                running.append(index)
        voters = sorted(whole.union(running))
        kept = [length if i in whole or i in running else cuts[i] for i, length in enumerate(lengths)]
        usage = Usage(generated=sum(kept), longest_path=max(kept)) + problem.judge_usage.everything
        runs.append(Voters(voters, majority([problem.traces[index].key for index in voters]), usage))
    return runs


RunsOf = Callable[[ReplayProblem, SimilarityKeys], Sequence[Voters | Pruned]]


def _row_of(name: str, runs_of: RunsOf) -> Callable[[ReplayModel, SimilarityKeys], list[Result]]:
    def run(model: ReplayModel, keys: SimilarityKeys) -> list[Result]:
        judge = model.similarity
        problems, parameters = model.judged[judge], Parameters(model.parameters, model.judge_parameters[judge])
        outcomes = [average(problem, runs_of(problem, keys)) for problem in problems]
        controls = controls_of(problems, outcomes, parameters, keys)
        return [Result(model.name, name, judge, parameters, outcomes, controls=controls)]

    return run


def _check(keys: SimilarityKeys) -> None:
    check_share("similarity_threshold", keys.similarity_threshold)
    check_share("polr_threshold", keys.polr_threshold)


EMBEDDING = Method(
    "embedding",
    "similar cuts dropped",
    "M0-7 6.7-2.2 4.1 5.7H-4.1L-6.7-2.2Z",
    _row_of("embedding", lambda problem, keys: similar_dropped(problem, keys.orders, keys.similarity_threshold)),
    SimilarityKeys,
    check=_check,
    reads_similarity=True,
    about="stops traces whose beginning resembles one that runs already",
)
POLR = Method(
    "polr",
    "PoLR",
    "M-6.5-4H6.5L4 4H-4Z",
    _row_of("polr", lambda problem, keys: prune_in_orders(problem, keys.polr_rule, keys.orders)),
    SimilarityKeys,
    reads_similarity=True,
    is_rival=True,
    about="finishes the largest group of traces whose beginnings are alike",
)
