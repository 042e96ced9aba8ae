"""`dry_run: true` of a schedule: what it would do, need and cost, from configs and data alone; nothing is loaded.

In numbers: steps, prompts, epochs, tokens, checkpoints and their size, samples to validate.

    python schedules/run.py --config configs/…/X.yaml --accelerate_config configs/accelerate/Y.yaml --dry_run true
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from schedules.config import RunConfig, ScheduleConfig
from schedules.rounds import AUTO, Round
from secateur.engines.memory import ModelShape, read_shape, total_bytes
from secateur.runtime.console import say
from secateur.runtime.dry_run import (
    device_bytes,
    device_words,
    facts_table,
    millions,
    plan_table,
    show_sizes,
    show_table,
    size_words,
)
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from secateur.tasks.export import write_problems
from secateur.tasks.sources import load_problems
from trainers.dry_run.disk import plan_disk, show_disk
from trainers.dry_run.hours import EXPECTED_SHARE, Amounts, plan_hours, show_hours
from trainers.dry_run.memory import Precision, Setting, colocated_room, host_bytes, peak
from trainers.grpo.data import TrainingData
from trainers.grpo.handover import check_launch
from trainers.grpo.job import RoundJob
from trainers.grpo.keys import check_machine

if TYPE_CHECKING:
    from trainers.grpo.adapters import AdapterShape
    from trainers.grpo.keys import BatchSizes


@dataclass(frozen=True)
class RoundPlan:
    """`epochs`: passes over the training problems; `tokens`: of all completions, if each reached the limit."""

    round: Round
    prompts: int
    completions: int
    epochs: float
    checkpoints: int
    validated: int  # samples to validate
    tokens: int


def plan_rounds(
    rounds: Sequence[Round], batches: "BatchSizes", values: Mapping[str, JSON], problems: int, samples_per_model: int
) -> list[RoundPlan]:
    """The start model is sampled before the choice of round 1; later rounds know its figures."""
    plans = []
    for round_ in rounds:
        prompts = batches.rows(round_.max_steps)
        completions = prompts * values["num_generations"]
        saved = -int(-round_.max_steps // values["save_steps"])  # the Trainer saves the last step in any case
        models = saved + (1 if round_.index == 1 else 0)
        tokens = completions * round_.limit
        plans.append(
            RoundPlan(round_, prompts, completions, prompts / problems, saved, models * samples_per_model, tokens)
        )
    return plans


def precision_of(values: Mapping[str, JSON], launch: LaunchFile) -> Precision:
    """TRL computes in bf16 unless told otherwise; only DeepSpeed keeps 32-bit weights beside 16-bit ones."""
    sixteen = values.get("bf16", not values.get("fp16")) or bool(values.get("fp16"))
    if not sixteen:
        return "float32"
    if launch.stage:
        return "bf16"
    given = (values.get("model_init_kwargs") or {}).get("dtype", "float32")
    return "mixed" if given == "float32" else "pure_bf16"


def make_setting(
    shape: ModelShape,
    values: Mapping[str, JSON],
    launch: LaunchFile,
    tokens: int,
    gpu_gib: float,
    adapters: "AdapterShape | None" = None,
    float32_handover: bool = False,
    prompt: int = 0,
) -> Setting:
    rows = values["per_device_train_batch_size"]
    passes = values.get("steps_per_generation") or values["gradient_accumulation_steps"]
    if values.get("generation_batch_size"):
        passes = values["generation_batch_size"] // (rows * launch.processes)
    on_cpu = launch.use_cpu or bool(values.get("use_cpu"))
    sampler: Literal["transformers", "colocate", "server"] = "transformers"
    if values.get("use_vllm"):
        sampler = values.get("vllm_mode", "colocate")
    return Setting(
        shape=shape,
        processes=launch.processes,
        stage=launch.stage,
        precision=precision_of(values, launch),
        offload_optimizer=launch.offload_optimizer,
        offload_parameters=launch.offload_parameters,
        checkpointing=bool(values.get("gradient_checkpointing", True)),
        reference=values["beta"] != 0,
        rows=rows,
        tokens=tokens,
        sampled_rows=rows * passes,
        sampler=sampler,
        share=values.get("vllm_gpu_memory_utilization", 0.3),
        sleep=bool(values.get("vllm_enable_sleep_mode")),
        tensor_parallel=values.get("vllm_tensor_parallel_size", 1),
        device_bytes=device_bytes(launch, gpu_gib, on_cpu),
        on_cpu=on_cpu,
        adapters=adapters.parameters if adapters else 0,
        dropout=bool(adapters and adapters.dropout),
        quantized=adapters.quantized if adapters else 0,
        stored_width=adapters.stored_width if adapters else 2,
        float32_handover=float32_handover,
        prompt=prompt,
    )


def remedies(setting: Setting) -> list[tuple[str, float]]:
    """What could be changed, and the peak [bytes] after each change alone; those that help, best first."""
    changes: list[tuple[str, dict[str, object]]] = []
    if setting.sampler == "colocate" and not setting.sleep:
        changes.append(("vllm_enable_sleep_mode: true", {"sleep": True}))
    if setting.sampler == "transformers":
        other = "" if setting.on_cpu else "use_vllm: true, or "
        changes.append((f"{other}a smaller generation batch", {"sampler": "server"}))
    if setting.rows % 2 == 0:
        halved = f"per_device_train_batch_size: {setting.rows // 2}, with twice the gradient_accumulation_steps"
        changes.append((halved, {"rows": setting.rows // 2}))
    if not setting.checkpointing:
        changes.append(("gradient_checkpointing: true", {"checkpointing": True}))
    if setting.reference and not setting.adapters:
        changes.append(("beta: 0 (no reference model)", {"reference": False}))
    if not setting.on_cpu:
        changes += _launches(setting)
    now = total_bytes(peak(setting))
    after = [(words, total_bytes(peak(replace(setting, **change)))) for words, change in changes]
    return sorted(((words, size) for words, size in after if size < now), key=lambda entry: entry[1])


def _launches(setting: Setting) -> list[tuple[str, dict[str, object]]]:
    """DeepSpeed's launch files that keep less on a GPU, and what each changes."""
    if setting.processes > 1:
        sharded = {"precision": "bf16"} if setting.precision in ("mixed", "pure_bf16") else {}
        stages = range(setting.stage + 1, 4)
        return [(f"configs/accelerate/zero{stage}.yaml", {"stage": stage, **sharded}) for stage in stages]
    if setting.offload_optimizer:
        return []
    offloaded = {"stage": 2, "offload_optimizer": True, "precision": "bf16"}
    return [("configs/accelerate/single_gpu_offload.yaml", offloaded)]


