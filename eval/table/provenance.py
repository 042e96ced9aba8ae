"""Which problems of a benchmark a model or a judge has been trained on, or chosen on, as far as its folder says.

A problem counts that is in both by its text, nearly the same included (secateur/tasks/decontaminate.py); where both
are the same set by name, all do.

A model that a schedule made lies in its run folder, whose config.yaml names the training problems and those on which
checkpoints were chosen. A judge's metrics.json names its folders of traces: `train`, and `dev`, on which its
checkpoint was chosen and its probabilities were calibrated. What a model had seen before that is not known here.
"""

from collections.abc import Mapping, Sequence
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


Ids = tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """The ids of those problems of a benchmark that something was trained on, and chosen on; None = not known."""

    trained: Ids | None
    chosen: Ids | None

    def __or__(self, other: "Seen") -> "Seen":
        """What holds for a row that both have a part in."""
        return Seen(either(self.trained, other.trained), either(self.chosen, other.chosen))


UNKNOWN, UNTOUCHED = Seen(None, None), Seen((), ())


def either(one: Ids | None, other: Ids | None) -> Ids | None:
    """The ids of both, in order of their first; None if none is known and one of the two says nothing.

    >>> either(None, ("a",)), either((), None), either(("a", "b"), ("b", "c"))
    (('a',), None, ('a', 'b', 'c'))
    """
    found = tuple(dict.fromkeys([*(one or ()), *(other or ())]))
    return None if not found and None in (one, other) else found


def any_of(ids: Ids | None) -> bool | None:
    """Whether there is one; None where that is not known."""
    return None if ids is None else bool(ids)


def shared_problems(trained: ProblemSource | None, benchmark: str, problems: Sequence[Problem]) -> Ids | None:
    """The ids of those among `problems`, which were loaded from `benchmark`, that are among those of `trained`: all
    of the same set by name, else those of the same or nearly the same text. None where the name is all that is known
    of one, as for a set of the Hub."""
    if trained is None:
        return None
    if set(_parts(trained.name)) & set(_parts(benchmark)):
        return tuple(problem.id for problem in problems)
    if is_drawn(trained.name):
        return ()  # its splits share no problem, and nothing else is like it
    parts = split_source(trained.name)
    if not all(Path(part).is_file() for part in parts):
        return () if is_drawn(benchmark) else None
    theirs = [located.problem for located in read_source(trained.name, trained.count, trained.seed)]
    return tuple(overlap.id for overlap in find_overlaps(problems, {trained.name: theirs}))


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
        return Seen((), shared_problems(chosen, benchmark, problems))
    return Seen(shared_problems(trained, benchmark, problems), shared_problems(chosen, benchmark, problems))


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
    return Seen(shared_problems(train, benchmark, problems), shared_problems(dev, benchmark, problems))


def _traced(folder: JSON) -> ProblemSource | None:
    """Where the problems of a folder of traces came from."""
    path = Path(str(folder)) / "settings.json"
    name = read_json(path).get("problems") if folder and path.is_file() else None
    return ProblemSource(name) if isinstance(name, str) else None
