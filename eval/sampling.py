"""Sampling the traces that are missing in a trace folder: what collect_traces.py and combined.py have in common."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepprune.cut import CutDetector, CutRule
from deepprune.judges.base import CutTrace, VectorJudge
from engines.base import Engine, Event, SamplingSpec, Usage, trace_seed
from engines.sample import TraceJob, sample_traces
from engines.trace_folder import TraceFolderWriter
from runtime.console import progress
from runtime.errors import InputError
from runtime.ranks import current_ranks
from tasks.prompts import encode_prompt, evaluation_messages
from tasks.records import Problem, Trace


@dataclass(frozen=True)
class SamplingPlan:
    """Which traces are wanted: `n` of each problem; `max_rows` run at once."""

    problems: Sequence[Problem]
    n: int
    spec: SamplingSpec
    prompt_family: str
    seed: int
    max_rows: int


def require_model_folder(key: str, path: str) -> None:
    """Refuse early what looks like a path and is no model folder; other names are taken for Hub ids."""
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise InputError(f"key '{key}' has the value '{path}': a folder without config.json is no model folder")
    elif path.startswith((".", "/", "outputs/", "~")) or path.count("/") != 1:
        raise InputError(f"key '{key}' has the value '{path}': no such folder; train or download the model first")


def local_device(device: str) -> str:
    """ "auto" becomes this process's own GPU, or the CPU where there is none; other names stay."""
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def prompt_ids(tokenizer, problem: Problem, family: str) -> tuple[int, ...]:
    return tuple(encode_prompt(tokenizer, evaluation_messages(problem.problem, family)))


def sample_missing(
    engine: Engine,
    tokenizer,
    plan: SamplingPlan,
    writer: TraceFolderWriter,
    model_name: str,
    cut: CutRule | None = None,
    with_states: bool = False,
    title: str = "traces",
) -> int:
    """Sample what `writer`'s folder lacks, each trace stored as it ends. Returns the tokens generated."""
    jobs = [job for job in _jobs(plan, tokenizer) if (job.problem.id, job.sample) not in writer.done]
    factory: Callable[[], CutDetector] | None = None if cut is None else lambda: CutDetector(cut)
    generated = 0
    if not jobs:
        return generated
    with progress(f"{title}{current_ranks().note}", len(jobs)) as shown:
        for trace in sample_traces(engine, tokenizer, jobs, plan.spec, plan.max_rows, factory, with_states):
            problem = trace.job.problem
            record = Trace(
                problem_id=problem.id,
                problem=problem.problem,
                gold=problem.answer,
                sample=trace.job.sample,
                text=trace.text,
                model=model_name,
                token_ids=trace.token_ids,
                n_tokens=trace.n_tokens,
                finish_reason=trace.finish_reason,
            )
            writer.add(record, cut_tokens=trace.cut_tokens, states=trace.states, group=problem.group)
            generated += trace.n_tokens
            shown.advance(note=f"{generated:,} tokens")
    return generated


def _jobs(plan: SamplingPlan, tokenizer) -> Iterator[TraceJob]:
    for problem in plan.problems:
        ids = prompt_ids(tokenizer, problem, plan.prompt_family)
        for sample in range(plan.n):
            yield TraceJob(problem, sample, ids, trace_seed(plan.seed, problem.id, sample))


class EncodingEngine:
    """An engine whose `states` hands out what an own-state judge makes of them, so that only vectors are stored.

    The tensor is float64 [1 + width]: what encoding cost [multiply-accumulates], then the vector, both exact.
    """

    def __init__(self, engine: Engine, judge: VectorJudge) -> None:
        self._engine, self._judge = engine, judge

    def states(self, trace: int) -> torch.Tensor:
        self._judge.reset_ledger()
        vector = self._judge.encode(CutTrace((), (), "", self._engine.states(trace)))
        return torch.from_numpy(np.concatenate([[float(self._judge.ledger.judge_head)], vector.astype(np.float64)]))

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        return self._engine.start(prompt_ids, seeds, spec)

    def step(self) -> list[Event]:
        return self._engine.step()

    def park(self, traces: Sequence[int]) -> None:
        self._engine.park(traces)

    def resume(self, traces: Sequence[int]) -> None:
        self._engine.resume(traces)

    def prune(self, traces: Sequence[int]) -> None:
        self._engine.prune(traces)

    def usage(self, trace: int) -> Usage:
        return self._engine.usage(trace)

    def close(self) -> None:
        self._engine.close()


def split_vector(stored: torch.Tensor) -> tuple[int, np.ndarray]:
    """What `EncodingEngine.states` packed: the cost [multiply-accumulates] and the vector [width] float32."""
    values = stored.numpy()
    return int(values[0]), values[1:].astype(np.float32)
