"""What trainings left behind, as the report draws it: the rounds with their choices, and how good the judges are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval.report import charts
from eval.report.bars import printable
from eval.report.charts import CheckpointPoint, RocCurve, RoundRecord
from schedules.dead import read_dead
from schedules.records import FinishedRound, finished_rounds, has_chosen
from secateur.deepprune.judges.record import METRICS_FILE, JudgeMetrics, ScoreFigures, read_metrics, worth_words
from secateur.runtime.files import JSON, read_jsonl

_REWARD, _LENGTH = "reward", "completions/mean_length"
"""Keys of the training log."""
_TOLD = {_LENGTH: "mean tokens", _REWARD: "reward"}


@dataclass(frozen=True)
class RoundChoice:
    """What a finished round passed on."""

    round: int
    limit: int
    step: int
    pass_at_1: float
    mean_tokens: float
    reason: str


@dataclass(frozen=True)
class RunningRound:
    """A round before its choice: its `limit` [tokens], and the lines of its `log` so far."""

    number: int
    limit: int
    folder: Path
    log: Sequence[Mapping[str, JSON]]

    @property
    def step(self) -> int:
        return max((int(line["step"]) for line in self.log), default=0)

    def words(self) -> str:
        """How far it is, and what its last step came to."""
        if not self.log:
            return f"Round {self.number} begins, with a limit of {self.limit:,} tokens."
        last = self.log[-1]
        figures = [f"{name} {last[key]:,.3g}" for key, name in _TOLD.items() if key in last]
        dead = read_dead(self.folder)
        ended = "" if dead is None else f" It was ended as dead: {'; '.join(dead.words)}."
        return f"Round {self.number}, limit {self.limit:,} tokens, step {self.step:,}: {', '.join(figures)}.{ended}"


@dataclass(frozen=True)
class RoundFigures:
    """The figures of length pruning, and what each round passed on."""

    lengths: Markup
    accuracy: Markup
    choices: list[RoundChoice]


def round_figures(folder: Path | None, of: str = "") -> RoundFigures | None:
    """From the run folder of a schedule, its running round included; None where there is nothing to draw. `of` tells
    the figures of several runs in one page apart."""
    finished = finished_rounds(folder) if folder else []
    rounds = round_records(finished)
    rounds += _running(folder, rounds[-1].last_step if rounds else 0) if folder else []
    if not rounds:
        return None
    drawn = charts.length_over_rounds(rounds, of), charts.accuracy_over_rounds(rounds, of)
    return RoundFigures(*map(Markup, drawn), [_choice(one) for one in finished])


def _choice(one: FinishedRound) -> RoundChoice:
    chosen, selection = one.selection.chosen, one.selection
    reason = printable(selection.reason)
    return RoundChoice(one.number, selection.limit, chosen.step, chosen.pass_at_1, chosen.mean_tokens, reason)


def round_records(finished: Sequence[FinishedRound]) -> list[RoundRecord]:
    """The rounds with their steps counted through."""
    rounds, first = [], 0
    for one in finished:
        log, selection = _training_log(one.folder), one.selection
        last = first + max([*(record["step"] for record in log), *(c.step for c in selection.candidates)])
        candidates = [
            CheckpointPoint(first + c.step, c.pass_at_1, c.mean_tokens, c.step == selection.chosen_step)
            for c in selection.candidates
        ]
        lengths, rewards = _series(log, _LENGTH, first), _series(log, _REWARD, first)
        rounds.append(RoundRecord(one.number, selection.limit, first, last, lengths, rewards, candidates))
        first = last
    return rounds


def running_round(folder: Path) -> RunningRound | None:
    """The round of a schedule that has not chosen yet; None where none has begun."""
    names = [(re.fullmatch(r"(\d+)-limit-(\d+)", path.name), path) for path in (folder / "rounds").glob("*")]
    left = [
        RunningRound(int(name[1]), int(name[2]), path, _training_log(path))
        for name, path in names
        if name and not has_chosen(path)
    ]
    return max(left, key=lambda one: one.number, default=None)


def _running(folder: Path, first: int) -> list[RoundRecord]:
    """Without candidates; its steps go on from `first`."""
    one = running_round(folder)
    if one is None or not one.log:
        return []
    lengths, rewards = _series(one.log, _LENGTH, first), _series(one.log, _REWARD, first)
    return [RoundRecord(one.number, one.limit, first, first + one.step, lengths, rewards, [])]


def _training_log(folder: Path) -> list[Mapping[str, JSON]]:
    """Its lines about steps; a training says other things as well."""
    path = folder / "train.jsonl"
    lines = [line for _, line in read_jsonl(path, growing=True)] if path.is_file() else []
    return [line for line in lines if "step" in line]


def _series(log: Sequence[Mapping[str, JSON]], key: str, first: int) -> list[tuple[int, float]]:
    """(step, value) where a line has the key; a step that was logged twice counts once, the later."""
    values = {line["step"]: float(line[key]) for line in log if key in line}
    return [(first + step, values[step]) for step in sorted(values)]


@dataclass(frozen=True)
class MeasuredJudge:
    """A trained judge of a model."""

    model: str
    metrics: JudgeMetrics


@dataclass(frozen=True)
class JudgeSection:
    """What the page shows of one judge; `reliability` is None and `error` means nothing where it has no bins."""

    title: str
    worth: list[str]
    caption: str
    roc: Markup
    reliability: Markup | None
    error: float


def measured_judges(given: Mapping[str, Path], config: Mapping[str, JSON]) -> list[MeasuredJudge]:
    """Those `given` by model; without any, the judges of the run's config whose folders are still there. Only those
    that could be measured."""
    pairs = given.items() if given else _folders_of(config["judges"])
    found = [MeasuredJudge(model, read_metrics(folder)) for model, folder in pairs]
    return [judge for judge in found if judge.metrics.auroc is not None]


def _folders_of(judges: Mapping[str, str | list[str]]) -> list[tuple[str, Path]]:
    named = [(model, Path(name)) for model, names in judges.items() for name in _listed(names)]
    return [(model, path) for model, path in named if (path / METRICS_FILE).is_file()]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def judge_section(judge: MeasuredJudge) -> JudgeSection:
    metrics = judge.metrics
    kind, model = _words(metrics.kind), printable(judge.model, 80)
    curves = [RocCurve(kind, metrics.roc, metrics.auroc, main=True), *_baseline_curves(metrics.baselines)]
    bins, name = metrics.calibration.reliability, f"{kind} judge of the {model} model"
    return JudgeSection(
        title=f"Judge for the {model} model: {kind}",
        worth=worth_words(metrics),
        caption=f"{metrics.pairs:,} pairs, {metrics.same_answer_share:.0%} with the same answer.",
        roc=Markup(charts.roc(curves, name)),
        reliability=Markup(charts.reliability(bins, name)) if bins else None,
        error=metrics.calibration.ece,
    )


def _baseline_curves(baselines: Mapping[str, ScoreFigures]) -> Sequence[RocCurve]:
    return [RocCurve(_words(name), one.roc, one.auroc) for name, one in baselines.items() if one.roc]


def _words(name: str) -> str:
    return printable(name, 80).replace("_", " ")
