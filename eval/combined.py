"""Base and pruned model × every method, all on the same stored traces, every token counted: one table.

    python eval/combined.py --config configs/demo/combined.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/combined.py --config …

Traces are sampled once per model and problem, methods are replayed on them; `live` runs the online controller beside
the replay and reports whether both agree. Can be killed and started again at any time.
"""

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.markup import escape

from deepprune.decide import decision_seed
from engines.load import load_tokenizer
from engines.trace_folder import StoredTrace, read_trace_folder
from eval.combined_config import CombinedConfig, judge_kind
from eval.combined_results import ModelRecords, results_of_model
from eval.combined_rows import evenly_chosen, example_panel, make_differences, make_row, total_ledger
from eval.combined_store import (
    judge_labels,
    read_engine,
    read_live,
    read_scores,
    stored_traces,
    traces_folder,
    wall_seconds,
)
from eval.combined_work import ModelWork
from eval.deepconf import ConfidenceProfile, confidence_profile
from eval.methods import consensus
from eval.records import ProblemRecord, TraceRecord
from eval.sampling import wait_for_all_processes
from eval.table import print_results
from runtime.config import parse_config
from runtime.console import console, say, use_one_torch_thread
from runtime.errors import entry_point
from runtime.files import write_json
from runtime.ranks import current_ranks
from tasks.answers import extract_answer, group_answers
from tasks.load import load_problems
from tasks.prompts import starts_inside_thinking
from tasks.records import Problem

_PACKAGES = ("secateur", "torch", "transformers", "numpy")


class ModelTraces:
    """The stored traces of one model on all problems, with their answers."""

    def __init__(self, config: CombinedConfig, name: str, problems: list[Problem]) -> None:
        self.config, self.name, self.problems = config, name, problems
        found = stored_traces(read_trace_folder(traces_folder(config, name)), config.n)
        self.stored: list[list[StoredTrace]] = [found[problem.id] for problem in problems]
        thinking = starts_inside_thinking(load_tokenizer(config.tokenizer_of(name)))
        self.answers = [[extract_answer(s.trace.text, thinking) for s in stored] for stored in self.stored]

    def records(self) -> ModelRecords:
        plain = [self._record(index) for index in range(len(self.problems))]
        judges, labels = self.config.scored_by(self.name), judge_labels(self.config, self.name)
        judged, parameters = {}, {}
        for label in labels:
            scores = [read_scores(self.config, self.name, label, problem) for problem in self.problems]
            judged[label] = [
                replace(record, scores=s.scores, judge_bill=s.bill) for record, s in zip(plain, scores, strict=True)
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
            wall_seconds(self.config, self.name).get("sampling"),
        )

    def _profiles(self) -> list[list[ConfidenceProfile]]:
        if not self.config.deepconf_rules:
            return []
        window = self.config.deepconf_window
        return [[confidence_profile(trace.load_confidences(), window) for trace in found] for found in self.stored]

    def _record(self, index: int) -> ProblemRecord:
        problem, stored = self.problems[index], self.stored[index]
        gold, *keys = group_answers([problem.answer, *self.answers[index]])
        traces = tuple(TraceRecord(key, s.trace.n_tokens, s.cut_tokens) for key, s in zip(keys, stored, strict=True))
        return ProblemRecord(problem.id, gold, traces, decision_seed(self.config.seed, problem.id))


def assemble(config: CombinedConfig, problems: list[Problem]) -> dict[str, Any]:
    """Replay every method on the stored traces; writes combined.json and examples.json and returns the former."""
    traces = {name: ModelTraces(config, name, problems) for name in config.models}
    records = {name: found.records() for name, found in traces.items()}
    base = records[config.base]
    reference = total_ledger([consensus(record) for record in base.plain])
    results, runs = [], {}
    for name in config.models:
        found, runs[name] = results_of_model(records[name], config)
        results += found
    combined = {
        "rows": [make_row(result, config.n, reference, base.parameters) for result in results],
        "differences": make_differences(results, config.base),
        "live_equals_replay": live_summary(config, problems),
        "wall_s": {name: wall_seconds(config, name) for name in config.models},
        "parameters": {name: found.parameters for name, found in records.items()},
        "config": config.resolved(),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    if all(runs.values()):
        write_json(Path(config.output_dir) / "examples.json", _examples(config, traces, records, runs))
    write_json(Path(config.output_dir) / "combined.json", combined)
    return combined


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


def run(config: CombinedConfig) -> dict[str, Any] | None:
    """Do this process's share; the main process then waits for the others, writes the results and returns them."""
    problems = load_problems(config.problems, config.problem_count, config.seed)
    works = [ModelWork(config, name, problems) for name in config.models]
    for work in works:
        work.run()
    wait_for_all_processes()
    return assemble(config, problems) if current_ranks().is_main else None


@entry_point
def main() -> None:
    config = parse_config(CombinedConfig)
    config.claim_devices()
    use_one_torch_thread()
    combined = run(config)
    if combined is not None:
        print_results(combined, console)
        say(f"results: {escape(str(Path(config.output_dir) / 'combined.json'))}")


if __name__ == "__main__":
    main()
