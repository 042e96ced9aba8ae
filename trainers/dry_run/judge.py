"""`dry_run: true` of trainers/judge.py: pairs, tokens, memory and disk; no weight is loaded, nothing is written.

python trainers/judge.py --config configs/judge/pairwise_4b.yaml --accelerate_config configs/accelerate/zero2.yaml \\
    --dry_run true
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape

from secateur.deepprune.judges.kind import PassCounter
from secateur.deepprune.judges.lora import add_lora, lora_shape
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.pairwise import READ_TOKENS
from secateur.deepprune.judges.record import METRICS_FILE
from secateur.engines.memory import RUNTIME_BYTES, Item, empty_model, read_shape, total_bytes
from secateur.runtime.console import say
from secateur.runtime.dry_run import (
    device_bytes,
    device_words,
    facts_table,
    hours_words,
    millions,
    plan_table,
    show_disk_room,
    show_sizes,
    show_table,
    size_words,
)
from secateur.runtime.errors import InputError
from secateur.runtime.launch_file import LaunchFile
from trainers.dry_run.disk import checkpoint_bytes
from trainers.dry_run.memory import Precision, Setting, buffers, layer_activations, model_states
from trainers.judges.config import JudgeConfig
from trainers.judges.data import load_judge_data
from trainers.judges.fit import steps_done
from trainers.judges.trainee import scored_part

_ADAPTER_BYTES = 16  # weight, gradient and Adam's moments of a LoRA parameter, 32 bits each


@dataclass(frozen=True)
class JudgeMemory:
    """`setting` describes one process; `adapters` are LoRA's parameters, 0 for a full fine-tune; `trains` is False
    where a model is used as it is."""

    setting: Setting
    adapters: int
    trains: bool

    @property
    def width(self) -> int:
        return 2 if self.setting.precision in ("bf16", "pure_bf16") else 4

    def items(self) -> list[Item]:
        """What adds up at the worst moment of a training step, or of scoring."""
        shape, context = self.setting.shape, self.setting.runtime
        frozen = Item("weights", self.width * shape.parameters)
        if not self.trains:
            read = Item("keys and values of a pass", self.width / 2 * shape.kv_bytes * self.read)
            return [item for item in (frozen, read, context) if item.bytes]
        states = [frozen, Item("adapters with their optimiser", _ADAPTER_BYTES * self.adapters)]
        if not self.adapters:
            states = [*model_states(self.setting), buffers(self.setting)]
        return [item for item in [*states, *layer_activations(self.setting), context] if item.bytes]

    @property
    def read(self) -> int:
        """Tokens of one pass."""
        return self.setting.rows * self.setting.tokens

    def disk(self) -> tuple[float, float]:
        """The judge in the end, and the most that its folder holds: best judge and checkpoint, each with its
        successor while that is written."""
        weights, state = checkpoint_bytes(self.setting)
        if self.adapters:
            state = 12 * self.adapters
        return weights, 2 * weights + 2 * (weights + state) if self.trains else 0.0


def judge_memory(config: JudgeConfig, launch: LaunchFile, rows: int, tokens: int) -> JudgeMemory:
    """`rows` sequences of `tokens` at once in one process. Raises `InputError` for a launch that judges refuse, or a
    model whose config.json is out of reach."""
    if launch.stage == 3:
        raise InputError(f"{launch.path}: a judge trains with DeepSpeed up to ZeRO-2; choose zero2.yaml")
    setting = Setting(
        shape=read_shape(config.model, with_head=_with_head(config)),
        processes=launch.processes,
        stage=launch.stage,
        precision=judge_precision(config, launch),
        offload_optimizer=launch.offload_optimizer,
        offload_parameters=False,
        checkpointing=config.gradient_checkpointing,
        reference=False,
        rows=rows,
        tokens=tokens,
        sampled_rows=0,
        sampler="server",
        share=0.0,
        sleep=False,
        tensor_parallel=1,
        device_bytes=device_bytes(launch, config.gpu_memory_gib, launch.use_cpu),
        on_cpu=launch.use_cpu,
    )
    return JudgeMemory(setting, _adapters(config), config.epochs > 0)


def judge_precision(config: JudgeConfig, launch: LaunchFile) -> Precision:
    """`dtype` is what the weights are loaded in; accelerate's mixed precision computes in 16 bits beside them."""
    if config.dtype == "bfloat16":
        return "bf16" if launch.stage else "pure_bf16"
    if launch.mixed_precision == "no":
        return "float32"
    return "bf16" if launch.stage else "mixed"


