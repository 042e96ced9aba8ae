"""Reads what trackers wrote: W&B offline, from its own file (records in LevelDB's log format, each a protocol
buffer), and TensorBoard's event files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _HEADER = 1 << 15, 7, 7  # bytes


@dataclass
class OfflineRun:
    """`history`: one dict per logged step; `summary` and `config` as they were last written; `artifacts`: the last
    one of each type that is not W&B's own for a table, its `files` by name."""

    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, "OfflineArtifact"] = field(default_factory=dict)


@dataclass
class OfflineArtifact:
    name: str
    metadata: dict[str, Any]
    files: dict[str, Path]


@dataclass
class Events:
    """What event files hold, per tag: scalars as (step, value), texts, and sizes of images (width, height) [px]."""

    scalars: dict[str, list[tuple[int, float]]]
    texts: dict[str, str]
    images: dict[str, tuple[int, int]]


def isolate(monkeypatch: Any, folder: Path) -> None:
    """Let W&B see nothing of the user's own, above all no key, and write below `folder`."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("NETRC", str(folder / "netrc"))


def read_events(folder: Path) -> Events:
    """All event files of one folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    return Events(
        {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags["scalars"]},
        {
            tag.removesuffix("/text_summary"): found.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
            for tag in tags["tensors"]
        },
        {tag: (found.Images(tag)[-1].width, found.Images(tag)[-1].height) for tag in tags["images"]},
    )


def read_offline_run(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.group, run.job_type = record.run.run_id, record.run.run_group, record.run.job_type
            run.project = record.run.project
            run.config |= _values(record.run.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "artifact" and record.artifact.type != "run_table":
            files = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            metadata = json.loads(record.artifact.metadata)
            run.artifacts[record.artifact.type] = OfflineArtifact(record.artifact.name, metadata, files)
    return run


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[bytes]:
    """A record is one piece (type 1), or a first, middle ones and a last (2, 3, 4); none crosses a block."""
    at, parts = _FILE_HEADER, []
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if kind == 0:
            return
        parts.append(content[at + _HEADER : at + _HEADER + length])
        at += _HEADER + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []
