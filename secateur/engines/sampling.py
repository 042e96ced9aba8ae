"""Sampling many problems through one engine with a bounded number of traces at once.

Traces are handed out as they end. Freed places are filled in small lots, so that samples of one problem share their
prefill and new prompts share a forward pass, while the long tail of one problem never leaves the batch empty.

A `Prober` forces answers out of traces that have not ended: a probe is a short greedy trace of its own, on the
prompt, the tokens so far and a string that ends the thinking. With a prefix cache (vLLM, most servers) it computes
that string and the answer, and of the trace what stands in no whole block; `transformers` has none and reads all of
it again, those of equal length in one forward pass.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, Event, SamplingSpec, TraceUsage, fit_to_context, warn_of_context
from secateur.engines.trace_folder import CutVector
from secateur.runtime.errors import InputError
from secateur.tasks.answers.extraction import last_box
from secateur.tasks.prompts import Forcing
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_LOTS = 16  # a lot is 1/16 of the places: at most that share stands empty, and a prompt is prefilled once per lot


class CutDetector(Protocol):
    """Says when a trace has reached its cut (see secateur.deepprune.cut)."""

    def feed(self, text_delta: str, n_tokens: int) -> bool:
        """True at the step at which the cut is reached; `n_tokens` [tokens] is the size of this delta."""


@dataclass(frozen=True)
class TraceJob:
    """One trace to sample; `seed` is usually `secateur.engines.base.trace_seed(...)`."""

    problem: Problem
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass
class FinishedTrace:
    """A trace that ended. `cut_tokens` [tokens] is where its cut was seen, None if it ended first.

    `states` fp16 [tokens, layers, hidden] covers the generated tokens fed until the cut (or the end): one less than
    were sampled by then; `vector` is what was made of them where they were not to be kept. `confidences` has one
    number per token where the spec asked for them. `n_tokens` is the number of `token_ids`; what a server counts, if
    it keeps its ids to itself, is in `usage`."""

    job: TraceJob
    token_ids: tuple[int, ...]
    text: str
    n_tokens: int
    finish_reason: str
    usage: TraceUsage
    cut_tokens: int | None = None
    states: "torch.Tensor | None" = None
    vector: CutVector | None = None
    confidences: tuple[float, ...] = ()


@dataclass(eq=False)
class _Running:
    job: TraceJob
    detector: CutDetector | None
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    cut_tokens: int | None = None
    states: "torch.Tensor | None" = None
    vector: CutVector | None = None

    def take(self, event: Event) -> bool:
        """Append an event. True if it brings the trace to its cut; one that ends with that very event has no cut."""
        self.token_ids.extend(event.token_ids)
        self.texts.append(event.text)
        self.confidences.extend(event.confidences)
        if self.cut_tokens is not None or self.detector is None or event.done is not None:
            return False
        if not self.detector.feed(event.text, len(event.token_ids)):
            return False
        self.cut_tokens = len(self.token_ids)
        return True


def sample_traces(
    engine: Engine,
    tokenizer: "PreTrainedTokenizerBase | None",
    jobs: Sequence[TraceJob],
    spec: SamplingSpec,
    max_rows: int = 256,
    cut_factory: Callable[[], CutDetector] | None = None,
    with_states: bool = False,
    encode: "Callable[[torch.Tensor], CutVector] | None" = None,
) -> Iterator[FinishedTrace]:
    """Run all jobs, at most `max_rows` at once, and yield each trace when it ends.

    Neighbouring jobs with the same prompt are started together where they fit. `with_states` needs an engine that
    captures; states are taken at the cut, or at the end of a trace that has none, in one call for all traces that
    come there in a step. With `encode` a vector takes the place of the states at that very moment, so that none are
    held. The text is decoded from all ids at once; without a tokenizer it is that of the events, which is the only
    true one where a server keeps its ids to itself. A cap that the context does not hold is lowered, with a warning.
    Raises `InputError` if a (problem, sample) is asked for twice.
    """
    _check_jobs(jobs, max_rows)
    warn_of_context(engine, (job.prompt_ids for job in jobs), spec)
    waiting, running = list(reversed(jobs)), {}
    lot = max(1, max_rows // _LOTS)
    while waiting or running:
        room = max_rows - len(running)
        if waiting and (room >= lot or not running):
            _fill(engine, waiting, running, room, spec, cut_factory)
        events = engine.step()
        due = _take(running, events)
        if due and (with_states or encode is not None):
            _keep_states(engine, running, due, encode)
        ended = [event for event in events if event.done is not None]
        finished = [_finished(engine, tokenizer, running.pop(event.trace), event) for event in ended]
        engine.release([event.trace for event in ended])
        yield from finished


@dataclass(eq=False)
class Probe:
    """An answer on its way: `forced` is the string behind the trace and what was read behind it, `n_tokens` [tokens]
    of them. It is `done` when the box has closed, or the probe has come to its end or its cap."""

    handle: int
    forced: str
    n_tokens: int = 0
    done: bool = False


class Prober:
    """Forces answers out of traces of one engine; a probe reads `tokens` at most.

    Raises `InputError` for an engine without a tokenizer.
    """

    def __init__(self, engine: Engine, forcing: Forcing, tokens: int) -> None:
        if engine.tokenizer is None:
            raise InputError("the engine has no tokenizer, so no answer can be forced: open it with the model's")
        self._engine, self._forcing = engine, forcing
        self._spec = SamplingSpec(temperature=0.0, max_tokens=tokens)
        self._ids: dict[str, tuple[int, ...]] = {}
        self._running: dict[int, Probe] = {}
        self._spent = Usage()

    @property
    def handles(self) -> list[int]:
        """Of the probes that run."""
        return list(self._running)

    def injected(self, text: str) -> tuple[int, ...]:
        """The ids of the string behind a trace that has come to `text`."""
        behind = self._forcing.behind(text)
        if behind not in self._ids:
            self._ids[behind] = tuple(self._engine.tokenizer(behind, add_special_tokens=False)["input_ids"])
        return self._ids[behind]

    def fits(self, length: int, spec: SamplingSpec) -> bool:
        """Whether a probe behind `length` tokens of a trace stays within what its own cap was checked for."""
        return length + len(self.injected("")) + self._spec.max_tokens <= spec.max_tokens

    def start(self, prompt_ids: Sequence[int], token_ids: Sequence[int], text: str, seed: int) -> Probe:
        """Probe a trace of `token_ids`, whose text is `text`. Greedy, so that the seed only names the trace."""
        ids = (*prompt_ids, *token_ids, *self.injected(text))
        (handle,) = self._engine.start(ids, [seed], self._spec)
        probe = self._running[handle] = Probe(handle, self._forcing.behind(text))
        return probe

    def take(self, events: Iterable[Event]) -> None:
        """Take the probes' own events of an engine step; a box that has closed ends its probe."""
        closed = []
        for event in events:
            probe = self._running[event.trace]
            probe.forced += event.text
            probe.n_tokens += len(event.token_ids)
            probe.done = event.done is not None or last_box(probe.forced) is not None
            if event.done is not None:
                self._forget([self._running.pop(probe.handle).handle])
            elif probe.done:
                closed.append(probe)
        self.drop(closed)

    def drop(self, probes: Iterable[Probe]) -> None:
        """End probes that nobody waits for any more."""
        handles = [probe.handle for probe in probes if self._running.pop(probe.handle, None) is not None]
        if handles:
            self._engine.prune(handles)
            self._forget(handles)

    def close(self) -> None:
        """End all that run."""
        self.drop(list(self._running.values()))

    @property
    def usage(self) -> Usage:
        """What all of its probes have cost."""
        return sum(map(self._usage_of, self._running), self._spent)

    def _forget(self, handles: Sequence[int]) -> None:
        """Count probes that have ended, and let the engine forget them."""
        self._spent = sum(map(self._usage_of, handles), self._spent)
        self._engine.release(handles)

    def _usage_of(self, handle: int) -> Usage:
        count = self._engine.usage(handle)
        return Usage(
            overrun=count.overrun_tokens,
            probe_prefill=count.prefill_computed,
            probe_cached=count.prefill_cached,
            probe_generated=count.generated_tokens,
        )


