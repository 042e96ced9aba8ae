"""Live runs of pruning rules beside the replays: the live controller on some problems, each compared with its
replay."""

import json
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from eval.table.config import CombinedConfig
from eval.table.judges import ModelJudges
from eval.table.live_record import FORMAT, LiveWall, compare
from eval.table.registry import method_label
from eval.table.store import StoredProbes, live_path, names_of_judges, read_live, read_probes, read_scores
from eval.traces.sampling import prompt_ids
from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.controller import run_live
from secateur.deepprune.evidence import EvidenceRule, JudgedRule, Rule
from secateur.deepprune.job import LiveResult, ProblemJob
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.probing import ProbedTraces, ProbeRule
from secateur.deepprune.replay import Replay, replay, replay_answers, replay_probes
from secateur.engines.base import Engine, Event, SamplingSpec
from secateur.engines.trace_folder import StoredTrace
from secateur.runtime.console import progress
from secateur.runtime.process import current_ranks
from secateur.runtime.records import write_record
from secateur.tasks.answers.equality import GRADER_VERSION, group_answers
from secateur.tasks.records import Problem


class LiveRuns:
    """One model and one rule, with the first of the model's judges where the rule asks one."""

    def __init__(
        self,
        config: CombinedConfig,
        model: str,
        method: str,
        rule: Rule,
        judges: ModelJudges,
    ) -> None:
        if isinstance(rule, EvidenceRule):
            rule = rule.weighed(judges.judges[0].weight)
        self.config, self.model, self.method, self.rule = config, model, method, rule
        asks = isinstance(rule, JudgedRule)
        self.judge: Judge | None = judges.judges[0] if asks else None
        self.tokenizer = judges.tokenizer
        made_with = {"rule": repr(rule), "grader": GRADER_VERSION}
        if asks:
            made_with["scores"] = judges.score_settings(0)
        self._settings = json.dumps(made_with, sort_keys=True)
        self._extract = config.extract(self.tokenizer)

    def missing(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those of `problems` that have not been run with these settings."""
        config = (self.config, self.model, self.method)
        return [problem for problem in problems if read_live(*config, problem, self._settings) is None]

    def run(self, engine: Engine, problems: Sequence[Problem], stored: Mapping[str, Sequence[StoredTrace]]) -> None:
        """Run them with as many traces as are `stored`, and write what each came to, as it is done."""
        config, by_id = self.config, {problem.id: problem for problem in problems}
        jobs = [self._job(problem, len(stored[problem.id])) for problem in problems]
        spec = replace(config.spec, top_logprobs=0)  # nobody reads the confidences of a live run
        clock = ClockedEngine(engine, jobs)
        with progress(f"{self.model}: {method_label(self.method)} live{current_ranks().note}", len(jobs)) as shown:
            began = time.monotonic()
            for result in run_live(clock, jobs, spec, self.judge, self.rule, config.rows, self._extract):
                ended = time.monotonic()
                problem_s = round(ended - clock.first_token[result.problem_id], 3)
                wall = LiveWall(problem_s, round(ended - began, 3), current_ranks().rank)
                self._write(by_id[result.problem_id], result, stored[result.problem_id], wall)
                shown.advance()
                began = time.monotonic()  # replaying and writing are no part of the live run

    def _job(self, problem: Problem, n: int) -> ProblemJob:
        ids = prompt_ids(self.tokenizer, problem, self.config.prompt)
        return ProblemJob.sampled(problem.id, ids, n, self.config.seed)

    def _write(self, problem: Problem, result: LiveResult, stored: Sequence[StoredTrace], wall: LiveWall) -> None:
        answers = [self._extract(trace.trace.text) for trace in stored]
        probes = read_probes(self.config, self.model, problem) if isinstance(self.rule, ProbeRule) else None
        if probes is not None:
            answers += chain.from_iterable(probes.answers[: len(stored)])
        replayed = self._replay(problem, stored, group_answers(answers), probes)
        answer = None if replayed.key is None else answers[replayed.key]  # the index of the first equal answer
        record = compare(
            result, replayed, answer, stored, problem.answer, self.rule, settings=self._settings, wall=wall
        )
        write_record(live_path(self.config, self.model, self.method, problem), record, FORMAT)

    def _replay(
        self,
        problem: Problem,
        stored: Sequence[StoredTrace],
        keys: Sequence[Hashable | None],
        probes: StoredProbes | None,
    ) -> Replay:
        """`keys` of the traces' answers, then of those in `probes`."""
        lengths = [trace.trace.n_tokens for trace in stored]
        if isinstance(self.rule, AnswerRule):
            return replay_answers(lengths, keys, self.rule)
        if isinstance(self.rule, ProbeRule):
            forced, n = iter(keys[len(stored) :]), len(stored)
            mine = [tuple(islice(forced, len(read))) for read in probes.read[:n]]
            traces = ProbedTraces(keys[:n], lengths, mine, self.rule.every, probes.read[:n])
            return replay_probes(traces, self.rule)
        found = read_scores(self.config, self.model, names_of_judges(self.config, self.model)[0], problem)
        cuts, seed = [trace.cut_tokens for trace in stored], decision_seed(self.config.seed, problem.id)
        return replay(lengths, cuts, keys, found.scores, self.rule, seed, found.usage)


class ClockedEngine:
    """An engine that notes when the first token of each problem came (`first_token`, monotonic seconds)."""

    def __init__(self, engine: Engine, jobs: Sequence[ProblemJob]) -> None:
        self._engine = engine
        self._problem_of = {seed: job.problem_id for job in jobs for seed in job.seeds}
        self._silent: dict[int, str] = {}  # traces without a token yet → problem
        self.first_token: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        handles = self._engine.start(prompt_ids, seeds, spec)
        self._silent.update((handle, self._problem_of[seed]) for handle, seed in zip(handles, seeds, strict=True))
        return handles

    def step(self) -> list[Event]:
        events = self._engine.step()
        now = time.monotonic()
        for event in events:
            problem = self._silent.pop(event.trace, None)
            if problem is not None:
                self.first_token.setdefault(problem, now)
        return events
