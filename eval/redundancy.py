"""How alike the answers of parallel traces are: what pruning can save at most, per model and set of problems.

    python eval/redundancy.py --traces outputs/demo/traces/base/test file.jsonl.gz --output_dir outputs/redundancy

Reads trace folders and trace files. The share of pairs with the same answer is the figure of DeepPrune, table 1
(arXiv 2510.08483: over 80 % on its models); the cuts are those that a judge would read.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eval.studies.redundancy_figure import draw
from eval.traces.foreign import read_foreign
from secateur.deepprune.cut import CutRule, cut_pieces, ended_before_cut
from secateur.deepprune.judges.pairs import make_pairs
from secateur.deepprune.vote import majority
from secateur.engines.models import load_tokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, read_trace_folder
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import grade_answers, group_answers
from secateur.tasks.answers.extraction import extract_answer


@dataclass(frozen=True)
class ProblemAnswers:
    """The answers of one problem, the most frequent first: [answer, traces]; `none` traces gave no answer. `right`:
    the first of them is the gold answer."""

    problem_id: str
    answers: list[tuple[str, int]]
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
    (`secateur.deepprune.judges.pairs`) end in the same answer. `distinct_answers`, `majority_share`,
    `majority_accuracy` and `pass_at_1` are means over problems; a trace without an answer counts among a problem's
    traces. `whole_cuts` is the share of traces that end before their cut; `median_cut_share` the median, over all
    traces, of the part of a trace that lies in its cut, in `cut_unit`."""

    model: str
    set: str
    problems: int
    traces: int
    pairs: int
    same_answer_pairs: float
    distinct_answers: float
    majority_share: float
    majority_accuracy: float
    pass_at_1: float
    cut: str
    whole_cuts: float
    median_cut_share: float
    cut_unit: str
    answers: list[ProblemAnswers]


def measure(
    model: str, set_name: str, problems: Sequence[ProblemTraces], rule: CutRule, thinking: bool = False
) -> Redundancy:
    """The figures of one set; `thinking` as in `secateur.tasks.answers.extraction.extract_answer`."""
    counted = [_count(entry, rule, thinking) for entry in problems]
    answers, labels, rights, cuts = zip(*counted, strict=True)
    pair_labels = [label for part in labels for label in part]
    all_cuts = [cut for part in cuts for cut in part]
    n = len(problems)
    return Redundancy(
        model=model,
        set=set_name,
        problems=n,
        traces=len(all_cuts),
        pairs=len(pair_labels),
        same_answer_pairs=sum(pair_labels) / max(1, len(pair_labels)),
        distinct_answers=sum(len(entry.answers) for entry in answers) / n,
        majority_share=sum(entry.majority_share for entry in answers) / n,
        majority_accuracy=sum(entry.right for entry in answers) / n,
        pass_at_1=sum(sum(part) / len(part) for part in rights) / n,
        cut=f"{rule.k} {'reasoning words' if rule.kind == 'words' else 'tokens'}",
        whole_cuts=sum(whole for whole, _ in all_cuts) / len(all_cuts),
        median_cut_share=median(share for _, share in all_cuts),
        cut_unit="tokens" if all(_counted(trace) for entry in problems for trace in entry.traces) else "characters",
        answers=list(answers),
    )


def _count(
    entry: ProblemTraces, rule: CutRule, thinking: bool
) -> tuple[ProblemAnswers, list[int], list[bool], list[tuple[bool, float]]]:
    """Answers, pair labels, whether each trace is right, and each one's cut: (whole, share of the trace)."""
    traces = [stored.trace for stored in entry.traces]
    texts = [extract_answer(trace.text, thinking) for trace in traces]
    keys = group_answers(texts)
    gold = entry.problem.answer
    present = dict.fromkeys(key for key in keys if key is not None)
    verdicts = dict(zip(present, grade_answers([texts[key] for key in present], [gold] * len(present)), strict=True))
    first = majority(keys)
    counts = {key: keys.count(key) for key in present}
    ordered = sorted(counts, key=lambda key: (key != first, -counts[key], key))
    cuts = [_cut(stored, rule) for stored in entry.traces]
    ended = [trace.finish_reason == "stop" for trace in traces]
    pairs = make_pairs(keys, ended, [whole for whole, _ in cuts])
    answers = ProblemAnswers(
        entry.problem.id,
        [(texts[key], counts[key]) for key in ordered],
        keys.count(None),
        first is not None and verdicts[first],
    )
    return answers, pairs.labels.tolist(), [key is not None and verdicts[key] for key in keys], cuts


def _counted(stored: StoredTrace) -> bool:
    return stored.trace.token_ids is not None and bool(stored.trace.n_tokens)


