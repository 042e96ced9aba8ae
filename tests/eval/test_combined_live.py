"""Live runs beside their replays: causes that add up, entries that are the sums of their records, and words that name
what was measured. An exact engine, and one that is not: a real server on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.table.config import CombinedConfig
from eval.table.live_record import (
    TOKEN_CAUSES,
    CauseSize,
    LiveProblem,
    LiveWall,
    ProblemSide,
    asks_all_pairs,
    compare,
)
from eval.table.live_report import LiveRunsOf, SamplingTime, live_entries, live_entry, sampling_time
from eval.table.run import run
from eval.table.store import EngineFacts, live_path, read_live
from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule, cut_pieces
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.trace_folder import StoredTrace
from secateur.results import LiveDifference, LiveEntry
from secateur.runtime.files import append_jsonl, read_json, write_json
from secateur.runtime.records import CHECKSUM_KEY
from secateur.tasks.records import Trace
from secateur.tasks.sources import load_problems
from tests.combined_runs import config, make_judge, write_problems
from tests.deepprune.test_controller import CUTS, RULES, SPEC, LastLetterJudge, jobs_of, problems, replay_of
from tests.engines.openai_server import CompletionsServer, Habits
from tests.scripted_engine import ScriptedEngine

SIDES = ("live", "replay")
FACTS = EngineFacts("vllm", 1000, False)
EXACT = EngineFacts("transformers", 1000, True)
WALL = LiveWall(problem_s=2.0, phase_s=1.0, rank=0)


def entry_of(
    records: Mapping[str, LiveProblem],
    engine: EngineFacts,
    all_pairs: bool,
    sampled: SamplingTime | None = None,
    dtype: str = "float64",
) -> LiveEntry:
    return live_entry(LiveRunsOf(records, engine, 8, dtype, all_pairs, sampled), "small", "m", "deepprune", "j")


def as_stored(pieces: Sequence[str], cut: CutRule) -> StoredTrace:
    cut_tokens = cut_pieces(pieces, cut).n_tokens
    trace = Trace(
        problem_id="p", problem="?", gold="1", sample=0, text="".join(pieces), model="m",
        token_ids=tuple(range(len(pieces))), n_tokens=len(pieces), finish_reason="stop",
    )  # fmt: skip
    return StoredTrace(trace, cut_tokens, None)


class LateEngine(ScriptedEngine):
    """Computes one token more of every trace that is parked or pruned while it runs, as asynchronous steps do; `late`
    counts them."""

    late = 0

    def _move(self, action: str, traces: Sequence[int], sources: tuple[str, ...], target: str) -> None:
        for trace in traces:
            late = target != "running" and self._state[trace] == "running"
            self._usage[trace].overrun_tokens += late
            self.late += late
        super()._move(action, traces, sources, target)


def records_of(
    engine: ScriptedEngine, stored: dict[int, list[str]], cut: CutRule, rule: PruneRule
) -> dict[str, LiveProblem]:
    """Scripts run live, each compared with the replay of `stored` ones: what an engine does that draws anew."""
    records = {}
    for job in jobs_of(engine.scripts):
        (result,) = run_live(engine, [job], SPEC, LastLetterJudge(cut), rule, 32)
        replayed, answer = replay_of(job, stored, cut, rule)
        traces = [as_stored(stored[seed], cut) for seed in job.seeds]
        records[job.problem_id] = compare(result, replayed, answer, traces, "1", rule, settings="", wall=WALL)
    return records


@st.composite
def redrawn(draw: st.DrawFn) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Scripts of several problems, and other ones of the same traces."""
    scripts = draw(problems())
    words = st.lists(st.sampled_from(["so", "wait ", "a. ", "b. "]), min_size=1, max_size=12)
    answers = st.sampled_from(["\\boxed{1}", "\\boxed{2}", "none"])
    other = {
        seed: [*script[: draw(st.integers(0, len(script) - 1))], *draw(words), draw(answers)]
        for seed, script in scripts.items()
    }
    return scripts, other


