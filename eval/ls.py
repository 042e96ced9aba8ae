"""What lies in a folder: models, schedules, judges, tables, measurements and traces, each with its headline figures.

    python eval/ls.py [outputs]

What cannot be read is shown with the reason, and nothing is changed.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from eval.one_model.report import SUMMARY_FILE, read_summary
from eval.report.training import running_round
from schedules.records import finished_rounds
from secateur.deepprune.judges.record import JUDGE_FILE, read_judge
from secateur.results import TABLE_FILE, Row, Table, read_table
from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.runtime.records import read_with_checksums, record_of

_ANSWERS, _TRACES, _ROUNDS = "answers.jsonl", "traces-rank*.jsonl", "rounds"
_GIB = 2**30


@dataclass(frozen=True)
class Found:
    """`what` lies at `path`; `figures` say what it came to."""

    what: str
    path: Path
    figures: str


@dataclass(frozen=True)
class _Answer:
    """What is shown of a line of answers.jsonl, see eval/prune.py."""

    n: int
    started: int
    tokens: int
    right: bool | None = None


def find(folder: Path) -> Iterator[Found]:
    """Everything below a folder that is known by its files, in the order of the paths. What is inside of a thing that
    is whole by itself (checkpoints of a schedule, a judge's own model) is not looked at."""
    for here, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "checkpoint-")))
        kind = next((kind for kind in _KINDS if kind.known_by(Path(here))), None)
        if kind is not None:
            yield Found(kind.name, Path(here), _figures(kind, Path(here)))
            folders[:] = [name for name in folders if name in kind.holds_more]


def _figures(kind: "_Kind", folder: Path) -> str:
    try:
        return kind.headline(folder)
    except InputError as error:
        return f"cannot be read: {error}"


def _schedule(folder: Path) -> str:
    rounds, begun = finished_rounds(folder), running_round(folder)
    if not rounds:
        return "no round is done yet" if begun is None else begun.words()
    first, last = rounds[0].selection.start, rounds[-1].selection.chosen
    limits = " → ".join(str(one.selection.limit) for one in rounds)
    done = "" if (folder / "final").is_dir() else ", not exported yet"
    return (
        f"limits {limits}: {first.mean_tokens:,.0f} → {last.mean_tokens:,.0f} tokens, "
        f"pass@1 {first.pass_at_1:.3f} → {last.pass_at_1:.3f} (validation){done}"
    )


def _judge(folder: Path) -> str:
    judge = read_judge(folder)
    return f"{judge.kind}: {judge.verdict or 'what it is worth was never measured'}"


def _table(folder: Path) -> str:
    table = read_table(folder)
    told = [_recommended(table, choice.benchmark, table.row(choice.overall)) for choice in table.recommendations]
    return "; ".join(told) or f"{len(table.rows)} rows of {', '.join(table.models)}"


def _recommended(table: Table, benchmark: str, row: Row | None) -> str:
    if row is None:
        return f"{benchmark}: nothing is shown to hold"
    method = row.method if row.judge is None else f"{row.method} with {row.judge}"
    return f"{benchmark}: {method} on {row.model}, accuracy {row.accuracy:.3f}, {row.saving_net:.1%} saved"


def _single(folder: Path) -> str:
    models = read_summary(folder).models
    return "; ".join(
        f"{model} on {benchmark}: pass@1 {figures.pass_at_1:.3f}, {figures.mean_tokens:,.0f} tokens"
        for model, parts in models.items()
        for benchmark, figures in parts.items()
    )


def _model(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return f"{size / _GIB:.1f} GiB of weights" if size > 0.1 * _GIB else f"{size / 2**20:.1f} MiB of weights"


def _answers(folder: Path) -> str:
    path = folder / _ANSWERS
    lines = read_with_checksums(path, "delete the line, and its problem is answered again")
    answers = [record_of(_Answer, line, f"{path}, line {number}") for number, line in lines]
    graded = [one.right for one in answers if one.right is not None]
    right = f", {sum(graded)} of {len(graded)} right" if graded else ""
    started, n, tokens = (sum(getattr(one, key) for one in answers) for key in ("started", "n", "tokens"))
    return f"{len(answers):,} answers{right}; {started:,} of {n:,} traces started, {tokens:,} tokens"


def _lines(pattern: str, name: str) -> Callable[[Path], str]:
    def headline(folder: Path) -> str:
        count = sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern))
        return f"{count:,} {name}"

    return headline


@dataclass(frozen=True)
class _Kind:
    """`marks`: patterns of files and folders that are all there; `holds_more`: its folders that are looked at too."""

    name: str
    marks: tuple[str, ...]
    headline: Callable[[Path], str]
    holds_more: tuple[str, ...] = ()

    def known_by(self, folder: Path) -> bool:
        return all(any(folder.glob(mark)) for mark in self.marks)


_KINDS = (
    _Kind("schedule", (_ROUNDS, "config.yaml"), _schedule, ("final",)),
    _Kind("judge", (JUDGE_FILE,), _judge),
    _Kind("table", (TABLE_FILE,), _table),
    _Kind("measured", (SUMMARY_FILE, "summary.csv"), _single),
    _Kind("answers", (_ANSWERS,), _answers),
    _Kind("traces", (_TRACES, "settings.json"), _lines(_TRACES, "traces")),
    _Kind("model", ("config.json", "*.safetensors"), _model),
)


@entry_point
def main() -> None:
    parser = OneLineParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="what is looked through")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that holds your runs")
    found = list(find(folder))
    if not found:
        say(f"{escape(str(folder))}: no model, judge, schedule, table or trace in it")
        return
    for one in found:
        say(f"[bold]{one.what:<9}[/bold] {escape(str(one.path))}\n          {escape(one.figures)}")


if __name__ == "__main__":
    main()
