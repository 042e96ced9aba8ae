"""How alike the answers of parallel traces are, set by set: measured, shown, written and drawn."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.markup import escape

from eval.traces.benchmarks import stem_of
from eval.traces.foreign import Importer, read_foreign
from secateur.deepprune.cut import CutRule, cut_pieces, ended_before_cut, whole_cuts_warning
from secateur.deepprune.judges.pairs import make_pairs
from secateur.deepprune.vote import majority
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, read_trace_folder
from secateur.runtime.console import plain_table, print_table, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_text
from secateur.runtime.pictures import BLUE, GREEN, ORANGE, SKY, save_png
from secateur.runtime.records import read_record, write_record
from secateur.tasks.answers.equality import grade_answers, group_answers
from secateur.tasks.answers.extraction import Extract, extract_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1
_FILE = "redundancy.json"
_PANELS_ACROSS = 2
_TITLE_WIDTH = 64  # characters
_COLOURS = {
    "most frequent, right": GREEN,
    "most frequent, wrong": ORANGE,
    "second": BLUE,
    "third": SKY,
    "others": "#9a9a9a",
    "no answer": "#dcdcdc",
}


@dataclass(frozen=True)
class ProblemAnswers:
    """The answers of one problem, the most frequent first: (answer, traces); `none` traces gave no answer. `right`:
    the first of them is the gold answer."""

    problem_id: str
    answers: tuple[tuple[str, int], ...]
    none: int
    right: bool

    @property
    def traces(self) -> int:
        return self.none + sum(count for _, count in self.answers)

    @property
    def majority_share(self) -> float:
        return self.answers[0][1] / self.traces if self.answers else 0.0


@dataclass(frozen=True)
class Redundancy:
    """One model on one set. Shares are fractions (0-1).

    `same_answer_pairs` of the `pairs` of traces of one problem whose outcome is known
    (`secateur.deepprune.judges.pairs`) end in the same answer; None without pairs, as of one trace each.
    `distinct_answers`, `majority_share`, `majority_accuracy` and `pass_at_1` are means over problems; a trace without
    an answer counts among a problem's traces. `whole_cuts` is the share of traces that end before their cut;
    `median_cut_share` the median, over all traces, of the part of a trace that lies in its cut, in `cut_unit`."""

    model: str
    set: str
    problems: int
    traces: int
    pairs: int
    same_answer_pairs: float | None
    distinct_answers: float
    majority_share: float
    majority_accuracy: float
    pass_at_1: float
    cut: str
    whole_cuts: float
    median_cut_share: float
    cut_unit: str
    answers: tuple[ProblemAnswers, ...]


@dataclass(frozen=True)
class _Cut:
    """Where a trace is cut: whether it ends before, and the share of it (0-1) that lies in the cut."""

    whole: bool
    share: float


@dataclass(frozen=True)
class _Counted:
    """One problem: its answers, the labels of its known pairs, and trace by trace whether it is right and its cut."""

    answers: ProblemAnswers
    pair_labels: list[int]
    right: list[bool]
    cuts: list[_Cut]


def measure(
    model: str, set_name: str, problems: Sequence[ProblemTraces], rule: CutRule, extract: Extract = extract_answer
) -> Redundancy:
    """The figures of one set; `extract` takes the answer out of a text."""
    counted = [_count(entry, rule, extract) for entry in problems]
    labels = [label for one in counted for label in one.pair_labels]
    cuts = [cut for one in counted for cut in one.cuts]
    n = len(problems)
    return Redundancy(
        model=model,
        set=set_name,
        problems=n,
        traces=len(cuts),
        pairs=len(labels),
        same_answer_pairs=sum(labels) / len(labels) if labels else None,
        distinct_answers=sum(len(one.answers.answers) for one in counted) / n,
        majority_share=sum(one.answers.majority_share for one in counted) / n,
        majority_accuracy=sum(one.answers.right for one in counted) / n,
        pass_at_1=sum(sum(one.right) / len(one.right) for one in counted) / n,
        cut=rule.in_words,
        whole_cuts=sum(cut.whole for cut in cuts) / len(cuts),
        median_cut_share=median(cut.share for cut in cuts),
        cut_unit="tokens" if all(_has_ids(trace) for entry in problems for trace in entry.traces) else "characters",
        answers=tuple(one.answers for one in counted),
    )


def _count(entry: ProblemTraces, rule: CutRule, extract: Extract) -> _Counted:
    traces = [stored.trace for stored in entry.traces]
    texts = [trace.answer_by(extract) for trace in traces]
    keys = group_answers(texts)
    verdicts = _verdicts(keys, texts, entry.problem.answer)
    cuts = [_cut(stored, rule) for stored in entry.traces]
    ended = [trace.finish_reason == "stop" for trace in traces]
    pairs = make_pairs(keys, ended, [cut.whole for cut in cuts])
    right = [key is not None and verdicts[key] for key in keys]
    return _Counted(_answers(entry.problem.id, keys, texts, verdicts), pairs.labels.tolist(), right, cuts)


def _verdicts(keys: Sequence[int | None], texts: Sequence[str | None], gold: str) -> dict[int, bool]:
    """Whether each answer that was given is right, by its key."""
    present = list(dict.fromkeys(key for key in keys if key is not None))
    return dict(zip(present, grade_answers([texts[key] for key in present], [gold] * len(present)), strict=True))


def _answers(
    problem_id: str, keys: Sequence[int | None], texts: Sequence[str | None], verdicts: Mapping[int, bool]
) -> ProblemAnswers:
    first, counts = majority(keys), {key: keys.count(key) for key in verdicts}
    ordered = sorted(counts, key=lambda key: (key != first, -counts[key], key))
    answers = tuple((texts[key], counts[key]) for key in ordered)
    return ProblemAnswers(problem_id, answers, keys.count(None), first is not None and verdicts[first])


def _has_ids(stored: StoredTrace) -> bool:
    return stored.trace.token_ids is not None and bool(stored.trace.n_tokens)


def _cut(stored: StoredTrace, rule: CutRule) -> _Cut:
    """The share is of the trace's tokens, where these are known, else of its characters."""
    if _has_ids(stored):
        whole = ended_before_cut(stored.trace.n_tokens, stored.cut_tokens)
        return _Cut(whole, 1.0 if whole else stored.cut_tokens / stored.trace.n_tokens)
    if rule.kind == "tokens":
        raise InputError(
            f"sample {stored.trace.sample} of '{stored.trace.problem_id}' has no tokens to cut at; give 'cut_kind: "
            "words', or a tokenizer"
        )
    text = stored.trace.known_text()
    cut = cut_pieces([text], rule)
    return _Cut(cut.n_tokens is None, len(cut.text) / max(1, len(text)))


