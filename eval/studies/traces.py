"""Traces as the studies read them, and the folder that a study can go on in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.traces.benchmarks import stem_of
from eval.traces.foreign import Importer, of_model, read_foreign
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, has_content, read_json, write_json
from secateur.tasks.records import Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TraceKey = tuple[str, str, str, int | str]
"""Model that wrote a trace, benchmark, problem id, sample."""


@dataclass(frozen=True)
class ReadProblem:
    """One problem of one benchmark with a model's traces of it."""

    benchmark: str
    problem: Problem
    traces: list[Trace]

    @property
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.problem.id


def read_model_traces(
    name: str, path: str | Path, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[ReadProblem]:
    """The traces of model `name` at `path`: a trace folder, a folder of trace folders (one per benchmark, as
    eval/single.py leaves them), or a `.jsonl[.gz]` file of traces made elsewhere, whose tokens `tokenizer` counts; of
    a file with several models those that it calls `name`. Raises `InputError` for anything else, and for traces
    without text.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_file(name, path, tokenizer)
    folders = [path] if list(path.glob("traces*.jsonl")) else sorted(p.parent for p in path.glob("*/settings.json"))
    if not folders:
        raise InputError(f"key 'traces.{name}' has the value '{path}': neither traces there nor folders of traces")
    return [
        ReadProblem(folder.name, entry.problem, [stored.trace for stored in entry.traces])
        for folder in folders
        for entry in read_trace_folder(folder)
    ]


def _from_file(name: str, path: Path, tokenizer: "PreTrainedTokenizerBase | None") -> list[ReadProblem]:
    importer = Importer(None, tokenizer)
    found = [
        ReadProblem(stem_of(path), entry.problem, [stored.trace for stored in importer.stored(entry.traces)])
        for entry in of_model(read_foreign(path), name, f"key 'traces.{name}' has the value '{path}', which")
    ]
    for entry in found:
        for trace in entry.traces:
            trace.known_text()  # every study reads it
    return found


def check_traces_key(traces: Mapping[str, str]) -> None:
    """Raises `InputError` for no model and for a path that is not there."""
    if not traces:
        raise InputError("key 'traces' is empty; give for example {base: outputs/single/base}")
    for name, path in traces.items():
        if not Path(path).exists():
            raise InputError(f"key 'traces.{name}' has the value '{path}': no such folder or file")


def tokens_of(trace: Trace) -> int:
    """Length [tokens]; raises `InputError` where it is not known."""
    if trace.n_tokens is None:
        raise InputError(
            f"sample {trace.sample} of '{trace.problem_id}' does not say how many tokens it has; give key 'tokenizer'"
        )
    return trace.n_tokens


def common_problems(
    first: Sequence[ReadProblem], other: Sequence[ReadProblem]
) -> tuple[list[ReadProblem], list[ReadProblem]] | None:
    """Both sides in the same order if they are about the same problems, so that they can be compared in pairs."""
    by_key = {entry.key: entry for entry in other}
    if by_key.keys() != {entry.key for entry in first}:
        return None
    return list(first), [by_key[entry.key] for entry in first]


def claim_folder(folder: str | Path, settings: Mapping[str, JSON], results: str) -> None:
    """Begin `folder` with `settings`, or go on with it; one whose file of `results` was made with others raises
    `InputError`, untouched."""
    path, wanted = Path(folder) / "settings.json", json.loads(json.dumps(settings))
    if not has_content(folder, results):
        write_json(path, wanted)
        return
    found = read_json(path)
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"{path}: key '{key}' is {found.get(key)!r} there and {wanted.get(key)!r} now, so the results would "
                "not belong together; give another output folder"
            )
