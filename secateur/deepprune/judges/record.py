"""judge.json: what a judge's folder says of the judge, as a typed record. How to write one by hand: folder.py."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.calibration import Calibration
from secateur.runtime.files import JSON
from secateur.runtime.records import read_record, write_record

FORMAT = 1
JUDGE_FILE = "judge.json"
HEAD_FILE = "head.safetensors"
"""The small trained parts that lie beside it."""
_REMEDY = "train the judge again with trainers/judge.py, or write it as secateur/deepprune/judges/folder.py says"


@dataclass(frozen=True)
class Generator:
    """The model whose hidden states a judge reads. `path` is for the reader, `fingerprint` decides: that of the
    folder's files, or the id itself for a model on the Hub; `weights` is the fingerprint of the files of such a
    model, where they could be had."""

    path: str
    fingerprint: str
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeOrigin:
    """Where a judge comes from. `generator` is set for judges of own states; `trained_from`: the language model that
    was fine-tuned; `dtype`: what a language model is loaded in; `prompt_family`: how the problems of its traces were
    put, None where that is not known."""

    generator: Generator | None = None
    trained_from: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    prompt_family: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeParts:
    """What a judge says of itself: `shape`, its sizes and what it reads, which each kind reads as a record of its
    own; `model`: folder or Hub id of a model that is used as it is and lies elsewhere."""

    shape: Mapping[str, JSON] = field(default_factory=dict)
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeRecord(JudgeOrigin, JudgeParts):
    """All of judge.json. `kind` is a name of registry.py; `cut` where its traces are cut; `calibration` turns its
    scores into probabilities (none: they are taken as they are)."""

    kind: str
    cut: CutRule
    calibration: Calibration = field(default_factory=Calibration)

    def language_model(self, folder: Path) -> str | Path:
        """Where the language model of the judge in `folder` lies."""
        return folder / "model" if self.model is None else self.model


def write_judge(folder: str | Path, record: JudgeRecord) -> None:
    """Replace `<folder>/judge.json`."""
    write_record(Path(folder) / JUDGE_FILE, record, FORMAT)


def read_judge(folder: str | Path) -> JudgeRecord:
    """Raises `InputError` for a folder without judge.json, or with one that is damaged or of another format."""
    return read_record(Path(folder) / JUDGE_FILE, JudgeRecord, FORMAT, _REMEDY)


def store_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Put a calibration into the folder of a judge that is saved already."""
    write_judge(folder, dataclasses.replace(read_judge(folder), calibration=calibration))
