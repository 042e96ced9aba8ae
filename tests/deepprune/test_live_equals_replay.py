"""A live run and a replay over fully sampled traces: same scores, survivors, texts and tokens, on the real engine."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutDetector, CutRule, cut_text
from secateur.deepprune.evidence import EvidenceRule, Rule
from secateur.deepprune.job import LiveResult, ProblemJob
from secateur.deepprune.judges.base import CutTrace, VectorJudge
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule, StartRule
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems

BASE_SEED = 5


class ProjectionJudge(VectorJudge):
    """Own states without training: a cut belongs to the random direction its mean state points to most."""

    name, needs_states, parameters, macs_per_pair = "projection", True, 0, 1

    def __init__(self, capture_layers: tuple[int, ...], cut_rule: CutRule, groups: int) -> None:
        self.capture_layers, self.cut_rule, self.groups = capture_layers, cut_rule, groups

    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        return np.array([self._label(cut)], dtype=np.float32), Usage()

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.where(vectors[first, 0] == vectors[second, 0], 0.9, 0.2)

    def _label(self, cut: CutTrace) -> int:
        assert len(cut.states) == len(cut.token_ids) - 1, "the newest token has been sampled but not fed"
        if not len(cut.states):
            return 0
        mean = cut.states.double().mean(dim=0).flatten()
        directions = torch.randn(
            len(mean), self.groups, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        return int((mean - mean.mean()).matmul(directions).argmax())


def live(engine: TransformersEngine, problems: list, n: int, spec: SamplingSpec, judge, rule: Rule) -> dict:
    jobs = [ProblemJob.sampled(problem.id, prompt, n, BASE_SEED) for problem, prompt in problems]
    return {result.problem_id: result for result in run_live(engine, jobs, spec, judge, rule, max_rows=3 * n)}


def sampled(engine: TransformersEngine, problems: list, n: int, spec: SamplingSpec, judge) -> dict[str, list]:
    """All traces to their ends, in another order and another batch than the live run's."""
    jobs = [
        TraceJob(problem, sample, prompt, ProblemJob.sampled(problem.id, prompt, n, BASE_SEED).seeds[sample])
        for problem, prompt in problems
        for sample in range(n)
    ]
    random.Random(0).shuffle(jobs)
    done = sample_traces(
        engine, engine.tokenizer, jobs, spec, 37, lambda: CutDetector(judge.cut_rule), with_states=True
    )
    by_problem: dict[str, list] = {problem.id: [None] * n for problem, _ in problems}
    for trace in done:
        by_problem[trace.job.problem.id][trace.job.sample] = trace
    return by_problem


def stored_cut(trace: FinishedTrace, rule: CutRule) -> CutTrace:
    token_ids = trace.token_ids[: trace.cut_tokens]
    text = cut_text(trace.text, rule) if rule.kind == "words" else ""
    return CutTrace(trace.job.prompt_ids, token_ids, text, trace.states)


def check_same(result: LiveResult, stored: list[FinishedTrace], judge: ProjectionJudge, rule: Rule) -> None:
    scores = judge.score([stored_cut(trace, judge.cut_rule) for trace in stored])
    seed = decision_seed(BASE_SEED, result.problem_id)
    lengths, cuts = [trace.n_tokens for trace in stored], [trace.cut_tokens for trace in stored]
    answers = [extract_answer(trace.text) for trace in stored]
    usage = JudgeUsage(judge.usage, (Usage(),) * len(stored))
    replayed = replay(lengths, cuts, group_answers(answers), scores, rule, seed, usage)
    assert replace(replayed.decision, clustering=None) == replace(result.decision, clustering=None)
    assert replayed.decision.clustering.clusters == result.decision.clustering.clusters
    assert replayed.decision.clustering.comparisons == result.decision.clustering.comparisons
    if (
        isinstance(rule, PruneRule) and rule.mode == "barrier" and not rule.start.start_batch
    ):  # else the judge is asked for fewer pairs
        assert replayed.usage == result.usage
    assert replayed.usage.generated == result.usage.generated
    assert replayed.usage.longest_path == result.usage.longest_path
    assert replayed.kept_tokens == [len(trace.token_ids) for trace in result.traces]
    for trace, full, kept in zip(result.traces, stored, replayed.kept_tokens, strict=True):
        assert trace.token_ids == full.token_ids[:kept]
        stopped = trace.status in ("pruned", "unstarted")
        assert trace.finish_reason == (None if stopped else full.finish_reason)
        assert stopped or trace.text == full.text
    assert result.answer == (None if replayed.key is None else answers[replayed.key])


RULES = {
    "largest": PruneRule(ClusterRule(compared=3), FinishRule(largest=4)),
    "decided": PruneRule(ClusterRule(compared=3), FinishRule(largest=6, stop_when_decided=True)),
    "overlap": PruneRule(
        ClusterRule(compared=3), FinishRule(largest=4, policy="soft", stop_when_decided=True), "overlap"
    ),
    "batches": PruneRule(
        ClusterRule(compared=3), FinishRule(largest=6, lead=2), start=StartRule(start_batch=3, start_confidence=0.8)
    ),
    "evidence": EvidenceRule(confidence=0.8, cluster=ClusterRule(compared=3), weight=0.6),
}


def test_random_model(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, dtype="float64", capture_layers=(1, 2))
    spec = SamplingSpec(max_tokens=40)
    rng = random.Random(2)
    problems = [
        (Problem(f"p{index}", "?", "0"), tuple(rng.randrange(3, 250) for _ in range(rng.randint(3, 20))))
        for index in range(12)
    ]
    judge = ProjectionJudge((1, 2), CutRule("tokens", 12), groups=4)
    stored = sampled(engine, problems, 16, spec, judge)
    for name in ("largest", "overlap", "batches", "evidence"):
        results = live(engine, problems, 16, spec, judge, RULES[name])
        for problem, _ in problems:
            check_same(results[problem.id], stored[problem.id], judge, RULES[name])
        statuses = {trace.status for result in results.values() for trace in result.traces}
        if name == "evidence":  # random weights give no answer, so every trace is asked for one
            assert statuses == {"whole", "finished"}
            continue
        assert statuses == {"whole", "finished", "pruned"} | ({"unstarted"} if name == "batches" else set())
        assert len({len(result.decision.clustering.clusters) for result in results.values()}) > 1


@pytest.mark.slow
def test_embedded_model(embedded_model: Path) -> None:
    engine = TransformersEngine(embedded_model, dtype="float64", capture_layers=(1, 2, 3))
    spec = SamplingSpec(max_tokens=512)
    problems = [
        (problem, tuple(encode_prompt(engine.tokenizer, evaluation_messages(problem.problem, Prompt("plain")))))
        for problem in load_problems("arithmetic:test", count=8)
    ]
    judge = ProjectionJudge((1, 2, 3), CutRule("words", 4), groups=32)
    stored = sampled(engine, problems, 16, spec, judge)
    for name, rule in RULES.items():
        results = live(engine, problems, 16, spec, judge, rule)
        for problem, _ in problems:
            check_same(results[problem.id], stored[problem.id], judge, rule)
        saved = {"pruned", "unstarted"} if name == "batches" else {"pruned"}
        assert all(saved & {trace.status for trace in result.traces} for result in results.values())
        assert any(result.answer is not None for result in results.values())
        stopped_later = [
            trace.status == "pruned" and len(trace.token_ids) > trace.cut_tokens
            for result in results.values()
            for trace in result.traces
        ]
        assert any(stopped_later) == (rule not in (RULES["largest"], RULES["batches"]))
