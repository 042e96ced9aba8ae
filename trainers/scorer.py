"""Train a scorer: how probably does this trace end right?

    python trainers/scorer.py --config configs/demo/scorer.yaml
    python trainers/scorer.py --config configs/demo/scorer.yaml --reads '[order]' --output_dir outputs/scorers/order

Trace folders are those of judges (eval/collect_traces.py); golds say which traces end right. Hidden states need not
be stored: the model reads the traces once more. Each point gets a head of its own, trained on `train`, chosen by the
AUROC within problems of `dev`. The logistic regression that makes probabilities is fitted on `dev`, all figures come
from `test`. Without states it is fitted on `train` and `dev`, for nothing is chosen.

What a scorer is and what it may read: secateur/deepprune/scorer.py. Methods that use it: eval/table/scored.py.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from torch import nn
from transformers import PreTrainedModel

from secateur.deepprune.cut import CutRule, cut_length
from secateur.deepprune.judges.folder import describe_generator
from secateur.deepprune.judges.heads import CorrectnessHead
from secateur.deepprune.judges.metrics import auroc_within_problems
from secateur.deepprune.judges.pairs import check_apart
from secateur.deepprune.scorer import (
    CUT,
    END,
    HeadShape,
    Observed,
    PointRecord,
    Reading,
    ScoreFigures,
    Scorer,
    ScorerRecord,
    features_of,
    fit_scores,
    new_head,
    observed_at,
    places_of,
    save_scorer,
    score_figures,
)
from secateur.engines.detokenize import Detokenizer
from secateur.engines.finite import check_start
from secateur.engines.model_files import check_capture_layers, load_tokenizer
from secateur.engines.models import load_model, read_states
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, read_trace_folder
from secateur.runtime.command_lines import written
from secateur.runtime.config import parse_config, write_yaml
from secateur.runtime.console import MetricLog, progress, say, say_end, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import grade_batch
from secateur.tasks.answers.extraction import extraction
from secateur.tasks.prompts import encode_prompt, evaluation_messages, prompt_of, starts_inside_thinking
from trainers.judges.config import ScorerConfig
from trainers.judges.data import check_sampled_by, read_settings
from trainers.judges.fit import Fit, FitSettings

_AT_ONCE = 16  # traces that the model reads in one pass


@dataclass(frozen=True, eq=False)
class GradedProblem:
    """The traces of a problem, where each was cut [tokens], and which end right: `labels` [traces] 1 or 0. A trace
    that ran into the cap of tokens has no answer and did not end right."""

    entry: ProblemTraces
    cut_tokens: tuple[int | None, ...]
    labels: np.ndarray

    @property
    def traces(self) -> list[StoredTrace]:
        return self.entry.traces


@dataclass(frozen=True, eq=False)
class Readings:
    """One problem at one point: an entry for every reading of every trace. `states` of each reading: fp16
    [at most `window` tokens, layers, hidden]; None without states."""

    observed: tuple[Observed, ...]
    labels: np.ndarray
    states: tuple[torch.Tensor, ...] | None = None


class Reader:
    """Reads trace folders: golds, cuts, and at the points of a trace what the scorer is told."""

    def __init__(self, config: ScorerConfig) -> None:
        self.config, settings = config, read_settings(config.train)
        asked = CutRule(config.cut_kind, config.cut_k) if config.cut_kind and config.cut_k else settings.cut_rule
        self.cut, self.prompt = asked or CutRule(), prompt_of(vars(config), settings.prompt)
        self._tokenizer = None if config.model is None else load_tokenizer(config.model)
        self._detokenizer = None if self._tokenizer is None else Detokenizer(self._tokenizer)
        thinking = self._tokenizer is not None and starts_inside_thinking(self._tokenizer)
        self._extract = extraction(config.answer_from, thinking)
        self._model: PreTrainedModel | None = None
        self.shape: HeadShape | None = None
        if config.reads_states:
            self._open_model()

    def _open_model(self) -> None:
        check_sampled_by(self.config.model, {key: getattr(self.config, key) for key in ("train", "dev", "test")})
        if self.prompt is None:
            raise InputError(f"{self.config.train}: it does not say how its problems were put; give 'prompt_family'")
        config, device = self.config, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_model(config.model, config.dtype, device)
        check_start(self._model, config.model, "key 'dtype'")
        text = self._model.config.get_text_config(decoder=True)
        layers = check_capture_layers(config.layers or [text.num_hidden_layers], self._model.config, "layers")
        self.shape = HeadShape(config.head, layers, text.hidden_size, config.heads, config.width, config.window)

    def folder(self, path: str) -> list[GradedProblem]:
        return [self._graded(entry) for entry in read_trace_folder(path)]

    def _graded(self, entry: ProblemTraces) -> GradedProblem:
        unknown = [stored.trace.sample for stored in entry.traces if stored.trace.n_tokens is None]
        if unknown:
            raise InputError(
                f"problem '{entry.problem.id}': how many tokens its trace {unknown[0]} has is not known; import the "
                "traces with a 'tokenizer'"
            )
        texts = [stored.trace.text for stored in entry.traces]
        labels = grade_batch(texts, [entry.problem.answer] * len(texts), self._extract)
        return GradedProblem(entry, tuple(map(self._cut_of, entry.traces)), np.array(labels, dtype=np.int64))

    def _cut_of(self, stored: StoredTrace) -> int | None:
        if CUT not in self.config.points:
            return None
        if stored.trace.token_ids is None:
            raise InputError(f"problem '{stored.trace.problem_id}': its traces hold no token ids; collect them anew")
        stream = self._detokenizer.stream()
        return cut_length([stream.push(token) for token in stored.trace.token_ids], self.cut)

    def read(self, problems: Sequence[GradedProblem], title: str) -> dict[str, list[Readings]]:
        """Point → all readings of the problems there, in one pass; problems whose traces are all shorter are left
        out."""
        found: dict[str, list[Readings]] = {point: [] for point in self.config.points}
        with progress(f"{title}: reading", len(problems)) as shown:
            for problem in problems:
                for point, readings in self._at_points(problem).items():
                    found[point] += [readings] if len(readings.labels) else []
                shown.advance()
        return found

    def _at_points(self, problem: GradedProblem) -> dict[str, Readings]:
        observed, labels, windows = ({point: [] for point in self.config.points} for _ in range(3))
        states = self._states(problem) if self._model is not None else itertools.repeat(None)
        for stored, cut, label, own in zip(problem.traces, problem.cut_tokens, problem.labels, states, strict=False):
            confidences = stored.load_confidences() if "confidences" in self.config.reads else None
            for point in self.config.points:
                places = places_of(point, stored.trace.n_tokens, cut)
                observed[point] += [observed_at(place, confidences=confidences) for place in places]
                labels[point] += [label] * len(places)
                windows[point] += [] if own is None else [self._window(own, place) for place in places]
        return {
            point: Readings(
                tuple(observed[point]),
                np.array(labels[point], dtype=np.int64),
                None if self._model is None else tuple(windows[point]),
            )
            for point in self.config.points
        }

    def _window(self, states: torch.Tensor, place: int) -> torch.Tensor:
        """The states before a place, as an engine has them there: the newest token has not been fed back yet."""
        found = states[max(0, place - 1 - self.shape.window) : place - 1]
        return found.clone() if len(found) * len(self.config.points) < len(states) else found

    def _states(self, problem: GradedProblem) -> Iterator[torch.Tensor]:
        messages = evaluation_messages(problem.entry.problem.problem, self.prompt)
        prompt = encode_prompt(self._tokenizer, messages)
        ids = [stored.trace.token_ids for stored in problem.traces]
        for first in range(0, len(ids), _AT_ONCE):
            yield from read_states(self._model, prompt, ids[first : first + _AT_ONCE], self.shape.layers)


class _HeadOnReadings(nn.Module):
    """A head as a module from problems to the logits of all their readings."""

    def __init__(self, head: CorrectnessHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, problems: Sequence[Readings]) -> torch.Tensor:
        return self.head.of_lists([states for one in problems for states in one.states])


def train_head(
    config: ScorerConfig, shape: HeadShape, point: str, train: Sequence[Readings], dev: Sequence[Readings]
) -> CorrectnessHead:
    """The head with the best AUROC within the development problems, trained with cross-entropy."""
    torch.manual_seed(config.seed)
    head, best = new_head(shape), {}
    module = _HeadOnReadings(head)

    def dev_score() -> float:
        found = auroc_within_problems(*_columns(dev, [module([one]).numpy() for one in dev]))
        return found[0] if found else 0.0

    Fit(
        module=module,
        items=train,
        labels_of=lambda items: torch.from_numpy(np.concatenate([one.labels for one in items])),
        dev_score=dev_score,
        keep_best=lambda: best.update({key: value.clone() for key, value in head.state_dict().items()}),
        settings=_settings(config),
        log=MetricLog(Path(config.output_dir) / "train.jsonl"),
        title=f"scorer at {point}",
    ).run()
    head.load_state_dict(best)
    return head.eval()


def _settings(config: ScorerConfig) -> FitSettings:
    """Plain cross-entropy: both labels weigh what they are worth, for the scores are to be probabilities."""
    return FitSettings(
        epochs=config.epochs,
        items_per_step=config.problems_per_step,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=0.05,
        evaluations=config.evaluations,
        gamma=0.0,
        alpha=None,
        minority=0,
        minority_factor=1.0,
        seed=config.seed,
    )


def _columns(problems: Sequence[Readings], scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and problem numbers of all readings in a row."""
    numbers = np.repeat(np.arange(len(problems)), [len(one.labels) for one in problems])
    return np.concatenate([one.labels for one in problems]), np.concatenate(scores), numbers


