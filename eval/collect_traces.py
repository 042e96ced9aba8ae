"""Sample traces of one or several models into trace folders: the data that judges are trained on.

    python eval/collect_traces.py --config configs/demo/collect_judge_traces.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/collect_traces.py --config …
    python eval/collect_traces.py --imports '{math: traces.jsonl.gz}' --tokenizer path/to/model --output_dir outputs/x

Each set of problems gets a folder `<output_dir>/<model>/<set>` (see secateur/engines/trace_folder.py), traces made
elsewhere too. A run that was cut off goes on where it stood; at its end it says how redundant the traces are
(eval/studies/redundancy.py)."""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from contextlib import closing
from pathlib import Path

from eval.dry_run.runs import plan_collect
from eval.studies.redundancy import Redundancy, measure, measure_folder, show, write
from eval.traces.benchmarks import all_of
from eval.traces.collect import CollectConfig, captured_layers, load_sets, trace_folders
from eval.traces.foreign import choose_for_files, import_file
from eval.traces.next_command import judge_command
from eval.traces.sampling import (
    WantedTraces,
    check_models,
    hold_output,
    model_by_model,
    sample_missing,
    wait_for_all_processes,
)
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import TraceFolderWriter, read_trace_folder
from secateur.runtime.config import parse_config
from secateur.runtime.console import say, say_end, use_one_torch_thread
from secateur.runtime.process import current_ranks, entry_point
from secateur.tasks.answers.extraction import extraction
from secateur.tasks.records import Problem


def open_writers(config: CollectConfig, name: str) -> dict[str, TraceFolderWriter]:
    """Set → writer of one model; raises `InputError` if a folder holds traces of another configuration."""
    folders, rank = trace_folders(config, name, captured_layers(config, config.models[name])), current_ranks().rank
    return {set_name: TraceFolderWriter(*folder, rank) for set_name, folder in folders.items()}


def collect(config: CollectConfig) -> None:
    """Sample every set of every model, this process its share of the problems."""
    if not config.problems:
        return
    sets = load_sets(config)
    check_models(config, all_of(sets))
    for name in config.models:
        open_writers(config, name)  # refuses folders with other settings before anything is sampled
    model_by_model(_collect_model, config, sets)


def _collect_model(config: CollectConfig, name: str, sets: dict[str, list[Problem]]) -> None:
    layers, writers = captured_layers(config, config.models[name]), open_writers(config, name)
    shares = {set_name: current_ranks().shard(problems) for set_name, problems in sets.items()}
    if all(_wanted(config, shares[set_name]) <= writers[set_name].done for set_name in sets):
        return
    tokenizer = load_tokenizer(config.tokenizer_of(name))
    with closing(config.open_engine(name, layers or None)) as engine:
        for set_name, problems in shares.items():
            plan = WantedTraces(problems, config.samples, config.spec, config.prompt, config.seed, config.rows)
            title = f"{name}, {set_name}"
            with writers[set_name] as writer:
                sample_missing(engine, tokenizer, plan, writer, name, config.cut_rule, config.states, title=title)


def _wanted(config: CollectConfig, problems: list[Problem]) -> set[tuple[str, int | str]]:
    return {(problem.id, sample) for problem in problems for sample in range(config.samples)}


def import_all(config: CollectConfig) -> dict[str, dict[str, Path]]:
    """Take over every file of `imports`. Returns set → model → folder."""
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    if config.imports and tokenizer is None:
        say(
            "No tokenizer is given for the imported traces, so their lengths in tokens and the places of their cuts "
            "stay unknown. Judges can be trained on them, which tokenise for themselves; a replay needs 'tokenizer'."
        )
    chosen = choose_for_files(config.imports.values(), config.cut_share, tokenizer) if config.chooses_cut else None
    if chosen is not None:
        say(f"cut: {chosen.words}")
    return {
        set_name: import_file(path, config.output_dir, set_name, chosen or config.cut_rule, tokenizer)
        for set_name, path in config.imports.items()
    }


def redundancy(config: CollectConfig, imported: dict[str, dict[str, Path]]) -> list[Redundancy]:
    """The report on every set that this run sampled or took over."""
    reports = []
    for name in config.models if config.problems else ():
        extract = config.extract(load_tokenizer(config.tokenizer_of(name)))
        for set_name in config.problems:
            problems = read_trace_folder(Path(config.output_dir) / name / set_name)
            reports.append(measure(name, set_name, problems, config.cut_rule, extract))
    extract = extraction(config.answer_from)
    folders = [folder for of_set in imported.values() for folder in of_set.values()]
    return reports + [measure_folder(folder, None, extract) for folder in folders]


def say_sizes(config: CollectConfig) -> None:
    """What the stored states, and confidences, of each sampled set take on disk."""
    for name in config.models if config.problems else ():
        for set_name in config.problems:
            folder = Path(config.output_dir) / name / set_name
            size = sum(path.stat().st_size for path in (folder / "states").glob("*.safetensors"))
            traces = sum(len(entry.traces) for entry in read_trace_folder(folder))
            if size and traces:
                each = size / traces / 1024
                say(f"{name}, {set_name}: states take {each:.1f} KiB per trace, {size / 2**20:.1f} MiB")


def report(config: CollectConfig, imported: dict[str, dict[str, Path]]) -> None:
    """How redundant the traces are, and what they take on disk."""
    reports = redundancy(config, imported)
    show(reports)
    say_sizes(config)
    write(reports, config.output_dir, config.answer_from)
    say_end(Path(config.output_dir) / "redundancy.json", judge_command(config))


@entry_point
def main() -> None:
    config = parse_config(CollectConfig)
    if config.dry_run:
        plan_collect(config)
        return
    config.claim_devices()
    use_one_torch_thread()
    with hold_output(config.output_dir):
        imported = import_all(config) if current_ranks().is_main else {}
        collect(config)
        wait_for_all_processes()
        if current_ranks().is_main:
            report(config, imported)


if __name__ == "__main__":
    main()
