"""`dry_run: true` of eval/collect_traces.py and eval/combined.py: what a run would do, need and cost, what is done.

Read are configs, problems, tokenizers, what is in the output folder, and of a model its config.json alone.

    python eval/collect_traces.py --config configs/demo/collect_judge_traces.yaml --dry_run true
    python eval/combined.py --config … --accelerate_config FILE --dry_run true --mean_tokens 9000
"""

from collections.abc import Sequence

from rich.markup import escape

from eval.dry_run.memory import PlannedEngine, show_memory
from eval.dry_run.models import (
    ModelPlan,
    PlannedConfig,
    added_disk,
    check_collect_folders,
    collect_models,
    combined_models,
)
from eval.dry_run.traces import planned_sets
from eval.table.config import CombinedConfig
from eval.table.store import wall_seconds
from eval.traces.benchmarks import count_of
from eval.traces.collect import CollectConfig
from secateur.engines.memory import total_bytes
from secateur.engines.registry import engine_kind
from secateur.runtime.console import say
from secateur.runtime.dry_run import (
    device_bytes,
    facts_table,
    hours_words,
    millions,
    plan_table,
    show_disk_room,
    show_table,
    size_words,
)
from secateur.runtime.launch_file import LaunchFile

_DEFAULT_RATE = 1000.0  # [tokens/s], where nothing is known; said so
_RATE_UNKNOWN = (
    "    1,000 tokens/s is no measurement, only a unit: divide by what one process gets through (tokens_per_second)"
)
_RATE_MEASURED = "    tokens/s of one process, as measured on the traces there (1,000 where there are none)"
_REMEDY = "another output_dir, fewer traces, fewer layers"


def plan_collect(config: CollectConfig) -> None:
    """Print the plan of eval/collect_traces.py."""
    sets = planned_sets(config.problems, config.problem_counts, config.seed)
    plans = collect_models(config, sets)
    check_collect_folders(config)
    say("[bold]dry run of eval/collect_traces.py[/bold]: nothing is loaded, sampled or written")
    for name, path in config.imports.items():
        say(f"  {escape(name)}: traces of {escape(path)} are taken over, nothing is sampled for them")
    if plans:
        _show_all(config, plans, {})


def plan_combined(config: CombinedConfig) -> None:
    """Print the plan of eval/combined.py."""
    if config.imports:
        say("[bold]dry run of eval/combined.py[/bold]: imported traces are replayed, so that no model runs")
        return
    counts = {name: count_of(config.problem_count, name) for name in config.benchmarks}
    benchmarks = planned_sets(config.benchmarks, counts, config.seed)
    plans = combined_models(config, benchmarks)
    say("[bold]dry run of eval/combined.py[/bold]: nothing is loaded, sampled or written")
    _show_all(config, plans, _measured_rates(config, plans))
    _show_judges(plans)


