"""The parts of bench/gpu.py, each measured in a process of its own; what they measure stands there."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers import AutoTokenizer

from bench.engine import CAPTURED, EMBEDDED, PROMPT, random_model
from bench.live import Uncaptured, run_consensus, run_pruned
from secateur.deepprune.controller import ProblemJob
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.metrics import auroc
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairs import LabelledProblem, Pairs
from secateur.deepprune.rule import ClusterRule, PruneRule
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.local.kv_cache import GROUPED_ATTENTION
from secateur.engines.memory import GIB, RUNTIME_BYTES, SamplingLoad, shape_of, total_bytes, transformers_items
from secateur.runtime.console import MetricLog
from secateur.runtime.files import read_json

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent

Figures = dict[str, str | int | float | None]
"""One line of a part's table."""


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured. `rows`, `large_rows`: traces at once; `tokens`, `limit`, `cap`, `cut`
    [tokens] of a trace; `completions` of a training step, `micro` of them at once; `problems` of `traces` each."""

    small: str
    large: str
    device: str
    rows: tuple[int, ...]
    large_rows: tuple[int, ...]
    tokens: int
    limit: int
    completions: int
    micro: int
    problems: int
    traces: int
    cap: int
    cut: int
    judge_problems: int


FULL = Scale(
    small="qwen2_1.5b",
    large="qwen3_8b",
    device="cuda",
    rows=(64, 128, 256, 512),
    large_rows=(64, 256),
    tokens=64,
    limit=4000,
    completions=16,
    micro=2,
    problems=6,
    traces=64,
    cap=192,
    cut=32,
    judge_problems=24,
)
TINY = Scale(
    small="tiny",
    large="tiny",
    device="cpu",
    rows=(4, 8),
    large_rows=(4,),
    tokens=8,
    limit=24,
    completions=8,
    micro=8,
    problems=2,
    traces=12,
    cap=24,
    cut=6,
    judge_problems=4,
)
SCALES = {"full": FULL, "tiny": TINY}
TRAINING_STEPS = 5  # two of them warm up
CUTS = 16  # of a problem that the judge is trained on
EPOCHS = 4


def synchronize(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()


def timed(scale: Scale, run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of `run`, the GPU's work included, and what it returned."""
    synchronize(scale)
    begin = time.perf_counter()
    result = run()
    synchronize(scale)
    return time.perf_counter() - begin, result