@torch.no_grad()
def features(problem: Readings, head: CorrectnessHead | None, reads: Sequence[Reading]) -> np.ndarray:
    """[readings, features]."""
    if head is None:
        return features_of(problem.observed, reads)
    logits = head.of_lists(problem.states).tolist()
    observed = [replace(one, logit=logit) for one, logit in zip(problem.observed, logits, strict=True)]
    return features_of(observed, reads)


Splits = Mapping[str, Sequence[Readings]]
"""train, dev and test at one point."""


def make_point(
    config: ScorerConfig, shape: HeadShape | None, point: str, splits: Splits
) -> tuple[PointRecord, CorrectnessHead | None]:
    """A scorer at one point: its head, the fit of its probabilities, and its figures."""
    for name, problems in splits.items():
        if not problems:
            raise InputError(f"key 'points' names '{point}', but no trace of '{name}' comes to it")
    head = None if shape is None else train_head(config, shape, point, splits["train"], splits["dev"])
    fitted = splits["dev"] if head is not None else [*splits["train"], *splits["dev"]]
    table = np.concatenate([features(one, head, config.reads) for one in fitted])
    fit = fit_scores(table, np.concatenate([one.labels for one in fitted]))
    scores = [fit(features(one, head, config.reads)) for one in splits["test"]]
    return PointRecord(fit, score_figures(*_columns(splits["test"], scores))), head


