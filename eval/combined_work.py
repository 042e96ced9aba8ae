"""The expensive part of a combined run, done by every process for its share of the problems: sample, judge, run live.

What is on disk (combined_store.py) is not done again, unless scores or live runs were made with other settings.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deepprune.cut import CutDetector, CutRule
from deepprune.decide import JudgeFailure, decision_seed
from deepprune.judges.base import CutTrace, Judge
from deepprune.judges.load import load_judge
from deepprune.judges.untrained import UNTRAINED
from deepprune.online import OnlineResult, ProblemJob, run_online
from deepprune.replay import Replay, replay
from engines.accounting import TokenLedger
from engines.detokenize import Detokenizer
from engines.load import load_tokenizer
from engines.trace_folder import StoredTrace, TraceFolderWriter, read_trace_folder
from engines.transformers_engine import TransformersEngine
from eval.combined_config import CombinedConfig
from eval.combined_store import (
    JudgeScores,
    judge_fingerprint,
    judge_labels,
    live_path,
    read_live,
    read_scores,
    scores_path,
    stored_traces,
    traces_folder,
    wall_path,
    write_scores,
)
from eval.sampling import EncodingEngine, SamplingPlan, local_device, prompt_ids, sample_missing, split_vector
from runtime.console import progress
from runtime.errors import InputError
from runtime.files import append_jsonl, write_json
from runtime.ranks import current_ranks
from tasks.prompts import starts_inside_thinking
from tasks.records import Problem


class ModelWork:
    """Everything that this process does for one model."""

    def __init__(self, config: CombinedConfig, model: str, problems: Sequence[Problem]) -> None:
        self.config, self.model, self.path = config, model, config.models[model]
        self.problems = current_ranks().shard(problems)
        self.live = {problem.id for problem in problems[: config.live_count(len(problems))]}
        names = config.judges_of(model) if config.prunes else []
        self.labels = judge_labels(config, model) if config.prunes else []
        self.prints = [judge_fingerprint(name) for name in names]
        self.judges = self._load_judges(names)
        self.tokenizer = load_tokenizer(self.path)
        self._detokenizer = Detokenizer(self.tokenizer)
        self.writer = TraceFolderWriter(traces_folder(config, model), self._trace_settings(), current_ranks().rank)

    def _load_judges(self, names: Sequence[str]) -> list[Judge]:
        """Trained judges bring their cut along, untrained ones take theirs over."""
        device = local_device(self.config.device)
        trained = {name: load_judge(name, self.path, device=device) for name in names if name not in UNTRAINED}
        rule = next((judge.cut_rule for judge in trained.values()), self.config.cut_rule)
        judges = [trained.get(name) or load_judge(name, self.path, cut_rule=rule) for name in names]
        self._check_judges(judges)
        return judges

    def _check_judges(self, judges: Sequence[Judge]) -> None:
        rules = {judge.cut_rule for judge in judges}
        if len(rules) > 1:
            raise InputError(
                f"key 'judges.{self.model}': its judges cut at {', '.join(map(str, rules))}; give one cut"
            )
        if sum(judge.needs_states for judge in judges) > 1:
            raise InputError(f"key 'judges.{self.model}' names two judges that read the model's states; give one")

    @property
    def cut_rule(self) -> CutRule | None:
        return self.judges[0].cut_rule if self.judges else None

    @property
    def _own_states(self) -> Judge | None:
        return next((judge for judge in self.judges if judge.needs_states), None)

    def _trace_settings(self) -> dict[str, Any]:
        own = [self.prints[i] for i, judge in enumerate(self.judges) if judge.needs_states]
        return self.config.trace_settings(self.model, self.config.problems) | {
            "cut": asdict(self.cut_rule) if self.cut_rule else None,
            "vectors_of_judge": own[0] if own else None,
        }

    def run(self) -> None:
        engine = self._sample()
        self._score()
        engine = self._run_live(engine)
        if engine is not None:
            engine.close()

    def _engine(self) -> TransformersEngine:
        own = self._own_states
        return TransformersEngine(
            self.path,
            self.tokenizer,
            dtype=self.config.dtype,
            capture_layers=own.capture_layers if own else None,
            device=local_device(self.config.device),
        )

    def _note_time(self, what: str, began: float) -> None:
        path = wall_path(self.config, self.model, current_ranks().rank)
        append_jsonl(path, [{"what": what, "seconds": round(time.monotonic() - began, 3)}])

    def _sample(self) -> TransformersEngine | None:
        config, own = self.config, self._own_states
        wanted = {(problem.id, sample) for problem in self.problems for sample in range(config.n)}
        if wanted <= self.writer.done:
            return None
        engine, began = self._engine(), time.monotonic()
        plan = SamplingPlan(self.problems, config.n, config.spec, config.prompt_family, config.seed, config.rows)
        with self.writer as writer:
            sample_missing(
                EncodingEngine(engine, own) if own else engine,
                self.tokenizer,
                plan,
                writer,
                self.model,
                self.cut_rule,
                with_states=own is not None,
                title=f"{self.model}: traces",
            )
        self._note_time("sampling", began)
        return engine

    def _stored(self) -> dict[str, list[StoredTrace]]:
        return stored_traces(read_trace_folder(traces_folder(self.config, self.model)), self.config.n)

    def _score_settings(self, index: int) -> str:
        settings = {
            "judge": self.prints[index],
            "n": self.config.n,
            "seed": self.config.seed,
            "cut": str(self.cut_rule),
        }
        return json.dumps(settings, sort_keys=True)

    def _score(self) -> None:
        began = time.monotonic()
        todo = [
            (index, problem)
            for index in range(len(self.judges))
            for problem in self.problems
            if read_scores(self.config, self.model, self.labels[index], problem, self._score_settings(index)) is None
        ]
        if not todo:
            return
        stored = self._stored()
        with progress(f"{self.model}: judge{current_ranks().note}", len(todo)) as shown:
            for index, problem in todo:
                found = self._judge_problem(self.judges[index], problem, stored[problem.id])
                path = scores_path(self.config, self.model, self.labels[index], problem)
                write_scores(path, found, self._score_settings(index))
                shown.advance()
        self._note_time("judge", began)

    def _judge_problem(self, judge: Judge, problem: Problem, traces: Sequence[StoredTrace]) -> JudgeScores:
        judge.reset_ledger()
        paid = TokenLedger()
        try:
            if judge.needs_states:
                costs, vectors = zip(*(split_vector(trace.load_states()) for trace in traces), strict=True)
                paid = TokenLedger(judge_head=sum(costs))
                scores = judge.score_vectors(np.stack(vectors))
            else:
                ids = prompt_ids(self.tokenizer, problem, self.config.prompt_family)
                scores = judge.score([self._cut(ids, trace) for trace in traces])
        except JudgeFailure:
            scores = np.full((len(traces), len(traces)), np.nan)
        return JudgeScores(np.asarray(scores, dtype=np.float64), judge.ledger + paid, judge.parameters)

    def _cut(self, ids: tuple[int, ...], stored: StoredTrace) -> CutTrace:
        """The cut as a live run would hand it to the judge, rebuilt token by token."""
        tokens = stored.trace.token_ids[: stored.cut_tokens]
        detector, stream = CutDetector(self.cut_rule), self._detokenizer.stream()
        for token in tokens:
            detector.feed(stream.push(token), 1)
        if stored.cut_tokens is None:
            detector.feed(stream.finish(), 0)
        return CutTrace(ids, tokens, detector.text)

    def _live_settings(self) -> dict[str, Any]:
        return {"judge": self.prints[0], "rule": asdict(self.config.rule), "n": self.config.n}

    def _run_live(self, engine: TransformersEngine | None) -> TransformersEngine | None:
        """Run the online controller on the first problems and hold every one against its replay."""
        settings = self._live_settings() if self.judges else {}
        todo = [
            problem
            for problem in self.problems
            if problem.id in self.live and read_live(self.config, self.model, problem, settings) is None
        ]
        if not self.judges or not todo:
            return engine
        config, engine = self.config, engine or self._engine()
        jobs = [
            ProblemJob.sampled(
                problem.id, prompt_ids(self.tokenizer, problem, config.prompt_family), config.n, config.seed
            )
            for problem in todo
        ]
        stored, by_id, began = self._stored(), {problem.id: problem for problem in todo}, time.monotonic()
        thinking = starts_inside_thinking(self.tokenizer)
        with progress(f"{self.model}: live{current_ranks().note}", len(jobs)) as shown:
            for result in run_online(engine, jobs, config.spec, self.judges[0], config.rule, config.rows, thinking):
                problem = by_id[result.problem_id]
                difference = self._difference(result, problem, stored[problem.id])
                record = {"settings": settings, "equal": difference is None, "difference": difference}
                write_json(live_path(config, self.model, problem), record)
                shown.advance()
        self._note_time("live", began)
        return engine

    def _difference(self, live: OnlineResult, problem: Problem, stored: Sequence[StoredTrace]) -> str | None:
        found = read_scores(self.config, self.model, self.labels[0], problem, self._score_settings(0))
        replayed = replay(
            [trace.trace.n_tokens for trace in stored],
            [trace.cut_tokens for trace in stored],
            found.scores,
            self.config.rule,
            decision_seed(self.config.seed, problem.id),
            found.ledger,
        )
        return first_difference(live, replayed, stored)


def first_difference(live: OnlineResult, replayed: Replay, stored: Sequence[StoredTrace]) -> str | None:
    """What a live run and a replay of its problem disagree about; None if nothing."""
    for index, (ran, trace, kept) in enumerate(zip(live.traces, stored, replayed.kept_tokens, strict=True)):
        if ran.token_ids != trace.trace.token_ids[: len(ran.token_ids)]:
            return f"trace {index} has other tokens"
        if len(ran.token_ids) != kept:
            return f"trace {index} ran for {len(ran.token_ids)} tokens, {kept} in the replay"
        if ran.status != "pruned" and ran.text != trace.trace.text:
            return f"trace {index} has another text"
    if live.decision.survivors != replayed.decision.survivors:
        return "the survivors differ"
    return None if live.ledger == replayed.ledger else f"the costs differ: {live.ledger} and {replayed.ledger}"
