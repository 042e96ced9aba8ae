"""Live runs of DeepPrune beside the replays: the online controller on some problems, each held against its replay."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from deepprune.decide import PruneRule, decision_seed
from deepprune.judges.base import Judge
from deepprune.online import OnlineResult, ProblemJob, run_online
from deepprune.replay import replay
from engines.base import Engine, Event, SamplingSpec
from engines.trace_folder import StoredTrace
from eval.combined_config import CombinedConfig
from eval.combined_live_record import compare
from eval.combined_store import judge_labels, live_path, read_live, read_scores
from eval.sampling import prompt_ids
from eval.table import method_label
from runtime.console import progress
from runtime.files import write_json
from runtime.ranks import current_ranks
from tasks.answers import GRADER_VERSION, extract_answer, group_answers
from tasks.prompts import starts_inside_thinking
from tasks.records import Problem

_FORMAT = 2  # of the records; those of another one are run again


class LiveRuns:
    """One model, one rule, and the first of the model's judges, whose scores were stored `scored_with` settings."""

    def __init__(
        self,
        config: CombinedConfig,
        model: str,
        method: str,
        rule: PruneRule,
        judge: Judge,
        tokenizer: PreTrainedTokenizerBase,
        scored_with: str,
    ) -> None:
        self.config, self.model, self.method, self.rule, self.judge = config, model, method, rule, judge
        self.tokenizer = tokenizer
        self._settings: dict[str, Any] = {
            "format": _FORMAT,
            "scores": scored_with,
            "rule": asdict(rule),
            "grader": GRADER_VERSION,
        }
        self._thinking = starts_inside_thinking(tokenizer)

    def missing(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those of `problems` that have not been run with these settings."""
        config = (self.config, self.model, self.method)
        return [problem for problem in problems if read_live(*config, problem, self._settings) is None]

    def run(self, engine: Engine, problems: Sequence[Problem], stored: Mapping[str, Sequence[StoredTrace]]) -> None:
        """Run them with as many traces as are `stored`, and write what each came to, as it is done.

        A record holds what `compare` says and `wall`: seconds from the problem's first token to its vote; the seconds
        by which it made the whole phase longer, since problems share the engine; and the process that ran it.
        """
        config, by_id = self.config, {problem.id: problem for problem in problems}
        jobs = [self._job(problem, len(stored[problem.id])) for problem in problems]
        spec = replace(config.spec, top_logprobs=0)  # nobody reads the confidences of a live run
        clock = ClockedEngine(engine, jobs)
        with progress(f"{self.model}: {method_label(self.method)} live{current_ranks().note}", len(jobs)) as shown:
            began = time.monotonic()
            for result in run_online(clock, jobs, spec, self.judge, self.rule, config.rows, self._thinking):
                ended = time.monotonic()
                wall = {"problem_s": ended - clock.first_token[result.problem_id], "phase_s": ended - began}
                self._write(by_id[result.problem_id], result, stored[result.problem_id], wall)
                shown.advance()
                began = time.monotonic()  # replaying and writing are no part of the live run

    def _job(self, problem: Problem, n: int) -> ProblemJob:
        ids = prompt_ids(self.tokenizer, problem, self.config.prompt_family)
        return ProblemJob.sampled(problem.id, ids, n, self.config.seed)

    def _write(
        self, problem: Problem, result: OnlineResult, stored: Sequence[StoredTrace], wall: dict[str, float]
    ) -> None:
        answers = [extract_answer(trace.trace.text, self._thinking) for trace in stored]
        label = judge_labels(self.config, self.model)[0]
        found = read_scores(self.config, self.model, label, problem)
        replayed = replay(
            [trace.trace.n_tokens for trace in stored],
            [trace.cut_tokens for trace in stored],
            group_answers(answers),
            found.scores,
            self.rule,
            decision_seed(self.config.seed, problem.id),
            found.bill,
        )
        answer = None if replayed.key is None else answers[replayed.key]  # the index of the first equal answer
        record = {"settings": self._settings, **compare(result, replayed, answer, stored, problem.answer, self.rule)}
        record["wall"] = {key: round(value, 3) for key, value in wall.items()} | {"rank": current_ranks().rank}
        write_json(live_path(self.config, self.model, self.method, problem), record)


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
