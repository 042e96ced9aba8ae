"""The judges of one model in a combined run: that they go together, and what they say about stored traces. Its scorer
likewise."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.table.config import CombinedConfig
from eval.table.method import TraceReadings
from eval.table.store import JudgeScores, StoredReadings, judge_fingerprint, names_of_judges
from eval.traces.sampling import prompt_ids
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.deepprune.judges.base import CutTrace, Judge, VectorJudge
from secateur.deepprune.judges.folder import judge_folder, load_judge
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.deepprune.policy import JudgeFailure
from secateur.deepprune.scorer import (
    CUT,
    END,
    Observed,
    load_scorer,
    observed_at,
    places_of,
    read_scorer,
    scorer_files,
)
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.models import load_model, read_states
from secateur.engines.trace_folder import CutVector, StoredTrace
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import sampled_digest
from secateur.tasks.prompts import evaluation_messages
from secateur.tasks.records import Problem

_READ_AT_ONCE = 16  # traces of one problem


class ModelJudges:
    """All judges that score the traces of one model, on `device`; `labels`, `prints` and `judges` are in the same
    order. Raises `InputError` for judges that cannot serve the model, or not together."""

    def __init__(self, config: CombinedConfig, model: str, device: str) -> None:
        self.config, self.model = config, model
        names = config.scored_by(model)
        self.labels = names_of_judges(config, model)
        self.prints = [judge_fingerprint(name) for name in names]
        # Without judges nobody reads tokens of imported traces, which may have no tokenizer.
        bare = bool(config.imports) and not names
        self.judges = [] if bare else self._load(names, device)
        self.tokenizer = None if bare else load_tokenizer(config.tokenizer_of(model))
        self._detokenizer = None if self.tokenizer is None else Detokenizer(self.tokenizer)
        self.scorer = ModelScorer(config, model, device) if config.needs_scorer else None
        self._check_scorer()

    def _load(self, names: Sequence[str], device: str) -> list[Judge]:
        """Trained judges bring their cut along, untrained ones take theirs over."""
        generator = self.config.tokenizer_of(self.model)
        trained = {
            name: load_judge(judge_folder(name), generator, device=device) for name in names if name not in UNTRAINED
        }
        rule = next((judge.cut_rule for judge in trained.values()), self.config.cut_rule)
        judges = [trained.get(name) or load_judge(name, generator, cut_rule=rule) for name in names]
        self._check(judges)
        return judges

    def show_notes(self) -> None:
        """Say what the judges have earned, and where they were trained otherwise than they are used here."""
        for judge in self.judges:
            if judge.verdict is not None:
                say(f"judge {judge.name} of {escape(self.model)}: {escape(judge.verdict)}")
            self._compare_prompts(judge)

    def _compare_prompts(self, judge: Judge) -> None:
        """A judge that saw other prompts still answers; what it has earned there may not hold here."""
        here = self.config.prompt
        if judge.prompt is not None and evaluation_messages("", judge.prompt) != evaluation_messages("", here):
            say(
                f"judge {judge.name} of {escape(self.model)}: the problems of its traces were put otherwise than "
                f"here ({escape(str(judge.prompt))}, here {escape(str(here))}); its scores may be worth less"
            )

    def _check(self, judges: Sequence[Judge]) -> None:
        rules = {judge.cut_rule for judge in judges}
        if len(rules) > 1:
            raise InputError(
                f"key 'judges.{self.model}': its judges cut at {', '.join(map(str, rules))}; give one cut"
            )
        own = [judge for judge in judges if judge.needs_states]
        if len(own) > 1 and not self.config.keep_states:
            raise InputError(
                f"key 'judges.{self.model}' names two judges that read the model's states; give one, or store the "
                "states themselves with keep_states: true"
            )
        if len({judge.capture_layers for judge in own}) > 1:
            raise InputError(
                f"key 'judges.{self.model}': its judges read other layers; give those that read the same"
            )

    def _check_scorer(self) -> None:
        if self.scorer is not None and self.judges and self.scorer.cut_rule != self.judges[0].cut_rule:
            raise InputError(
                f"key 'scorers.{self.model}': it cuts at {self.scorer.cut_rule}, the judges at "
                f"{self.judges[0].cut_rule}; train it with the 'cut_kind' and 'cut_k' of the judges"
            )

    @property
    def cut_rule(self) -> CutRule | None:
        if self.judges:
            return self.judges[0].cut_rule
        return self.scorer.cut_rule if self.scorer else None

    @property
    def own_states(self) -> Judge | None:
        """The one that reads the model's states, if there is one."""
        return next((judge for judge in self.judges if judge.needs_states), None)

    @property
    def encode(self) -> Callable[[torch.Tensor], CutVector] | None:
        """What is stored in place of hidden states; None where none are read, or the states themselves are kept."""
        judge = self.own_states
        return None if judge is None or self.config.keep_states else judge.encode_states

    def trace_settings(self) -> dict[str, Any]:
        """What the judges ask of the stored traces."""
        own = [self.prints[i] for i, judge in enumerate(self.judges) if judge.needs_states]
        settings: dict[str, Any] = {"cut": asdict(self.cut_rule) if self.cut_rule else None}
        if own and self.config.keep_states:
            return settings | {"layers": list(self.own_states.capture_layers)}
        return settings | {"vectors_of_judge": own[0] if own else None}

    def score_settings(self, index: int) -> str:
        """What the stored scores of a judge must have been made with."""
        settings = {
            "judge": self.prints[index],
            "n": self.config.largest_n,
            "seed": self.config.seed,
            "cut": str(self.cut_rule),
        }
        return json.dumps(settings, sort_keys=True)

    def score(self, index: int, problem: Problem, traces: Sequence[StoredTrace]) -> JudgeScores:
        """What one of the judges says about all pairs of the traces of one problem."""
        judge = self.judges[index]
        judge.reset_usage()
        n = len(traces)
        costs: tuple[Usage, ...] = (Usage(),) * n  # of the cuts; judges of pairs read none by itself
        try:
            if isinstance(judge, VectorJudge):
                vectors, costs = zip(*self._vectors(judge, problem, traces), strict=True)
                scores = judge.score_vectors(np.stack(vectors))
            else:
                ids = prompt_ids(self.tokenizer, problem, self.config.prompt)
                scores = judge.score([self._cut(ids, trace, judge.needs_states) for trace in traces])
        except JudgeFailure:
            scores = np.full((n, n), np.nan)
        usage = JudgeUsage(sum(costs, judge.usage), costs)
        return JudgeScores(np.asarray(scores, dtype=np.float64), usage, judge.parameters)

    def _vectors(
        self, judge: VectorJudge, problem: Problem, traces: Sequence[StoredTrace]
    ) -> Iterator[tuple[np.ndarray, Usage]]:
        """The vector of each cut and what reading it cost."""
        ids = prompt_ids(self.tokenizer, problem, self.config.prompt)
        session = judge.open()
        for trace in traces:
            if judge.needs_states and not self.config.keep_states:
                stored = trace.load_vector()
                yield stored.values, Usage(judge_head=stored.macs)
            else:
                yield session.read(self._cut(ids, trace, judge.needs_states))

    def _cut(self, ids: tuple[int, ...], stored: StoredTrace, with_states: bool) -> CutTrace:
        """The cut as a live run would hand it to the judge, rebuilt token by token."""
        tokens = stored.trace.token_ids[: stored.cut_tokens]
        detector, stream = CutDetector(self.cut_rule), self._detokenizer.stream()
        for token in tokens:
            detector.feed(stream.push(token), 1)
        if stored.cut_tokens is None:
            detector.feed(stream.finish(), 0)
        return CutTrace(ids, tokens, detector.text, stored.load_states() if with_states else None)


