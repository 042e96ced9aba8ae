"""Texts of traces for the report: found in their folders, split at the cut, shortened to a budget, compressed."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.report.bars import printable, ranked
from eval.table.explorer import TracedModel, TracedProblem
from secateur.deepprune.cut import CutRule, cut_text
from secateur.runtime.files import JSON, read_json
from secateur.runtime.records import as_json

LONGEST = 20_000  # characters of one trace that are worth keeping for a reader
BUDGET = 44_000_000  # bytes of all packed problems together: with the page itself below 60 MB
_TRIED = 3  # problems of a source that are packed to see how well texts can be compressed
_MARGIN = 0.95  # of the budget, for problems that those do not stand for
_PROBLEM_CHARACTERS = 4000
_ANSWER_CHARACTERS = 200
_TAIL_SHARE = 0.5  # of what is kept of a shortened text, so much is its end, where the answer is


@dataclass
class TraceTexts:
    """Where the text of every trace lies. `places` maps (model, problem id) to sample → (file, offset [bytes]) and
    `lengths` counts characters; texts in `given` are held in memory instead."""

    given: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    places: dict[tuple[str, str], dict[int, tuple[Path, int]]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)

    @classmethod
    def of_run(
        cls, combined: Path, models: Sequence[str], given: Mapping[tuple[str, str], list[str]]
    ) -> "TraceTexts":
        """Those of a combined run's trace folders; `given` where such a folder is gone."""
        texts = cls(dict(given), lengths=[len(text) for found in given.values() for text in found])
        for model in models:
            for path in sorted((combined / model / "traces").glob("traces-rank*.jsonl")):
                texts._index(model, path)
        return texts

    def _index(self, model: str, path: Path) -> None:
        with path.open("rb") as file:
            offset = 0
            for line in file:
                if line.endswith(b"\n"):  # a torn last line is of a run that still goes on
                    trace = json.loads(line)
                    place = self.places.setdefault((model, trace["problem_id"]), {})
                    place[trace["sample"]] = (path, offset)
                    self.lengths.append(len(trace.get("text", "")))
                offset += len(line)

    def of(self, problem_id: str, model: str, count: int) -> list[str]:
        """Texts of samples 0 to `count` − 1; empty where they are not known."""
        key = (model, problem_id)
        if key not in self.places:
            return self.given.get(key) or [""] * count
        return [self._read(self.places[key].get(sample)) for sample in range(count)]

    @staticmethod
    def _read(place: tuple[Path, int] | None) -> str:
        if place is None:
            return ""
        with place[0].open("rb") as file:
            file.seek(place[1])
            return str(json.loads(file.readline()).get("text", ""))


def cut_rules(combined: Path, models: Sequence[str], config: Mapping[str, JSON]) -> dict[str, CutRule]:
    """Where each model's traces were cut, from what their folders say, else from the run's config."""
    rules = {}
    for model in models:
        path = combined / model / "traces" / "settings.json"
        cut = read_json(path)["cut"] if path.is_file() else None
        rules[model] = CutRule(**(cut or {"kind": config["cut_kind"], "k": config["cut_k"]}))
    return rules


def split_at_cut(text: str, n_tokens: int, cut_tokens: int | None, rule: CutRule) -> list[str]:
    """The text before and after its cut; one part where the trace ended first. A cut after k tokens is placed by the
    share of tokens before it, since text does not say where tokens end."""
    if cut_tokens is None or not text:
        return [text]
    if rule.kind == "words":
        place = len(cut_text(text, rule))
    else:
        place = round(len(text) * min(cut_tokens / max(n_tokens, 1), 1.0))
    return [text[:place], text[place:]]