def forget_peak(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(scale: Scale) -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if scale.device == "cuda" else None


def training(scale: Scale) -> list[Figures]:
    """bench/overhead.py, two contenders one after the other, and the dry run's memory."""
    on_gpu = scale.device == "cuda"
    settings = {
        "limits": f"[{scale.limit}]",
        "num_generations": "8",
        "per_device_train_batch_size": f"{scale.micro}",
        "gradient_accumulation_steps": f"{scale.completions // scale.micro}",
        "use_cpu": f"{not on_gpu}".lower(),
        "bf16": f"{on_gpu}".lower(),
        "gradient_checkpointing": f"{on_gpu}".lower(),
    }
    overrides = [word for key, value in settings.items() for word in (f"--{key}", value)]
    records, planned = training_records(scale, overrides), planned_training_gib(scale, overrides)
    rows: list[Figures] = []
    for name, steps in records.items():
        seconds = statistics.median(step["wall"] for step in steps)
        peak = max(step["peak_gib"] for step in steps) if on_gpu else None
        rate = scale.completions * scale.limit / seconds
        rows.append({"contender": name, "s a step": seconds, "tokens/s": rate, "peak GiB": peak, "planned": planned})
    ours, bare = records.values()
    ratios = (mine["wall"] / theirs["wall"] for mine, theirs in zip(ours, bare, strict=True))
    rows[0]["÷ bare, median"] = statistics.median(ratios)
    return rows


def training_records(scale: Scale, overrides: list[str]) -> dict[str, list[dict[str, float]]]:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "records.json"
        command = [sys.executable, str(ROOT / "bench" / "overhead.py"), "--shape", scale.small, "--one_by_one"]
        command += ["--drawn", "--steps", f"{TRAINING_STEPS}", "--output", str(output)]
        subprocess.run([*command, "--arms", "secateur", "bare, accuracy_reward", *overrides], check=True, cwd=ROOT)
        return read_json(output)


def planned_training_gib(scale: Scale, overrides: list[str]) -> float:
    """What `trainers/grpo_len.py --dry_run` would say of this launch, without the CUDA context and generation."""
    # TRL takes seconds to import, and no other part needs it
    from schedules.config import read_run_config
    from secateur.runtime.launch_file import read_launch_file
    from trainers.dry_run.memory import peak
    from trainers.dry_run.report import make_setting
    from trainers.grpo.keys import trainer_values

    config = read_run_config(["--config", str(ROOT / "configs" / "demo" / "thinkprune.yaml"), *overrides])
    launch = read_launch_file(str(ROOT / "configs" / "accelerate" / "single_gpu.yaml"))
    network = empty_network(scale.small)
    tokens = config.schedule.max_prompt_tokens + scale.limit
    setting = make_setting(shape_of(network, network.config), trainer_values(config), launch, tokens, 0.0)
    context = 0 if setting.on_cpu else RUNTIME_BYTES
    return (total_bytes(peak(replace(setting, sampled_rows=0))) - context) / GIB


def empty_network(shape: str) -> torch.nn.Module:
    return random_model(shape, peaked=False, device="meta")


def open_engine(scale: Scale, shape: str) -> TransformersEngine:
    model = random_model(shape, True, scale.device, GROUPED_ATTENTION)
    return TransformersEngine(model, AutoTokenizer.from_pretrained(EMBEDDED), capture_layers=CAPTURED)


def engine(scale: Scale) -> list[Figures]:
    return engine_rows(scale, scale.small, scale.rows)


def large(scale: Scale) -> list[Figures]:
    return engine_rows(scale, scale.large, scale.large_rows)


def engine_rows(scale: Scale, shape: str, sizes: tuple[int, ...]) -> list[Figures]:
    opened = open_engine(scale, shape)
    decode(scale, opened, sizes[0], captured=True)  # warms up
    return [engine_line(scale, opened, rows, captured) for rows in sizes for captured in (False, True)]


def engine_line(scale: Scale, opened: TransformersEngine, rows: int, captured: bool) -> Figures:
    forget_peak(scale)
    line: Figures = {"rows": rows, "layers captured": len(CAPTURED) * captured}
    try:
        seconds, delivered = decode(scale, opened, rows, captured)
    except torch.cuda.OutOfMemoryError:
        opened.close()
        return line | {"note": "out of memory"}
    shape = shape_of(opened.model, opened.model.config)
    layers = len(CAPTURED) if captured else 0
    load = SamplingLoad(shape, rows, len(PROMPT), scale.tokens, layers, scale.tokens, width=2)
    planned = total_bytes(transformers_items(load)) / GIB
    return line | {"tokens/s": delivered / seconds, "peak GiB": peak_gib(scale), "planned": planned}


def decode(scale: Scale, opened: TransformersEngine, rows: int, captured: bool) -> tuple[float, int]:
    """Seconds and tokens of all steps after the first tokens."""
    handles = opened.start(PROMPT, list(range(rows)), SamplingSpec(0.6, 0.95, max_tokens=scale.tokens + 1))
    if not captured:
        opened.states(handles)  # taken before the first token, so none are kept
    opened.step()
    result = timed(scale, lambda: sum(len(opened.step()) for _ in range(scale.tokens)))
    opened.close()
    return result


def live(scale: Scale) -> list[Figures]:
    """The contenders of bench/live.py, in both orders."""
    opened = open_engine(scale, scale.small)
    shape = judge_shape(opened.model.config.hidden_size)
    head = OwnStatesModel(shape).to(scale.device).eval()
    alike = PruneRule(cluster=ClusterRule(tau=0.0)), OwnStatesJudge(head, shape, CutRule("tokens", scale.cut))
    spec, places = SamplingSpec(0.6, 0.95, max_tokens=scale.cap), 2 * scale.traces

    def run(name: str, seed: int) -> int:
        jobs = [ProblemJob.sampled(f"{number}", PROMPT, scale.traces, seed) for number in range(scale.problems)]
        if name == "full vote":
            return run_consensus(Uncaptured(opened), jobs, spec, places)
        return run_pruned(opened, jobs, spec, places, alike[1], alike[0])

    decode(scale, opened, places, captured=True)  # warms up
    order = ("full vote", "pruned", "pruned", "full vote")
    runs = [(name, *timed(scale, lambda name=name, seed=seed: run(name, seed))) for seed, name in enumerate(order)]
    sums = {name: np.sum([found[1:] for found in runs if found[0] == name], axis=0).tolist() for name in order}
    full = sums["full vote"][0]
    return [{"run": name, "s": s, "tokens": int(n), "full vote ÷": full / s} for name, (s, n) in sums.items()]


def judge_shape(hidden: int) -> OwnStatesShape:
    return OwnStatesShape(CAPTURED, hidden, heads=4, width=64, pair_hidden=64)


def judge(scale: Scale) -> list[Figures]:
    """Problems whose cuts have states that lie apart by their answer, so that there is something to learn."""
    from trainers.judges.trainee import ProblemLogits  # slow to import, as above

    hidden = empty_network(scale.small).config.hidden_size
    problems = [labelled_problem(number, 4 * scale.cut, hidden) for number in range(scale.judge_problems)]
    module = ProblemLogits(OwnStatesModel(judge_shape(hidden)).to(scale.device))
    forget_peak(scale)
    seconds, steps, score = fit_judge(scale, module, problems[: -len(problems) // 4], problems[-len(problems) // 4 :])
    figures = {"s a step": seconds / steps, "peak GiB": peak_gib(scale), "AUROC, held out": score}
    return [{"steps": steps, **figures}]


def fit_judge(
    scale: Scale, module: torch.nn.Module, train: list[LabelledProblem], held_out: list[LabelledProblem]
) -> tuple[float, int, float]:
    """Seconds, steps and the best AUROC (0-1) on held-out problems."""
    from trainers.judges.fit import Fit, FitSettings

    settings = FitSettings(
        epochs=EPOCHS,
        items_per_step=2,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_share=0.1,
        evaluations=1,
        gamma=2.0,
        alpha=None,
        minority=1,
        minority_factor=2.0,
        seed=0,
    )

    def labels_of(items: Sequence[LabelledProblem]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([item.pairs.labels for item in items]))

    def dev_score() -> float:
        return auroc(labels_of(held_out).numpy(), module(held_out).float().cpu().numpy()) or 0.0

    with tempfile.TemporaryDirectory() as scratch:
        log = MetricLog(Path(scratch) / "log.jsonl")
        fit = Fit(module, train, labels_of, dev_score, lambda: None, settings, log, "judge")
        seconds, result = timed(scale, fit.run)
    return seconds, result.steps, result.best


def labelled_problem(number: int, tokens: int, hidden: int) -> LabelledProblem:
    chance = torch.Generator().manual_seed(number)
    answers = torch.randint(3, (CUTS,), generator=chance).numpy()
    size = (tokens, len(CAPTURED), hidden)
    directions = torch.randn(3, 1, 1, hidden, generator=chance)
    states = [(torch.randn(size, generator=chance) + directions[answer]).half() for answer in answers]
    cuts = tuple(CutTrace(PROMPT, tuple(range(tokens + 1)), "", state) for state in states)
    first, second = np.triu_indices(CUTS, 1)
    labels = (answers[first] == answers[second]).astype(np.int64)
    pairs = Pairs(first, second, labels, np.ones(len(first), dtype=bool))
    return LabelledProblem(f"{number}", None, cuts, (False,) * CUTS, (0.5,) * CUTS, pairs)


PARTS: dict[str, tuple[Callable[[Scale], list[Figures]], int]] = {  # budgets [s]
    "training": (training, 190),
    "engine": (engine, 90),
    "live": (live, 80),
    "large": (large, 60),
    "judge": (judge, 30),
}