def measure_folder(path: Path, rule: CutRule | None, extract: Extract = extract_answer) -> Redundancy:
    """A trace folder `<model>/<set>`; without a `rule` cut as it was. Raises `InputError` for a rule that is not that
    of its traces, whose tokens say where they were cut. Where none was (eval/single.py), texts are."""
    problems, cut = read_trace_folder(path), _folder_cut(path)
    chosen = rule or cut or CutRule()
    if cut is None:
        problems = [replace(entry, traces=list(map(_as_text, entry.traces))) for entry in problems]
    elif cut != chosen and any(_has_ids(trace) for entry in problems for trace in entry.traces):
        raise InputError(f"{path}: its traces were cut at {cut}; leave out 'cut_kind' and 'cut_k'")
    return measure(path.parent.name, path.name, problems, chosen, extract)


def _as_text(stored: StoredTrace) -> StoredTrace:
    return replace(stored, trace=replace(stored.trace, token_ids=None))


def _folder_cut(path: Path) -> CutRule | None:
    settings = read_json(path / "settings.json") if (path / "settings.json").is_file() else {}
    cut = settings.get("cut")
    return None if not cut else CutRule(cut["kind"], cut["k"])


def measure_file(
    path: Path, rule: CutRule, tokenizer: "PreTrainedTokenizerBase | None", extract: Extract = extract_answer
) -> list[Redundancy]:
    """A file of traces, which may hold several models."""
    importer = Importer(rule, tokenizer)
    return [
        measure(model, stem_of(path), [importer.problem(one) for one in problems], rule, extract)
        for model, problems in read_foreign(path).items()
    ]