@dataclass(frozen=True, eq=False)
class ProbeJob:
    """An answer to force out of a trace that has come to `token_ids` and `text`; `place` names it."""

    place: Hashable
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    seed: int


def force_answers(
    engine: Engine, prober: Prober, jobs: Iterable[ProbeJob], max_rows: int
) -> Iterator[tuple[ProbeJob, Probe]]:
    """Force all of them, at most `max_rows` at once, and yield each answer when it has been read."""
    waiting, running = iter(jobs), dict[ProbeJob, Probe]()
    while True:
        for job in islice(waiting, max_rows - len(running)):
            running[job] = prober.start(job.prompt_ids, job.token_ids, job.text, job.seed)
        if not running:
            return
        prober.take(engine.step())
        for job in [job for job, probe in running.items() if probe.done]:
            yield job, running.pop(job)


def _check_jobs(jobs: Sequence[TraceJob], max_rows: int) -> None:
    if max_rows < 1:
        raise InputError(f"max_rows is {max_rows}: at least one trace must run")
    seen: set[tuple[str, int]] = set()
    for job in jobs:
        key = (job.problem.id, job.sample)
        if key in seen:
            raise InputError(f"sample {job.sample} of problem '{job.problem.id}' is asked for twice")
        seen.add(key)


def _fill(
    engine: Engine,
    waiting: list[TraceJob],
    running: dict[int, _Running],
    room: int,
    spec: SamplingSpec,
    cut_factory: Callable[[], CutDetector] | None,
) -> None:
    """Start jobs from the end of `waiting` until `room` is used up, one `start` per prompt."""
    while waiting and room:
        group = [waiting.pop()]
        while waiting and len(group) < room and waiting[-1].prompt_ids == group[0].prompt_ids:
            group.append(waiting.pop())
        prompt = group[0].prompt_ids
        handles = engine.start(prompt, [job.seed for job in group], fit_to_context(engine, prompt, spec))
        for handle, job in zip(handles, group, strict=True):
            running[handle] = _Running(job, cut_factory() if cut_factory else None)
        room -= len(group)