class ModelScorer:
    """The scorer of a model's traces. Its hidden states were at hand when they were generated; here the model reads
    the stored tokens once more, which is no cost of a method."""

    def __init__(self, config: CombinedConfig, model: str, device: str) -> None:
        self._config, self._model, self._device = config, model, device
        states = "states" in read_scorer(config.scorers[model]).reads
        self._scorer = load_scorer(config.scorers[model], config.tokenizer_of(model) if states else None)
        files = sampled_digest((path.name, path) for path in scorer_files(config.scorers[model]))
        self.settings = json.dumps({"scorer": files, "n": config.largest_n, "seed": config.seed}, sort_keys=True)

    @property
    def cut_rule(self) -> CutRule:
        return self._scorer.cut_rule

    @cached_property
    def _generator(self) -> PreTrainedModel:
        return load_model(self._config.models[self._model], self._config.dtype, torch.device(self._device))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._config.tokenizer_of(self._model))

    def readings(self, problem: Problem, traces: Sequence[StoredTrace]) -> StoredReadings:
        """What it is told of all traces of one problem."""
        if not self._scorer.needs_states:
            return StoredReadings(self.settings, tuple(self._reading(stored, None) for stored in traces))
        ids, found = prompt_ids(self._tokenizer, problem, self._config.prompt), []
        for first in range(0, len(traces), _READ_AT_ONCE):
            part = traces[first : first + _READ_AT_ONCE]
            tokens = [stored.trace.token_ids for stored in part]
            states = read_states(self._generator, ids, tokens, self._scorer.capture_layers)
            found += map(self._reading, part, states)
        return StoredReadings(self.settings, tuple(found))

    def _reading(self, stored: StoredTrace, states: torch.Tensor | None) -> TraceReadings:
        scorer, length = self._scorer, stored.trace.n_tokens
        confidences = stored.load_confidences() if "confidences" in scorer.record.reads else None

        def observed(point: str, place: int) -> Observed:
            known = states is not None and point in scorer.record.points
            return observed_at(place, scorer.logit(point, states[: place - 1]) if known else None, confidences)

        (cut,) = places_of(CUT, length, stored.cut_tokens)
        return TraceReadings(observed(CUT, cut), observed(END, length), self._every(states, length))

    def _every(self, states: torch.Tensor | None, length: int) -> tuple[float, ...]:
        scorer, point = self._scorer, self._scorer.record.running_point
        if point is None or states is None:
            return ()
        places = places_of(point, length, None)
        return tuple(
            float(scorer.probabilities(point, [observed_at(place, scorer.logit(point, states[: place - 1]))])[0])
            for place in places
        )
