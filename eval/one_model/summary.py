"""summary.json of eval/single.py, as a typed record: what was measured, how, and how the models differ."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.one_model.config import SingleConfig
from eval.one_model.figures import (
    Comparison,
    Graded,
    MacroFigures,
    ModelFigures,
    differences,
    figures_of,
    macro_figures,
)
from secateur.runtime.files import JSON
from secateur.runtime.records import as_json, read_record, write_record
from secateur.tasks.answers.equality import GRADER_VERSION

SUMMARY_FILE = "summary.json"
_FORMAT = 1
Grades = Mapping[str, Mapping[str, Graded]]
"""Model → benchmark → its graded samples."""


@dataclass(frozen=True)
class Summary:
    """`models`: model → benchmark → figures; `macro`: model → means over benchmarks, {} for a single one;
    `differences`: every model but the first → benchmark → its difference to the first."""

    config: Mapping[str, JSON]
    grader: str
    models: Mapping[str, Mapping[str, ModelFigures]]
    macro: Mapping[str, MacroFigures]
    differences: Mapping[str, Mapping[str, Comparison]]


def summarise(config: SingleConfig, graded: Grades) -> Summary:
    ks = config.pass_k or ()
    first, *others = graded
    return Summary(
        config=as_json(asdict(config)),
        grader=GRADER_VERSION,
        models={name: {benchmark: figures_of(part, ks) for benchmark, part in parts.items()}
                for name, parts in graded.items()},
        macro={name: macro_figures(parts) for name, parts in graded.items()} if len(config.benchmarks) > 1 else {},
        differences={name: differences(graded[first], graded[name]) for name in others},
    )  # fmt: skip


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Replace `<folder>/summary.json`."""
    write_record(Path(folder) / SUMMARY_FILE, summary, _FORMAT)


def read_summary(folder: str | Path) -> Summary:
    """Raises `InputError` if there is none, or of another format."""
    return read_record(Path(folder) / SUMMARY_FILE, Summary, _FORMAT, "start eval/single.py again with the same keys")
