"""Judge data from trace folders: three splits of problems, their cuts and their labelled pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.cut import ChosenCut, CutRule, choose_cut, cut_pieces, ended_before_cut
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.pairs import (
    JudgeData,
    LabelledProblem,
    all_labels,
    check_disjoint,
    make_pairs,
)
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, read_trace_folder
from secateur.runtime.errors import InputError
from secateur.runtime.files import model_identity, read_json
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import Extract, extraction
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages, prompt_of, starts_inside_thinking
from trainers.judges.config import JudgeConfig, require_traces

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TraceSettings:
    """What a trace folder says about itself; None = it does not (a folder made elsewhere)."""

    cut_rule: CutRule | None
    layers: tuple[int, ...] | None
    model: str | None  # fingerprint of the generator
    prompt: Prompt | None
    problems: str | None  # where they come from, as a config names it


def read_settings(folder: str) -> TraceSettings:
    require_traces(folder)
    path = Path(folder) / "settings.json"
    values = read_json(path) if path.is_file() else {}
    cut, layers = values.get("cut"), values.get("layers")
    return TraceSettings(
        cut_rule=CutRule(cut["kind"], cut["k"]) if cut else None,
        layers=tuple(layers) if layers else None,
        model=values.get("model"),
        prompt=prompt_of(values),
        problems=values.get("problems"),
    )


def check_sampled_by(model: str, folders: Mapping[str, str]) -> None:
    """Raises `InputError` for one of `folders` (key → folder) whose traces another model is known to have written:
    the states that this one has on them mean nothing."""
    identity = model_identity(model)
    for key, folder in folders.items():
        if (known := read_settings(folder).model) not in (None, identity):
            raise InputError(
                f"key '{key}': the traces in {folder} are those of model {known}, but '{model}' is {identity}; "
                "correct 'model', or collect its traces"
            )


def load_judge_data(config: JudgeConfig, with_states: bool = True) -> JudgeData:
    """Read and check all splits; without `with_states` no state is loaded. Raises `InputError` naming folder and
    remedy: no traces, no pairs, splits with a common problem, folders cut or captured differently, states of another
    model."""
    folders = {"train": config.train, "dev": config.dev} if config.train is not None else {"dev": config.dev}
    folders |= {_test_key(config, name): folder for name, folder in config.tests.items()}
    settings = {key: read_settings(folder) for key, folder in folders.items()}
    given = None if config.chooses_cut else _cut_rule(config, folders, settings)
    layers = _layers(config, folders, settings) if config.judge_kind.reads_states else None
    tokenizer = load_tokenizer(config.generator or config.model)
    prompt = _prompt(config, folders, settings)
    stored_layers = next(iter(settings.values())).layers
    reader = _Reader(
        prompt,
        config.answer_from,
        given or CutRule(),
        tokenizer,
        Detokenizer(tokenizer),
        layers,
        stored_layers,
        with_states,
    )
    chosen = reader.chosen_cut(config.dev, config.cut_share) if given is None else None
    rule = given or chosen.rule
    reader = replace(reader, rule=rule)
    splits = {key: reader.split(folder) for key, folder in folders.items()}
    tests = _checked_tests(config, splits)
    states = splits["dev"][0].cuts[0].states
    return JudgeData(
        train=splits.get("train", []),
        dev=splits["dev"],
        tests=tests,
        cut_rule=rule,
        layers=layers,
        hidden=None if states is None else states.shape[2],
        tokenizer=tokenizer,
        prompt=prompt,
        sources={key: found.problems for key, found in settings.items() if found.problems is not None},
        cut_choice=None if chosen is None else chosen.words,
    )


def _prompt(config: JudgeConfig, folders: dict[str, str], settings: dict[str, TraceSettings]) -> Prompt:
    first = next(iter(settings))
    prompt = prompt_of(vars(config), settings[first].prompt)
    if prompt is None:
        raise InputError(f"{folders[first]}: the folder does not say how its problems were put; give 'prompt_family'")
    return prompt


def _checked_tests(config: JudgeConfig, splits: dict[str, list[LabelledProblem]]) -> dict[str, list[LabelledProblem]]:
    """The test splits by name. Raises `InputError` where one shares problems with training, or its states do not
    fit."""
    tests = {name: splits[_test_key(config, name)] for name in config.tests}
    for name, problems in tests.items():  # two models may well be tested on the same problems
        check_disjoint({"train": splits.get("train", []), "dev": splits["dev"], _test_key(config, name): problems})
    _check_states(tests, splits["dev"])
    return tests


def _test_key(config: JudgeConfig, name: str) -> str:
    return "test" if isinstance(config.test, str) else f"test.{name}"


def _cut_rule(config: JudgeConfig, folders: dict[str, str], settings: dict[str, TraceSettings]) -> CutRule:
    first = next(iter(settings))
    asked = CutRule(config.cut_kind, config.cut_k) if config.cut_kind and config.cut_k else None
    rule = asked or settings[first].cut_rule
    if rule is None:
        raise InputError(f"{folders[first]}: the folder names no cut; give 'cut_kind' and 'cut_k'")
    for key, found in settings.items():
        # States end where the trace was cut when it was sampled; text can be cut again.
        stored = found.cut_rule
        if config.judge_kind.reads_states and stored is not None and stored.kind == rule.kind and stored.k < rule.k:
            raise InputError(
                f"key '{key}': the states in {folders[key]} were stored for a cut at {stored.k} "
                f"{stored.kind}, not {rule.k} {rule.kind}; collect the traces again or give a smaller 'cut_k'"
            )
    return rule


def _layers(config: JudgeConfig, folders: dict[str, str], settings: dict[str, TraceSettings]) -> tuple[int, ...]:
    first, generator = next(iter(settings)), model_identity(config.model)
    stored = settings[first].layers
    for key, found in settings.items():
        if found.layers is None or found.layers != stored:
            raise InputError(
                f"key '{key}': {folders[key]} holds the states of layers {found.layers}, {folders[first]} those of "
                f"{stored}; collect all splits with the same 'layers' and 'states: true'"
            )
        may_differ = config.allow_other_model and key.startswith("test")
        if found.model != generator and not may_differ:
            raise InputError(
                f"key '{key}': the states in {folders[key]} are those of model {found.model}, but "
                f"'{config.model}' is {generator}; an own-state judge belongs to the model whose traces it was "
                "trained on: correct 'model', collect its traces, or set 'allow_other_model: true' to measure it on "
                "the states of another model of the same sizes (test folders only)"
            )
    layers = tuple(config.layers) if config.layers is not None else stored
    missing = [layer for layer in layers if layer not in stored]
    if missing or not layers:
        raise InputError(f"key 'layers' has the value {config.layers}: the folders hold the layers {list(stored)}")
    return layers


def _check_states(tests: dict[str, list[LabelledProblem]], dev: list[LabelledProblem]) -> None:
    """Another model's states fit only if they are as wide."""
    wanted = dev[0].cuts[0].states
    for name, problems in tests.items():
        found = problems[0].cuts[0].states
        if wanted is not None and found.shape[2] != wanted.shape[2]:
            raise InputError(
                f"key 'test.{name}': its states are {found.shape[2]} wide, those the judge is trained on "
                f"{wanted.shape[2]}; an own-state judge cannot read them: train one on that model's traces"
            )


