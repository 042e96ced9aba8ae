"""Traces made elsewhere: read and checked line by line, counted in tokens, cut, and stored as a trace folder.

A file has a trace a line, or a problem with its traces (`secateur.tasks.records.trace_lines`): each with its text,
or with its answer and its length in the text's place. Lengths are those that the file gives; where it gives none,
those of the ids that a tokenizer makes of the text. That is the one place where text is tokenised to count: such
files rarely keep their ids. Without a tokenizer both lengths and cuts may stay unknown.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval.traces.benchmarks import benchmark_name
from secateur.deepprune.cut import ChosenCut, CutRule, choose_cut, cut_length
from secateur.engines.detokenize import Detokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, TraceFolderWriter
from secateur.runtime.console import progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.records import Problem, Trace, trace_lines, trace_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNNAMED = "unnamed_model"
_BATCH = 64  # texts that are tokenised together
# So far may the length that a file gives be from that of its text: an end token, a special one, another spelling.
_MISCOUNT_SHARE, _MISCOUNT_TOKENS = 0.1, 64


@dataclass(frozen=True)
class ForeignProblem:
    """A problem with one model's traces of it, numbered from 0 on, and the benchmark that the file says it is of."""

    problem: Problem
    traces: list[Trace]
    benchmark: str | None = None


def read_foreign(path: str | Path) -> dict[str, list[ForeignProblem]]:
    """Model → its problems with their traces, of a `.jsonl` or `.jsonl.gz` file.

    The traces of a problem come in the order of their numbers or, where any of them has a name, in that of the file.
    A prompt in front of a text is taken off. Raises `InputError` naming file and line for a line that is no trace, a
    sample that is there twice, and two texts or answers under one problem id.
    """
    models: dict[str, dict[str, _Samples]] = {}
    problems: dict[str, tuple[Problem, str | None]] = {}
    for where, record in trace_lines(path):
        trace, benchmark = trace_of(record, where), record.get("benchmark")
        problem = Problem(trace.problem_id, trace.problem, trace.gold)
        about = (problem, None if benchmark is None else str(benchmark))
        if problems.setdefault(problem.id, about) != about:
            raise InputError(f"{where}: problem '{problem.id}' has two different texts or answers, or two benchmarks")
        samples = models.setdefault(model_folder(trace.model), {}).setdefault(problem.id, _Samples(*about))
        samples.add(trace, where)
    if not models:
        raise InputError(f"{path}: holds no trace")
    return {model: [samples.numbered() for samples in found.values()] for model, found in models.items()}


@dataclass
class _Samples:
    """The traces of one problem by one model, by their numbers or names, and where these stand in the file."""

    problem: Problem
    benchmark: str | None
    traces: dict[int | str, Trace] = field(default_factory=dict)
    places: dict[int | str, str] = field(default_factory=dict)

    def add(self, trace: Trace, where: str) -> None:
        what = f"{where}: sample {trace.sample} of '{trace.problem_id}' by {model_folder(trace.model)}"
        if trace.n_tokens == 0:
            raise InputError(f"{what} has 0 tokens; the end of a trace is one")
        if trace.sample in self.traces:
            raise InputError(f"{what} is there twice, first in {self.places[trace.sample]}")
        text = None if trace.text is None else without_prompt(trace.text, trace.problem)
        self.traces[trace.sample], self.places[trace.sample] = replace(trace, text=text), where

    def numbered(self) -> ForeignProblem:
        numbers = all(isinstance(sample, int) for sample in self.traces)
        order = sorted(self.traces) if numbers else list(self.traces)
        traces = [replace(self.traces[sample], sample=place) for place, sample in enumerate(order)]
        return ForeignProblem(self.problem, traces, self.benchmark)


def of_model(found: dict[str, list[ForeignProblem]], name: str, where: str) -> list[ForeignProblem]:
    """The traces of the model `name`: of a file with several those that it calls so, else all. Raises `InputError`
    where the file, which `where` names, has several and none of that name."""
    chosen = model_folder(name)
    if len(found) > 1 and chosen not in found:
        raise InputError(f"{where} holds the traces of {', '.join(found)}, and none of '{name}'; name one of these")
    return found[chosen] if chosen in found else next(iter(found.values()))


@dataclass(frozen=True)
class Outline:
    """One model's traces in a file, before anything is counted: benchmark → ids of its problems (None: the file names
    none), the traces of the problem that has `fewest`, and whether all have a text, a length."""

    problems: Mapping[str | None, frozenset[str]]
    fewest: int
    with_text: bool
    with_lengths: bool


@cache
def outline(path: str, model: str) -> Outline:
    """Raises `InputError` like `read_foreign` and `of_model`."""
    entries = of_model(read_foreign(path), model, path)
    traces = [trace for entry in entries for trace in entry.traces]
    names = dict.fromkeys(entry.benchmark for entry in entries)
    return Outline(
        {name: frozenset(entry.problem.id for entry in entries if entry.benchmark == name) for name in names},
        min(len(entry.traces) for entry in entries),
        all(trace.text is not None for trace in traces),
        all(trace.n_tokens is not None or trace.token_ids is not None for trace in traces),
    )