def _show_all(config: PlannedConfig, plans: Sequence[ModelPlan], rates: dict[str, float]) -> None:
    launch = config.planned_launch()
    per_machine = max(1, launch.processes // launch.machines)
    on_cpu = config.device == "cpu" or launch.use_cpu
    limit = device_bytes(launch, config.gpu_memory_gib, on_cpu)
    engine = PlannedEngine(config.engine, config.engine_options, on_cpu, per_machine, limit)
    _show_facts(config, plans, launch, engine)
    _show_traces(plans, config.max_tokens)
    for plan in plans:
        _show_lengths(plan)
    _show_time(config, plans, launch.processes, engine, rates)
    _show_memories(engine, plans)
    _show_disk(config, plans)


def _show_facts(config: PlannedConfig, plans: Sequence[ModelPlan], launch: LaunchFile, engine: PlannedEngine) -> None:
    rows = []
    for plan in plans:
        size = f", {plan.shape.parameters:,} parameters" if plan.shape else ""
        rows.append((f"model {escape(plan.name)}", escape(config.models[plan.name]) + size))
    processes = f"{launch.processes} process{'es' * (launch.processes > 1)}"
    served = not engine_kind(engine.kind).in_process
    gpus = "" if engine.on_cpu or served else f", {launch.processes * engine.parallel} GPUs"
    rows.append(("launch", f"{processes}{gpus} ({escape(launch.path)}), each with its share of the problems"))
    at_once = f"{config.rows} traces at once in each process, up to {config.max_tokens:,} tokens"
    rows.append(("engine", f"{engine.kind}, {config.dtype}, {at_once}"))
    show_table(facts_table(rows))
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        say(f"  {escape(note)}")


def _show_traces(plans: Sequence[ModelPlan], cap: int) -> None:
    table = plan_table("traces", "problems × n", "there", "to sample", "tokens", "at most")
    several = max(len(plan.parts) for plan in plans) > 1
    for plan in plans:
        for index, (part, stored) in enumerate(zip(plan.parts, plan.stored, strict=True)):
            missing = plan.missing(index)
            wanted = f"{len(part.problems):,} × {part.n} = {part.wanted:,}"
            cells = (
                wanted,
                f"{stored.traces:,}",
                f"{missing:,}",
                millions(missing * plan.lengths.tokens),
                millions(missing * cap),
            )
            table.add_row(escape(f"{part.model}, {part.name}" if several else part.model), *cells)
    there = sum(stored.traces for plan in plans for stored in plan.stored)
    left = sum(plan.traces_left for plan in plans)
    wanted = sum(part.wanted for plan in plans for part in plan.parts)
    tokens = (millions(sum(plan.tokens_left for plan in plans)), millions(left * cap))
    table.add_section()
    table.add_row("all", f"{wanted:,}", f"{there:,}", f"{left:,}", *tokens)
    show_table(table)


def _show_lengths(plan: ModelPlan) -> None:
    lengths = plan.lengths
    say(f"  {escape(plan.name)}: {lengths.tokens:,.0f} tokens a trace ({escape(lengths.tokens_from)})")
    if any(part.states or part.vector for part in plan.parts):
        say(f"    up to the cut {lengths.fed:,.0f} ({escape(lengths.fed_from)})")


def _measured_rates(config: CombinedConfig, plans: Sequence[ModelPlan]) -> dict[str, float]:
    """Tokens a second of one process, of the models that this folder has traces of."""
    rates = {}
    for plan in plans:
        seconds, tokens, ranks = 0.0, 0, 1
        for part, stored in zip(plan.parts, plan.stored, strict=True):
            spent = wall_seconds(config.of_benchmark(part.name), plan.name).get("sampling", 0.0)
            seconds, tokens = seconds + spent, tokens + (stored.all_tokens if spent else 0)
            ranks = max(ranks, len(list(part.folder.parent.glob("wall-rank*.jsonl"))))
        if seconds and tokens:
            rates[plan.name] = tokens / seconds / ranks
    return rates


def _show_time(
    config: PlannedConfig, plans: Sequence[ModelPlan], processes: int, engine: PlannedEngine, rates: dict[str, float]
) -> None:
    unit = "of processes" if engine.on_cpu or not engine_kind(engine.kind).in_process else "of GPUs"
    gpus = processes * engine.parallel
    for plan in plans:
        tokens = plan.tokens_left + plan.live_tokens + plan.probe_tokens
        if not tokens:
            continue
        rate = config.tokens_per_second or rates.get(plan.name)
        hours = tokens / (processes * (rate or _DEFAULT_RATE)) / 3600
        beside = {"live runs": plan.live_tokens, "forced answers": plan.probe_tokens}
        most = ", ".join(f"{name}: {millions(count)} at most" for name, count in beside.items() if count)
        work = millions(tokens) + (f" tokens ({most})" if most else " tokens")
        amount = f"{work} ÷ ({processes} × {rate or _DEFAULT_RATE:,.0f} tokens/s)"
        say(f"  time, {escape(plan.name)}: {amount} = {hours_words(hours)}, {hours_words(hours * gpus)} {unit}")
    if config.tokens_per_second is None:
        say(_RATE_MEASURED if rates else _RATE_UNKNOWN)


def _show_memories(engine: PlannedEngine, plans: Sequence[ModelPlan]) -> None:
    """One table for models of the same sizes and judges."""
    shown: dict[tuple, str] = {}
    for plan in plans:
        judges = [judge.memory for judge in plan.judges if judge.parameters]
        same = (plan.load, tuple(judges))
        if plan.load is None:
            needed = size_words(total_bytes(judges))
            say(f"  {escape(plan.name)}: the model runs on the server; judges take {needed} on this machine")
        elif same in shown:
            say(f"  {escape(plan.name)}: the same memory as {escape(shown[same])}")
        else:
            shown[same] = plan.name
            show_memory(engine, plan.name, plan.load, round(plan.lengths.tokens), judges)


def _show_disk(config: PlannedConfig, plans: Sequence[ModelPlan]) -> None:
    usual, most = (added_disk(plans, config.max_tokens if at_cap else None) for at_cap in (False, True))
    scores = sum(plan.score_bytes for plan in plans)
    table = plan_table("disk", "to come", "at most")
    for name, key in (("trace lines", "lines"), ("hidden states", "states"), ("judge vectors", "vectors"),
                      ("token confidences", "confidences")):  # fmt: skip
        if getattr(most, key):
            table.add_row(name, size_words(getattr(usual, key)), size_words(getattr(most, key)))
    if scores:
        table.add_row("judge scores, before compression", size_words(scores), size_words(scores))
    table.add_section()
    together, at_most = usual.total + scores, most.total + scores
    table.add_row("[bold]together[/bold]", *(f"[bold]{size_words(size)}[/bold]" for size in (together, at_most)))
    show_table(table)
    there = sum(stored.lines + stored.files for plan in plans for stored in plan.stored)
    if there:
        say(f"  traces there take {size_words(there)}, with what is to come {size_words(there + together)}")
    show_disk_room(config.output_dir, at_most, _REMEDY)


def _show_judges(plans: Sequence[ModelPlan]) -> None:
    """What scoring all pairs of all problems reads; a live or replayed method asks for fewer."""
    table = plan_table("judges", "pairs", "tokens read", "weights")
    for plan in plans:
        for judge in plan.judges:
            pairs = sum(len(part.problems) * part.n * (part.n - 1) // 2 for part in plan.parts)
            prompt = plan.load.prompt if plan.load else 0
            read = sum(
                len(part.problems) * judge.read_tokens(part.n, prompt, plan.lengths.fed) for part in plan.parts
            )
            cells = (
                f"{pairs:,}",
                millions(read) if read else "none",
                size_words(judge.memory.bytes) if judge.parameters else "none",
            )
            table.add_row(escape(f"{plan.name}, {judge.label}"), *cells)
    if table.row_count:
        show_table(table)