@dataclass(frozen=True)
class _Reader:
    prompt: Prompt
    answer_from: str
    rule: CutRule
    tokenizer: "PreTrainedTokenizerBase"
    detokenizer: Detokenizer
    layers: tuple[int, ...] | None
    stored_layers: tuple[int, ...] | None
    with_states: bool  # load those of `layers`

    def chosen_cut(self, folder: str, share: float) -> ChosenCut:
        """The cut that the traces of a folder suggest."""
        stored = [one for entry in read_trace_folder(folder) for one in entry.traces]
        return choose_cut([self._tokens(one)[1] for one in stored], share)

    def split(self, folder: str) -> list[LabelledProblem]:
        extract = extraction(self.answer_from, starts_inside_thinking(self.tokenizer))
        problems = [self._problem(entry, extract) for entry in read_trace_folder(folder)]
        problems = [problem for problem in problems if len(problem.pairs)]
        if not problems:
            raise InputError(f"{folder}: no problem has two traces with a known outcome; collect more traces")
        if len(set(all_labels(problems))) < 2:
            raise InputError(
                f"{folder}: all pairs have the same label, so there is nothing to learn or measure; take harder or "
                "more problems"
            )
        return problems

    def _problem(self, entry: ProblemTraces, extract: Extract) -> LabelledProblem:
        prompt_ids = tuple(encode_prompt(self.tokenizer, evaluation_messages(entry.problem.problem, self.prompt)))
        read = [self._cut(stored, prompt_ids) for stored in entry.traces]
        cuts, whole, shares = (tuple(column) for column in zip(*read, strict=True))
        traces = [stored.trace for stored in entry.traces]
        ended = [trace.finish_reason == "stop" for trace in traces]
        answers = [trace.answer_by(extract) for trace in traces]
        keys = group_answers(answers)
        return LabelledProblem(
            id=entry.problem.id,
            group=entry.problem.group,
            cuts=cuts,
            whole=whole,
            cut_shares=shares,
            pairs=make_pairs(keys, ended, whole),
            gold=entry.problem.answer,
            answers=tuple(answers),
            keys=tuple(keys),
            lengths=tuple(round(len(cut.token_ids) / share) for cut, share in zip(cuts, shares, strict=True)),
        )

    def _cut(self, stored: StoredTrace, prompt_ids: tuple[int, ...]) -> tuple[CutTrace, bool, float]:
        """The cut, whether it is the whole trace, and its share (0-1) of the trace."""
        ids, pieces = self._tokens(stored)
        cut, length = cut_pieces(pieces, self.rule), max(1, len(ids))
        tokens = length if cut.n_tokens is None else cut.n_tokens
        if self.layers and stored.cut_tokens is not None and tokens > stored.cut_tokens:
            raise InputError(
                f"key 'cut_k' has the value {self.rule.k}, but a trace of the problem '{stored.trace.problem_id}' "
                f"has states of its first {stored.cut_tokens} tokens only, and this cut takes {tokens}; give a "
                "smaller one, or collect the traces at a larger cut"
            )
        states = self._states(stored, tokens) if self.layers and self.with_states else None
        whole = ended_before_cut(length, cut.n_tokens)
        return CutTrace(prompt_ids, ids[:tokens], cut.text, states), whole, tokens / length

    def _tokens(self, stored: StoredTrace) -> tuple[tuple[int, ...], list[str]]:
        """Token ids of the trace and the text of each. The trace's own where they are this tokenizer's; those of a
        trace made elsewhere, or by a model of another family, are made from its text."""
        text, ids = stored.trace.known_text(), stored.trace.token_ids
        if ids is None or (not self.layers and not self._knows(ids, text)):
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        stream = self.detokenizer.stream()
        return ids, [stream.push(token) for token in ids]

    def _knows(self, ids: tuple[int, ...], text: str) -> bool:
        if max(ids, default=0) >= len(self.tokenizer):
            return False
        read = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return read.strip() == text.strip()

    def _states(self, stored: StoredTrace, tokens: int) -> "torch.Tensor":
        """Those of a cut of so many tokens [tokens − 1, layers, hidden], the beginning of the stored ones where the
        trace was sampled with a later cut: a causal model's states do not depend on what comes after."""
        states = stored.load_states()
        if len(states) >= tokens:
            states = states[: tokens - 1].clone()  # a view would keep the rest in memory
        if self.layers == self.stored_layers:
            return states
        return states[:, [self.stored_layers.index(layer) for layer in self.layers]].contiguous()
