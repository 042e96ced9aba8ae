"""Many problems through one batch: every trace is the one it would be alone, and places are used."""

from pathlib import Path

import pytest

from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem

SPEC = SamplingSpec(temperature=0.9, max_tokens=24)


class AfterTokens:
    """A cut after `k` tokens."""

    def __init__(self, k: int) -> None:
        self.k, self.seen = k, 0

    def feed(self, text_delta: str, n_tokens: int) -> bool:
        self.seen += n_tokens
        return self.seen >= self.k


def make_jobs(problems: int, samples: int) -> list[TraceJob]:
    return [
        TraceJob(Problem(name, "text", "1"), sample, tuple(range(9, 13 + number)), trace_seed(0, name, sample))
        for number, name in enumerate(f"p{number}" for number in range(problems))
        for sample in range(samples)
    ]


def run(engine: TransformersEngine, jobs: list[TraceJob], **options) -> dict[tuple[str, int], FinishedTrace]:
    finished = list(sample_traces(engine, engine.tokenizer, jobs, SPEC, **options))
    by_name = {(trace.job.problem.id, trace.job.sample): trace for trace in finished}
    assert len(by_name) == len(finished) == len(jobs)
    return by_name


def test_every_job_ends_once_and_does_not_depend_on_the_places(exact_engine: TransformersEngine) -> None:
    jobs = make_jobs(5, 6)
    wide, narrow = run(exact_engine, jobs, max_rows=100), run(exact_engine, jobs[::-1], max_rows=7)
    for name, trace in wide.items():
        assert trace.token_ids == narrow[name].token_ids and trace.text == narrow[name].text
        assert trace.n_tokens == len(trace.token_ids) == trace.usage.generated_tokens <= SPEC.max_tokens
        assert (trace.finish_reason == "length") == (trace.token_ids[-1] != exact_engine.tokenizer.eos_token_id)
        assert trace.cut_tokens is None and trace.states is None


def test_samples_of_a_problem_share_their_prefill(exact_engine: TransformersEngine) -> None:
    finished = run(exact_engine, make_jobs(3, 8), max_rows=24)
    assert sum(trace.usage.prefill_computed > 0 for trace in finished.values()) == 3


def test_never_more_than_max_rows_at_once(lively_model: Path) -> None:
    engine = TransformersEngine(lively_model, max_batch_rows=5)
    run(engine, make_jobs(4, 7), max_rows=5)


def test_states_are_taken_at_the_cut_or_the_end(exact_engine: TransformersEngine) -> None:
    finished = run(exact_engine, make_jobs(6, 8), max_rows=9, cut_factory=lambda: AfterTokens(20), with_states=True)
    cuts = set()
    for trace in finished.values():
        cuts.add(trace.cut_tokens)
        assert trace.cut_tokens == (20 if trace.n_tokens > 20 else None)
        assert trace.states.shape == ((trace.cut_tokens or trace.n_tokens) - 1, 3, 32)
    assert cuts == {20, None}, "both kinds occur"


def test_a_job_twice_is_refused(exact_engine: TransformersEngine) -> None:
    job = make_jobs(1, 1)[0]
    with pytest.raises(InputError, match="sample 0 of problem 'p0' is asked for twice"):
        next(sample_traces(exact_engine, exact_engine.tokenizer, [job, job], SPEC))
    with pytest.raises(InputError, match="max_rows is 0"):
        next(sample_traces(exact_engine, exact_engine.tokenizer, [job], SPEC, max_rows=0))


def test_states_of_a_step_are_fetched_together(exact_engine: TransformersEngine) -> None:
    """Engines that compute states again (vLLM) do it in one pass."""

    class Counting:
        calls = 0

        def __getattr__(self, name: str) -> object:
            return getattr(exact_engine, name)

        def states(self, traces: list[int]) -> list:
            self.calls += 1
            return exact_engine.states(traces)

    engine = Counting()
    finished = run(engine, make_jobs(1, 12), max_rows=12, cut_factory=lambda: AfterTokens(8), with_states=True)
    cut = [trace for trace in finished.values() if trace.cut_tokens is not None]
    assert len(cut) > 4 and engine.calls <= 1 + len(finished) - len(cut)


def test_confidences_are_kept_and_text_needs_no_tokenizer(exact_engine: TransformersEngine) -> None:
    spec = SamplingSpec(temperature=0.9, max_tokens=24, top_logprobs=4)
    jobs = make_jobs(2, 4)
    decoded = {t.job: t for t in sample_traces(exact_engine, exact_engine.tokenizer, jobs, spec)}
    for trace in sample_traces(exact_engine, None, jobs, spec):
        assert trace.text == decoded[trace.job].text and trace.confidences == decoded[trace.job].confidences
        assert len(trace.confidences) == trace.n_tokens
