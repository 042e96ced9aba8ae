"""Models × methods × benchmarks × n, all on the same stored traces, every token counted: one table.

    python eval/combined.py --config configs/demo/combined.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/combined.py --config …

Traces are sampled once per model and problem, methods are replayed on them, with every n; `live` runs the online
controller beside the replay and reports whether both agree. `report.html` shows it all. Can be killed and started
again at any time; what is added to a finished run, a benchmark, a larger n, a model, is all that is then sampled.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from eval.dry_run.runs import plan_combined
from eval.report.explorer import write_explorer
from eval.report.page import ReportInputs, write_report
from eval.table.advice import tabulate
from eval.table.benchmarks import about, join_benchmarks
from eval.table.config import CombinedConfig
from eval.table.csv import rows_as_csv
from eval.table.deepconf import ConfidenceProfile, confidence_profile
from eval.table.grid import Cell, Judged, measure_cells
from eval.table.judge_names import judge_kind
from eval.table.live_report import live_entries, sampling_time
from eval.table.problems import ProblemRecord, TraceRecord
from eval.table.provenance import Seen, seen_by_judge, seen_by_model
from eval.table.results import ModelRecords
from eval.table.rows import evenly_chosen, example_panel
from eval.table.settings import FORGET, MAY_GROW, check_same_settings, table_settings
from eval.table.store import (
    judge_labels,
    read_engine,
    read_live,
    read_scores,
    stored_traces,
    traces_folder,
    wall_seconds,
)
from eval.table.terminal import print_results
from eval.table.tracking import publish_combined
from eval.table.work import ModelWork, work_on_model
from eval.traces.benchmarks import Problems
from eval.traces.sampling import model_by_model, prompt_ids, wait_for_all_processes
from secateur.deepprune.decision import decision_seed
from secateur.engines.models import load_tokenizer
from secateur.engines.trace_folder import StoredTrace, read_trace_folder
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.runtime.process import entry_point
from secateur.runtime.ranks import current_ranks
from secateur.tasks.answers.equality import GRADER_VERSION, grade_answers, group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.prompts import starts_inside_thinking
from secateur.tasks.records import Problem

SETTINGS_FILE = "settings.json"
_PACKAGES = ("secateur", "torch", "transformers", "numpy")


class ModelTraces:
    """The stored traces of one model on all problems, with their answers."""

    def __init__(self, config: CombinedConfig, name: str, problems: list[Problem]) -> None:
        self.config, self.name, self.problems = config, name, problems
        found = stored_traces(read_trace_folder(traces_folder(config, name)), config.largest_n)
        self.stored: list[list[StoredTrace]] = [found[problem.id] for problem in problems]
        self.tokenizer = load_tokenizer(config.tokenizer_of(name))
        thinking = starts_inside_thinking(self.tokenizer)
        self.answers = [[extract_answer(s.trace.text, thinking) for s in stored] for stored in self.stored]

    def records(self) -> ModelRecords:
        plain = [self._record(index) for index in range(len(self.problems))]
        judges, labels = self.config.scored_by(self.name), judge_labels(self.config, self.name)
        judged, parameters = {}, {}
        for label in labels:
            scores = [read_scores(self.config, self.name, label, problem) for problem in self.problems]
            judged[label] = [
                replace(record, scores=s.scores, judge_usage=s.usage) for record, s in zip(plain, scores, strict=True)
            ]
            parameters[label] = scores[0].parameters
        kinds = {label: judge_kind(judge) for label, judge in zip(labels, judges, strict=True)}
        return ModelRecords(
            self.name,
            read_engine(self.config, self.name)["parameters"],
            plain,
            judged,
            parameters,
            kinds,
            labels[: len(self.config.judges_of(self.name))] if self.config.prunes else [],
            labels[judges.index(self.config.similarity)] if "embedding" in self.config.methods else None,
            self._profiles(),
            self._sampling_seconds(),
            self._prompt_tokens() if self.config.prices else 0.0,
        )

    def _sampling_seconds(self) -> float | None:
        """Wall time of sampling these very traces [s]; None where the launches that came to an end sampled others."""
        noted = sampling_time(Path(self.config.output_dir) / self.name)
        tokens = sum(stored.trace.n_tokens for found in self.stored for stored in found)
        return noted.seconds if noted and noted.tokens == tokens else None

    def _prompt_tokens(self) -> float:
        family = self.config.prompt_family
        return float(np.mean([len(prompt_ids(self.tokenizer, problem, family)) for problem in self.problems]))

    def _profiles(self) -> list[list[ConfidenceProfile]]:
        if not self.config.deepconf_rules:
            return []
        window = self.config.deepconf_window
        return [[confidence_profile(trace.load_confidences(), window) for trace in found] for found in self.stored]

    def _record(self, index: int) -> ProblemRecord:
        problem, stored = self.problems[index], self.stored[index]
        keys, right = answer_keys(self.answers[index], problem.answer)
        traces = tuple(TraceRecord(key, s.trace.n_tokens, s.cut_tokens) for key, s in zip(keys, stored, strict=True))
        return ProblemRecord(problem.id, right, traces, decision_seed(self.config.seed, problem.id))


def answer_keys(answers: Sequence[str | None], gold: str) -> tuple[list[int | None], frozenset[int]]:
    """A key per answer, equal ones sharing it, and the keys of those that are right."""
    keys, verdicts = group_answers(answers), grade_answers(answers, [gold] * len(answers))
    return keys, frozenset(key for key, verdict in zip(keys, verdicts, strict=True) if verdict)


def assemble(config: CombinedConfig, benchmark: str, problems: list[Problem]) -> tuple[dict[str, Any], list[Cell]]:
    """Replay every method on the stored traces of one benchmark, whose own `config` this is; writes combined.json
    (returned), its .csv, and for the report explorer.json and examples.json."""
    traces = {name: ModelTraces(config, name, problems) for name in config.models}
    records = {name: found.records() for name, found in traces.items()}
    cells, runs = measure_cells(config, benchmark, records, _seen(config, problems))
    live = live_entries(config, problems, benchmark)
    cells[0] = cells[0].timed(live)
    table = tabulate(cells, config.token_prices, config.tolerance_points)
    combined = {
        **table,
        "recommendations": [table["recommendation"]],
        "live_equals_replay": live_summary(config, problems),
        "live": live or None,
        "wall_s": {name: wall_seconds(config, name) for name in config.models},
        "parameters": {name: found.parameters for name, found in records.items()},
        **about(config),
        "folders": {benchmark: "."},
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    if all(runs.values()):
        write_json(Path(config.output_dir) / "examples.json", _examples(config, traces, records, runs))
    answers = {name: found.answers for name, found in traces.items()}
    write_explorer(config.output_dir, problems, config.rules, records, answers)
    _write(config, combined)
    return combined, cells


def assemble_all(config: CombinedConfig, problems: Problems) -> dict[str, Any]:
    """`assemble` for every benchmark, and where they have folders of their own the rows of all in `output_dir`."""
    parts, cells = {}, {}
    for name, found in problems.items():
        parts[name], cells[name] = assemble(config.of_benchmark(name), name, found)
    if not isinstance(config.problems, dict):
        return next(iter(parts.values()))
    combined = join_benchmarks(config, parts, cells)
    _write(config, combined)
    return combined


def _write(config: CombinedConfig, combined: dict[str, Any]) -> None:
    write_text(Path(config.output_dir) / "combined.csv", rows_as_csv(combined["rows"]))
    write_json(Path(config.output_dir) / "combined.json", combined)


def _seen(config: CombinedConfig, problems: list[Problem]) -> dict[Judged, Seen]:
    """What each model, and each with each of its judges, had seen of the problems."""
    seen: dict[Judged, Seen] = {}
    for name, path in config.models.items():
        alone = seen[name, None] = seen_by_model(path, config.problems, problems)
        for label, judge in zip(judge_labels(config, name), config.scored_by(name), strict=True):
            seen[name, label] = alone | seen_by_judge(judge, config.problems, problems)
    return seen


def _examples(
    config: CombinedConfig, traces: dict[str, ModelTraces], records: dict[str, ModelRecords], runs: dict[str, Any]
) -> list[dict[str, Any]]:
    examples = []
    for index in evenly_chosen(records[config.base].plain, config.examples):
        problem = traces[config.base].problems[index]
        panels = {}
        for name, found in traces.items():
            run = next(iter(runs[name].values()))[index]
            texts = [stored.trace.text for stored in found.stored[index]]
            panels[name] = example_panel(records[name].plain[index], run, texts, found.answers[index])
        example = {"problem_id": problem.id, "problem": problem.problem, "gold": problem.answer, "panels": panels}
        examples.append(example)
    return examples


def live_summary(config: CombinedConfig, problems: list[Problem]) -> dict[str, Any] | None:
    """How many live runs were equal to their replay, over all models; None if none was asked for.

    `exact` is False where an engine draws other tokens when it goes on, so that a difference is no error.
    """
    if not config.live_count(len(problems)):
        return None
    live = problems[: config.live_count(len(problems))]
    records = {
        (name, method, problem.id): read_live(config, name, method, problem)
        for name in config.models
        for method in config.rules
        for problem in live
    }
    unequal = {", ".join(key): record["difference"] for key, record in records.items() if not record["equal"]}
    exact = all(read_engine(config, name)["exact"] for name in config.models)
    return {"problems": len(records), "equal": len(records) - len(unequal), "unequal": unequal, "exact": exact}


def check_folder(config: CombinedConfig) -> None:
    """Raise `InputError`, and change nothing, if the results in the folder were made with other settings, or on one
    benchmark where this run has a folder for each, or the other way round."""
    path, settings = Path(config.output_dir) / SETTINGS_FILE, table_settings(config.resolved(), GRADER_VERSION)
    if not path.is_file():
        return
    there = read_json(path)
    if isinstance(there.get("problems"), dict) != isinstance(config.problems, dict):
        raise InputError(
            f"{path}: key 'problems' is {there.get('problems')!r} there and {config.problems!r} here; a run on one "
            "source fills its folder itself, one on named benchmarks has a folder for each; give another output_dir"
        )
    check_same_settings(there, settings, str(path), FORGET, MAY_GROW)


def run(config: CombinedConfig) -> dict[str, Any] | None:
    """Do this process's share; the main process then waits for the others, writes the results and returns them."""
    problems = config.load()
    folders = [config, *(config.of_benchmark(name) for name in config.benchmarks)]
    for one in folders:
        check_folder(one)
    for name in config.models:  # whatever does not fit ends the run here
        ModelWork(config, name, problems, device="cpu")
    if current_ranks().is_main:
        for one in folders:
            write_json(Path(one.output_dir) / SETTINGS_FILE, table_settings(one.resolved(), GRADER_VERSION))
    model_by_model(work_on_model, config, problems)
    wait_for_all_processes()
    return assemble_all(config, problems) if current_ranks().is_main else None


@entry_point
def main() -> None:
    config = parse_config(CombinedConfig)
    if config.dry_run:
        plan_combined(config)
        return
    config.claim_devices()
    use_one_torch_thread()
    combined = run(config)
    if combined is not None:
        print_results(combined, console)
        folder = Path(config.output_dir)
        write_report(ReportInputs(folder), folder / "report.html")
        say(f"results: {escape(str(folder / 'combined.json'))}, report: {escape(str(folder / 'report.html'))}")
        publish_combined(config, combined, folder)


if __name__ == "__main__":
    main()