def _adapters(config: JudgeConfig) -> int:
    """Parameters of LoRA's adapters, counted on the model without weights."""
    shape = lora_shape(config)
    if shape is None:
        return 0
    model = add_lora(empty_model(config.model, with_head=_with_head(config)), shape)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _with_head(config: JudgeConfig) -> bool:
    return config.judge_kind.language_model == "causal"


def own_states_items(layers: int, hidden: int, head: int, cuts: int, longest: int) -> list[Item]:
    """An own-state judge: a head of `head` parameters, and a step's states of `cuts` cuts, padded to the `longest`
    [tokens], in 16 bits and twice in 32."""
    numbers = layers * hidden * cuts * longest
    return [
        Item("head, gradients, optimiser", 16 * head),
        Item("states of a step (16 bits, and normalised in 32)", 10 * numbers),
        Item("CUDA context (assumed)", RUNTIME_BYTES),
    ]


@dataclass(frozen=True)
class SplitPlan:
    """One split: problems, their cuts and pairs, the tokens that one pass over them reads, and the longest sequence
    read at once [tokens]. For an own-state judge: states, of which nothing is read again."""

    name: str
    problems: int
    cuts: int
    pairs: int
    tokens: int
    longest: int
    most_cuts: int  # of one problem


@dataclass(frozen=True)
class StatesPlan:
    """What a judge of own states is made of: `layers` of `hidden` numbers each, and `head` parameters."""

    layers: int
    hidden: int
    head: int


@dataclass(frozen=True)
class DataPlan:
    """`train` is None where nothing is trained, `states` where none are read. `note`: what was assumed."""

    train: SplitPlan | None
    others: list[SplitPlan]
    states: StatesPlan | None
    note: str | None

    @property
    def splits(self) -> list[SplitPlan]:
        return [*([self.train] if self.train else []), *self.others]


def missing_folders(config: JudgeConfig) -> list[str]:
    """Trace folders that the config names and that are not there."""
    folders = [config.train, config.dev, *config.tests.values()]
    return [folder for folder in folders if folder is not None and not Path(folder).is_dir()]


def plan_data(config: JudgeConfig) -> DataPlan:
    """Counts of all splits. Raises `InputError` for whatever the training itself would refuse about its traces."""
    data = load_judge_data(config, with_states=False)
    counter = config.judge_kind.pass_counter(config, data)
    scored = {"dev": scored_part(config, data.dev, config.dev_pairs)}
    scored |= {name: scored_part(config, problems, config.test_pairs) for name, problems in data.tests.items()}
    return DataPlan(
        train=_split(counter, "train", data.train) if config.epochs else None,
        others=[_split(counter, name, problems) for name, problems in scored.items()],
        states=_states(config, data) if config.judge_kind.reads_states else None,
        note=counter.note,
    )


def _split(counter: PassCounter, name: str, problems: Sequence[LabelledProblem]) -> SplitPlan:
    counted = [counter.count(problem) for problem in problems]
    return SplitPlan(
        name,
        len(problems),
        sum(len(problem.cuts) for problem in problems),
        sum(len(problem.pairs) for problem in problems),
        sum(tokens for tokens, _ in counted),
        max(longest for _, longest in counted),
        max(len(problem.cuts) for problem in problems),
    )


def _states(config: JudgeConfig, data: JudgeData) -> StatesPlan:
    hidden = read_shape(config.model).hidden
    judge = config.judge_kind.build(config, replace(data, hidden=hidden))
    head = sum(parameter.numel() for parameter in judge.model.parameters())
    return StatesPlan(len(data.layers or ()), hidden, head)


_RATE = 1000.0  # [tokens/s], where nothing is known; said so


