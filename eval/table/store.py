"""What a combined run keeps on disk between launches.

Layout under `<output_dir>/<model>/`: `traces/` (see secateur/engines/trace_folder.py; its states are judge vectors,
unless states are kept), `engine.json`, `scores/<judge>/<problem>.npz`, `scorer/<problem>.json`,
`probes/<problem>.json` (forced answers), `switch_rates.json`, `live/<method>/<problem>.json`,
`wall-rank<r>.jsonl`."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval.table.config import CombinedConfig
from eval.table.labels import judge_names
from eval.table.live_record import FORMAT, LiveProblem
from eval.table.method import TraceReadings
from secateur.deepprune.judges.folder import judge_folder
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.engines.trace_folder import ProblemTraces, StoredTrace
from secateur.runtime.files import file_name, model_fingerprint, read_arrays, read_json
from secateur.runtime.records import FORMAT_KEY, read_record, read_with_checksums, write_record
from secateur.tasks.records import Problem


@dataclass(frozen=True)
class JudgeScores:
    """What a judge said about one problem: [n, n] probabilities, all NaN where it failed; `parameters` is the weight
    of the tokens in `usage`."""

    scores: np.ndarray
    usage: JudgeUsage
    parameters: int


def traces_folder(config: CombinedConfig, model: str) -> Path:
    return Path(config.output_dir) / model / "traces"


def scores_path(config: CombinedConfig, model: str, label: str, problem: Problem) -> Path:
    return Path(config.output_dir) / model / "scores" / label / f"{file_name(problem.id)}.npz"


def live_path(config: CombinedConfig, model: str, method: str, problem: Problem) -> Path:
    return Path(config.output_dir) / model / "live" / method / f"{file_name(problem.id)}.json"


def probes_path(config: CombinedConfig, model: str, problem: Problem) -> Path:
    return Path(config.output_dir) / model / "probes" / f"{file_name(problem.id)}.json"


def rates_path(config: CombinedConfig, model: str) -> Path:
    """The switch rates of the model's traces, for MARS on other problems."""
    return Path(config.output_dir) / model / "switch_rates.json"


@dataclass(frozen=True)
class StoredProbes:
    """The answers that were forced out of the traces of one problem, [n][marks], None for none, and the tokens
    `read` for each; `settings` fix what they were made with."""

    settings: str
    answers: tuple[tuple[str | None, ...], ...]
    read: tuple[tuple[int, ...], ...]


_PROBES_FORMAT = 1


def write_probes(config: CombinedConfig, model: str, problem: Problem, found: StoredProbes) -> None:
    write_record(probes_path(config, model, problem), found, _PROBES_FORMAT)


def read_probes(config: CombinedConfig, model: str, problem: Problem) -> StoredProbes | None:
    """The stored ones; None if there are none, fewer, or they were made with other settings."""
    path = probes_path(config, model, problem)
    if not path.is_file():
        return None
    found = read_record(path, StoredProbes, _PROBES_FORMAT, "delete it, and it is made anew")
    enough = len(found.answers) >= config.largest_n and found.settings == config.probe_settings
    return found if enough else None


def engine_path(config: CombinedConfig, model: str) -> Path:
    return Path(config.output_dir) / model / "engine.json"


IMPORTED = "imported"
"""Stands for the engine of traces made elsewhere."""


@dataclass(frozen=True)
class EngineFacts:
    """What the traces were made with: the name of the `engine` or `IMPORTED`, `parameters` of the model (1 where no
    cost depends on them), and whether it is `exact`."""

    engine: str
    parameters: int
    exact: bool


_ENGINE_FORMAT = 1


def write_engine(config: CombinedConfig, model: str, facts: EngineFacts) -> None:
    write_record(engine_path(config, model), facts, _ENGINE_FORMAT)


def read_engine(config: CombinedConfig, model: str) -> EngineFacts:
    return read_record(engine_path(config, model), EngineFacts, _ENGINE_FORMAT, "delete it, and it is made anew")


def names_of_judges(config: CombinedConfig, model: str) -> list[str]:
    """A name for each of a model's judges, in their order."""
    return judge_names(config.scored_by(model))