def _take(running: dict[int, _Running], events: Sequence[Event]) -> list[int]:
    """Append the events of one step to their traces; returns those that come to their cut, or end before it."""
    due = []
    for event in events:
        trace = running[event.trace]
        whole = event.done is not None and trace.cut_tokens is None
        if trace.take(event) or whole:
            due.append(event.trace)
    return due


def _keep_states(
    engine: Engine,
    running: dict[int, _Running],
    due: Sequence[int],
    encode: "Callable[[torch.Tensor], CutVector] | None",
) -> None:
    for handle, states in zip(due, engine.states(due), strict=True):
        if encode is None:
            running[handle].states = states
        else:
            running[handle].vector = encode(states)


def _finished(
    engine: Engine, tokenizer: "PreTrainedTokenizerBase | None", trace: _Running, event: Event
) -> FinishedTrace:
    if tokenizer is None:
        text = "".join(trace.texts)
    else:
        text = tokenizer.decode(trace.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return FinishedTrace(
        job=trace.job,
        token_ids=tuple(trace.token_ids),
        text=text,
        n_tokens=len(trace.token_ids),
        finish_reason=event.done,
        usage=engine.usage(event.trace),
        cut_tokens=trace.cut_tokens,
        states=trace.states,
        vector=trace.vector,
        confidences=tuple(trace.confidences),
    )
