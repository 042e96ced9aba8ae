"""Which problems of a benchmark a model or a judge has been trained on, or chosen on, as far as its folder says.

A model that a schedule made lies in its run folder, whose config.yaml names the training problems and those on which
checkpoints were chosen. A judge's metrics.json names its folders of traces: `train`, and `dev`, on which its
checkpoint was chosen and its probabilities were calibrated. What a model had seen before that is not known here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.deepprune.judges.folder import judge_folder
from secateur.deepprune.judges.record import METRICS_FILE, read_metrics
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.runtime.config import read_yaml
from secateur.runtime.files import JSON, read_json
from secateur.tasks.decontaminate import find_overlaps
from secateur.tasks.records import Problem
from secateur.tasks.sources import is_drawn, read_source, split_source

_SCHEDULE_KEYS = {"limits", "problems", "validation_problems"}
_DEPTH = 3  # <run>/rounds/<round>/checkpoint-<step>


@dataclass(frozen=True)
class ProblemSource:
    """Problems by name, as `secateur.tasks.sources.load_problems` takes them."""

    name: str
    count: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Seen:
    """Whether something was trained on, or chosen on, problems of a benchmark; None = not known."""

    trained_on: bool | None
    chosen_on: bool | None

    def __or__(self, other: "Seen") -> "Seen":
        """What holds for a row that both have a part in."""
        return Seen(
            any_of([self.trained_on, other.trained_on]),
            any_of([self.chosen_on, other.chosen_on]),
        )


UNKNOWN, UNTOUCHED = Seen(None, None), Seen(False, False)


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """True if one is; else None if one is not known.

    >>> any_of([None, True]), any_of([False, None]), any_of([False, False])
    (True, None, False)
    """
    found = set(answers)
    return True if True in found else None if None in found else False


def shares_problems(trained: ProblemSource | None, benchmark: str, problems: Sequence[Problem]) -> bool | None:
    """Whether `problems`, which were loaded from `benchmark`, are among those of `trained`: the same set by name, or
    the same texts. None where the name is all that is known of one, as for a set of the Hub."""
    if trained is None:
        return None
    if set(_parts(trained.name)) & set(_parts(benchmark)):
        return True
    if is_drawn(trained.name):
        return False  # its splits share no problem, and nothing else is like it
    parts = split_source(trained.name)
    if not all(Path(part).is_file() for part in parts):
        return False if is_drawn(benchmark) else None
    theirs = [located.problem for located in read_source(trained.name, trained.count, trained.seed)]
    return bool(find_overlaps(problems, {trained.name: theirs}))


def _parts(source: str) -> list[str]:
    return [str(Path(part).resolve()) if Path(part).is_file() else part for part in split_source(source)]


def seen_by_model(path: str, benchmark: str, problems: Sequence[Problem]) -> Seen:
    """What the schedule that made the model did; nothing is known of a model outside a run folder."""
    schedule = _schedule_of(path)
    if schedule is None:
        return UNKNOWN
    seed = schedule.get("seed", 0)
    trained = ProblemSource(schedule["problems"], schedule.get("problem_count"), seed)
    chosen = ProblemSource(schedule["validation_problems"], schedule.get("validation_count"), seed)
    taken_out = {part for source in schedule.get("decontaminate") or [] for part in _parts(source)}
    if set(_parts(benchmark)) <= taken_out:
        return Seen(False, shares_problems(chosen, benchmark, problems))
    return Seen(shares_problems(trained, benchmark, problems), shares_problems(chosen, benchmark, problems))


def _schedule_of(path: str) -> dict[str, Any] | None:
    """config.yaml of the run folder that the model lies in."""
    if not Path(path).is_dir():
        return None
    for folder in list(Path(path).absolute().parents)[:_DEPTH]:
        config = folder / "config.yaml"
        if config.is_file() and (values := read_yaml(config)).keys() >= _SCHEDULE_KEYS:
            return values
    return None


def seen_by_judge(folder_or_name: str, benchmark: str, problems: Sequence[Problem]) -> Seen:
    """What training and choosing a judge used; untrained ones have seen nothing."""
    if folder_or_name in UNTRAINED:
        return UNTOUCHED
    folder = judge_folder(folder_or_name)
    if not (folder / METRICS_FILE).is_file():  # written by hand
        return UNKNOWN
    return _seen_in_training(read_metrics(folder).config, benchmark, problems)


def seen_by_scorer(folder: str, benchmark: str, problems: Sequence[Problem]) -> Seen:
    """What training and choosing a scorer used; nothing is known of one without its config.yaml."""
    config = Path(folder) / "config.yaml"
    return _seen_in_training(read_yaml(config), benchmark, problems) if config.is_file() else UNKNOWN


def _seen_in_training(config: Mapping[str, JSON], benchmark: str, problems: Sequence[Problem]) -> Seen:
    """By the trace folders that the config names."""
    train, dev = (_traced(config.get(key)) for key in ("train", "dev"))
    return Seen(shares_problems(train, benchmark, problems), shares_problems(dev, benchmark, problems))


def _traced(folder: JSON) -> ProblemSource | None:
    """Where the problems of a folder of traces came from."""
    path = Path(str(folder)) / "settings.json"
    name = read_json(path).get("problems") if folder and path.is_file() else None
    return ProblemSource(name) if isinstance(name, str) else None
