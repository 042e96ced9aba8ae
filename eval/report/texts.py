"""Texts of traces for the report: found in their folders, split at the cut, shortened to a budget, compressed."""

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eval.report.bars import printable, ranked
from secateur.deepprune.cut import CutRule, cut_text
from secateur.runtime.files import read_json

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
                    self.lengths.append(len(trace["text"]))
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
            return str(json.loads(file.readline())["text"])


def cut_rules(combined: Path, models: Sequence[str], config: Mapping[str, Any]) -> dict[str, CutRule]:
    """Where each model's traces were cut, from what their folders say, else from the run's config."""
    rules = {}
    for model in models:
        path = combined / model / "traces" / "settings.json"
        cut = read_json(path).get("cut") if path.is_file() else None
        rules[model] = CutRule(**(cut or {"kind": config.get("cut_kind", "words"), "k": config.get("cut_k", 25)}))
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


def packed(value: Any) -> str:
    """JSON, compressed, in the base64 alphabet: nothing in it can be taken for markup."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode("ascii")


def packed_problem(
    record: Mapping[str, Any],
    models: Sequence[str],
    texts_of: Callable[[str, int], list[str]],
    rules: Mapping[str, CutRule],
    limit: int,
) -> str:
    """Everything the explorer shows of one problem, texts of at most `limit` characters; its `models` are in the
    order of the names given, null where a model has no traces of it."""
    return packed(
        {
            "id": printable(record["problem_id"], _ANSWER_CHARACTERS),
            "problem": printable(record["problem"], _PROBLEM_CHARACTERS),
            "gold": printable(record["gold"], _ANSWER_CHARACTERS),
            "models": [
                _shown_model(record["models"][name], partial(texts_of, name), rules[name], limit)
                if name in record["models"]
                else None
                for name in models
            ],
        }
    )


def _shown_model(
    model: Mapping[str, Any], texts_of: Callable[[int], list[str]], rule: CutRule, limit: int
) -> dict[str, Any]:
    found = zip(texts_of(len(model["n_tokens"])), model["n_tokens"], model["cut_tokens"], strict=True)
    return {
        **model,
        "names": [printable(str(answer), _ANSWER_CHARACTERS) for answer in model["names"]],
        "runs": [{**run, "labels": ranked(run["labels"])} for run in model["runs"]],
        "texts": [_shortened_parts(split_at_cut(text, tokens, cut, rule), limit) for text, tokens, cut in found],
    }


@dataclass(frozen=True)
class Source:
    """Problems of one run folder, the texts of their traces, and where each model's traces were cut. All sources of a
    report have the same models, in the same order."""

    records: Sequence[Mapping[str, Any]]
    texts: TraceTexts
    rules: Mapping[str, CutRule]

    def pack(self, record: Mapping[str, Any], limit: int) -> str:
        texts_of = partial(self.texts.of, record["problem_id"])
        return packed_problem(record, list(self.rules), texts_of, self.rules, limit)


def pack_problems(sources: Sequence[Source], budget: int = BUDGET) -> tuple[list[str], int]:
    """All problems of all sources packed into at most `budget` bytes, and the number of characters kept of each text.

    Texts are shortened as little as the budget allows: a guess from their lengths and from how well those of a few
    problems can be compressed, lowered while it is too much.
    """
    pairs = [(source, record) for source in sources for record in source.records]
    limit = _first_limit(sources, budget)
    while True:
        found, size = [], 0
        for source, record in pairs:
            found.append(source.pack(record, limit))
            size += len(found[-1])
            if size > budget and limit > 0:
                break
        else:
            return found, limit
        limit = limit * 3 // 4 if limit > 64 else 0


def _first_limit(sources: Sequence[Source], budget: int) -> int:
    whole = sum(min(length, LONGEST) for source in sources for length in source.texts.lengths)
    if whole <= budget:  # packed text is hardly ever larger
        return LONGEST
    limit = LONGEST
    while limit > 64:
        guess = sum(_guessed_size(source, limit) for source in sources if source.records)
        if guess <= _MARGIN * budget:
            break
        limit = min(int(limit * _MARGIN * budget / guess) + 1, limit * 9 // 10)
    return limit


def _guessed_size(source: Source, limit: int) -> float:
    some = source.records[:: max(1, len(source.records) // _TRIED)][:_TRIED]
    return sum(len(source.pack(record, limit)) for record in some) * len(source.records) / len(some)