def shortened(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end, and in between how many were left out."""
    if len(text) <= limit:
        return printable(text, limit)
    tail = int(limit * _TAIL_SHARE)
    left_out = f"\n[… {len(text) - limit:,} characters left out …]\n"
    end = printable(text[len(text) - tail :], limit) if tail else ""
    return printable(text[: limit - tail], limit) + left_out + end


def _shortened_parts(parts: Sequence[str], limit: int) -> list[str]:
    """What is left of the limit by a short part goes to the other."""
    if len(parts) == 1:
        return [shortened(parts[0], limit)]
    before = min(len(parts[0]), max(limit // 2, limit - len(parts[1])))
    return [shortened(parts[0], before), shortened(parts[1], limit - before)]


def packed(value: object) -> str:
    """A record as JSON, compressed, in the base64 alphabet: nothing in it can be taken for markup."""
    data = json.dumps(as_json(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode("ascii")


@dataclass(frozen=True)
class PackedModel(TracedModel):
    """What trace_panels.js draws, with the texts of the traces, in two parts where they were cut. `labels` of the
    runs are places of clusters, the largest 0."""

    texts: list[list[str]]


@dataclass(frozen=True)
class PackedProblem:
    """Everything that the explorer shows of one problem; `models` are in the order of the index, None where a model
    has no traces of it."""

    id: str
    problem: str
    gold: str
    models: list[PackedModel | None]


@dataclass(frozen=True)
class TextSource:
    """Problems of one run folder, the texts of their traces, and where each model's traces were cut. All sources of a
    report have the same models, in the same order."""

    problems: Sequence[TracedProblem]
    texts: TraceTexts
    rules: Mapping[str, CutRule]

    def pack(self, problem: TracedProblem, limit: int) -> str:
        """With texts of at most `limit` characters."""
        models = [
            self._model(problem.problem_id, name, problem.models[name], limit) if name in problem.models else None
            for name in self.rules
        ]
        return packed(
            PackedProblem(
                id=printable(problem.problem_id, _ANSWER_CHARACTERS),
                problem=printable(problem.problem, _PROBLEM_CHARACTERS),
                gold=printable(problem.gold, _ANSWER_CHARACTERS),
                models=models,
            )
        )

    def _model(self, problem_id: str, name: str, model: TracedModel, limit: int) -> PackedModel:
        texts = self.texts.of(problem_id, name, len(model.n_tokens))
        found = zip(texts, model.n_tokens, model.cut_tokens, strict=True)
        parts = [split_at_cut(text, tokens, cut, self.rules[name]) for text, tokens, cut in found]
        return PackedModel(
            n_tokens=model.n_tokens,
            cut_tokens=model.cut_tokens,
            names=tuple(printable(answer, _ANSWER_CHARACTERS) for answer in model.names),
            answers=model.answers,
            right=model.right,
            runs=tuple(replace(run, labels=tuple(ranked(run.labels))) for run in model.runs),
            texts=[_shortened_parts(one, limit) for one in parts],
        )


def pack_problems(sources: Sequence[TextSource], budget: int = BUDGET) -> tuple[list[str], int]:
    """All problems of all sources packed into at most `budget` bytes, and the number of characters kept of each text.

    Texts are shortened as little as the budget allows: a guess from their lengths and from how well those of a few
    problems can be compressed, lowered while it is too much.
    """
    pairs = [(source, problem) for source in sources for problem in source.problems]
    limit = _first_limit(sources, budget)
    while True:
        found, size = [], 0
        for source, problem in pairs:
            found.append(source.pack(problem, limit))
            size += len(found[-1])
            if size > budget and limit > 0:
                break
        else:
            return found, limit
        limit = limit * 3 // 4 if limit > 64 else 0


def _first_limit(sources: Sequence[TextSource], budget: int) -> int:
    unpacked = sum(min(length, LONGEST) for source in sources for length in source.texts.lengths)
    if unpacked <= budget:  # packed text is hardly ever larger
        return LONGEST
    limit = LONGEST
    while limit > 64:
        guess = sum(_guessed_size(source, limit) for source in sources if source.problems)
        if guess <= _MARGIN * budget:
            break
        limit = min(int(limit * _MARGIN * budget / guess) + 1, limit * 9 // 10)
    return limit


def _guessed_size(source: TextSource, limit: int) -> float:
    count = len(source.problems)
    some = source.problems[:: max(1, count // _TRIED)][:_TRIED]
    return sum(len(source.pack(problem, limit)) for problem in some) * count / len(some)
