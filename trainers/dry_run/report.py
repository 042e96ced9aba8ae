"""`dry_run: true`: what a run would do, need and cost, from configs and data alone; no GPU is used, no weight loaded.

python schedules/run.py --config configs/…/X.yaml --accelerate_config configs/accelerate/Y.yaml --dry_run true
"""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from schedules.config import RunConfig
from secateur.engines.memory import ModelShape, read_shape
from secateur.runtime.config import split_command_line
from secateur.runtime.console import say
from secateur.runtime.dry_run import (
    facts_table,
    millions,
    plan_table,
    show_disk_room,
    show_sizes,
    show_table,
    size_words,
)
from secateur.runtime.errors import InputError
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from secateur.tasks.sources import load_problems
from trainers.dry_run.memory import Setting, colocated_room, host_bytes, peak
from trainers.dry_run.rounds import DiskPlan, RoundPlan, make_setting, plan_disk, plan_rounds, remedies
from trainers.grpo.data import TrainingData
from trainers.grpo.job import RoundJob

SHOWN_OVERLAPS = 5
EXPECTED_SHARE = 0.5  # of the limit, as a mean over a round: a figure to plan with, not a measurement


def show_plan(job: RoundJob, launch: LaunchFile, shape: ModelShape) -> None:
    """Print what `job` does on `launch` with a model of `shape`."""
    config, data, schedule = job.config, job.data, job.config.schedule
    validation = load_problems(schedule.validation_problems, schedule.validation_count, schedule.seed)
    samples = len(validation) * schedule.validation_samples
    rounds = plan_rounds(schedule.rounds, job.batches, job.values, len(data.problems), samples)
    tokens = schedule.max_prompt_tokens + max(schedule.limits)
    setting = make_setting(shape, job.values, launch, tokens, schedule.gpu_memory_gib)
    say(f"[bold]dry run of {escape(config.where)}[/bold]: nothing is loaded, trained or written")
    show_table(_run_table(job, launch, shape))
    _show_data(data)
    show_table(_rounds_table(rounds))
    say(_rounds_note(config, len(validation)))
    _show_memory(setting, launch)
    _show_disk(plan_disk(setting, rounds, schedule.keep_checkpoints), schedule.output_dir)


def _run_table(job: RoundJob, launch: LaunchFile, shape: ModelShape) -> Table:
    schedule, values, batches = job.config.schedule, job.values, job.batches
    generations, rows = values["num_generations"], values["per_device_train_batch_size"]
    accumulation, steps = values["gradient_accumulation_steps"], batches.steps_per_batch
    prompts = f"{batches.prompts} prompts × {generations} = {batches.prompts * generations} completions"
    step = f"{rows} × {launch.processes} processes × {accumulation} accumulated"
    bonus = f", entropy bonus {values['entropy_coef']:g}" if values.get("entropy_coef") else ""
    table = facts_table(())
    table.add_row("model", f"{escape(schedule.model)}, {shape.parameters:,} parameters")
    table.add_row("launch", f"{launch.words} ({escape(launch.path)})")
    table.add_row("a generation batch", f"{prompts}, for {steps:g} optimiser step{'s' * (steps != 1)}")
    table.add_row("an optimiser step", f"{step} = {rows * launch.processes * accumulation} completions")
    saved = int(values["save_steps"])
    table.add_row("a checkpoint", f"every {saved} steps = {saved / steps:g} generation batches")
    table.add_row("loss", f"{values['loss_type']}, KL {values['beta']:g}{bonus}, lr {values['learning_rate']:g}")
    table.add_row("reward", escape(schedule.reward))
    return table


def _show_data(data: TrainingData) -> None:
    report = data.report
    say(f"  data: {escape(report.summary())}")
    for name, origin in report.origins.items():
        say(f"    {escape(name)}: {escape(origin)}")
    if report.evaluation:
        sets = ", ".join(f"{name} ({count})" for name, count in report.evaluation.items())
        say(f"    compared with {escape(sets)}")
    for overlap in [*report.exact, *report.near][:SHOWN_OVERLAPS]:
        kind = "the same as" if overlap.kind == "exact" else f"nearly (similarity {overlap.similarity:.2f})"
        say(f"    left out: {escape(overlap.id)}, {kind} {escape(overlap.match)} of {escape(overlap.source)}")
    if (more := len(report.exact) + len(report.near) - SHOWN_OVERLAPS) > 0:
        say(f"    … and {more} more, all in data.json of the run")


def _rounds_table(rounds: Sequence[RoundPlan]) -> Table:
    table = plan_table("round", "steps", "epochs", "completions", "tokens", "at most", "saved", "sampled")
    for entry in rounds:
        table.add_row(entry.round.name, *_round_cells([entry]))
    if len(rounds) > 1:
        table.add_section()
        table.add_row("all", *_round_cells(rounds))
    return table