def _cut(stored: StoredTrace, rule: CutRule) -> tuple[bool, float]:
    """Whether the trace ends before its cut, and the share of it that lies in the cut: of its tokens, where these are
    known, else of its characters."""
    if _counted(stored):
        whole = ended_before_cut(stored.trace.n_tokens, stored.cut_tokens)
        return whole, 1.0 if whole else stored.cut_tokens / stored.trace.n_tokens
    if rule.kind == "tokens":
        raise InputError(
            f"sample {stored.trace.sample} of '{stored.trace.problem_id}' has no tokens to cut at; give 'cut_kind: "
            "words', or a tokenizer"
        )
    cut = cut_pieces([stored.trace.text], rule)
    return cut.n_tokens is None, len(cut.text) / max(1, len(stored.trace.text))


def show(reports: Sequence[Redundancy]) -> None:
    """Print the table, and one line per set on what its cuts leave."""
    table = Table(title="Redundancy", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("pairs with\nsame answer", "distinct\nanswers", "majority\nshare", "majority\nright", "pass@1")
    for column in ("", *columns, "whole\ncuts", "median\ncut"):
        table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    for number, report in enumerate(reports, start=1):
        shares = (report.same_answer_pairs, report.majority_share, report.majority_accuracy, report.pass_at_1)
        same, most, right, single = (f"{share:.3f}" for share in shares)
        cuts = (f"{report.whole_cuts:.1%}", f"{report.median_cut_share:.1%}")
        table.add_row(f"{number}", same, f"{report.distinct_answers:.2f}", most, right, single, *cuts)
    console.print(table)
    for number, report in enumerate(reports, start=1):
        say(
            f"{number}: {escape(report.model)}, {escape(report.set)}: {report.problems} problems, "
            f"{round(report.whole_cuts * report.traces)} of {report.traces} traces have fewer than {report.cut}, so "
            f"their cut is the whole trace; the median cut is {report.median_cut_share:.1%} of its trace's "
            f"{report.cut_unit}"
        )


def write(reports: Sequence[Redundancy], folder: str | Path) -> None:
    """`redundancy.json` and the picture as PNG and SVG."""
    folder = Path(folder)
    write_json(folder / "redundancy.json", [asdict(report) for report in reports])
    draw(reports, folder)


@dataclass(kw_only=True)
class RedundancyConfig:
    """What is read.

    traces: trace folders, or files of traces (`problem_id, problem, gold, sample, text`, optionally `model`).
    output_dir: gets redundancy.json, redundancy.png and redundancy.svg.
    cut_kind, cut_k: the cut; by default the folder's own, for files 25 words.
    tokenizer: folder or Hub id, to count the tokens of traces in files.
    thinking: completions begin inside `<think>`, because the chat template opens it.
    """

    traces: list[str] | str
    output_dir: str = "outputs/redundancy"
    cut_kind: str | None = None
    cut_k: int | None = None
    tokenizer: str | None = None
    thinking: bool = False

    def __post_init__(self) -> None:
        if (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("keys 'cut_kind' and 'cut_k' belong together: give both or none")

    @property
    def rule(self) -> CutRule | None:
        return None if self.cut_kind is None else CutRule(self.cut_kind, self.cut_k)


def measure_path(config: RedundancyConfig, path: Path) -> list[Redundancy]:
    """A folder is one model's set; a file may hold several models."""
    if path.is_dir():
        problems = read_trace_folder(path)
        cut = _folder_cut(path)
        rule = config.rule or cut or CutRule()
        if cut != rule and any(_counted(trace) for entry in problems for trace in entry.traces):
            raise InputError(f"{path}: its traces were cut at {cut}; leave out 'cut_kind' and 'cut_k'")
        return [measure(path.parent.name, path.name, problems, rule, config.thinking)]
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    rule = config.rule or CutRule()
    models = read_foreign(path, rule, tokenizer)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return [measure(model, name, problems, rule, config.thinking) for model, problems in models.items()]


def _folder_cut(path: Path) -> CutRule | None:
    settings: dict[str, Any] = read_json(path / "settings.json") if (path / "settings.json").is_file() else {}
    cut = settings.get("cut")
    return None if not cut else CutRule(cut["kind"], cut["k"])


@entry_point
def main() -> None:
    config = parse_config(RedundancyConfig)
    paths = [config.traces] if isinstance(config.traces, str) else config.traces
    reports = [report for path in paths for report in measure_path(config, Path(path))]
    show(reports)
    write(reports, config.output_dir)
    say(f"figures: {escape(config.output_dir)}/redundancy.json, redundancy.png, redundancy.svg")


if __name__ == "__main__":
    main()
