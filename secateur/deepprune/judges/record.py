"""What a judge's folder says of the judge, as typed records: judge.json and metrics.json.

judge.json is the judge; how to write one by hand: folder.py. metrics.json is how good it was on its test problems:

    from secateur.deepprune.judges.record import read_metrics
    read_metrics("outputs/judges/base").unfinished.auroc
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.calibration import Calibration, CalibrationFigures
from secateur.runtime.files import JSON
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds
from secateur.tasks.prompts import Prompt, prompt_of

JUDGE_FORMAT = 1
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
    was fine-tuned; `dtype`: what a language model is loaded in; `prompt_family`,
    `system_prompt` and `instruction`: how the problems of its traces were put, no family where that is not known."""

    generator: Generator | None = None
    trained_from: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    prompt_family: str | None = None
    system_prompt: str | None = None
    instruction: str | None = None

    @property
    def prompt(self) -> Prompt | None:
        return prompt_of(vars(self))


@dataclass(frozen=True, kw_only=True)
class JudgeParts:
    """What a judge says of itself: `shape`, its sizes and what it reads, which each kind reads as a record of its
    own; `model`: folder or Hub id of a model that is used as it is and lies elsewhere."""

    shape: Mapping[str, JSON] = field(default_factory=dict)
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeRecord(JudgeOrigin, JudgeParts):
    """All of judge.json. `kind` is a name of registry.py; `cut` where its traces are cut; `calibration` turns its
    scores into probabilities (none: they are taken as they are). `weight`: votes (0-1) that a judged cut has earned,
    0 for a judge that is not worth asking; `verdict`: the same in words; both None where it was never measured.
    `checksums`: name → that of the files of weights beside it, {} if written by hand."""

    kind: str
    cut: CutRule
    calibration: Calibration = field(default_factory=Calibration)
    weight: float | None = None
    verdict: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    def language_model(self, folder: Path) -> str | Path:
        """Where the language model of the judge in `folder` lies."""
        return folder / "model" if self.model is None else self.model


def write_judge(folder: str | Path, record: JudgeRecord) -> None:
    """Replace `<folder>/judge.json`."""
    write_record(Path(folder) / JUDGE_FILE, record, JUDGE_FORMAT)


def read_judge(folder: str | Path) -> JudgeRecord:
    """Raises `InputError` for a folder without judge.json, or with one that is damaged or of another format."""
    return read_record(Path(folder) / JUDGE_FILE, JudgeRecord, JUDGE_FORMAT, _REMEDY)


def store_measured(folder: str | Path, calibration: Calibration, weight: float, verdict: str) -> None:
    """Put what was measured on development problems into the folder of a judge that is saved already."""
    measured = {"calibration": calibration, "weight": weight, "verdict": verdict}
    write_judge(folder, dataclasses.replace(read_judge(folder), **measured))


METRICS_FORMAT = 3
METRICS_FILE = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """How well scores tell some pairs apart. All are fractions (0-1) and None where one of the labels is missing;
    intervals are of 95 %, over problems.

    auroc: share of (same answer, different answer) pairs of pairs that are ranked rightly. tnr_at_fnr20: share of
    different-answer pairs that are kept apart where a fifth of the same-answer pairs is missed. same_answer_share:
    of the `pairs`; they come from so many `problems`.
    """

    auroc: float | None
    auroc_ci95: Bounds | None
    tnr_at_fnr20: float | None
    tnr_at_fnr20_ci95: Bounds | None
    pairs: int
    same_answer_share: float | None
    problems: int


@dataclass(frozen=True, kw_only=True)
class ScoreFigures(PairFigures):
    """The same over all pairs of a test folder, and over parts of them.

    roc: (false, true positive rate) at evenly spaced false positive rates, () without both labels. unfinished: pairs
    of which no cut is a whole trace, the headline. auroc_(un)seen_groups: of the rules or subjects that training did
    (not) have; None where it had all, or the problems name none.
    """

    roc: tuple[tuple[float, float], ...]
    unfinished: PairFigures
    auroc_unseen_groups: float | None = None
    auroc_unseen_groups_ci95: Bounds | None = None
    auroc_seen_groups: float | None = None
    auroc_seen_groups_ci95: Bounds | None = None


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval over problems."""

    value: float
    ci95: Bounds


@dataclass(frozen=True, kw_only=True)
class WithinProblems:
    """How well scores tell the pairs of one problem apart, so what they know beyond the problem's difficulty.

    value: share (0-1) of (same, different) pairs of pairs of one problem that are ranked rightly, over the `problems`
    that have both labels; None if none has. problem_mean: the control, the pooled AUROC of a score that gives every
    pair the mean of its problem. minus_ngram: value less that of the trained n-gram baseline, None where nothing was
    trained.
    """

    value: float | None
    ci95: Bounds | None
    problems: int
    problem_mean: float | None
    minus_ngram: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class AddsOverAhead:
    """The judged rule less `ahead`, which asks no judge: paired by development problem, replayed in several orders.

    saving: of what `ahead` spends, the judge's own work paid (share, negative where more is spent). accuracy: of the
    vote (fraction 0-1). `n` traces per problem.
    """

    saving: Estimate
    accuracy: Estimate
    problems: int
    n: int


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a judge is worth, on development problems.

    weight: votes (0-1) of a judged cut in the judged rule; 0: not worth asking, and `prune` runs without the judge.
    kappa: how much better than chance within its problem the judge puts pairs together (see `metrics.kappa`).
    adds_over_ahead: None where that cannot be told from 0. oracle: what a judge that knows the answers adds, on the
    same cuts: as much as any judge could. verdict: all of it in words.
    """

    weight: float
    kappa: Estimate
    adds_over_ahead: AddsOverAhead | None
    oracle: AddsOverAhead
    verdict: str


