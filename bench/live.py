"""Wall clock of DeepPrune, live, on one engine: against consensus over all n traces, and against an ideal judge.

    OMP_NUM_THREADS=1 python bench/live.py [--engine transformers|vllm] [--n 64] [--problems 6] [--repeats 3]

Each repeat draws new traces and runs four contenders on them, one after the other, on the same engine and with the
same places: "consensus" finishes all n traces and votes; "deepprune" is the online controller with the own-state
judge and the published rule, "adaptive" the same with the adaptive rule; "ideal" is the published rule with a judge
that takes no time: it gives the scores of the run before it, so that cuts and survivors are the same, and no states
are kept for it. Shown are medians over the repeats, after a warm-up, and the ratios that matter: consensus ÷
deepprune (goal ≥ 1.3) and deepprune ÷ ideal (goal ≤ 1.15). On a machine with other work to do the processor time says
more than the clock. The judge is the demo's; --judge names another. The vllm engine runs in the environment that
`make test-vllm` builds.
"""

import argparse
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.deepprune.controller import ProblemJob, run_live
from secateur.deepprune.judges.base import CutTrace, Judge, JudgeSession, pair_columns
from secateur.deepprune.judges.folder import load_judge
from secateur.deepprune.judges.registry import DEFAULT
from secateur.deepprune.rule import ADAPTIVE_RULE, PruneRule
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, SamplingSpec
from secateur.engines.registry import open_engine
from secateur.runtime.console import console, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages
from secateur.tasks.sources import load_problems

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "trainers" / "embedded_model"
JUDGE = ROOT / "outputs" / "demo" / "judges" / DEFAULT.name / "base"
PUBLISHED_RULE = PruneRule()
OPTIONS = {"transformers": {}, "vllm": {"kv_cache_gib": 1, "enforce_eager": True}}


@dataclass(frozen=True)
class Run:
    """Wall-clock and processor seconds of one contender, and what it generated [tokens]."""

    wall: float
    processor: float
    tokens: int


class Remembering:
    """The real judge; what it says of the cuts of each prompt is kept for `IdealJudge`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.tables: dict[tuple[int, ...], dict[tuple[int, int], float]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._judge, name)

    def open(self, cuts: Sequence[CutTrace] = ()) -> "_RememberingSession":
        return _RememberingSession(self._judge.open(cuts), self.tables)


class _RememberingSession:
    def __init__(self, session: JudgeSession, tables: dict) -> None:
        self._session, self._tables, self._prompt = session, tables, ()

    @property
    def usage(self) -> Usage:
        return self._session.usage

    def add(self, cut: CutTrace) -> int:
        self._prompt = cut.prompt_ids
        return self._session.add(cut)

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        values = self._session.scores(pairs)
        first, second = pair_columns(pairs)
        keys = zip(first.tolist(), second.tolist(), strict=True)
        self._tables.setdefault(self._prompt, {}).update(zip(keys, values.tolist(), strict=True))
        return values


class IdealJudge:
    """Gives the scores of another run again; looks at nothing."""

    name, needs_states, capture_layers, parameters, usage = "ideal", False, None, 0, Usage()

    def __init__(self, judge: Remembering) -> None:
        self.cut_rule, self._tables = judge.cut_rule, judge.tables

    def open(self, cuts: Sequence[CutTrace] = ()) -> "_IdealSession":
        return _IdealSession(self._tables)


class _IdealSession:
    def __init__(self, tables: dict) -> None:
        self._tables, self._prompt, self.usage = tables, (), Usage()

    def add(self, cut: CutTrace) -> int:
        self._prompt = cut.prompt_ids
        return -1  # the pairs are known by the order in which the cuts come

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        table = self._tables[self._prompt]
        first, second = pair_columns(pairs)
        return np.array([table[pair] for pair in zip(first.tolist(), second.tolist(), strict=True)])


class Uncaptured:
    """An engine whose traces keep no states, whatever it was opened for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        handles = self._engine.start(prompt_ids, seeds, spec)
        self._engine.states(handles)  # before the first token: empty, and none are kept from here on
        return handles


