"""From what is stored of a combined run to its table: traces and scores are read, every method is replayed. No model
runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from eval.table.answers import probed
from eval.table.config import CombinedConfig
from eval.table.explorer import evenly_chosen, write_examples, write_explorer
from eval.table.grid import SCORER, BenchmarkTable, GridCell, ModelAndJudge, measure_cells, tabulate, together
from eval.table.live_report import live_entries, live_equality, sampling_time
from eval.table.method import ReplayModel, ReplayProblem, ReplayTrace, TraceReadings, confidence_profile
from eval.table.provenance import Seen, seen_by_judge, seen_by_model, seen_by_scorer
from eval.table.settings import table_settings
from eval.table.store import (
    names_of_judges,
    rates_path,
    read_engine,
    read_probes,
    read_readings,
    read_scores,
    stored_traces,
    traces_folder,
    wall_seconds,
)
from eval.traces.benchmarks import Problems
from eval.traces.sampling import prompt_ids
from secateur.deepprune.judges.folder import judge_kind, judge_weight
from secateur.deepprune.policy import decision_seed
from secateur.deepprune.probing import learn_switch_rates, write_switch_rates
from secateur.deepprune.scorer import load_scorer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import StoredTrace, read_trace_folder
from secateur.results import LiveEquality, Table, rows_as_csv, write_table
from secateur.runtime.console import say
from secateur.runtime.files import write_text
from secateur.tasks.answers.equality import GRADER_VERSION, group_answers, right_keys
from secateur.tasks.answers.extraction import count_unanswered, extraction
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MANY_SHORT = 0.25  # share of traces shorter than DeepConf's window from which that is said
_PACKAGES = ("secateur", "torch", "transformers", "numpy")


class ModelTraces:
    """The stored traces of one model on all problems, with their answers."""

    def __init__(self, config: CombinedConfig, name: str, problems: list[Problem]) -> None:
        self.config, self.name, self.problems = config, name, problems
        found = stored_traces(read_trace_folder(traces_folder(config, name)), config.largest_n)
        self.stored: list[list[StoredTrace]] = [found[problem.id] for problem in problems]
        self._extract = extraction(config.answer_from) if config.imports else config.extract(self.tokenizer)
        self.answers = [[s.trace.answer_by(self._extract) for s in stored] for stored in self.stored]

    def say_unanswered(self) -> None:
        """How many traces with a text end without an answer, and why, if there are any."""
        traces = [
            one.trace for stored in self.stored for one in stored if one.trace.text and one.trace.answer is None
        ]
        ended = [trace.text for trace in traces if trace.finish_reason != "length"]
        if words := count_unanswered(ended, self._extract).words():
            say(f"{escape(self.name)}: {words}")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self.config.tokenizer_of(self.name))

    def texts(self, index: int) -> list[str]:
        """ "" for one that came without."""
        return [stored.trace.text or "" for stored in self.stored[index]]

    def replay_model(self) -> ReplayModel:
        plain = [self._problem(index) for index in range(len(self.problems))]
        config, names = self.config, names_of_judges(self.config, self.name)
        judges = config.scored_by(self.name)
        judged, parameters = {}, {}
        for judge in names:
            scores = [read_scores(config, self.name, judge, problem) for problem in self.problems]
            judged[judge] = [
                replace(problem, scores=s.scores, judge_usage=s.usage)
                for problem, s in zip(plain, scores, strict=True)
            ]
            parameters[judge] = scores[0].parameters
        return ReplayModel(
            name=self.name,
            parameters=read_engine(config, self.name).parameters,
            plain=plain,
            judged=judged,
            judge_parameters=parameters,
            judge_kinds={name: judge_kind(judge) for name, judge in zip(names, judges, strict=True)},
            judge_weights=dict(zip(names, map(judge_weight, judges), strict=True)),
            pruned_by=names[: len(config.judges_of(self.name))] if config.asks_judges else [],
            similarity=names[judges.index(config.similarity)] if config.needs_similarity else None,
            confidences=self._confidences(),
            scorer=load_scorer(config.scorers[self.name]) if config.needs_scorer else None,
            readings=self._readings(),
            wall_s=self._sampling_seconds(),
            prompt_tokens=self._prompt_tokens() if config.prices else 0.0,
        )

    def _sampling_seconds(self) -> float | None:
        """Wall time of sampling these very traces [s]; None where the launches that came to an end sampled others."""
        noted = sampling_time(Path(self.config.output_dir) / self.name)
        tokens = sum(stored.trace.n_tokens for found in self.stored for stored in found)
        return noted.seconds if noted and noted.tokens == tokens else None

    def _prompt_tokens(self) -> float:
        prompt = self.config.prompt
        return float(np.mean([len(prompt_ids(self.tokenizer, problem, prompt)) for problem in self.problems]))

    def _confidences(self) -> list:
        if not self.config.needs_confidences:
            return []
        window = self.config.deepconf_window
        self._say_if_short(window)
        return [[confidence_profile(trace.load_confidences(), window) for trace in found] for found in self.stored]

    def _say_if_short(self, window: int) -> None:
        """DeepConf can stop no trace that ends before it has filled a window, and nothing in its rows would tell."""
        lengths = [stored.trace.n_tokens for found in self.stored for stored in found]
        short = sum(length < window for length in lengths) / len(lengths)
        if short > _MANY_SHORT:
            say(
                f"{escape(self.name)}: {short:.0%} of the traces are shorter than deepconf_window ({window} tokens), "
                f"so DeepConf never stops them; the median has {np.median(lengths):.0f} tokens: lower deepconf_window"
            )

    def _readings(self) -> list[list[TraceReadings]]:
        if not self.config.needs_scorer:
            return []
        return [list(read_readings(self.config, self.name, problem).traces) for problem in self.problems]

    def _problem(self, index: int) -> ReplayProblem:
        problem, stored, config = self.problems[index], self.stored[index], self.config
        probes = read_probes(config, self.name, problem) if config.needs_probes else None
        keys, forced, right = _keys(self.answers[index], probes.answers if probes else [()] * len(stored), problem)
        read = probes.read if probes else [None] * len(stored)
        traces = tuple(
            ReplayTrace(key, s.trace.n_tokens, s.cut_tokens, mine, tokens)
            for key, s, mine, tokens in zip(keys, stored, forced, read, strict=False)
        )
        every = config.probe_every if probes else None
        return ReplayProblem(problem.id, right, traces, decision_seed(config.seed, problem.id), probe_every=every)


def _keys(
    answers: Sequence[str | None], forced: Sequence[Sequence[str | None]], problem: Problem
) -> tuple[list[int | None], list[tuple[int | None, ...]], frozenset[int]]:
    """The keys of the traces' answers, of those forced out of each, and of the right ones among all."""
    keys, right = keys_and_right_ones([*answers, *chain.from_iterable(forced)], problem.answer)
    rest = iter(keys[len(answers) :])
    return keys[: len(answers)], [tuple(islice(rest, len(mine))) for mine in forced], right


