"""A combined run from its config to its table: every process does its share, the main one then assembles."""

from pathlib import Path

from eval.table.assemble import assemble_all
from eval.table.config import CombinedConfig
from eval.table.settings import FORGET, MAY_GROW, check_same_settings, table_settings
from eval.table.work import ModelWork, work_on_model
from eval.traces.benchmarks import all_of
from eval.traces.sampling import check_models, model_by_model, say_plan, wait_for_all_processes
from secateur.results import Table
from secateur.runtime.errors import InputError
from secateur.runtime.files import has_content, read_json, write_json
from secateur.runtime.process import current_ranks
from secateur.tasks.answers.equality import GRADER_VERSION

SETTINGS_FILE = "settings.json"
TRACES = "**/traces/traces-*.jsonl"


def run(config: CombinedConfig) -> Table | None:
    """Do this process's share; the main process then waits for the others, writes the results and returns them."""
    problems = config.load()
    folders = [config, *(config.of_benchmark(name) for name in config.benchmarks)]
    for one in folders:
        check_folder(one)
    check_models(config, all_of(problems))
    for name in config.models:  # whatever does not fit ends the run here
        ModelWork(config, name, problems, device="cpu")
    if current_ranks().is_main:
        for one in folders:
            write_json(Path(one.output_dir) / SETTINGS_FILE, table_settings(one.resolved(), GRADER_VERSION))
    if not config.imports:
        count = len(all_of(problems))
        say_plan(config, "methods on", count, count * config.largest_n * len(config.models))
    model_by_model(work_on_model, config, problems)
    wait_for_all_processes()
    return assemble_all(config, problems) if current_ranks().is_main else None


def check_folder(config: CombinedConfig) -> None:
    """Raise `InputError`, and change nothing, if the traces in the folder were made with other settings, or on one
    benchmark where this run has a folder for each, or the other way round."""
    path, settings = Path(config.output_dir) / SETTINGS_FILE, table_settings(config.resolved(), GRADER_VERSION)
    if not path.is_file() or not has_content(config.output_dir, TRACES):
        return
    there = read_json(path)
    if isinstance(there.get("problems"), dict) != isinstance(config.problems, dict):
        raise InputError(
            f"{path}: key 'problems' is {there.get('problems')!r} there and {config.problems!r} here; a run on one "
            "source fills its folder itself, one on named benchmarks has a folder for each; give another output_dir"
        )
    check_same_settings(there, settings, str(path), FORGET, MAY_GROW)
