"""`dry_run: true` of trainers/judge.py: pairs, tokens, memory and disk; no weight is loaded, nothing is written.

python trainers/judge.py --config configs/judge/pairwise_4b.yaml --accelerate_config configs/accelerate/zero2.yaml \\
    --dry_run true
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.markup import escape

from secateur.deepprune.judges.own_states import OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairs import JudgedProblem
from secateur.deepprune.judges.pairwise import PairReader, PairwiseFormat
from secateur.engines.memory import read_shape, total_bytes
from secateur.engines.models import load_tokenizer
from secateur.runtime.console import say
from secateur.runtime.dry_run import (
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
from secateur.runtime.files import read_json
from secateur.runtime.launch_file import LaunchFile
from trainers.dry_run.judge_memory import JudgeMemory, judge_memory, own_states_items
from trainers.judges.config import JudgeConfig
from trainers.judges.data import JudgeData, load_judge_data
from trainers.judges.kinds import thin_pairs


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
class DataPlan:
    """`train` is None where nothing is trained. `notes`: what was assumed."""

    train: SplitPlan | None
    others: list[SplitPlan]
    layers: int
    notes: list[str]

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
    counter, notes = _Counter.of(config, data)
    dev, tests = data.dev, data.tests
    if config.kind == "pairwise":  # scored on a part of their pairs
        dev = thin_pairs(dev, config.dev_pairs, config.seed)
        tests = {name: thin_pairs(problems, config.test_pairs, config.seed) for name, problems in tests.items()}
    others = [counter.split("dev", dev), *(counter.split(name, problems) for name, problems in tests.items())]
    train = counter.split("train", data.train) if config.epochs else None
    return DataPlan(train, others, len(data.layers or ()), notes)


@dataclass(frozen=True)
class _Counter:
    config: JudgeConfig
    reader: PairReader | None
    query: int

    @classmethod
    def of(cls, config: JudgeConfig, data: JudgeData) -> "tuple[_Counter, list[str]]":
        query = len(data.tokenizer(config.query, add_special_tokens=False)["input_ids"])
        if config.kind != "pairwise":
            return cls(config, None, query), []
        try:
            shape = PairwiseFormat(config.prompt, config.labels, config.chat_template, config.max_tokens)
            return cls(config, PairReader(load_tokenizer(config.model), shape), query), []
        except InputError:
            note = f"no tokenizer of {config.model} is in reach: cuts count in the generator's tokens, without prompt"
            return cls(config, None, query), [note]

    def split(self, name: str, problems: Sequence[JudgedProblem]) -> SplitPlan:
        counted = [self._problem(problem) for problem in problems]
        return SplitPlan(
            name,
            len(problems),
            sum(len(problem.cuts) for problem in problems),
            sum(len(problem.pairs) for problem in problems),
            sum(tokens for tokens, _ in counted),
            max(longest for _, longest in counted),
            max(len(problem.cuts) for problem in problems),
        )

    def _problem(self, problem: JudgedProblem) -> tuple[int, int]:
        """Tokens that one pass reads, and the longest sequence."""
        if self.config.kind == "pairwise":
            return self._pairs(problem)
        lengths = np.array([len(cut.token_ids) for cut in problem.cuts])
        if self.config.kind == "linear":
            prompt = len(problem.cuts[0].prompt_ids)
            room = max(0, self.config.max_tokens - prompt - self.query)
            lengths = prompt + np.minimum(lengths, room) + self.query
        return int(lengths.sum()), int(lengths.max())

    def _pairs(self, problem: JudgedProblem) -> tuple[int, int]:
        """Every pair whole, one cut after the other."""
        first, second = problem.pairs.first, problem.pairs.second
        if self.reader is None:
            cuts = np.array([len(cut.token_ids) for cut in problem.cuts])
            rows = np.minimum(cuts[first] + cuts[second], self.config.max_tokens)
        else:
            begins = np.array([len(self.reader.begin(cut.text)) for cut in problem.cuts])
            ends = np.array([len(self.reader.end(cut.text)) for cut in problem.cuts])
            rows = begins[first] + ends[second]
        return int(rows.sum()), int(rows.max())


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
        for note in data.notes:
            say(f"  {escape(note)}")
        _show_data(config, data)
        _show_time(config, data, launch)
    _show_done(config)
    if config.kind == "linear_own_states":
        _show_own_states(config, data)
    elif config.kind in ("linear", "pairwise"):
        _show_language_model(config, data, launch)


def _check_share(config: JudgeConfig, launch: LaunchFile) -> None:
    items = config.pairs_per_step if config.kind == "pairwise" else config.problems_per_step
    if config.epochs and config.kind != "linear_own_states" and items % launch.processes:
        key = "pairs_per_step" if config.kind == "pairwise" else "problems_per_step"
        raise InputError(f"key '{key}' has the value {items}, no multiple of the {launch.processes} processes")


def _facts(config: JudgeConfig, launch: LaunchFile) -> list[tuple[str, str]]:
    rows = [("kind", config.kind), ("model", escape(config.model)), ("launch", f"{launch.words} ({launch.path})")]
    if not config.epochs:
        return [*rows, ("training", "none: the model is used as it is")]
    unit = "pairs" if config.kind == "pairwise" else "problems with all their pairs"
    size = config.pairs_per_step if config.kind == "pairwise" else config.problems_per_step
    adapters = f", LoRA of rank {config.lora_rank}" if config.lora_rank else ""
    return [*rows, ("an optimiser step", f"{size} {unit}, lr {config.learning_rate:g}, {config.dtype}{adapters}")]


def _show_data(config: JudgeConfig, data: DataPlan) -> None:
    read = "states" if config.kind == "linear_own_states" else "tokens read"
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
    items, size = data.train.problems, config.problems_per_step
    if config.kind == "pairwise":
        items, size = data.train.pairs, config.pairs_per_step
    return max(1, round(config.epochs * items / size))


def _show_time(config: JudgeConfig, data: DataPlan, launch: LaunchFile) -> None:
    scored = sum(split.tokens for split in data.others) + (config.evaluations - 1) * data.others[0].tokens
    if data.train is None:
        say(f"  scoring the development problems once and the test problems: {millions(scored)} tokens at most")
        return
    trained = config.epochs * data.train.tokens
    say(f"  {planned_steps(config, data):,} steps, {config.epochs:g} epochs, {config.evaluations} evaluations")
    if config.kind == "linear_own_states":
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
    if (folder / "metrics.json").is_file():
        say(f"  {escape(str(folder))}: finished, nothing is left to do")
    elif (folder / "checkpoint" / "result.json").is_file():
        steps = read_json(folder / "checkpoint" / "result.json")["steps"]
        say(f"  {escape(str(folder))}: {steps:,} steps are done, the training goes on from there")


def _show_own_states(config: JudgeConfig, data: DataPlan | None) -> None:
    if data is None or data.train is None:
        return
    hidden = read_shape(config.model).hidden
    shape = OwnStatesShape(tuple(range(data.layers)), hidden, config.heads, config.width, config.pair_hidden)
    head = sum(parameter.numel() for parameter in OwnStatesModel(shape).parameters())
    cuts = config.problems_per_step * data.train.most_cuts
    items = own_states_items(data.layers, hidden, head, cuts, data.train.longest)
    needed = show_sizes("memory of a GPU, or of the host where there is none", _pairs(items), "together, at most")
    _verdict(needed, config.gpu_memory_gib, "a smaller problems_per_step, fewer layers")
    states = sum(split.tokens for split in data.splits) * data.layers * hidden * 2
    say(f"  host memory of each process for the states of all splits: {size_words(states)}")
    say(f"  the judge on disk: {size_words(4 * head)}, {head:,} parameters")


def _show_language_model(config: JudgeConfig, data: DataPlan | None, launch: LaunchFile) -> None:
    memory = judge_memory(config, launch, *_at_once(config, data, launch))
    setting, shape = memory.setting, memory.setting.shape
    adapters = f", {memory.adapters:,} of them in adapters are trained" if memory.adapters else ""
    say(f"  {shape.parameters + memory.adapters:,} parameters{adapters}")
    title = f"memory of a GPU at the worst moment ({setting.precision})"
    needed = show_sizes(title, _pairs(memory.items()), "together")
    say(
        f"  at once: {setting.rows} × {setting.tokens:,} tokens, the longest that is read"
        + ("" if data else ": max_tokens")
    )
    _verdict(needed, config.gpu_memory_gib, _remedies(config, memory, launch))
    _show_disk(config, memory)


def _at_once(config: JudgeConfig, data: DataPlan | None, launch: LaunchFile) -> tuple[int, int]:
    """Sequences of one forward pass of one process, and the longest [tokens]."""
    longest = config.max_tokens if data is None else max(split.longest for split in data.splits)
    if not config.epochs:
        return 1, max(longest, 16_384)  # padded tokens of one pass of scoring (secateur/deepprune/judges/pairwise.py)
    if config.kind == "pairwise":
        share = -(-config.pairs_per_step // launch.processes)
        return min(config.items_per_forward or share, share), longest
    share = -(-config.problems_per_step // launch.processes)
    cuts = 16 if data is None or data.train is None else data.train.most_cuts
    return min(config.items_per_forward or share, share) * cuts, longest


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
        if launch.stage < 2:
            offered.append("configs/accelerate/zero2.yaml")
    return ", ".join([*offered, "a smaller max_tokens", "a larger card (--gpu_memory_gib)"])


def _show_disk(config: JudgeConfig, memory: JudgeMemory) -> None:
    end, most = memory.disk()
    table = plan_table("disk", "")
    table.add_row("the judge in the end", size_words(end if memory.trains else 0))
    if memory.trains:
        table.add_row("the folder at the worst moment", size_words(most))
    show_table(table)
    show_disk_room(config.output_dir, most, "another output_dir")


def _pairs(items) -> list[tuple[str, float]]:
    return [(item.name, item.bytes) for item in items]


def _verdict(needed: float, gpu_gib: float, remedy: str) -> None:
    limit = gpu_gib * (1 << 30)
    if needed <= limit:
        say(f"  [green]fits[/green] in {size_words(limit)} with {size_words(limit - needed)} to spare (an estimate)")
    else:
        say(f"  [red]does not fit[/red] in {size_words(limit)}; what would help: {escape(remedy)}")