@settings(max_examples=40, deadline=None)
@given(redrawn(), CUTS, RULES)
def test_causes_add_up_and_entries_are_sums_of_their_records(scripts: tuple, cut: CutRule, rule: PruneRule) -> None:
    engine = LateEngine(scripts[0])
    records = records_of(engine, scripts[1], cut, rule)
    for record in records.values():
        live, replayed = (getattr(record, side).tokens.generated for side in SIDES)
        assert sum(record.causes[cause].generated for cause in TOKEN_CAUSES) == live - replayed
        assert all(record.causes[cause].traces <= record.traces for cause in TOKEN_CAUSES)
    entry = entry_of(records, FACTS, asks_all_pairs(rule, 6))
    for side in SIDES:
        found, shown = [getattr(record, side) for record in records.values()], getattr(entry, side)
        assert shown.tokens.generated == sum(one.tokens.generated for one in found)
        assert shown.accuracy * len(records) == pytest.approx(sum(one.right for one in found))
    causes = sum(cause.generated or 0 for cause in entry.causes)
    assert entry.difference.generated == entry.live.tokens.generated - entry.replay.tokens.generated == causes
    late = sum(cause.tokens for cause in entry.causes if cause.cause == "overrun")
    assert late == entry.live.tokens.overrun == engine.late
    difference = entry.difference
    assert difference.gained - difference.lost == pytest.approx(difference.accuracy * len(records))
    assert difference.ci95[0] <= difference.accuracy <= difference.ci95[1]
    assert entry.equal + len(entry.unequal) == entry.problems == len(records)
    assert entry.live.wall_s == len(records), "problems share the engine: their shares of the phase"


@settings(max_examples=30, deadline=None)
@given(problems(), CUTS, RULES)
def test_equal_tokens_have_no_difference_and_no_cause(scripts: dict, cut: CutRule, rule: PruneRule) -> None:
    records = records_of(ScriptedEngine(scripts), scripts, cut, rule)
    entry = entry_of(records, EXACT, asks_all_pairs(rule, 6))
    assert entry.equal == entry.problems and entry.causes == () and entry.unequal == {}
    assert replace(entry.live, wall_s=None) == entry.replay
    assert entry.difference == LiveDifference(0, (0, 0), 0, 0, 0)
    assert entry.words == "equal token for token"
    assert "not promise" in entry_of(records, FACTS, True).words


def side(failure: str | None = None, **tokens: int) -> ProblemSide:
    return ProblemSide("<b>", False, 2, 0, failure, Usage(**tokens))


RECORD = LiveProblem(
    settings="",
    equal=False,
    difference="the answers differ: <script> and 2",
    live=side(generated=1733, overrun=1234, judge_head=500, judge_prefill=10, longest_path=90),
    replay=side(generated=1000, judge_head=2500, judge_prefill=40, longest_path=80),
    causes={name: CauseSize(2, size) for name, size in zip(TOKEN_CAUSES, (3, 50, 700, -20), strict=True)},
    traces=8,
    stored_tokens=4000,
    wall=LiveWall(9.0, 3.0, 0),
)
"""A problem whose causes stand for 3, 50, 700 and −20 tokens, with overrun and a judge that was asked less."""


def test_words_name_every_cause_with_its_size_and_hold_no_text_of_a_model() -> None:
    words = entry_of({"p": RECORD}, FACTS, all_pairs=False).words
    assert "<" not in words and "\n" not in words
    for said in (
        "1 of 1 problems differ: ", "draws other tokens before the cut", "(2 traces, +3 tokens)",
        "goes on behind its cut (2 traces, +50 tokens)", "cap in only one of both (2 traces, +700 tokens)",
        "chosen to go on (2 traces, −20 tokens)", "1,234 tokens of overrun", "as they are needed", "+10.0 steps",
        "−30 judge tokens read", "−2e+03 multiply-accumulates", "in all +733 generated tokens (+73.3 %)",
    ):  # fmt: skip
        assert said in words
    assert "reads other cuts" in entry_of({"p": RECORD}, FACTS, all_pairs=True).words
    failed = replace(RECORD, live=side("gone", generated=1733))
    assert "failed in only one of both on 1 problems" in entry_of({"p": failed}, FACTS, True).words


def test_an_exact_engine_that_differs_is_called_an_error_in_float64_only() -> None:
    assert "which is an error" in entry_of({"p": RECORD}, EXACT, True).words
    rounding = entry_of({"p": RECORD}, EXACT, True, dtype="bfloat16").words
    assert "in bfloat16 another batch rounds" in rounding and "error" not in rounding