def plan_judge(config: JudgeConfig) -> None:
    """Print what a training, or a use without training, would do, need and cost."""
    launch, missing = config.planned_launch(), missing_folders(config)
    _check_share(config, launch)
    data = None if missing else plan_data(config)
    say("[bold]dry run of trainers/judge.py[/bold]: no weight is loaded, nothing is trained or written")
    show_table(facts_table(_facts(config, launch)))
    if missing:
        say(f"  not there yet: {escape(', '.join(missing))}")
        say("    pairs, steps and time cannot be told before these traces are; memory is for max_tokens")
    if data is not None:
        if data.note is not None:
            say(f"  {escape(data.note)}")
        _show_data(config, data)
        _show_time(config, data, launch)
    _show_done(config)
    if data is not None and data.states is not None and data.train is not None:
        _show_own_states(config, data, data.states, data.train, launch)
    if config.judge_kind.language_model is not None:
        _show_language_model(config, data, launch)


def _check_share(config: JudgeConfig, launch: LaunchFile) -> None:
    items, dealt_out = config.items_per_step, config.judge_kind.language_model is not None
    if config.epochs and dealt_out and items % launch.processes:
        key = config.step_key
        raise InputError(f"key '{key}' has the value {items}, no multiple of the {launch.processes} processes")


def _facts(config: JudgeConfig, launch: LaunchFile) -> list[tuple[str, str]]:
    rows = [("kind", config.kind), ("model", escape(config.model)), ("launch", f"{launch.words} ({launch.path})")]
    if not config.epochs:
        return [*rows, ("training", "none: the model is used as it is")]
    unit = "pairs" if config.judge_kind.compares == "pairs" else "problems with all their pairs"
    size = config.items_per_step
    adapters = f", LoRA of rank {config.lora_rank}" if config.lora_rank else ""
    return [*rows, ("an optimiser step", f"{size} {unit}, lr {config.learning_rate:g}, {config.dtype}{adapters}")]


def _show_data(config: JudgeConfig, data: DataPlan) -> None:
    read = "states" if config.judge_kind.reads_states else "tokens read"
    table = plan_table("split", "problems", "cuts", "pairs", read, "longest")
    for split in data.splits:
        counts = (split.problems, split.cuts, split.pairs)
        table.add_row(escape(split.name), *(f"{n:,}" for n in counts), millions(split.tokens), f"{split.longest:,}")
    show_table(table)
    say("  a pass over the split; pairs of an unknown outcome are left out, and pairwise judges are scored on a part")


def planned_steps(config: JudgeConfig, data: DataPlan) -> int:
    """As trainers/judges/fit.py counts them."""
    if data.train is None:
        return 0
    items = data.train.pairs if config.judge_kind.compares == "pairs" else data.train.problems
    return max(1, round(config.epochs * items / config.items_per_step))


def _show_time(config: JudgeConfig, data: DataPlan, launch: LaunchFile) -> None:
    scored = sum(split.tokens for split in data.others) + (config.evaluations - 1) * data.others[0].tokens
    if data.train is None:
        say(f"  scoring the development problems once and the test problems: {millions(scored)} tokens at most")
        return
    trained = config.epochs * data.train.tokens
    say(f"  {planned_steps(config, data):,} steps, {config.epochs:g} epochs, {config.evaluations} evaluations")
    if not config.judge_kind.reads_tokens:
        say("  no model reads a token: the states are on disk, and only a head is trained on them")
        return
    say(f"  {millions(trained)} tokens trained on, {millions(scored)} scored at most")
    rate = config.tokens_per_second or _RATE
    hours = trained / (launch.processes * rate) / 3600
    words = f"{millions(trained)} tokens ÷ ({launch.processes} × {rate:,.0f} tokens/s)"
    together = hours_words(hours * launch.processes)
    say(f"  time of training: {words} = {hours_words(hours)}, {together} of all processes")
    if config.tokens_per_second is None:
        say("    1,000 tokens/s is a unit, not a measurement; give tokens_per_second, what one process trains on")


def _show_done(config: JudgeConfig) -> None:
    folder = Path(config.output_dir)
    if (folder / METRICS_FILE).is_file():
        say(f"  {escape(str(folder))}: finished, nothing is left to do")
    elif steps := steps_done(folder / "checkpoint"):
        say(f"  {escape(str(folder))}: {steps:,} steps are done, the training goes on from there")