def keys_and_right_ones(answers: Sequence[str | None], gold: str) -> tuple[list[int | None], frozenset[int]]:
    """A key per answer, equal ones sharing it, and the keys of those that are right."""
    keys = group_answers(answers)
    return keys, right_keys(answers, keys, gold)


def assemble_all(config: CombinedConfig, problems: Problems) -> Table:
    """The table of every benchmark, and where they have folders of their own the rows of all in `output_dir`."""
    parts: dict[str, Table] = {}
    tables: dict[str, BenchmarkTable] = {}
    cells: dict[str, list[GridCell]] = {}
    for name, found in problems.items():
        parts[name], tables[name], cells[name] = assemble(config.of_benchmark(name), name, found)
    if not isinstance(config.problems, dict):
        return next(iter(parts.values()))
    table = _join(config, parts, tables, cells)
    _write(config, table)
    return table


def assemble(
    config: CombinedConfig, benchmark: str, problems: list[Problem]
) -> tuple[Table, BenchmarkTable, list[GridCell]]:
    """Replay every method on the stored traces of one benchmark, whose own `config` this is; writes combined.json,
    its .csv, and for the report explorer.json and examples.json."""
    traces = {name: ModelTraces(config, name, problems) for name in config.models}
    for found in traces.values():
        found.say_unanswered()
    models = {name: found.replay_model() for name, found in traces.items()}
    cells = measure_cells(config, benchmark, models, _seen(config, problems))
    for name, found in models.items() if config.needs_probes else ():
        rates = learn_switch_rates(probed(problem.traces, problem.probe_every) for problem in found.plain)
        write_switch_rates(rates_path(config, name), rates)
    live = live_entries(config, problems, benchmark)
    cells[0] = cells[0].timed(live)
    found = tabulate(cells, config.token_prices, config.tolerance_points)
    table = Table(
        rows=found.rows,
        differences=found.differences,
        recommendations=(found.recommendation,),
        live_equals_replay=live_equality(config, problems),
        live=tuple(live),
        wall_s={name: wall_seconds(config, name) for name in config.models},
        parameters={name: model.parameters for name, model in models.items()},
        n=tuple(config.sizes),
        folders={benchmark: "."},
        settings=table_settings(config.resolved(), GRADER_VERSION),
        config=config.resolved(),
        versions={package: metadata.version(package) for package in _PACKAGES},
    )
    chosen = evenly_chosen(models[config.base].plain, config.examples)
    texts = {problems[i].id: {name: found.texts(i) for name, found in traces.items()} for i in chosen}
    write_examples(config.output_dir, texts)
    answers = {name: found.answers for name, found in traces.items()}
    write_explorer(config.output_dir, problems, config.live_rules, models, answers)
    _write(config, table)
    return table, found, cells