def show(reports: Sequence[Redundancy]) -> None:
    """Print the table, and one line per set on what its cuts leave."""
    columns = ("pairs with\nsame answer", "distinct\nanswers", "majority\nshare", "majority\nright", "pass@1")
    table = plain_table("Redundancy", ("traces", *columns, "whole\ncuts", "median\ncut"))
    names = [escape(f"{report.model}, {report.set}") for report in reports]
    for name, report in zip(names, reports, strict=True):
        table.add_row(name, *_cells(report))
    print_table(table)
    for name, report in zip(names, reports, strict=True):
        say(
            f"{name}: {report.problems} problems, "
            f"{round(report.whole_cuts * report.traces)} of {report.traces} traces have fewer than {report.cut}, so "
            f"their cut is the whole trace; the median cut is {report.median_cut_share:.1%} of its trace's "
            f"{report.cut_unit}"
        )
        if warning := whole_cuts_warning(report.whole_cuts):
            say(f"[bold]{name}: {warning}[/bold]")


def _cells(report: Redundancy) -> list[str]:
    return [
        "–" if report.same_answer_pairs is None else f"{report.same_answer_pairs:.3f}",
        f"{report.distinct_answers:.2f}",
        f"{report.majority_share:.3f}",
        f"{report.majority_accuracy:.3f}",
        f"{report.pass_at_1:.3f}",
        f"{report.whole_cuts:.1%}",
        f"{report.median_cut_share:.1%}",
    ]


@dataclass(frozen=True)
class _Report:
    """All of redundancy.json. `answer_from`: where the answers stood, None in files of before that was a key."""

    sets: tuple[Redundancy, ...]
    answer_from: str | None = None


def write(reports: Sequence[Redundancy], folder: str | Path, answer_from: str) -> None:
    """`redundancy.json` and the picture as PNG and SVG."""
    folder = Path(folder)
    write_record(folder / _FILE, _Report(tuple(reports), answer_from), _FORMAT)
    draw(reports, folder)


def read_redundancy(folder: str | Path) -> list[Redundancy]:
    """What `write` left in a folder. Raises `InputError` for none, or one of another format."""
    return list(read_record(Path(folder) / _FILE, _Report, _FORMAT, "start eval/redundancy.py again").sets)


def draw(reports: Sequence[Redundancy], folder: Path) -> None:
    """Write `redundancy.png` and `redundancy.svg`, a panel per report: every problem as a bar, split into the shares
    of its answers."""
    columns = min(_PANELS_ACROSS, len(reports))
    rows = math.ceil(len(reports) / columns)
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "redundancy"}):
        figure = Figure(figsize=(5.2 * columns, 2.9 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, report in zip(panels, reports, strict=False):  # the last row may have an empty place
            _draw_problems(axes, report)
        for axes in panels[len(reports) :]:
            axes.set_axis_off()
        handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=6 if columns > 1 else 3, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        write_text(folder / "redundancy.svg", text.getvalue())
        save_png(figure, folder / "redundancy.png")


def _draw_problems(axes: Axes, report: Redundancy) -> None:
    problems = sorted(report.answers, key=lambda problem: -problem.majority_share)
    bottoms = [0.0] * len(problems)
    for layer in zip(*map(_layers, problems), strict=True):
        heights, colours = [share for share, _ in layer], [_COLOURS[name] for _, name in layer]
        axes.bar(range(len(problems)), heights, 1.0, bottoms, color=colours, linewidth=0)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    agree = "no pairs" if report.same_answer_pairs is None else f"{report.same_answer_pairs:.0%} of pairs agree"
    title = f"{report.model}, {report.set}: {agree}"
    axes.set_title(textwrap.fill(title, _TITLE_WIDTH), fontsize=9)
    axes.set_xlabel("problems, by share of the most frequent answer", fontsize=8)
    axes.set_ylabel("share of traces", fontsize=8)
    axes.set_xlim(-0.5, len(problems) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_xticks([])


def _layers(problem: ProblemAnswers) -> list[tuple[float, str]]:
    """(share of the traces, name of what they are) from the bottom up; they sum to 1."""
    counts = [*(count for _, count in problem.answers), 0, 0, 0]
    first = "most frequent, right" if problem.right else "most frequent, wrong"
    named = [(counts[0], first), (counts[1], "second"), (counts[2], "third")]
    named += [(sum(counts[3:]), "others"), (problem.none, "no answer")]
    return [(count / problem.traces, name) for count, name in named]
