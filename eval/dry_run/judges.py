"""What the judges of a combined run store, hold and read, from their judge.json and their models' config.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.table.config import CombinedConfig
from eval.table.store import names_of_judges
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.folder import check_generator, find_judge
from secateur.deepprune.judges.kind import Reading
from secateur.deepprune.judges.record import read_judge
from secateur.deepprune.judges.registry import UNTRAINED, stored_kind
from secateur.engines.memory import WIDTHS, Item, read_shape


@dataclass(frozen=True)
class PlannedJudge:
    """`label`: its name in the run; `cut` None where it takes over that of others; `reading`: what it keeps and
    reads; `parameters` and `width` [bytes]: of the model that reads for it, 0 without one."""

    label: str
    cut: CutRule | None
    reading: Reading = field(default_factory=Reading)
    parameters: int = 0
    width: int = 4

    @property
    def memory(self) -> Item:
        return Item(f"judge {self.label}: weights", self.width * self.parameters)

    def read_tokens(self, n: int, prompt: float, cut: float) -> float:
        """Tokens that scoring all pairs of `n` traces of one problem reads, with so many tokens in its prompt and in
        each cut."""
        return self.reading.tokens(n, prompt, cut)


def planned_judges(config: CombinedConfig, model: str) -> list[PlannedJudge]:
    """The judges of a model. Raises `InputError` where judge.json or the config.json of its model is out of reach."""
    names, labels, generator = config.scored_by(model), names_of_judges(config, model), config.models[model]
    return [_planned(name, label, generator) for name, label in zip(names, labels, strict=True)]


def _planned(name: str, label: str, generator: str) -> PlannedJudge:
    if name in UNTRAINED:
        return PlannedJudge(label, None)
    folder = find_judge(name)
    record = read_judge(folder)
    kind = stored_kind(record.kind, folder)
    if kind.reads_states and Path(generator).is_dir():  # else it is still to come, or its files are on the Hub
        check_generator(name, record, generator)
    reading = kind.reading(folder, record)
    if not kind.reads_tokens:
        return PlannedJudge(label, record.cut, reading)
    model, with_head = str(record.language_model(folder)), kind.language_model == "causal"
    sizes = read_shape(model, f"judges: the model of {name}", with_head)
    return PlannedJudge(label, record.cut, reading, sizes.parameters, WIDTHS[record.dtype])


def states_of(config: CombinedConfig, judges: Sequence[PlannedJudge]) -> tuple[int, int, int]:
    """Numbers stored per token up to the cut, numbers stored per trace in their place, and layers captured."""
    own = next((judge.reading for judge in judges if judge.reading.layers), None)
    if own is None:
        return 0, 0, 0
    return (own.layers * own.hidden, 0, own.layers) if config.keep_states else (0, own.vector, own.layers)


def cut_of(config: CombinedConfig, judges: Sequence[PlannedJudge]) -> CutRule | None:
    """Trained judges bring their cut along; None where nothing is judged."""
    if not judges:
        return None
    return next((judge.cut for judge in judges if judge.cut is not None), config.cut_rule)


def score_bytes(n: int) -> float:
    """One problem's scores by one judge, before compression: n × n numbers of 64 bits and the usage of every cut."""
    return 8.0 * n * n + 200 * n