SHOWN_OVERLAPS = 5


def show_plan(job: RoundJob, launch: LaunchFile, shape: ModelShape) -> None:
    """Print what `job` does on `launch` with a model of `shape`."""
    config, data, schedule = job.config, job.data, job.config.schedule
    validation = load_problems(schedule.validation_problems, schedule.validation_count, schedule.seed)
    samples = len(validation) * schedule.validation_samples
    rounds = plan_rounds(schedule.rounds, job.batches, job.values, len(data.problems), samples)
    setting = make_setting(
        shape,
        job.values,
        launch,
        data.longest_prompt + schedule.limit_range[1],
        schedule.gpu_memory_gib,
        job.adapters,
        schedule.float32_handover,
        data.longest_prompt,
    )
    say(f"[bold]dry run of {escape(config.file)}[/bold]: nothing is loaded, trained or written")
    show_table(_run_table(job, launch, shape))
    _show_data(data)
    show_table(_rounds_table(rounds))
    say(_rounds_note(config, len(validation)))
    amounts = _amounts(job, rounds, len(validation))
    show_hours(plan_hours(schedule, launch.processes, amounts), schedule.racing_confidence is not None)
    show_memory(setting, launch)
    if setting.handed_on == 2:
        say(
            "  a round hands on weights in 16 bits: what moved by less than about .2 % of itself is lost. The log and"
        )
        say("    training.json say which share moved; float32_handover: true keeps 32 bits")
    saved = [plan.checkpoints for plan in rounds]
    show_disk(plan_disk(setting, saved, schedule.keep_checkpoints), schedule.output_dir)