def _show_own_states(
    config: JudgeConfig, data: DataPlan, plan: StatesPlan, train: SplitPlan, launch: LaunchFile
) -> None:
    cuts = config.problems_per_step * train.most_cuts
    items = own_states_items(plan.layers, plan.hidden, plan.head, cuts, train.longest)
    title = device_words(launch.use_cpu)
    needed = show_sizes(title, _named_sizes(items), "together, at most")
    limit = device_bytes(launch, config.gpu_memory_gib, launch.use_cpu)
    _verdict(needed, limit, "a smaller problems_per_step, fewer layers")
    states = sum(split.tokens for split in data.splits) * plan.layers * plan.hidden * 2
    say(f"  host memory of each process for the states of all splits: {size_words(states)}")
    say(f"  the judge on disk: {size_words(4 * plan.head)}, {plan.head:,} parameters")


def _show_language_model(config: JudgeConfig, data: DataPlan | None, launch: LaunchFile) -> None:
    memory = judge_memory(config, launch, *_at_once(config, data, launch))
    setting, shape = memory.setting, memory.setting.shape
    adapters = f", {memory.adapters:,} of them in adapters are trained" if memory.adapters else ""
    say(f"  {shape.parameters + memory.adapters:,} parameters{adapters}")
    title = f"{device_words(setting.on_cpu)} at the worst moment ({setting.precision})"
    needed = show_sizes(title, _named_sizes(memory.items()), "together")
    say(
        f"  at once: {setting.rows} × {setting.tokens:,} tokens, the longest that is read"
        + ("" if data else ": max_tokens")
    )
    _verdict(needed, setting.device_bytes, _remedies(config, memory, launch))
    _show_disk(config, memory)


def _at_once(config: JudgeConfig, data: DataPlan | None, launch: LaunchFile) -> tuple[int, int]:
    """Sequences of one forward pass of one process, and the longest [tokens]."""
    longest = config.max_tokens if data is None else max(split.longest for split in data.splits)
    if not config.epochs:
        return 1, max(longest, READ_TOKENS)
    share = -(-config.items_per_step // launch.processes)
    items = min(config.items_per_forward or share, share)
    if config.judge_kind.compares == "pairs":
        return items, longest
    return items * (16 if data is None or data.train is None else data.train.most_cuts), longest


def _remedies(config: JudgeConfig, memory: JudgeMemory, launch: LaunchFile) -> str:
    offered = []
    if memory.setting.rows > 1 and memory.trains:
        fewer = replace(memory, setting=replace(memory.setting, rows=1))
        offered.append(f"items_per_forward: 1 ({size_words(total_bytes(fewer.items()))})")
    if memory.trains and not config.gradient_checkpointing:
        again = replace(memory, setting=replace(memory.setting, checkpointing=True))
        offered.append(f"gradient_checkpointing: true ({size_words(total_bytes(again.items()))})")
    if memory.trains and not memory.adapters:
        offered.append("lora_rank: 16 with dtype: bfloat16")
        if launch.stage < 2 and not launch.use_cpu:
            offered.append("configs/accelerate/zero2.yaml")
    larger = [] if launch.use_cpu else ["a larger card (--gpu_memory_gib)"]
    return ", ".join([*offered, "a smaller max_tokens", *larger])


def _show_disk(config: JudgeConfig, memory: JudgeMemory) -> None:
    end, most = memory.disk()
    table = plan_table("disk", "")
    table.add_row("the judge in the end", size_words(end if memory.trains else 0))
    if memory.trains:
        table.add_row("the folder at the worst moment", size_words(most))
    show_table(table)
    show_disk_room(config.output_dir, most, "another output_dir")


def _named_sizes(items: Sequence[Item]) -> list[tuple[str, float]]:
    return [(item.name, item.bytes) for item in items]


def _verdict(needed: float, limit: float, remedy: str) -> None:
    if needed <= limit:
        say(f"  [green]fits[/green] in {size_words(limit)} with {size_words(limit - needed)} to spare (an estimate)")
    else:
        say(f"  [red]does not fit[/red] in {size_words(limit)}; what would help: {escape(remedy)}")
