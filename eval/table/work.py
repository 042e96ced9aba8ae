"""The expensive part of a combined run, done by every process for its share of the problems: sample, or take over
what was sampled elsewhere, judge, run live.

What is on disk (store.py) is not done again, unless scores or live runs were made with other settings.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from eval.table.config import CombinedConfig
from eval.table.judges import ModelJudges
from eval.table.live import LiveRuns
from eval.table.store import (
    IMPORTED,
    READINGS_FORMAT,
    EngineFacts,
    StoredProbes,
    engine_path,
    read_probes,
    read_readings,
    read_scores,
    readings_path,
    scores_path,
    stored_traces,
    traces_folder,
    wall_path,
    write_engine,
    write_probes,
    write_scores,
)
from eval.traces.benchmarks import Problems
from eval.traces.foreign import (
    ForeignProblem,
    Importer,
    first_traces,
    import_settings,
    of_model,
    read_foreign,
    store,
)
from eval.traces.sampling import WantedTraces, local_device, prompt_ids, sample_missing
from secateur.engines.base import Engine, SamplingSpec, fit_to_context, trace_seed
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.sampling import Probe, ProbeJob, Prober, force_answers
from secateur.engines.trace_folder import StoredTrace, TraceFolderWriter, read_trace_folder
from secateur.runtime.console import progress
from secateur.runtime.files import append_jsonl, repair_torn_tail
from secateur.runtime.process import current_ranks
from secateur.runtime.records import with_checksum, write_record
from secateur.tasks.records import Problem, Trace


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
    def imported(self) -> dict[str, ForeignProblem]:
        """Problem id → traces made elsewhere; read when they are first needed."""
        path = self.config.imports[self.model]
        return {entry.problem.id: entry for entry in of_model(read_foreign(path), self.model, path)}

    @cached_property
    def importer(self) -> Importer:
        tokenizer, rule = self.config.tokenizer, self.judges.cut_rule
        return Importer(rule, None if tokenizer is None else load_tokenizer(tokenizer), keep_ids=rule is not None)

    @cached_property
    def engine(self) -> Engine:
        """Opened when it is first needed."""
        own = self.judges.own_states
        engine = self.config.open_engine(self.model, own.capture_layers if own else None)
        self._opened = True
        return engine

    def run(self) -> None:
        self.judges.show_notes()
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
        settings = self._trace_settings() | self.judges.trace_settings()
        folder = traces_folder(self.config, self.model)
        self.writer = TraceFolderWriter(folder, settings, current_ranks().rank)

    def _trace_settings(self) -> dict[str, Any]:
        if self.config.imports:
            return import_settings(self.config.imports[self.model], self.config.tokenizer)
        return self.config.trace_settings(self.model, self.config.problems)

    def run(self) -> None:
        if self.config.imports:
            self._take_over()
        else:
            self._sample()
            if self.config.needs_probes:
                self._probe()
        self._score()
        self._read_for_scorer()
        for method, rule in self.config.live_rules.items() if self.live else ():
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
        repair_torn_tail(path)
        append_jsonl(path, [with_checksum({"what": what, "seconds": round(time.monotonic() - began, 3), **counts})])

    def _is_complete(self) -> bool:
        wanted = {(problem.id, sample) for problem in self.problems for sample in range(self.config.largest_n)}
        return wanted <= self.writer.done and engine_path(self.config, self.model).is_file()

    def _take_over(self) -> None:
        """What the folder lacks of the imported traces."""
        if self._is_complete():
            return
        began, parameters = time.monotonic(), self.config.parameters.get(self.model, 1)
        write_engine(self.config, self.model, EngineFacts(IMPORTED, parameters, exact=False))
        path, found, n = self.config.imports[self.model], self.work.imported, self.config.largest_n
        entries = [first_traces(found, problem, n, path) for problem in self.problems]
        with self.writer as writer:
            store(entries, writer, self.work.importer, self.title)
        self._note_time("import", began)

    def _sample(self) -> None:
        config, own = self.config, self.judges.own_states
        if self._is_complete():
            return
        engine, began = self._engine(), time.monotonic()
        plan = WantedTraces(self.problems, config.largest_n, config.spec, config.prompt, config.seed, config.rows)
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

    def _probe(self) -> None:
        """Force answers out of the stored traces, as a live run would have on the way."""
        config, began = self.config, time.monotonic()
        todo = [problem for problem in self.problems if read_probes(config, self.model, problem) is None]
        if not todo:
            return
        rule, stored, engine = config.parallel_probe, self._stored(), self._engine()
        texts = Detokenizer(self.judges.tokenizer)
        with progress(f"{self.title}: forced answers{current_ranks().note}", len(todo)) as shown:
            for problem in todo:
                ids = prompt_ids(self.judges.tokenizer, problem, config.prompt)
                prober, spec = Prober(engine, rule.forcing, rule.tokens), fit_to_context(engine, ids, config.spec)
                jobs = probe_jobs(ids, [one.trace for one in stored[problem.id]], rule.every, prober, spec, texts)
                found = dict(force_answers(engine, prober, jobs, config.rows))
                write_probes(config, self.model, problem, self._as_stored(found, len(stored[problem.id])))
                shown.advance()
        self._note_time("probing", began)

    def _as_stored(self, found: Mapping[ProbeJob, Probe], n: int) -> StoredProbes:
        extract = self.config.extract(self.judges.tokenizer)
        by_trace: list[list[tuple[ProbeJob, Probe]]] = [[] for _ in range(n)]
        for job, probe in sorted(found.items(), key=lambda pair: pair[0].place):
            by_trace[job.place[0]].append((job, probe))
        return StoredProbes(
            self.config.probe_settings,
            tuple(tuple(extract(job.text + probe.forced) for job, probe in mine) for mine in by_trace),
            tuple(tuple(probe.n_tokens for _, probe in mine) for mine in by_trace),
        )

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


def probe_jobs(
    prompt_ids: tuple[int, ...],
    traces: Sequence[Trace],
    every: int,
    prober: Prober,
    spec: SamplingSpec,
    texts: Detokenizer,
) -> Iterator[ProbeJob]:
    """A probe at every mark that a trace came to before its end, placed at (sample, mark from 1 on); none where it
    would go beyond the cap."""
    for trace in traces:
        stream, text = texts.stream(), []
        for length, token in enumerate(trace.token_ids[:-1], 1):
            text.append(stream.push(token))
            if length % every == 0 and prober.fits(length, spec):
                place, ids = (trace.sample, length // every), trace.token_ids[:length]
                yield ProbeJob(place, prompt_ids, ids, "".join(text), trace_seed(0, trace.problem_id, trace.sample))