def _amounts(job: RoundJob, rounds: Sequence[RoundPlan], validated: int) -> Amounts:
    most, steps = sum(entry.tokens for entry in rounds), sum(entry.round.max_steps for entry in rounds)
    completions = round(sum(entry.completions for entry in rounds) / steps)
    schedule, problems = job.config.schedule, len(job.data.problems)
    each = problems * schedule.pass_rate_samples if schedule.pass_rate is not None else 0
    saved = [entry.checkpoints for entry in rounds]
    return Amounts(most, completions, saved, validated, each * sum(schedule.limits))


def _run_table(job: RoundJob, launch: LaunchFile, shape: ModelShape) -> Table:
    schedule, values, batches = job.config.schedule, job.values, job.batches
    generations, rows = values["num_generations"], values["per_device_train_batch_size"]
    accumulation, steps = values["gradient_accumulation_steps"], batches.steps_per_batch
    prompts = f"{batches.prompts} prompts × {generations} = {batches.prompts * generations} completions"
    step = f"{rows} × {launch.processes} processes × {accumulation} accumulated"
    bonus = f", entropy bonus {values['entropy_coef']:g}" if values.get("entropy_coef") else ""
    table = facts_table(())
    table.add_row("model", f"{escape(schedule.model)}, {shape.parameters:,} parameters")
    if job.adapters is not None:
        table.add_row("adapters", job.adapters.words(schedule))
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
        f"{schedule.validation_engine}" + _auto_note(schedule)
    )


def _auto_note(schedule: ScheduleConfig) -> str:
    if AUTO not in schedule.limits:
        return ""
    return (
        f"\n  auto: the {schedule.auto_quantile:g} quantile of the chosen model's validation lengths, from "
        f"{schedule.auto_floor:,} to the limit before,\n    which is planned with"
    )


def show_memory(setting: Setting, launch: LaunchFile) -> None:
    """Print what a process needs at the worst moment, whether it fits, and what would help where it does not."""
    items, limit = peak(setting), setting.device_bytes
    title = f"{device_words(setting.on_cpu)} at the worst moment ({setting.precision})"
    needed = show_sizes(title, [(item.name, item.bytes) for item in items], "together")
    say(f"  micro-batches of {setting.rows} × {setting.tokens:,} tokens, the longest prompt and the largest limit")
    if setting.precision == "pure_bf16" and not setting.adapters:
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
    limit = setting.device_bytes
    say(f"  [red]does not fit[/red] in {size_words(limit)}; what would help, each alone:")
    for words, size in remedies(setting):
        say(f"    {escape(words)}: {size_words(size)}" + (" [green]fits[/green]" if size <= limit else ""))
    if not setting.on_cpu:
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


def plan_only(config: RunConfig, options: dict[str, str]) -> None:
    """Check a launch that is not made, and with `dry_run` print its plan.

    options: `check_for_processes` and `accelerate_config`, the launch that is meant; `write_problems`: a file for the
    problems that are trained on.
    """
    file, processes = options.get("accelerate_config"), options.get("check_for_processes")
    if file is None:
        if config.schedule.dry_run:
            raise InputError("key 'dry_run': name the launch that is planned with --accelerate_config FILE")
        job = RoundJob(config, int(processes or 1))
        job.check_arguments()
        if path := options.get("write_problems"):
            write_problems(path, job.data.problems)
        return
    launch = read_launch_file(file, int(processes) if processes else None)
    job = RoundJob(config, launch.processes)
    job.check_arguments()
    check_launch(config.schedule, job.values, launch.stage)
    if config.schedule.dry_run:
        shape = read_shape(config.schedule.model)
        show_plan(job, launch, shape)
    elif launch.machines == 1:  # else each machine speaks for itself
        four_bit = config.schedule.load_in_4bit
        check_machine(job.values, launch.processes, launch.stage, launch.use_cpu, four_bit)


PLAN_OPTIONS = {
    "check_for_processes": "processes of a launch that is to be checked, not made",
    "accelerate_config": "the launch config of that launch",
    "write_problems": "file that gets the problems a launch would train on",
}
