"""Judge data from trace folders: three splits of problems, their cuts and their labelled pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from deepprune.cut import CutRule, cut_pieces
from deepprune.judges.base import CutTrace
from deepprune.judges.load import generator_identity
from deepprune.pairs import JudgedProblem, all_labels, answer_keys, check_disjoint, make_pairs
from engines.detokenize import Detokenizer
from engines.load import load_tokenizer
from engines.trace_folder import ProblemTraces, StoredTrace, read_trace_folder
from runtime.errors import InputError
from runtime.files import read_json
from tasks.prompts import encode_prompt, evaluation_messages, starts_inside_thinking
from trainers.judge_config import JudgeConfig


@dataclass(frozen=True)
class TraceSettings:
    """What a trace folder says about itself; None = it does not (a folder made elsewhere)."""

    cut_rule: CutRule | None
    layers: tuple[int, ...] | None
    model: str | None  # fingerprint of the generator
    prompt_family: str | None


@dataclass(frozen=True)
class JudgeData:
    """The three splits; `layers` are those of the states in the cuts (None without states), indices into
    `hidden_states`; `tokenizer` is the generator's."""

    train: list[JudgedProblem]
    dev: list[JudgedProblem]
    test: list[JudgedProblem]
    cut_rule: CutRule
    layers: tuple[int, ...] | None
    tokenizer: PreTrainedTokenizerBase


def read_settings(folder: str) -> TraceSettings:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of traces; make it with eval/collect_traces.py")
    path = Path(folder) / "settings.json"
    values: dict[str, Any] = read_json(path) if path.is_file() else {}
    cut, layers = values.get("cut"), values.get("layers")
    return TraceSettings(
        cut_rule=CutRule(cut["kind"], cut["k"]) if cut else None,
        layers=tuple(layers) if layers else None,
        model=values.get("model"),
        prompt_family=values.get("prompt_family"),
    )


def load_judge_data(config: JudgeConfig) -> JudgeData:
    """Read and check all three splits. Raises `InputError` naming folder and remedy: no traces, no pairs, splits with
    a common problem, folders that were cut or captured differently, states of another model."""
    settings = {split: read_settings(getattr(config, split)) for split in ("train", "dev", "test")}
    rule = _cut_rule(config, settings)
    needs_states = config.kind == "linear_own_states"
    layers = _layers(config, settings) if needs_states else None
    tokenizer = load_tokenizer(config.generator or config.model)
    family = config.prompt_family or settings["train"].prompt_family
    if family is None:
        raise InputError(f"{config.train}: the folder does not say how its problems were put; give 'prompt_family'")
    reader = _Reader(family, rule, tokenizer, layers, settings["train"].layers)
    splits = {split: reader.split(getattr(config, split)) for split in settings}
    check_disjoint(splits)
    return JudgeData(**splits, cut_rule=rule, layers=layers, tokenizer=tokenizer)


def _cut_rule(config: JudgeConfig, settings: dict[str, TraceSettings]) -> CutRule:
    stored = {split: found.cut_rule for split, found in settings.items()}
    asked = CutRule(config.cut_kind, config.cut_k) if config.cut_kind and config.cut_k else None
    rule = asked or stored["train"]
    if rule is None:
        raise InputError(f"{config.train}: the folder names no cut; give 'cut_kind' and 'cut_k'")
    for split, found in stored.items():
        # States end where the trace was cut when it was sampled; text can be cut again.
        if config.kind == "linear_own_states" and found is not None and found != rule:
            raise InputError(
                f"key '{split}': the states in {getattr(config, split)} were stored for a cut at {found.k} "
                f"{found.kind}, not {rule.k} {rule.kind}; collect the traces again or change 'cut_k'"
            )
    return rule


def _layers(config: JudgeConfig, settings: dict[str, TraceSettings]) -> tuple[int, ...]:
    stored, generator = settings["train"].layers, generator_identity(config.model)
    for split, found in settings.items():
        if found.layers is None or found.layers != stored:
            raise InputError(
                f"key '{split}': {getattr(config, split)} holds the states of layers {found.layers}, "
                f"{config.train} those of {stored}; collect all splits with the same 'layers' and 'states: true'"
            )
        if found.model != generator:
            raise InputError(
                f"key '{split}': the states in {getattr(config, split)} are those of model {found.model}, but "
                f"'{config.model}' is {generator}; an own-state judge belongs to the model whose traces it was "
                "trained on: correct 'model' or collect its traces"
            )
    layers = tuple(config.layers) if config.layers is not None else stored
    missing = [layer for layer in layers if layer not in stored]
    if missing or not layers:
        raise InputError(f"key 'layers' has the value {config.layers}: the folders hold the layers {list(stored)}")
    return layers


@dataclass(frozen=True)
class _Reader:
    family: str
    rule: CutRule
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[int, ...] | None
    stored_layers: tuple[int, ...] | None

    def split(self, folder: str) -> list[JudgedProblem]:
        thinking = starts_inside_thinking(self.tokenizer)
        problems = [self._problem(entry, thinking) for entry in read_trace_folder(folder)]
        problems = [problem for problem in problems if len(problem.pairs)]
        if not problems:
            raise InputError(f"{folder}: no problem has two traces with a known outcome; collect more traces")
        if len(set(all_labels(problems))) < 2:
            raise InputError(
                f"{folder}: all pairs have the same label, so there is nothing to learn or measure; take harder or "
                "more problems"
            )
        return problems

    def _problem(self, entry: ProblemTraces, thinking: bool) -> JudgedProblem:
        prompt_ids = tuple(encode_prompt(self.tokenizer, evaluation_messages(entry.problem.problem, self.family)))
        read = [self._cut(stored, prompt_ids) for stored in entry.traces]
        cuts, whole, shares = (tuple(column) for column in zip(*read, strict=True))
        traces = [stored.trace for stored in entry.traces]
        ended = [trace.finish_reason == "stop" for trace in traces]
        pairs = make_pairs(answer_keys(traces, thinking), ended, whole)
        return JudgedProblem(entry.problem.id, entry.problem.group, cuts, whole, shares, pairs)

    def _cut(self, stored: StoredTrace, prompt_ids: tuple[int, ...]) -> tuple[CutTrace, bool, float]:
        """The cut, whether it is the whole trace, and its share (0-1) of the trace."""
        trace = stored.trace
        if trace.token_ids is None:  # a trace made elsewhere: its text is all there is
            cut = cut_pieces([trace.text], self.rule)
            ids = tuple(self.tokenizer(cut.text, add_special_tokens=False)["input_ids"])
            return CutTrace(prompt_ids, ids, cut.text), cut.n_tokens is None, len(cut.text) / max(1, len(trace.text))
        stream = Detokenizer(self.tokenizer).stream()
        cut = cut_pieces([stream.push(token) for token in trace.token_ids], self.rule)
        length = len(trace.token_ids)
        tokens = length if cut.n_tokens is None else cut.n_tokens
        states = self._states(stored) if self.layers else None
        return CutTrace(prompt_ids, trace.token_ids[:tokens], cut.text, states), tokens >= length, tokens / length

    def _states(self, stored: StoredTrace) -> torch.Tensor:
        states = stored.load_states()
        if self.layers == self.stored_layers:
            return states
        return states[:, [self.stored_layers.index(layer) for layer in self.layers]].contiguous()
