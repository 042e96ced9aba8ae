"""What a sampling run has to make: how many traces of which length, and what they take on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.deepprune.cut import CutRule
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.dry_run import SamplingPlanKeys
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from secateur.tasks.hub_sets import HUB_SETS
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems, split_source


@dataclass(frozen=True)
class PlannedSet:
    """`read` is False for problems that stand for those of a set that could not be read: without text."""

    problems: list[Problem]
    read: bool = True
    note: str | None = None


def planned_sets(sources: Mapping[str, str], counts: Mapping[str, int | None], seed: int) -> dict[str, PlannedSet]:
    """Name → problems. Raises `InputError` for what the run would refuse, other than the Hub being out of reach."""
    return {name: _planned_set(source, counts.get(name), seed) for name, source in sources.items()}


def _planned_set(source: str, count: int | None, seed: int) -> PlannedSet:
    try:
        return PlannedSet(load_problems(source, count, seed))
    except InputError:
        sizes = [HUB_SETS[part].count if part in HUB_SETS else None for part in split_source(source)]
        if None in sizes:
            raise
        most = sum(size[-1] for size in sizes if size)
        if count is not None and count > most:
            raise
        about = "" if all(len(size) == 1 for size in sizes if size) else "at most "
        note = f"{source} is out of reach, so it was not read; it holds {about}{most} problems"
        standing = [Problem(f"{source} {number}", "", "") for number in range(count or most)]
        return PlannedSet(standing, False, note)


EXPECTED_SHARE = 0.5  # of the cap, as in the plan of a training run: a figure to plan with, not a measurement
# One tensor's entry in a safetensors header, and one trace's keys in its line (names, ids, file names) [bytes].
TENSOR_ENTRY, LINE_KEYS = 72, 260
TEXT_TOKEN = 4.0  # [bytes] of text that a token stands for, where no tokenizer is in reach


@dataclass(frozen=True)
class Part:
    """Traces of one model on one set. `states` numbers are stored per token up to the cut, `vector` numbers per trace
    in their place; 0 for none."""

    model: str
    name: str
    set: PlannedSet
    n: int
    folder: Path
    states: int
    vector: int
    confidences: bool

    @property
    def problems(self) -> list[Problem]:
        return self.set.problems

    @property
    def wanted(self) -> int:
        return len(self.problems) * self.n


@dataclass(frozen=True)
class Stored:
    """What of a part is on disk: traces that are wanted, their tokens, those of them up to the cut; and of all traces
    there, wanted or not: bytes of the lines, bytes of the files of states and confidences, number, tokens."""

    traces: int = 0
    tokens: int = 0
    fed: int = 0
    lines: int = 0
    files: int = 0
    all_traces: int = 0
    all_tokens: int = 0


def read_stored(part: Part) -> Stored:
    """Reads every line there; raises `InputError` where they are damaged."""
    if not any(part.folder.glob("traces*.jsonl")):
        return Stored()
    wanted = {problem.id for problem in part.problems}
    everything = [(e.problem.id, s) for e in read_trace_folder(part.folder) for s in e.traces]
    wanted_or_unread = (stored for id_, stored in everything if id_ in wanted or not part.set.read)
    found = [stored for stored in wanted_or_unread if stored.trace.sample < part.n]
    return Stored(
        traces=len(found),
        tokens=sum(stored.trace.n_tokens for stored in found),
        fed=sum(max(0, (stored.cut_tokens or stored.trace.n_tokens) - 1) for stored in found),
        lines=sum(path.stat().st_size for path in part.folder.glob("traces*.jsonl")),
        files=sum(path.stat().st_size for path in part.folder.glob("states/*.safetensors")),
        all_traces=len(everything),
        all_tokens=sum(stored.trace.n_tokens for _, stored in everything),
    )


@dataclass(frozen=True)
class Lengths:
    """Mean length of a trace and of what is fed of it up to the cut [tokens], and where the figures come from."""

    tokens: float
    fed: float
    tokens_from: str
    fed_from: str


def expected_lengths(
    config: SamplingPlanKeys, model: str, cap: int, cut: CutRule | None, stored: Sequence[Stored], folder: Path
) -> Lengths:
    """The keys' lengths, else those of the model's traces on disk, else those of a finished eval/single.py run in
    `folder`, else the assumptions named in secateur/runtime/dry_run.py."""
    count = sum(entry.traces for entry in stored)
    tokens, source = EXPECTED_SHARE * cap, f"assumed: {EXPECTED_SHARE:.0%} of the cap"
    if config.mean_tokens is not None:
        tokens, source = min(config.mean_tokens, cap), "key mean_tokens"
    elif count:
        tokens, source = sum(entry.tokens for entry in stored) / count, f"measured on {count:,} traces there"
    elif (found := _single_mean(folder, model)) is not None:
        tokens, source = min(found, cap), f"measured by eval/single.py ({folder / 'summary.json'})"
    if config.mean_cut_tokens is not None:
        return Lengths(tokens, min(config.mean_cut_tokens, tokens), source, "key mean_cut_tokens")
    if count and cut is not None:
        return Lengths(tokens, sum(entry.fed for entry in stored) / count, source, "measured on the same traces")
    if cut is not None and cut.kind == "tokens":
        return Lengths(tokens, min(cut.k, tokens) - 1, source, f"the rule: {cut.k} tokens")
    return Lengths(tokens, tokens, source, "unknown, so the whole trace is planned with; give mean_cut_tokens")


def _single_mean(folder: Path, model: str) -> float | None:
    """Mean over all samples of a finished measurement."""
    if not (folder / "summary.json").is_file():
        return None
    figures = read_json(folder / "summary.json").get("models", {}).get(model) or {}
    samples = sum(entry["samples"] * entry["problems"] for entry in figures.values())
    return sum(entry["generated_tokens"] for entry in figures.values()) / samples if samples else None


@dataclass(frozen=True)
class PartDisk:
    """Bytes that the traces which are still to come take, by kind."""

    lines: float
    states: float
    vectors: float
    confidences: float

    @property
    def total(self) -> float:
        return self.lines + self.states + self.vectors + self.confidences


def disk_of(part: Part, traces: int, tokens: float, fed: float, token_line: float) -> PartDisk:
    """What `traces` of `tokens` each take, `fed` of them up to the cut. token_line: bytes of a token in its line, its
    id and its text."""
    texts = [len(p.problem.encode()) + len(p.id) + len(p.answer.encode()) for p in part.problems] or [0]
    line = LINE_KEYS + sum(texts) / len(texts) + token_line * tokens
    return PartDisk(
        lines=traces * line,
        states=traces * (2 * part.states * fed + TENSOR_ENTRY) if part.states else 0.0,
        vectors=traces * (4 * part.vector + TENSOR_ENTRY) if part.vector else 0.0,
        confidences=traces * (2 * tokens + TENSOR_ENTRY) if part.confidences else 0.0,
    )


def line_bytes_per_token(stored: Sequence[Stored], vocabulary: int, sample: tuple[int, int, int] | None) -> float:
    """Bytes of a token in its trace's line: measured where lines are there; else its id's digits and its text, by
    `sample` (tokens, digits of their ids, bytes of text) of the problems, or by the size of the vocabulary."""
    tokens = sum(entry.all_tokens for entry in stored)
    if tokens:
        keys = sum(entry.all_traces for entry in stored) * LINE_KEYS
        return max(0.0, sum(entry.lines for entry in stored) - keys) / tokens
    if sample is not None and sample[0]:
        return 2 + (sample[1] + sample[2]) / sample[0]
    return 2 + len(str(vocabulary)) + TEXT_TOKEN