@dataclass(frozen=True)
class JudgeCost:
    """What a judge computes. `parameters`: of the model that reads tokens, 0 if none does; multiply-accumulates of
    the trained parts of a judge that reads none, per token of a cut, per cut and per pair."""

    parameters: int
    macs_per_token: int | None = None
    macs_per_cut: int | None = None
    macs_per_pair: int | None = None


@dataclass(frozen=True, kw_only=True)
class CutFigures:
    """What the cuts of some problems look like: how many of them are whole traces (0-1), the median cut's share of
    its trace (0-1), and their mean length [tokens]."""

    whole_cut_share: float
    median_cut_share: float
    mean_cut_tokens: float


@dataclass(frozen=True, kw_only=True)
class JudgeFigures(ScoreFigures, CutFigures):
    """A judge on one test folder: its scores, its cuts and its cost. `unseen_groups`: those that training did not
    have."""

    unseen_groups: tuple[str, ...]
    calibration: CalibrationFigures
    cost: JudgeCost


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """How a judge came about; `steps` is 0 and what follows None where a model is used as it is.

    best_dev_auroc (0-1) and best_step: of the checkpoint that was kept. cpu_s: seconds of processor time. sources:
    where the problems of train, dev and every test came from, as far as their folders say.
    """

    steps: int
    dev_problems: int
    best_dev_auroc: float | None = None
    best_step: int | None = None
    cpu_s: float | None = None
    train_problems: int | None = None
    train_pairs: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeMetrics(JudgeFigures, Worth):
    """All of metrics.json; the figures at its top are those of the first test folder, and the judge's worth on the
    development problems.

    auroc_within_problems: of the first test folder, unfinished pairs.

    kind: as registry.py names it. baselines: name → figures on the first test folder of what the judge has to beat,
    and of the same model before training (`zero_shot`). models: name → figures of every test folder, empty for one.
    config: of the training. versions: of the libraries. cut_choice: how the cut was chosen, in words, where
    `cut_kind` was auto.
    """

    kind: str
    auroc_within_problems: WithinProblems
    baselines: Mapping[str, JudgeFigures | ScoreFigures]
    models: Mapping[str, JudgeFigures]
    training: TrainingFigures
    config: Mapping[str, JSON]
    versions: Mapping[str, str]
    cut_choice: str | None = None

    @property
    def tests(self) -> Mapping[str, JudgeFigures]:
        """Every test folder by name; a single one is called "test"."""
        return self.models or {"test": self}


def worth_words(metrics: JudgeMetrics) -> list[str]:
    """What a judge is worth, what it knows within problems, and what any judge could add: a sentence each."""
    within, oracle = metrics.auroc_within_problems, metrics.oracle
    found = [f"Verdict: {metrics.verdict}."]
    if within.value is not None:
        low, high = within.ci95
        found.append(f"Within problems: AUROC {within.value:.3f} ({low:.3f} … {high:.3f}){_beside(within)}.")
    saving, points = oracle.saving.value, 100 * oracle.accuracy.value
    found.append(
        f"One that knows the answers would save {saving:+.0%} of what ahead spends, on the same cuts of "
        f"{oracle.problems} development problems, at {points:+.1f} points."
    )
    return found


def _beside(within: WithinProblems) -> str:
    less, mean = within.minus_ngram, within.problem_mean
    ngram = f", {less.value:+.3f} ({less.ci95[0]:+.3f} … {less.ci95[1]:+.3f}) over n-grams" if less else ""
    return f"{ngram}; each problem's mean score alone has .500 here and {mean:.3f} over all pairs" if mean else ngram


def write_metrics(folder: str | Path, metrics: JudgeMetrics) -> None:
    """Replace `<folder>/metrics.json`."""
    write_record(Path(folder) / METRICS_FILE, metrics, METRICS_FORMAT)


def read_metrics(folder: str | Path) -> JudgeMetrics:
    """Raises `InputError` for a folder without metrics.json, or with one that is damaged or of another format."""
    path = Path(folder) / METRICS_FILE
    return read_record(path, JudgeMetrics, METRICS_FORMAT, "train the judge again: trainers/judge.py")