def run_consensus(engine: Engine, jobs: Sequence[ProblemJob], spec: SamplingSpec, rows: int) -> int:
    """All traces of all problems to their ends, and the votes; returns the tokens generated."""
    waiting = deque(jobs)
    owner: dict[int, str] = {}
    pieces: dict[int, list[str]] = {}
    running: dict[str, int] = {}
    tokens = 0
    while waiting or running:
        while waiting and (not running or sum(running.values()) + len(waiting[0].seeds) <= rows):
            job = waiting.popleft()
            handles = engine.start(job.prompt_ids, job.seeds, spec)
            owner |= dict.fromkeys(handles, job.problem_id)
            pieces |= {handle: [] for handle in handles}
            running[job.problem_id] = len(handles)
        for event in engine.step():
            tokens += len(event.token_ids)
            pieces[event.trace].append(event.text)
            if event.done:
                problem = owner[event.trace]
                running[problem] -= 1
                if not running[problem]:
                    del running[problem]
                    texts = ["".join(pieces[trace]) for trace in owner if owner[trace] == problem]
                    majority(group_answers([extract_answer(text) for text in texts]))
    return tokens


def run_pruned(
    engine: Engine,
    jobs: Sequence[ProblemJob],
    spec: SamplingSpec,
    rows: int,
    judge: Judge,
    rule: PruneRule = PUBLISHED_RULE,
) -> int:
    return sum(result.usage.generated for result in run_live(engine, jobs, spec, judge, rule, rows))


def timed(contender: Callable[[], int]) -> Run:
    wall, processor = time.perf_counter(), time.process_time()
    tokens = contender()
    return Run(time.perf_counter() - wall, time.process_time() - processor, tokens)


def measure(engine: Engine, judge: Judge, options: argparse.Namespace) -> list[dict[str, Run]]:
    problems = load_problems("arithmetic:combined", options.problems)
    prompts = {
        p.id: encode_prompt(engine.tokenizer, evaluation_messages(p.problem, Prompt("plain"))) for p in problems
    }
    spec, rows = SamplingSpec(max_tokens=options.max_tokens), options.rows or options.n
    plain = Uncaptured(engine)
    runs = []
    for repeat in range(options.repeats + 1):
        jobs = [ProblemJob.sampled(name, prompt, options.n, repeat) for name, prompt in prompts.items()]
        remembering = Remembering(judge)
        ideal = IdealJudge(remembering)
        runs.append(
            {
                "consensus": timed(lambda jobs=jobs: run_consensus(plain, jobs, spec, rows)),
                "deepprune": timed(lambda jobs=jobs, r=remembering: run_pruned(engine, jobs, spec, rows, r)),
                "adaptive": timed(lambda jobs=jobs: run_pruned(engine, jobs, spec, rows, judge, ADAPTIVE_RULE)),
                "ideal": timed(lambda jobs=jobs, judge=ideal: run_pruned(plain, jobs, spec, rows, judge)),
            }
        )
    return runs[1:]


def report(runs: list[dict[str, Run]]) -> None:
    console.print(f"{'':12}{'wall s':>9}{'cpu s':>9}{'tokens':>10}")
    for name in runs[0]:
        wall, processor, tokens = (
            statistics.median(getattr(run[name], key) for run in runs) for key in ("wall", "processor", "tokens")
        )
        console.print(f"{name:12}{wall:9.2f}{processor:9.2f}{tokens:10.0f}")
    pairs = (
        ("consensus", "deepprune", "; goal ≥ 1.3"),
        ("deepprune", "ideal", "; goal ≤ 1.15"),
        ("consensus", "adaptive", ""),
    )
    for above, below, goal in pairs:
        for key, label in (("wall", "wall clock"), ("processor", "processor time")):
            ratios = sorted(getattr(run[above], key) / getattr(run[below], key) for run in runs)
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            console.print(f"{above} ÷ {below}, {label}: {statistics.median(ratios):.2f} ({spread}{goal})")


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(OPTIONS), default="vllm")
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--judge", type=Path, default=JUDGE, help="an own-state judge of the model")
    parser.add_argument("--n", type=int, default=64, help="traces of a problem")
    parser.add_argument("--rows", type=int, default=None, help="places in the engine; default n")
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=500)
    options = parser.parse_args()
    if min(options.n, options.problems, options.repeats, options.max_tokens) < 1:
        raise InputError("--n, --problems, --repeats and --max-tokens must be at least 1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # bound threads would share their cores with others
    use_one_torch_thread()
    judge = load_judge(options.judge, options.model)
    engine = open_engine(
        options.engine,
        str(options.model),
        dtype="float32",
        device="cpu",
        capture_layers=judge.capture_layers,
        rows=max(options.rows or 0, options.n),
        options=OPTIONS[options.engine],
    )
    report(measure(engine, judge, options))


if __name__ == "__main__":
    main()
