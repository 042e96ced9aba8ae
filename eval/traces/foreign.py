"""Traces made elsewhere: read and checked line by line, counted in tokens, cut, and stored as a trace folder.

A file has a trace a line (`secateur.tasks.records.trace_of`): with its text, or with its answer and its length in the
text's place. Lengths are those that the file gives; where it gives none, those of the ids that a tokenizer makes of
the text. That is the one place where text is tokenised to count: such files rarely keep their ids. Without a tokenizer
both lengths and cuts may stay unknown.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.cut import CutRule, cut_length
from secateur.engines.detokenize import Detokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, TraceFolderWriter
from secateur.runtime.console import progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl
from secateur.tasks.records import Problem, Trace, trace_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNNAMED = "unnamed_model"
_BATCH = 64  # texts that are tokenised together
# So far may the length that a file gives be from that of its text: an end token, a special one, another spelling.
_MISCOUNT_SHARE, _MISCOUNT_TOKENS = 0.1, 64


@dataclass(frozen=True)
class ForeignProblem:
    """A problem with one model's traces of it, numbered from 0 on."""

    problem: Problem
    traces: list[Trace]


def read_foreign(path: str | Path) -> dict[str, list[ForeignProblem]]:
    """Model → its problems with their traces, of a `.jsonl` or `.jsonl.gz` file.

    The traces of a problem come in the order of their numbers or, where the file names them, in that of the file. A
    prompt in front of a text is taken off. Raises `InputError` naming file and line for a line that is no trace, a
    sample that is there twice, samples of which some have names and some numbers, and two texts or answers under one
    problem id.
    """
    models: dict[str, dict[str, _Samples]] = {}
    problems: dict[str, Problem] = {}
    for line, record in read_jsonl(path):
        where = f"{path}, line {line}"
        trace = trace_of(record, where)
        problem = Problem(trace.problem_id, trace.problem, trace.gold)
        if problems.setdefault(problem.id, problem) != problem:
            raise InputError(f"{where}: problem '{problem.id}' has two different texts or answers")
        samples = models.setdefault(model_folder(trace.model), {}).setdefault(problem.id, _Samples(problem))
        samples.add(trace, line, where)
    if not models:
        raise InputError(f"{path}: holds no trace")
    return {model: [samples.numbered() for samples in found.values()] for model, found in models.items()}


@dataclass
class _Samples:
    """The traces of one problem by one model, by their numbers or names, and the lines where these stand."""

    problem: Problem
    traces: dict[int | str, Trace] = field(default_factory=dict)
    lines: dict[int | str, int] = field(default_factory=dict)

    def add(self, trace: Trace, line: int, where: str) -> None:
        what = f"{where}: sample {trace.sample} of '{trace.problem_id}' by {model_folder(trace.model)}"
        if trace.n_tokens == 0:
            raise InputError(f"{what} has 0 tokens; the end of a trace is one")
        if trace.sample in self.traces:
            raise InputError(f"{what} is there twice, first in line {self.lines[trace.sample]}")
        first = next(iter(self.traces), trace.sample)
        if isinstance(first, int) != isinstance(trace.sample, int):
            raise InputError(
                f"{what}, and sample {first} in line {self.lines[first]}: one has a name, the other a number, so "
                "their order is not known; name all or number all"
            )
        text = None if trace.text is None else without_prompt(trace.text, trace.problem)
        self.traces[trace.sample], self.lines[trace.sample] = replace(trace, text=text), line

    def numbered(self) -> ForeignProblem:
        numbers = all(isinstance(sample, int) for sample in self.traces)
        traces = [self.traces[sample] for sample in (sorted(self.traces) if numbers else self.traces)]
        return ForeignProblem(self.problem, [replace(one, sample=place) for place, one in enumerate(traces)])


def of_model(found: dict[str, list[ForeignProblem]], name: str, where: str) -> list[ForeignProblem]:
    """The traces of the model `name`: of a file with several those that it calls so, else all. Raises `InputError`
    where the file, which `where` names, has several and none of that name."""
    chosen = model_folder(name)
    if len(found) > 1 and chosen not in found:
        raise InputError(f"{where} holds the traces of {', '.join(found)}, and none of '{name}'; name one of these")
    return found[chosen] if chosen in found else next(iter(found.values()))


def import_file(
    path: str | Path,
    output_dir: str | Path,
    set_name: str,
    rule: CutRule,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Path]:
    """Write a foreign file into `<output_dir>/<model>/<set_name>`; what is there already is left. Returns model →
    folder. Raises `InputError` if a folder was made from another file, with another cut or tokenizer."""
    settings = import_settings(path, tokenizer) | {"cut": {"kind": rule.kind, "k": rule.k}, "layers": []}
    folders = {}
    for model, problems in read_foreign(path).items():
        folders[model] = Path(output_dir) / model / set_name
        with TraceFolderWriter(folders[model], settings) as writer:
            store(problems, writer, Importer(rule, tokenizer), f"{model}, {set_name}")
    return folders


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


def import_settings(path: str | Path, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, JSON]:
    """What a folder of traces of this file must have been made from for it to be gone on with."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "imported": {"file": Path(path).name, "sha256": digest},
        "tokens": "unknown" if tokenizer is None else f"made of the text by {tokenizer.name_or_path}",
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
    """

    def __init__(self, rule: CutRule | None, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        if rule is not None and rule.kind == "tokens" and tokenizer is None:
            raise InputError("cut_kind: tokens needs a tokenizer for traces made elsewhere; give one, or 'words'")
        self._rule, self._tokenizer = rule, tokenizer
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)

    def stored(self, traces: Sequence[Trace]) -> Iterator[StoredTrace]:
        """The traces as a folder keeps them, in their order. Raises `InputError` for a cut in a trace whose given
        length is not that of its text."""
        for first in range(0, len(traces), _BATCH):
            some = traces[first : first + _BATCH]
            ids = self.token_ids([trace.text for trace in some])
            yield from map(self._stored, some, ids)

    def token_ids(self, texts: Sequence[str | None]) -> list[tuple[int, ...] | None]:
        """What the tokenizer makes of each text; None without tokenizer or text."""
        present = [text for text in texts if text is not None]
        if self._tokenizer is None or not present:
            return [None] * len(texts)
        found = iter(self._tokenizer(present, add_special_tokens=False, verbose=False)["input_ids"])
        return [None if text is None else tuple(next(found)) for text in texts]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of every token."""
        stream = self._detokenizer.stream()
        return [stream.push(token) for token in ids]

    def _stored(self, trace: Trace, ids: tuple[int, ...] | None) -> StoredTrace:
        given = trace.token_ids if trace.n_tokens is None else range(trace.n_tokens)
        if ids is None:
            return StoredTrace(replace(trace, n_tokens=None if given is None else len(given)), None, None)
        # Ids of the file may be another tokenizer's, and begin with a prompt: one rule for all is better.
        length = max(1, len(ids)) if given is None else len(given)
        cut = None
        if self._rule is not None:
            self._check_length(trace, length, len(ids))
            cut = cut_length(self.pieces(ids), self._rule)
        return StoredTrace(replace(trace, token_ids=ids, n_tokens=length), cut, None)

    def _check_length(self, trace: Trace, given: int, counted: int) -> None:
        if abs(given - counted) > max(_MISCOUNT_TOKENS, _MISCOUNT_SHARE * given):
            raise InputError(
                f"sample {trace.sample} of '{trace.problem_id}' is said to have {given:,} tokens, but the tokenizer "
                f"makes {counted:,} of its text, so its cut has no place among them; give the tokenizer of its model, "
                "or leave n_tokens and token_ids out"
            )