def test_sampling_time_is_measured_only_where_all_of_it_is_noted(tmp_path: Path) -> None:
    notes, other = tmp_path / "wall-rank0.jsonl", tmp_path / "wall-rank1.jsonl"
    assert sampling_time(tmp_path) is None
    append_jsonl(notes, [{"what": "sampling", "seconds": 4.0, "tokens": 6000}, {"what": "judge", "seconds": 1.0}])
    append_jsonl(other, [{"what": "sampling", "seconds": 8.0, "tokens": 2000}])
    sampled = sampling_time(tmp_path)
    assert sampled == SamplingTime(8.0, 8000)
    measured = entry_of({"p": RECORD, "q": replace(RECORD, wall=replace(RECORD.wall, rank=1))}, FACTS, True, sampled)
    assert (measured.sampling_wall_s, measured.sampling_wall_measured) == (8.0, True)
    assert measured.live.wall_s == 3.0, "two processes side by side"
    share = entry_of({"p": RECORD}, FACTS, True, sampled)
    assert (share.sampling_wall_s, share.sampling_wall_measured) == (4.0, False)
    assert "share by tokens" in share.wall_words and "share by tokens" not in measured.wall_words
    assert "is not noted" in entry_of({"p": RECORD}, FACTS, True).wall_words


def entries_of(one: CombinedConfig) -> list[LiveEntry]:
    return live_entries(one, load_problems(one.problems), "small")


def test_a_run_stores_what_live_came_to_and_runs_records_of_another_format_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    inputs = tiny_model, make_judge(tiny_model, tmp_path / "judge"), write_problems(tmp_path / "problems.jsonl")
    one = config(*inputs, tmp_path / "out", variants={"adaptive": {"start_batch": 3, "lead": 1}})
    run(one)
    first, second = load_problems(one.problems)[:2]
    stored = read_live(one, "base", "deepprune", first)
    assert stored.wall.phase_s >= 0 and stored.wall.problem_s > 0
    assert stored.live == stored.replay and stored.live.tokens.judge_head > 0
    assert not stored.live.right and stored.live.finished > 0
    plain, adaptive = entries_of(one)
    assert (plain.benchmark, plain.model, plain.method) == ("small", "base", "deepprune")
    assert plain.judge == adaptive.judge == "linear_own_states"
    assert plain.problems == plain.equal == 2 and plain.words == "equal token for token"
    assert adaptive.equal == 2 and {cause.cause for cause in adaptive.causes} <= {"judge"}
    old, kept = live_path(one, "base", "deepprune", first), live_path(one, "base", "deepprune", second)
    before = {path: read_json(path) for path in (old, kept)}
    write_json(old, {"format": 0, "settings": stored.settings, "equal": True, "difference": None})
    run(one)
    timed = {"wall": None, CHECKSUM_KEY: None}
    assert read_json(old) | timed == before[old] | timed and read_json(kept) == before[kept]
    assert entries_of(config(*inputs, tmp_path / "out", live=0)) == []


def test_a_server_draws_other_tokens_and_the_words_say_so(tiny_model: Path, tmp_path: Path) -> None:
    problems_path, judges = write_problems(tmp_path / "problems.jsonl"), {"base": "random"}
    rule = {"cut_kind": "tokens", "cut_k": 6, "largest": 2, "compared": 2}
    with CompletionsServer(TransformersEngine(tiny_model), Habits()) as server:
        options = {"base_url": server.url, "tokenizer": str(tiny_model), "abort_check": "off"}
        changes = {"models": {"base": server.model}, "engine": "openai", "engine_options": options, "live": True}
        one = config(tiny_model, tmp_path, problems_path, tmp_path / "out", judges=judges, **rule, **changes)
        run(one)
    (entry,) = entries_of(one)
    assert entry.problems == 4 and not entry.exact and entry.sampling_wall_measured
    causes = {cause.cause: cause for cause in entry.causes}
    assert causes["after_cut"].traces > 0 and "hidden" in causes
    assert "draws other tokens when a trace goes on" in entry.words and "is not told" in entry.words
    records = [read_live(one, "base", "deepprune", problem) for problem in load_problems(one.problems)]
    overrun = sum(record.live.tokens.overrun for record in records)
    assert entry.live.tokens.overrun == overrun == (causes["overrun"].tokens if "overrun" in causes else 0)