def judge_fingerprint(folder_or_name: str) -> str:
    """Tells two judges apart by what they are and by their weights; an untrained one's name stands for itself."""
    if folder_or_name in UNTRAINED:
        return folder_or_name
    folder = judge_folder(folder_or_name)
    parts = [hashlib.sha256((folder / "judge.json").read_bytes()).hexdigest()[:16]]
    parts += [model_fingerprint(place) for place in (folder, folder / "model") if any(place.glob("*.safetensors"))]
    return "-".join(parts)


def stored_traces(folder: Sequence[ProblemTraces], n: int) -> dict[str, list[StoredTrace]]:
    """Problem id → its first n traces in the order of their sample numbers."""
    return {entry.problem.id: [stored for stored in entry.traces if stored.trace.sample < n] for entry in folder}


def write_scores(path: Path, found: JudgeScores, settings: str) -> None:
    """Replace `path` atomically."""
    meta = {"settings": settings, "usage": asdict(found.usage), "parameters": found.parameters}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, scores=found.scores, meta=np.array(json.dumps(meta)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)


def read_scores(
    config: CombinedConfig, model: str, label: str, problem: Problem, settings: str | None = None
) -> JudgeScores | None:
    """The stored scores; None if there are none or, where `settings` are given, they were made with others."""
    path = scores_path(config, model, label, problem)
    if not path.is_file():
        return None
    stored = read_arrays(path, "delete it, and the judge scores these cuts again", ("scores", "meta"))
    meta = json.loads(str(stored["meta"]))
    if settings is not None and meta["settings"] != settings:
        return None
    usage = meta["usage"]
    cuts = tuple(Usage(**cut) for cut in usage["cuts"])
    return JudgeScores(stored["scores"], JudgeUsage(Usage(**usage["everything"]), cuts), meta["parameters"])


def read_live(
    config: CombinedConfig, model: str, method: str, problem: Problem, settings: str | None = None
) -> LiveProblem | None:
    """The stored comparison of a live run with its replay, under the same conditions as `read_scores`; None also
    where it was written in another format."""
    path = live_path(config, model, method, problem)
    if not path.is_file() or read_json(path).get(FORMAT_KEY) != FORMAT:
        return None
    found = read_record(path, LiveProblem, FORMAT, "run it again")
    return found if settings is None or found.settings == settings else None


READINGS_FORMAT = 1


@dataclass(frozen=True)
class StoredReadings:
    """What a model's scorer is told of every trace of one problem; `settings` are what they were made with."""

    settings: str
    traces: tuple[TraceReadings, ...]


def readings_path(config: CombinedConfig, model: str, problem: Problem) -> Path:
    return Path(config.output_dir) / model / "scorer" / f"{file_name(problem.id)}.json"


def read_readings(
    config: CombinedConfig, model: str, problem: Problem, settings: str | None = None
) -> StoredReadings | None:
    """Under the same conditions as `read_scores`."""
    path = readings_path(config, model, problem)
    if not path.is_file():
        return None
    found = read_record(path, StoredReadings, READINGS_FORMAT, "start eval/combined.py again in an empty folder")
    return found if settings is None or found.settings == settings else None


WALL_REMEDY = "delete the line; only times are lost"


def wall_path(config: CombinedConfig, model: str, rank: int) -> Path:
    return Path(config.output_dir) / model / f"wall-rank{rank}.jsonl"


def wall_seconds(config: CombinedConfig, model: str) -> dict[str, float]:
    """Wall time of each kind of work [s]: the slowest process's, over all launches that had a part in it."""
    slowest: dict[str, float] = {}
    for path in sorted((Path(config.output_dir) / model).glob("wall-rank*.jsonl")):
        own: dict[str, float] = {}
        for _, line in read_with_checksums(path, WALL_REMEDY):
            own[line["what"]] = own.get(line["what"], 0.0) + line["seconds"]
        slowest = {key: max(slowest.get(key, 0.0), own.get(key, 0.0)) for key in slowest.keys() | own.keys()}
    return slowest
