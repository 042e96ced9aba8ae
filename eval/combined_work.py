"""The expensive part of a combined run, done by every process for its share of the problems: sample, judge, run live.

What is on disk (combined_store.py) is not done again, unless scores or live runs were made with other settings.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deepprune.cut import CutDetector, CutRule
from deepprune.decide import JudgeFailure
from deepprune.judges.base import CutTrace, Judge, VectorJudge
from deepprune.judges.load import load_judge
from deepprune.judges.untrained import UNTRAINED
from engines.accounting import JudgeBill, TokenLedger
from engines.base import Engine
from engines.detokenize import Detokenizer
from engines.load import load_tokenizer
from engines.trace_folder import StoredTrace, TraceFolderWriter, read_trace_folder
from eval.combined_config import CombinedConfig
from eval.combined_live import LiveRuns
from eval.combined_store import (
    JudgeScores,
    engine_path,
    judge_fingerprint,
    judge_labels,
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
from tasks.records import Problem


class ModelWork:
    """Everything that this process does for one model."""

    def __init__(self, config: CombinedConfig, model: str, problems: Sequence[Problem]) -> None:
        self.config, self.model = config, model
        self.problems = current_ranks().shard(problems)
        self.live = {problem.id for problem in problems[: config.live_count(len(problems))]}
        names = config.scored_by(model)
        self.labels = judge_labels(config, model)
        self.prints = [judge_fingerprint(name) for name in names]
        self.judges = self._load_judges(names)
        self.tokenizer = load_tokenizer(config.tokenizer_of(model))
        self._detokenizer = Detokenizer(self.tokenizer)
        self.writer = TraceFolderWriter(traces_folder(config, model), self._trace_settings(), current_ranks().rank)

    def _load_judges(self, names: Sequence[str]) -> list[Judge]:
        """Trained judges bring their cut along, untrained ones take theirs over."""
        device, generator = local_device(self.config.device), self.config.tokenizer_of(self.model)
        trained = {name: load_judge(name, generator, device=device) for name in names if name not in UNTRAINED}
        rule = next((judge.cut_rule for judge in trained.values()), self.config.cut_rule)
        judges = [trained.get(name) or load_judge(name, generator, cut_rule=rule) for name in names]
        self._check_judges(judges)
        return judges

    def _check_judges(self, judges: Sequence[Judge]) -> None:
        rules = {judge.cut_rule for judge in judges}
        if len(rules) > 1:
            raise InputError(
                f"key 'judges.{self.model}': its judges cut at {', '.join(map(str, rules))}; give one cut"
            )
        own = [judge for judge in judges if judge.needs_states]
        if len(own) > 1 and not self.config.keep_states:
            raise InputError(
                f"key 'judges.{self.model}' names two judges that read the model's states; give one, or store the "
                "states themselves with keep_states: true"
            )
        if len({judge.capture_layers for judge in own}) > 1:
            raise InputError(
                f"key 'judges.{self.model}': its judges read other layers; give those that read the same"
            )

    @property
    def cut_rule(self) -> CutRule | None:
        return self.judges[0].cut_rule if self.judges else None

    @property
    def _own_states(self) -> Judge | None:
        return next((judge for judge in self.judges if judge.needs_states), None)

    def _trace_settings(self) -> dict[str, Any]:
        own = [self.prints[i] for i, judge in enumerate(self.judges) if judge.needs_states]
        settings = self.config.trace_settings(self.model, self.config.problems)
        settings |= {"cut": asdict(self.cut_rule) if self.cut_rule else None}
        if own and self.config.keep_states:
            return settings | {"states_of_layers": list(self._own_states.capture_layers)}
        return settings | {"vectors_of_judge": own[0] if own else None}

    def run(self) -> None:
        engine = self._sample()
        self._score()
        for method, rule in self.config.rules.items():
            live = LiveRuns(
                self.config, self.model, method, rule, self.judges[0], self.tokenizer, self._score_settings(0)
            )
            wanted = [problem for problem in self.problems if problem.id in self.live]
            todo = live.missing(wanted)
            if todo:
                began, engine = time.monotonic(), engine or self._engine()
                live.run(engine, todo, self._stored())
                self._note_time("live", began)
        if engine is not None:
            engine.close()

    def _engine(self) -> Engine:
        """Opened anew; what the results need to know of it is noted on disk."""
        own, config = self._own_states, self.config
        engine = config.open_engine(self.model, own.capture_layers if own else None)
        about = {"engine": config.engine, "parameters": engine.parameters, "exact": engine.exact}
        write_json(engine_path(config, self.model), about)
        return engine

    def _note_time(self, what: str, began: float) -> None:
        path = wall_path(self.config, self.model, current_ranks().rank)
        append_jsonl(path, [{"what": what, "seconds": round(time.monotonic() - began, 3)}])

    def _sample(self) -> Engine | None:
        config, own = self.config, self._own_states
        wanted = {(problem.id, sample) for problem in self.problems for sample in range(config.n)}
        if wanted <= self.writer.done and engine_path(config, self.model).is_file():
            return None
        engine, began = self._engine(), time.monotonic()
        plan = SamplingPlan(self.problems, config.n, config.spec, config.prompt_family, config.seed, config.rows)
        with self.writer as writer:
            sample_missing(
                EncodingEngine(engine, own) if own and not config.keep_states else engine,
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
        n = len(traces)
        costs: tuple[TokenLedger, ...] = (TokenLedger(),) * n  # of the cuts; judges of pairs read none by itself
        try:
            if isinstance(judge, VectorJudge):
                vectors, costs = zip(*self._vectors(judge, problem, traces), strict=True)
                scores = judge.score_vectors(np.stack(vectors))
            else:
                ids = prompt_ids(self.tokenizer, problem, self.config.prompt_family)
                scores = judge.score([self._cut(ids, trace, judge.needs_states) for trace in traces])
        except JudgeFailure:
            scores = np.full((n, n), np.nan)
        bill = JudgeBill(sum(costs, judge.ledger), costs)
        return JudgeScores(np.asarray(scores, dtype=np.float64), bill, judge.parameters)

    def _vectors(
        self, judge: VectorJudge, problem: Problem, traces: Sequence[StoredTrace]
    ) -> Iterator[tuple[np.ndarray, TokenLedger]]:
        """The vector of each cut and what reading it cost."""
        ids = prompt_ids(self.tokenizer, problem, self.config.prompt_family)
        session = judge.open()
        for trace in traces:
            if judge.needs_states and not self.config.keep_states:
                macs, vector = split_vector(trace.load_states())
                yield vector, TokenLedger(judge_head=macs)
            else:
                yield session.read(self._cut(ids, trace, judge.needs_states))

    def _cut(self, ids: tuple[int, ...], stored: StoredTrace, with_states: bool) -> CutTrace:
        """The cut as a live run would hand it to the judge, rebuilt token by token."""
        tokens = stored.trace.token_ids[: stored.cut_tokens]
        detector, stream = CutDetector(self.cut_rule), self._detokenizer.stream()
        for token in tokens:
            detector.feed(stream.push(token), 1)
        if stored.cut_tokens is None:
            detector.feed(stream.finish(), 0)
        return CutTrace(ids, tokens, detector.text, stored.load_states() if with_states else None)
