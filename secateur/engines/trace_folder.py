"""A folder of sampled traces that several processes append to and that survives a kill at any moment.

`traces-rank<r>.jsonl` holds Trace records with the extra keys `cut_tokens`, `group`, `states`, `vector`,
`vector_macs`, `confidences`, `tensors` (checksums of these) and `checksum` (of the line; one without is taken as it
is). `states`, `vector` and `confidences` name a file in `states/*.safetensors`, one per
problem and lot, which is on disk before the line: hidden states (2 bytes × layers × hidden per token until the cut)
under the sample number, what a judge made of them (4 bytes × width) under `vector-<sample>`, token confidences (2
bytes per token) under `confidences-<sample>`. `settings.json` says what the traces were sampled with, its key
`server` what a server was sent for that; others are refused."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import xxhash

from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, file_name, has_content, read_json, repair_torn_tail, write_json
from secateur.runtime.records import read_with_checksums, with_checksum
from secateur.tasks.records import Problem, Trace, trace_of

if TYPE_CHECKING:
    import numpy as np
    import torch

CONFIDENCES_REMEDY = "sample anew into another output folder with `top_logprobs: 20`"
_FILES = "traces*.jsonl"
_LOT = 64  # traces of one problem that wait for a common states file
_LOT_SECONDS = 60.0  # …but none waits longer than this for its line
_SERVER = "server"  # the key of settings.json for what `note_server` was told


@dataclass(frozen=True, eq=False)
class CutVector:
    """What a judge made of the hidden states of a cut: `values` [width] float32, and what that cost
    [multiply-accumulates]."""

    values: "np.ndarray"
    macs: int


@dataclass(frozen=True)
class StoredTrace:
    """A trace of the folder; `cut_tokens` [tokens] is None if it ended before its cut."""

    trace: Trace
    cut_tokens: int | None
    states_path: Path | None
    confidences_path: Path | None = None
    vector_path: Path | None = None
    vector_macs: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)

    def load_states(self) -> "torch.Tensor":
        """fp16 [tokens fed until the cut, layers, hidden]. Raises `InputError` if the file lacks them or has
        others than were stored; so do the next two."""
        return self._load(self.states_path, _name("states", self.trace.sample), "states", "pt", "")

    def load_vector(self) -> CutVector:
        """Raises `InputError` if the file lacks it."""
        name = _name("vector", self.trace.sample)
        return CutVector(self._load(self.vector_path, name, "a judge's vector", "np", ""), self.vector_macs)

    def load_confidences(self) -> "np.ndarray":
        """fp16 [n_tokens], see `secateur.engines.base.Event.confidences`. Raises `InputError` if the file lacks
        them."""
        name = _name("confidences", self.trace.sample)
        return self._load(self.confidences_path, name, "token confidences", "np", "; " + CONFIDENCES_REMEDY)

    def _load(self, path: Path | None, name: str, what: str, framework: str, remedy: str) -> Any:
        from safetensors import SafetensorError, safe_open

        sample = self.trace.sample
        if path is None:
            raise InputError(f"sample {sample} of '{self.trace.problem_id}' was stored without {what}{remedy}")
        try:
            with safe_open(path, framework=framework) as handle:
                found = handle.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: no {what} of sample {sample} ({error}); collect the traces again") from None
        if self.checksums.get(name, checksum := _tensor_checksum(found)) != checksum:
            raise InputError(f"{path}: the {what} of sample {sample} were changed since; collect the traces again")
        return found


@dataclass(frozen=True)
class ProblemTraces:
    """One problem with its traces in the order of their sample numbers."""

    problem: Problem
    traces: list[StoredTrace]


@dataclass
class _Lot:
    since: float
    lines: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, "torch.Tensor"] = field(default_factory=dict)


class TraceFolderWriter:
    """Appends finished traces to `folder`; a context manager. `done` holds the (problem id, sample) that are there.

    `settings` are JSON values that fix what the traces are (model, sampling, seed, prompt); a folder begun with
    others raises `InputError` before anything is touched. They are written with the first trace, so that those of a
    command that failed before bind nobody. `rank` names the file, so that processes never share one.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.folder, self._settings = Path(folder), settings
        check_trace_settings(self.folder, settings)
        self._file = self.folder / f"traces-rank{rank}.jsonl"
        repair_torn_tail(self._file)
        self._begun, self.done = False, _stored_keys(self.folder)
        self._lots: dict[str, _Lot] = {}

    def add(
        self,
        trace: Trace,
        *,
        cut_tokens: int | None = None,
        states: "torch.Tensor | None" = None,
        vector: CutVector | None = None,
        confidences: Sequence[float] | None = None,
        group: str | None = None,
    ) -> None:
        """Store one trace: a line alone at once, one with tensors beside it when its lot is written (`flush`).

        `confidences` are one number per token; none at all (None or empty) means that they were not asked for.
        """
        key = (trace.problem_id, trace.sample)
        if key in self.done:
            raise InputError(f"{self.folder}: sample {trace.sample} of problem '{trace.problem_id}' is there already")
        self.done.add(key)
        line = trace.to_json() | {"cut_tokens": cut_tokens} | ({} if group is None else {"group": group})
        line |= {} if vector is None else {"vector_macs": vector.macs}
        tensors = _tensors(trace, states, vector, confidences)
        if not tensors:
            self._append([line])
        else:
            lot = self._lots.setdefault(trace.problem_id, _Lot(time.monotonic()))
            lot.lines.append(line)
            lot.tensors.update(tensors)
        self._flush_ripe()

    def note_server(self, told: Mapping[str, Any]) -> None:
        """Add to the settings what of sampling a server is sent and what it refuses, which is known only once it was
        asked. Raises `InputError` if the folder's traces were sampled with something else."""
        self._settings = {**self._settings, _SERVER: dict(told)}
        check_trace_settings(self.folder, self._settings)

    def flush(self) -> None:
        """Put everything that waits on disk."""
        for problem_id in list(self._lots):
            self._write_lot(problem_id)

    def __enter__(self) -> "TraceFolderWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        if not self._begun and not has_content(self.folder, _FILES):
            write_json(self.folder / "settings.json", self._settings)
        self._begun = True
        append_jsonl(self._file, map(with_checksum, lines))

    def _flush_ripe(self) -> None:
        now = time.monotonic()
        for problem_id, lot in list(self._lots.items()):
            if len(lot.lines) >= _LOT or now - lot.since > _LOT_SECONDS:
                self._write_lot(problem_id)

    def _write_lot(self, problem_id: str) -> None:
        from safetensors.torch import save_file

        lot = self._lots.pop(problem_id)
        name = f"states/{file_name(problem_id)}-{lot.lines[0]['sample']}.safetensors"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        save_file(lot.tensors, temporary)
        os.replace(temporary, path)
        self._append([line | _places(lot, line["sample"], name) for line in lot.lines])


