"""The expensive part of a combined run, done by every process for its share of the problems: sample, judge, run live.

What is on disk (store.py) is not done again, unless scores or live runs were made with other settings.
"""

import time
from collections.abc import Sequence
from functools import cached_property

from eval.table.config import CombinedConfig
from eval.table.judges import ModelJudges
from eval.table.live import LiveRuns
from eval.table.store import (
    READINGS_FORMAT,
    EngineFacts,
    engine_path,
    read_readings,
    read_scores,
    readings_path,
    scores_path,
    stored_traces,
    traces_folder,
    wall_path,
    write_engine,
    write_scores,
)
from eval.traces.benchmarks import Problems
from eval.traces.sampling import WantedTraces, local_device, sample_missing
from secateur.engines.base import Engine
from secateur.engines.trace_folder import StoredTrace, TraceFolderWriter, read_trace_folder
from secateur.runtime.console import progress
from secateur.runtime.files import append_jsonl
from secateur.runtime.process import current_ranks
from secateur.runtime.records import write_record
from secateur.tasks.records import Problem


class ModelWork:
    """Everything that this process does for one model: on each benchmark its share, all with one engine.

    To build it raises `InputError` where a folder holds other traces or the judges do not fit.
    `device` is where the judges go, by default where the config says.
    """

    def __init__(self, config: CombinedConfig, model: str, problems: Problems, device: str | None = None) -> None:
        self.config, self.model = config, model
        self.judges = ModelJudges(config, model, device or local_device(config.device))
        self.benchmarks = [BenchmarkWork(self, name, found) for name, found in problems.items()]
        self._opened = False

    @cached_property
    def engine(self) -> Engine:
        """Opened when it is first needed."""
        own = self.judges.own_states
        engine = self.config.open_engine(self.model, own.capture_layers if own else None)
        self._opened = True
        return engine

    def run(self) -> None:
        for benchmark in self.benchmarks:
            benchmark.run()
        if self._opened:
            self.engine.close()


def work_on_model(config: CombinedConfig, model: str, problems: Problems) -> None:
    """All of one model's work, for a process of its own."""
    ModelWork(config, model, problems).run()


class BenchmarkWork:
    """One model on one benchmark."""

    def __init__(self, model: ModelWork, benchmark: str, problems: Sequence[Problem]) -> None:
        self.work, self.judges = model, model.judges
        self.config, self.model = model.config.of_benchmark(benchmark), model.model
        self.title = f"{self.model}, {benchmark}" if len(model.config.benchmarks) > 1 else self.model
        self.problems = current_ranks().shard(problems)
        live = {problem.id for problem in problems[: self.config.live_count(len(problems))]}
        self.live = [problem for problem in self.problems if problem.id in live]
        settings = self.config.trace_settings(self.model, self.config.problems) | self.judges.trace_settings()
        folder = traces_folder(self.config, self.model)
        self.writer = TraceFolderWriter(folder, settings, current_ranks().rank)

    def run(self) -> None:
        self._sample()
        self._score()
        self._read_for_scorer()
        for method, rule in self.config.live_rules.items():
            live = LiveRuns(self.config, self.model, method, rule, self.judges)
            todo = live.missing(self.live)
            if todo:
                began, engine = time.monotonic(), self._engine()
                live.run(engine, todo, self._stored())
                self._note_time("live", began)

    def _engine(self) -> Engine:
        """The model's; what the results need to know of it is noted on disk."""
        engine = self.work.engine
        write_engine(self.config, self.model, EngineFacts(self.config.engine, engine.parameters, engine.exact))
        return engine

    def _note_time(self, what: str, began: float, **counts: int) -> None:
        path = wall_path(self.config, self.model, current_ranks().rank)
        append_jsonl(path, [{"what": what, "seconds": round(time.monotonic() - began, 3), **counts}])

    def _sample(self) -> None:
        config, own = self.config, self.judges.own_states
        wanted = {(problem.id, sample) for problem in self.problems for sample in range(config.largest_n)}
        if wanted <= self.writer.done and engine_path(config, self.model).is_file():
            return
        engine, began = self._engine(), time.monotonic()
        plan = WantedTraces(
            self.problems, config.largest_n, config.spec, config.prompt_family, config.seed, config.rows
        )
        with self.writer as writer:
            tokens = sample_missing(
                engine,
                self.judges.tokenizer,
                plan,
                writer,
                self.model,
                self.judges.cut_rule,
                with_states=own is not None and config.keep_states,
                encode=self.judges.encode,
                title=f"{self.title}: traces",
            )
        self._note_time("sampling", began, tokens=tokens)

    def _stored(self) -> dict[str, list[StoredTrace]]:
        return stored_traces(read_trace_folder(traces_folder(self.config, self.model)), self.config.largest_n)

    def _score(self) -> None:
        began, labels = time.monotonic(), self.judges.labels
        settings = [self.judges.score_settings(index) for index in range(len(labels))]
        todo = [
            (index, problem)
            for index, label in enumerate(labels)
            for problem in self.problems
            if read_scores(self.config, self.model, label, problem, settings[index]) is None
        ]
        if not todo:
            return
        stored = self._stored()
        with progress(f"{self.title}: judge{current_ranks().note}", len(todo)) as shown:
            for index, problem in todo:
                found = self.judges.score(index, problem, stored[problem.id])
                write_scores(scores_path(self.config, self.model, labels[index], problem), found, settings[index])
                shown.advance()
        self._note_time("judge", began)

    def _read_for_scorer(self) -> None:
        """What the model's scorer is told of the traces, where a method asks for it."""
        scorer, began = self.judges.scorer, time.monotonic()
        if scorer is None:
            return
        told = (self.config, self.model)
        todo = [problem for problem in self.problems if read_readings(*told, problem, scorer.settings) is None]
        if not todo:
            return
        stored = self._stored()
        with progress(f"{self.title}: scorer{current_ranks().note}", len(todo)) as shown:
            for problem in todo:
                found = scorer.readings(problem, stored[problem.id])
                write_record(readings_path(*told, problem), found, READINGS_FORMAT)
                shown.advance()
        self._note_time("scorer", began)
