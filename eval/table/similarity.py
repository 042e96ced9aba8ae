"""Similarity pruning after Slim-SC (arXiv 2509.13990), replayed on stored cuts: a trace that resembles one that
runs is dropped. It needs no trained judge; any similarity of two cuts will do."""

from dataclasses import dataclass

from eval.table.answers import check_share
from eval.table.method import (
    Method,
    Parameters,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    Voters,
    average,
    trace_orders,
)
from eval.table.votes import controls_of
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage


@dataclass(kw_only=True)
class SimilarityKeys(ReplayKeys):
    """similarity: what the method "embedding" compares cuts by: token_embedding, tfidf, values, or the folder of a
      judge of kind embedding.
    similarity_threshold: "embedding" drops cuts that are more alike than this (0-1).
    """

    similarity: str = "tfidf"
    similarity_threshold: float = 0.95


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


def _run(model: ReplayModel, keys: SimilarityKeys) -> list[Result]:
    judge = model.similarity
    problems, parameters = model.judged[judge], Parameters(model.parameters, model.judge_parameters[judge])
    outcomes = [average(p, similar_dropped(p, keys.orders, keys.similarity_threshold)) for p in problems]
    controls = controls_of(problems, outcomes, parameters, keys)
    return [Result(model.name, EMBEDDING.name, judge, parameters, outcomes, controls=controls)]


EMBEDDING = Method(
    "embedding",
    "similar cuts dropped",
    "M0-7 6.7-2.2 4.1 5.7H-4.1L-6.7-2.2Z",
    _run,
    SimilarityKeys,
    check=lambda keys: check_share("similarity_threshold", keys.similarity_threshold),
    reads_similarity=True,
)