_TENSORS = ("states", "vector", "confidences")


def _name(what: str, sample: int) -> str:
    """Of one of `_TENSORS` in its file."""
    return str(sample) if what == "states" else f"{what}-{sample}"


def _tensors(
    trace: Trace, states: "torch.Tensor | None", vector: CutVector | None, confidences: Sequence[float] | None
) -> dict[str, "torch.Tensor"]:
    """What of a trace goes into its lot's file, under its names there."""
    tensors = {}
    if states is not None:
        tensors[_name("states", trace.sample)] = states.cpu().contiguous()
    if vector is not None:
        import torch

        tensors[_name("vector", trace.sample)] = torch.from_numpy(vector.values)
    if confidences is not None and len(confidences):
        import torch

        if len(confidences) != trace.n_tokens:
            raise ValueError(f"{len(confidences)} confidences for a trace of {trace.n_tokens} tokens")
        tensors[_name("confidences", trace.sample)] = torch.tensor(confidences).half()
    return tensors


def _places(lot: _Lot, sample: int, file: str) -> dict[str, Any]:
    """The line keys that say in which file a trace's tensors are, and what they are."""
    names = {key: name for key in _TENSORS if (name := _name(key, sample)) in lot.tensors}
    checksums = {name: _tensor_checksum(lot.tensors[name]) for name in names.values()}
    return dict.fromkeys(names, file) | {"tensors": checksums}