def _write(config: CombinedConfig, table: Table) -> None:
    write_text(Path(config.output_dir) / "combined.csv", rows_as_csv(table.rows))
    write_table(config.output_dir, table)


def _seen(config: CombinedConfig, problems: list[Problem]) -> dict[ModelAndJudge, Seen]:
    """What each model, and each with each of its judges and its scorer, had seen of the problems."""
    seen: dict[ModelAndJudge, Seen] = {}
    for name, path in config.models.items():
        alone = seen[name, None] = seen_by_model(path, config.problems, problems)
        for judge, source in zip(names_of_judges(config, name), config.scored_by(name), strict=True):
            seen[name, judge] = alone | seen_by_judge(source, config.problems, problems)
        if config.needs_scorer:
            seen[name, SCORER] = alone | seen_by_scorer(config.scorers[name], config.problems, problems)
    return seen


def _join(
    config: CombinedConfig,
    parts: dict[str, Table],
    tables: dict[str, BenchmarkTable],
    cells: dict[str, list[GridCell]],
) -> Table:
    """The rows of every benchmark, after those of all together where there are several; ids then begin with the
    benchmark."""
    if len(parts) > 1:
        all_cells = [together(same_n) for same_n in zip(*cells.values(), strict=True)]
        everything = tabulate(all_cells, config.token_prices, config.tolerance_points)
        named = {all_cells[0].benchmark: everything} | tables
        tables = {name: table.prefixed(f"{name}:") for name, table in named.items()}
    first = next(iter(parts.values()))
    return replace(
        first,
        rows=tuple(row for table in tables.values() for row in table.rows),
        differences=tuple(difference for table in tables.values() for difference in table.differences),
        recommendations=tuple(table.recommendation for table in tables.values()),
        live_equals_replay=_equalities(parts),
        live=tuple(entry for part in parts.values() for entry in part.live),
        wall_s={name: _added([part.wall_s[name] for part in parts.values()]) for name in config.models},
        folders=config.folders,
        settings=table_settings(config.resolved(), GRADER_VERSION),
        config=config.resolved(),
    )


def _equalities(parts: dict[str, Table]) -> LiveEquality | None:
    found = {name: part.live_equals_replay for name, part in parts.items() if part.live_equals_replay}
    if not found:
        return None
    unequal = {f"{name}: {key}": why for name, live in found.items() for key, why in live.unequal.items()}
    return LiveEquality(
        problems=sum(live.problems for live in found.values()),
        equal=sum(live.equal for live in found.values()),
        unequal=unequal,
        exact=all(live.exact for live in found.values()),
    )


def _added(seconds: Sequence[dict[str, float]]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for one in seconds for kind in one)
    return {kind: round(sum(one.get(kind, 0.0) for one in seconds), 3) for kind in kinds}