def _round_cells(rounds: Sequence[RoundPlan]) -> list[str]:
    tokens = sum(entry.tokens for entry in rounds)
    return [
        f"{sum(entry.round.max_steps for entry in rounds):,}",
        f"{sum(entry.epochs for entry in rounds):.1f}",
        f"{sum(entry.completions for entry in rounds):,}",
        millions(EXPECTED_SHARE * tokens),
        millions(tokens),
        f"{sum(entry.checkpoints for entry in rounds):,}",
        f"{sum(entry.validated for entry in rounds):,}",
    ]


def _rounds_note(config: RunConfig, problems: int) -> str:
    schedule = config.schedule
    return (
        f"  tokens: of the completions, if they average {EXPECTED_SHARE:.0%} of their limit; at most, if all reach it"
        f"\n  saved: checkpoints; sampled: to validate each and the first start model, {problems} problems × "
        f"{schedule.validation_samples},\n    up to {schedule.validation_max_tokens:,} tokens, by "
        f"{schedule.validation_engine}"
    )


def _show_memory(setting: Setting, launch: LaunchFile) -> None:
    items, limit = peak(setting), setting.gpu_bytes
    title = f"memory of a GPU at the worst moment ({setting.precision})"
    needed = show_sizes(title, [(item.name, item.bytes) for item in items], "together")
    say(f"  micro-batches of {setting.rows} × {setting.tokens:,} tokens, the longest prompt and the largest limit")
    if setting.precision == "pure_bf16":
        say("  [red]16-bit weights alone[/red]: steps of a small learning rate round to nothing; leave out")
        say("    model_init_kwargs: {dtype: …}, or use DeepSpeed, which keeps 32-bit weights beside them")
    if host := host_bytes(setting, launch.machines):
        say(f"  host memory of each machine for the offloaded optimiser: {size_words(host)}")
    if setting.sampler == "colocate":
        say(_vllm_note(setting))
    if needed <= limit:
        say(f"  [green]fits[/green] in {size_words(limit)} with {size_words(limit - needed)} to spare (an estimate)")
    else:
        _show_remedies(setting)


def _show_remedies(setting: Setting) -> None:
    limit = setting.gpu_bytes
    say(f"  [red]does not fit[/red] in {size_words(limit)}; what would help, each alone:")
    for words, size in remedies(setting):
        say(f"    {escape(words)}: {size_words(size)}" + (" [green]fits[/green]" if size <= limit else ""))
    say("    a larger card: --gpu_memory_gib GIB plans with it")


def _vllm_note(setting: Setting) -> str:
    room, wanted = colocated_room(setting)
    share = f"{setting.share:.0%} of the GPU" + (", given back between generations" if setting.sleep else "")
    if room == 0:
        return (
            f"  [red]vLLM cannot start[/red]: {share} does not hold its weights and one sequence; raise "
            "vllm_gpu_memory_utilization or vllm_tensor_parallel_size"
        )
    return f"  vLLM: {share}, room for {min(room, wanted)} of {wanted} sequences at full length at once"


def _show_disk(disk: DiskPlan, output_dir: str) -> None:
    table = plan_table("disk", "")
    table.add_row("a checkpoint: the model", size_words(disk.weights))
    table.add_row("a checkpoint: training state, kept by the newest two", size_words(disk.state))
    table.add_row("the run folder in the end", size_words(disk.end))
    table.add_section()
    table.add_row("[bold]the run folder at the worst moment[/bold]", f"[bold]{size_words(disk.peak)}[/bold]")
    show_table(table)
    remedy = "keep_checkpoints: chosen or a larger save_steps takes less, or another output_dir"
    show_disk_room(output_dir, disk.peak, remedy)


def plan_only(config: RunConfig, options: dict[str, str]) -> None:
    """Check a launch that is not made, and with `dry_run` print its plan.

    options: `check_for_processes` and `accelerate_config`, the launch that is meant.
    """
    file, processes = options.get("accelerate_config"), options.get("check_for_processes")
    if file is None:
        if config.schedule.dry_run:
            raise InputError("key 'dry_run': name the launch that is planned with --accelerate_config FILE")
        RoundJob(config, int(processes or 1)).check_arguments()
        return
    launch = read_launch_file(file, int(processes) if processes else None)
    job = RoundJob(config, launch.processes)
    job.check_arguments()
    if config.schedule.dry_run:
        shape = read_shape(config.schedule.model)
        show_plan(job, launch, shape)


def take_plan_options(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """`--check_for_processes N` and `--accelerate_config FILE` describe a launch to be checked, not made."""
    names = ("check_for_processes", "accelerate_config")
    _, overrides = split_command_line(argv)
    taken = {name: str(overrides[name]) for name in names if name in overrides}
    for name in taken:
        word = next(word for word in argv if word.partition("=")[0] == f"--{name}")
        index = argv.index(word)
        argv = argv[:index] + argv[index + (1 if "=" in word else 2) :]
    return argv, taken