def _tensor_checksum(tensor: "torch.Tensor | np.ndarray") -> str:
    import numpy as np

    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(tensor))


def read_trace_folder(folder: str | Path) -> list[ProblemTraces]:
    """Everything stored so far, problems in the order of their ids: that in which traces ended depends on processes
    and kills.

    A line that a kill left unfinished is passed over. Raises `InputError` for a folder without traces, a damaged
    line, a sample stored twice or two texts for one problem id.
    """
    folder = Path(folder)
    problems: dict[str, ProblemTraces] = {}
    seen: set[tuple[str, int]] = set()
    for path in trace_files(folder):
        for trace, extra in _read_file(path):
            if (trace.problem_id, trace.sample) in seen:
                raise InputError(f"{path}: sample {trace.sample} of problem '{trace.problem_id}' is stored twice")
            seen.add((trace.problem_id, trace.sample))
            problem = Problem(trace.problem_id, trace.problem, trace.gold, extra.get("group"))
            entry = problems.setdefault(trace.problem_id, ProblemTraces(problem, []))
            if entry.problem != problem:
                raise InputError(f"{path}: problem '{problem.id}' has two different texts, answers or groups")
            entry.traces.append(_stored(folder, trace, extra))
    if not problems:
        raise no_traces(folder)
    for entry in problems.values():
        entry.traces.sort(key=lambda stored: stored.trace.sample)
    return [problems[name] for name in sorted(problems)]


def _stored(folder: Path, trace: Trace, extra: Mapping[str, Any]) -> StoredTrace:
    files = {key: folder / extra[key] if extra.get(key) else None for key in _TENSORS}
    return StoredTrace(
        trace,
        extra.get("cut_tokens"),
        files["states"],
        files["confidences"],
        files["vector"],
        extra.get("vector_macs", 0),
        extra.get("tensors", {}),
    )


def no_traces(folder: Path | str) -> InputError:
    """What is raised for a folder without any."""
    return InputError(f"{folder}: no traces there; run eval/collect_traces.py with this output folder first")


def trace_files(folder: Path) -> list[Path]:
    """The files of traces in a trace folder, in a fixed order."""
    return sorted(folder.glob(_FILES))


def _read_file(path: Path) -> list[tuple[Trace, dict[str, Any]]]:
    """Records with their raw lines. Another process may be writing: the line that it has not finished is left alone,
    also if it began it after the count here."""
    whole = path.read_bytes().count(b"\n")
    read: list[tuple[Trace, dict[str, Any]]] = []
    try:
        for number, line in read_with_checksums(path, "delete the line, and the trace is sampled again"):
            read.append((trace_of(line, f"{path}, line {number}"), line))
    except InputError:
        if len(read) < whole:
            raise
    return read


def _stored_keys(folder: Path) -> set[tuple[str, int]]:
    return {(trace.problem_id, trace.sample) for path in trace_files(folder) for trace, _ in _read_file(path)}


def check_trace_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises `InputError` if `folder` holds traces that were sampled with other settings; changes nothing."""
    path = folder / "settings.json"
    if not has_content(folder, _FILES):  # settings that nothing was sampled with may still be corrected
        return
    if not path.is_file():
        raise InputError(f"{folder}: holds traces but no settings.json; give another output folder")
    if differences := _differences(read_json(path), settings):
        key, there, now = differences[0]
        raise InputError(
            f"{path}: key '{key}' is {there!r} there and {now!r} now, so the traces would not belong together; give "
            "another output folder"
        )


def _differences(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys that differ, with both values; what a server was sent only where it is known in `settings` as well."""
    if _SERVER not in settings:
        stored = {key: value for key, value in stored.items() if key != _SERVER}
    there, now = _flatten(stored), _flatten(json.loads(json.dumps(settings)))
    return [
        (key, there.get(key), now.get(key))
        for key in sorted(there.keys() | now.keys())
        if _value(there, key) != _value(now, key)
    ]


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """What did not exist yet was off; an empty text says something."""
    value = settings.get(key)
    return value if value == "" else value or None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
