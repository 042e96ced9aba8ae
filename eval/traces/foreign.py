"""Traces made elsewhere, as records of a trace folder: one set of problems per model, cut where a judge would cut.

With a tokenizer, lengths and cuts are counted in the tokens that it makes of the text. That is the one place where
text is tokenised to count: such files rarely keep their ids. Without one both are unknown, and stay so.
"""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.cut import CutRule, cut_length
from secateur.engines.detokenize import Detokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, TraceFolderWriter
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.records import Problem, Trace, read_traces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNNAMED = "unnamed_model"


def read_foreign(
    path: str | Path, rule: CutRule, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> dict[str, list[ProblemTraces]]:
    """Model → its problems with their traces, of a `.jsonl` or `.jsonl.gz` file.

    Where samples have names, they are numbered in the order of the file. A prompt in front of the text is taken off.
    Raises `InputError` for a sample that is there twice, two texts under one problem id, and a cut in tokens without
    token ids or tokenizer.
    """
    models: dict[str, dict[str, ProblemTraces]] = {}
    cutter = _Cutter(rule, tokenizer)
    seen: set[tuple[str, str, int | str]] = set()
    for trace in read_traces(path):
        model = model_folder(trace.model)
        if (model, trace.problem_id, trace.sample) in seen:
            raise InputError(f"{path}: sample {trace.sample} of '{trace.problem_id}' by {model} is there twice")
        seen.add((model, trace.problem_id, trace.sample))
        problem = Problem(trace.problem_id, trace.problem, trace.gold)
        entry = models.setdefault(model, {}).setdefault(trace.problem_id, ProblemTraces(problem, []))
        if entry.problem != problem:
            raise InputError(f"{path}: problem '{problem.id}' has two different texts or answers")
        number = trace.sample if isinstance(trace.sample, int) else len(entry.traces)
        entry.traces.append(cutter.stored(trace, number))
    if not models:
        raise InputError(f"{path}: holds no trace")
    return {model: list(problems.values()) for model, problems in models.items()}


def import_file(
    path: str | Path,
    output_dir: str | Path,
    set_name: str,
    rule: CutRule,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Path]:
    """Write a foreign file into `<output_dir>/<model>/<set_name>`; what is there already is left. Returns model →
    folder. Raises `InputError` if a folder was made from another file, with another cut or tokenizer."""
    settings = _settings(path, rule, tokenizer)
    folders = {}
    for model, problems in read_foreign(path, rule, tokenizer).items():
        folders[model] = Path(output_dir) / model / set_name
        with TraceFolderWriter(folders[model], settings) as writer:
            for entry in problems:
                for stored in entry.traces:
                    if (stored.trace.problem_id, stored.trace.sample) not in writer.done:
                        writer.add(stored.trace, cut_tokens=stored.cut_tokens)
    return folders


def model_folder(model: str | None) -> str:
    """A model's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", model or "").strip("_.") or _UNNAMED


def without_prompt(text: str, problem: str) -> str:
    """`text` from its `<think>` on, if the problem stands before that: then it begins with the prompt, whose words
    belong to nobody's reasoning."""
    head, opened, rest = text.partition("<think>")
    return opened + rest if opened and problem.strip() in head else text


class _Cutter:
    def __init__(self, rule: CutRule, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        self.rule, self._tokenizer = rule, tokenizer
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)

    def stored(self, trace: Trace, number: int) -> StoredTrace:
        text = without_prompt(trace.text, trace.problem)
        ids, n_tokens = trace.token_ids, trace.n_tokens
        if self._tokenizer is None:
            if self.rule.kind == "tokens":
                raise InputError("cut_kind: tokens needs a tokenizer for traces made elsewhere; give one, or 'words'")
            cut = None
        else:
            # Ids of the file may be another tokenizer's, and begin with a prompt: one rule for all is better.
            ids = tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            n_tokens, stream = len(ids), self._detokenizer.stream()
            cut = cut_length([stream.push(token) for token in ids], self.rule)
        known = {"token_ids": ids, "n_tokens": n_tokens, "finish_reason": trace.finish_reason, "model": trace.model}
        record = Trace(trace.problem_id, trace.problem, trace.gold, number, text, **known)
        return StoredTrace(record, cut, None)


def _settings(path: str | Path, rule: CutRule, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, JSON]:
    content = Path(path).read_bytes() if Path(path).is_file() else b""
    return {
        "imported": {"file": Path(path).name, "sha256": hashlib.sha256(content).hexdigest()[:16]},
        "cut": {"kind": rule.kind, "k": rule.k},
        "layers": [],
        "tokens": "unknown" if tokenizer is None else f"made of the text by {tokenizer.name_or_path}",
    }