def run(config: ScorerConfig) -> Scorer:
    """Train, measure and save a scorer."""
    folder, reader = Path(config.output_dir), Reader(config)
    splits = {name: reader.folder(getattr(config, name)) for name in ("train", "dev", "test")}
    problems = {name: [graded.entry.problem for graded in found] for name, found in splits.items()}
    check_apart({name: [(problem.id, problem.problem) for problem in found] for name, found in problems.items()})
    write_yaml(folder / "config.yaml", asdict(config))
    readings = {name: reader.read(problems, name) for name, problems in splits.items()}
    points, heads = {}, {}
    for point in config.points:
        here = {name: found[point] for name, found in readings.items()}
        points[point], head = make_point(config, reader.shape, point, here)
        heads |= {} if head is None else {point: head}
        say(f"  {escape(point)}: {escape(shown(points[point].figures))}")
    generator = describe_generator(config.model) if config.reads_states else None
    record = ScorerRecord(
        reads=tuple(config.reads), points=points, cut=reader.cut, head=reader.shape, generator=generator
    )
    save_scorer(folder, record, heads)
    say(f"scorer of {', '.join(config.reads)}: {escape(str(folder))}")
    say_end(folder / "scorer.json", table_command(config))
    return Scorer(record, heads)


def table_command(config: ScorerConfig) -> str:
    """What measures the methods that read this scorer's points; the model and the problems are the user's to name
    where no key does. A scorer may turn out to know nothing, so it is asked all the same."""
    methods = [name for name, point in (("score_vote", END), ("score_order", CUT)) if point in config.points]
    keys = {
        "models": {"base": config.model or "MODEL"},
        "scorers": {"base": config.output_dir},
        "problems": "PROBLEMS.jsonl",
        "methods": ["consensus", *methods],
        **({"top_logprobs": 20} if "confidences" in config.reads else {}),
    }
    return written(keys, "table") if methods else ""


def shown(figures: ScoreFigures) -> str:
    """What the terminal says of a point."""
    pooled = "–" if figures.auroc is None else f"{figures.auroc:.3f}"
    return f"{figures.words}; over all traces {pooled}; calibration error {figures.ece:.3f}"


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(ScorerConfig)
    use_one_torch_thread()
    with hold_folder(config.output_dir):
        run(config)


if __name__ == "__main__":
    main()