@dataclass(kw_only=True)
class ImportKeys:
    """imports: model → `.jsonl[.gz]` file of its traces, made elsewhere (docs/data.md): they are replayed and no
      model runs; `models` is then left out, and `problems` may be: these are those of the first file.
    tokenizer: folder or Hub id that counts the tokens of imported texts; needed where lines have no `n_tokens`, and
      for judges.
    parameters: imported model → its number of weights, in which costs are added; needed with judges, and where
      several models are compared.
    """

    imports: dict[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    parameters: dict[str, int] = field(default_factory=dict)

    def check_imports(self) -> None:
        """Raises `InputError` for a file that is not there or lacks a length, and for keys that go with no file."""
        for key in ("tokenizer", "parameters"):
            if getattr(self, key) and not self.imports:
                raise InputError(f"key '{key}' is about imported traces; give 'imports', or leave it out")
        for name, path in self.imports.items():
            if not Path(path).is_file():
                raise InputError(f"key 'imports.{name}' has the value '{path}': no such file")
            if self.tokenizer is None and not outline(path, name).with_lengths:
                raise InputError(
                    f"key 'imports.{name}': not every trace of {path} says how many tokens it has ('n_tokens'); give "
                    "key 'tokenizer', which then counts them"
                )

    def require_parameters(self) -> None:
        """Raises `InputError` for an import whose number of weights is not given."""
        for name in self.imports:
            if self.parameters.get(name, 0) < 1:
                raise InputError(
                    f"key 'parameters' has no number for '{name}': costs of several models, or of a model and a "
                    f"judge, are added in multiply-accumulates; give parameters: {{{name}: <number of weights>}}"
                )

    @property
    def outlines(self) -> dict[str, Outline]:
        """By model."""
        return {name: outline(path, name) for name, path in self.imports.items()}

    @property
    def imported_problems(self) -> str | dict[str, str]:
        """Where the problems of the imports come from, as key `problems` says it: the first file, for every benchmark
        that it names."""
        name, path = next(iter(self.imports.items()))
        benchmarks = self.outlines[name].problems
        return path if None in benchmarks else dict.fromkeys(benchmarks, path)

    @property
    def imported_parts(self) -> dict[str, frozenset[str]]:
        """Benchmark → ids of its problems in the first file that has it; one without a name is called by its file."""
        found: dict[str, frozenset[str]] = {}
        for model, path in self.imports.items():
            for name, ids in self.outlines[model].problems.items():
                found.setdefault(name or benchmark_name(path), ids)
        return found


def first_traces(found: Mapping[str, ForeignProblem], problem: Problem, n: int, path: str) -> ForeignProblem:
    """The first n traces of a problem. Raises `InputError`, naming the file at `path`, where it has fewer, or another
    answer."""
    entry = found.get(problem.id)
    there = 0 if entry is None else len(entry.traces)
    if entry is None or there < n:
        raise InputError(f"{path}: has {there} traces of problem '{problem.id}', but n = {n} are wanted; lower n")
    if entry.problem.answer != problem.answer:
        raise InputError(
            f"{path}: problem '{problem.id}' has the answer {entry.problem.answer!r} there, and {problem.answer!r} "
            "where key 'problems' has it from; ids must mean the same problem"
        )
    return replace(entry, traces=entry.traces[:n])


def import_file(
    path: str | Path,
    output_dir: str | Path,
    set_name: str,
    cut: CutRule | ChosenCut,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Path]:
    """Write a foreign file into `<output_dir>/<model>/<set_name>`; what is there already is left. Returns model →
    folder. Raises `InputError` if a folder was made from another file, with another cut or tokenizer."""
    rule = cut.rule if isinstance(cut, ChosenCut) else cut
    name = None if tokenizer is None else tokenizer.name_or_path
    settings = import_settings(path, name) | {"cut": {"kind": rule.kind, "k": rule.k}, "layers": []}
    settings |= {"cut_choice": cut.words} if isinstance(cut, ChosenCut) else {}
    folders = {}
    for model, problems in read_foreign(path).items():
        folders[model] = Path(output_dir) / model / set_name
        with TraceFolderWriter(folders[model], settings) as writer:
            store(problems, writer, Importer(rule, tokenizer), f"{model}, {set_name}")
    return folders


def choose_for_files(
    paths: Iterable[str | Path], share: float, tokenizer: "PreTrainedTokenizerBase | None"
) -> ChosenCut:
    """One cut for the traces of all files, its median about `share` (fraction) of a trace: of its tokens or, without
    a tokenizer, of its characters, where the cut is at words. Raises `InputError` like `read_foreign`."""
    importer = Importer(None, tokenizer)
    texts = [
        trace.known_text()
        for path in paths
        for entries in read_foreign(path).values()
        for entry in entries
        for trace in entry.traces
    ]
    if tokenizer is None:
        return choose_cut(texts, share, tokens_too=False)
    return choose_cut([list(importer.pieces(ids)) for ids in importer.token_ids(texts)], share)


def store(problems: Sequence[ForeignProblem], writer: TraceFolderWriter, importer: "Importer", title: str) -> None:
    """Put into `writer`'s folder what it lacks of the traces, counted and cut."""
    wanted = [trace for entry in problems for trace in entry.traces]
    missing = [trace for trace in wanted if (trace.problem_id, trace.sample) not in writer.done]
    if not missing:
        return
    with progress(f"{title}: taken over", len(missing)) as shown:
        for stored in importer.stored(missing):
            writer.add(stored.trace, cut_tokens=stored.cut_tokens)
            shown.advance()


def import_settings(path: str | Path, tokenizer: str | None) -> dict[str, JSON]:
    """What a folder of traces of this file must have been made from for it to be gone on with; `tokenizer` is its
    name."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "imported": {"file": Path(path).name, "sha256": digest},
        "tokens": "unknown" if tokenizer is None else f"made of the text by {tokenizer}",
    }


def model_folder(model: str | None) -> str:
    """A model's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", model or "").strip("_.") or _UNNAMED


def without_prompt(text: str, problem: str) -> str:
    """`text` from its `<think>` on, if the problem stands before that: then it begins with the prompt, whose words
    belong to nobody's reasoning."""
    head, opened, rest = text.partition("<think>")
    return opened + rest if opened and problem.strip() in head else text


class Importer:
    """Counts and cuts foreign traces.

    Without a tokenizer no cut has a place among the tokens, so none is made; without a `rule` none is asked for.
    Without `keep_ids` no token ids are stored, which nobody reads who does not cut: they are most of a folder.
    """

    def __init__(
        self, rule: CutRule | None, tokenizer: "PreTrainedTokenizerBase | None", keep_ids: bool = True
    ) -> None:
        if rule is not None and rule.kind == "tokens" and tokenizer is None:
            raise InputError("cut_kind: tokens needs a tokenizer for traces made elsewhere; give one, or 'words'")
        self._rule, self._tokenizer, self._keep_ids = rule, tokenizer, keep_ids
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)

    def stored(self, traces: Sequence[Trace]) -> Iterator[StoredTrace]:
        """The traces as a folder keeps them, in their order. Raises `InputError` for a cut in a trace whose given
        length is not that of its text."""
        for first in range(0, len(traces), _BATCH):
            some = traces[first : first + _BATCH]
            ids = self.token_ids([trace.text for trace in some])
            yield from map(self._stored, some, ids)

    def problem(self, entry: ForeignProblem) -> ProblemTraces:
        """A problem with its traces as a folder keeps them."""
        return ProblemTraces(entry.problem, list(self.stored(entry.traces)))

    def token_ids(self, texts: Sequence[str | None]) -> list[tuple[int, ...] | None]:
        """What the tokenizer makes of each text; None without tokenizer or text."""
        present = [text for text in texts if text is not None]
        if self._tokenizer is None or not present:
            return [None] * len(texts)
        found = iter(self._tokenizer(present, add_special_tokens=False, verbose=False)["input_ids"])
        return [None if text is None else tuple(next(found)) for text in texts]

    def pieces(self, ids: Sequence[int]) -> Iterator[str]:
        """The text of every token."""
        return map(self._detokenizer.stream().push, ids)

    def _stored(self, trace: Trace, ids: tuple[int, ...] | None) -> StoredTrace:
        given = trace.token_ids if trace.n_tokens is None else range(trace.n_tokens)
        if ids is None:
            kept = trace.token_ids if self._keep_ids else None
            return StoredTrace(
                replace(trace, token_ids=kept, n_tokens=None if given is None else len(given)), None, None
            )
        # Ids of the file may be another tokenizer's, and begin with a prompt: one rule for all is better.
        length = max(1, len(ids)) if given is None else len(given)
        cut = None
        if self._rule is not None:
            self._check_length(trace, length, len(ids))
            cut = cut_length(self.pieces(ids), self._rule)
        return StoredTrace(replace(trace, token_ids=ids if self._keep_ids else None, n_tokens=length), cut, None)

    def _check_length(self, trace: Trace, given: int, counted: int) -> None:
        if abs(given - counted) > max(_MISCOUNT_TOKENS, _MISCOUNT_SHARE * given):
            raise InputError(
                f"sample {trace.sample} of '{trace.problem_id}' is said to have {given:,} tokens, but the tokenizer "
                f"makes {counted:,} of its text, so its cut has no place among them; give the tokenizer of its "
                "model, or leave n_tokens and token_ids out"
            )
