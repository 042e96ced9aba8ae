"""What training left behind, as the report draws it: rounds of a schedule with their choices, and judges with their
ROC."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.report import charts as figures
from eval.report.bars import printable
from eval.report.charts import Candidate, RocCurve, RoundRecord
from secateur.deepprune.judges.figures import METRICS_FILE, read_metrics
from secateur.runtime.files import read_json, read_jsonl


@dataclass(frozen=True)
class JudgeFolder:
    """A trained judge of a model; `folder` has metrics.json."""

    model: str
    folder: Path


def judge_folders(given: Mapping[str, Path], config: Mapping[str, Any]) -> list[JudgeFolder]:
    """Those `given` by model; without any, the judges of the run's config whose folders are still there and say how
    good they are."""
    if given:
        return [JudgeFolder(model, Path(folder)) for model, folder in given.items()]
    named = config.get("judges") or {}
    pairs = [(model, Path(name)) for model, names in named.items() for name in _listed(names)]
    return [JudgeFolder(*pair) for pair in pairs if (pair[1] / METRICS_FILE).is_file()]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@dataclass(frozen=True)
class JudgeSection:
    """What the page shows of one judge: its ROC curve beside the baselines', and its reliability curve with the
    calibration error (0-1), both None without bins."""

    title: str
    roc: Markup
    caption: str
    reliability: Markup | None
    error: float | None


def judge_section(judge: JudgeFolder) -> JudgeSection:
    """Read off its metrics.json; raises `InputError` where that is damaged or of another format."""
    metrics, model = read_metrics(judge.folder), printable(judge.model, 80)
    kind = _spaced(metrics.kind)
    baselines = [
        RocCurve(_spaced(label), baseline.roc, baseline.auroc)
        for label, baseline in metrics.baselines.items()
        if baseline.roc
    ]
    name, bins = f"{kind} judge of the {model} model", metrics.calibration.reliability
    return JudgeSection(
        title=f"Judge for the {model} model: {kind}",
        roc=Markup(figures.roc([RocCurve(kind, metrics.roc, metrics.auroc, main=True), *baselines], name)),
        caption=f"{metrics.pairs:,} pairs, {metrics.same_answer_share:.0%} with the same answer.",
        reliability=Markup(figures.reliability([vars(one) for one in bins], name)) if bins else None,
        error=metrics.calibration.ece if bins else None,
    )


def _spaced(name: str) -> str:
    return printable(name, 80).replace("_", " ")


_REWARD_KEYS = ("reward",)
_LENGTH_KEYS = ("completions/mean_length",)


def read_choices(folder: Path) -> list[dict[str, Any]]:
    choices = []
    for path in _round_folders(folder):
        if (path / "selection.json").is_file():
            selection = read_json(path / "selection.json")
            chosen = next(c for c in selection["candidates"] if c["step"] == selection["chosen_step"])
            choices.append(
                {
                    "round": int(path.name.split("-")[0]),
                    "limit": selection["limit"],
                    "step": selection["chosen_step"],
                    "pass_at_1": chosen["pass_at_1"],
                    "mean_tokens": chosen["mean_tokens"],
                    "reason": printable(selection["reason"]),
                }
            )
    return choices


def _round_folders(folder: Path) -> list[Path]:
    """Folders such as `rounds/1-limit-220`, in the order of the rounds."""
    found = [path for path in (Path(folder) / "rounds").glob("*") if re.fullmatch(r"\d+-limit-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[0]))


def read_rounds(folder: str | Path) -> list[RoundRecord]:
    """Rounds of a schedule's run folder that were finished, their steps counted through."""
    rounds, first = [], 0
    for path in _round_folders(Path(folder)):
        if not (path / "selection.json").is_file():
            continue
        log = [record for _, record in read_jsonl(path / "train.jsonl")] if (path / "train.jsonl").is_file() else []
        selection = read_json(path / "selection.json")
        candidates = [
            Candidate(first + c["step"], c["pass_at_1"], c["mean_tokens"], c["step"] == selection["chosen_step"])
            for c in selection["candidates"]
        ]
        steps = [record["step"] for record in log if "step" in record]
        last = first + max([*steps, *(c["step"] for c in selection["candidates"])])
        number = int(path.name.split("-")[0])
        rounds.append(
            RoundRecord(
                number,
                selection["limit"],
                first,
                last,
                _series(log, _LENGTH_KEYS, first),
                _series(log, _REWARD_KEYS, first),
                candidates,
            )
        )
        first = last
    return rounds


def _series(log: Sequence[Mapping[str, Any]], keys: Sequence[str], first: int) -> list[tuple[int, float]]:
    """(step, value) of the first of `keys` that a record has; a step that was logged twice counts once, the later."""
    values = {
        record["step"]: float(record[key]) for record in log if "step" in record for key in keys if key in record
    }
    return [(first + step, values[step]) for step in sorted(values)]
