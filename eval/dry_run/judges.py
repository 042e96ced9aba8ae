"""What the judges of a combined run store, hold and read, from their judge.json and their models' config.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.table.config import CombinedConfig
from eval.table.store import names_of_judges
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.folder import check_generator, find_judge
from secateur.deepprune.judges.pairwise import PairReader, PairwiseFormat
from secateur.deepprune.judges.untrained import UNTRAINED
from secateur.engines.memory import WIDTHS, Item, read_shape
from secateur.engines.models import load_tokenizer
from secateur.runtime.files import read_json


@dataclass(frozen=True)
class PlannedJudge:
    """`layers`: of the generator, that it reads the states of; `vector`: numbers it makes of a trace's states;
    `parameters` and `width` [bytes]: of a language model that reads, `cap` [tokens] at once; `begin` and `end`:
    its own words [tokens], once per trace and once per pair (pairwise), or `end` once per trace (linear)."""

    label: str
    kind: str
    cut: CutRule | None
    layers: int = 0
    hidden: int = 0
    vector: int = 0
    parameters: int = 0
    width: int = 4
    cap: int | None = None
    begin: int = 0
    end: int = 0

    @property
    def memory(self) -> Item:
        return Item(f"judge {self.label}: weights", self.width * self.parameters)

    def read_tokens(self, n: int, prompt: float, cut: float) -> float:
        """Tokens that scoring all pairs of `n` traces of one problem reads: every cut once after the problem's prompt
        (linear), or the first part of a pair's prompt once per trace and the second once per pair (pairwise)."""
        if self.kind == "linear":
            return prompt + n * (min(cut, self.cap or cut) + self.end)
        if self.kind == "pairwise":
            cut = min(cut, ((self.cap or 2 * cut) - self.begin - self.end) / 2)
            return (n - 1) * (self.begin + cut) + n * (n - 1) / 2 * (cut + self.end)
        return n * cut if self.kind == "embedding" else 0.0


def planned_judges(config: CombinedConfig, model: str) -> list[PlannedJudge]:
    """The judges of a model. Raises `InputError` where judge.json or the config.json of its model is out of reach."""
    names, labels, generator = config.scored_by(model), names_of_judges(config, model), config.models[model]
    return [_planned(name, label, generator) for name, label in zip(names, labels, strict=True)]


def _planned(name: str, label: str, generator: str) -> PlannedJudge:
    if name in UNTRAINED:
        return PlannedJudge(label, name, None)
    folder = find_judge(name)
    about = read_json(folder / "judge.json")
    kind, rule, shape = str(about["kind"]), about["cut"], about.get("shape", {})
    cut = CutRule(rule["kind"], rule["k"])
    if kind == "linear_own_states":
        if Path(generator).is_dir():  # else it is still to come, or its files are on the Hub
            check_generator(name, about["generator"], generator)
        vector = shape["heads"] * shape["width"]
        return PlannedJudge(label, kind, cut, len(shape["layers"]), shape["hidden"], vector)
    return PlannedJudge(label, kind, cut, **_reader(name, folder, about), cap=shape.get("max_tokens"))


def _reader(name: str, folder: Path, about: dict[str, Any]) -> dict[str, int]:
    """The language model of a judge, and the words that it reads around the cuts."""
    kind, shape, model = about["kind"], about.get("shape", {}), about.get("model", str(folder / "model"))
    sizes = read_shape(model, f"judges: the model of {name}", with_head=kind == "pairwise")
    begin, end = 0, len(shape.get("query_ids", ()))
    if kind == "pairwise":
        reader = PairReader(load_tokenizer(model), PairwiseFormat(**shape | {"labels": tuple(shape["labels"])}))
        begin, end = len(reader.begin("")), len(reader.end(""))
    width = WIDTHS[about.get("dtype", "float32")]
    return {"parameters": sizes.parameters, "width": width, "begin": begin, "end": end}


def states_of(config: CombinedConfig, judges: Sequence[PlannedJudge]) -> tuple[int, int, int]:
    """Numbers stored per token up to the cut, numbers stored per trace in their place, and layers captured."""
    own = next((judge for judge in judges if judge.layers), None)
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
