"""What the trace explorer is told: the runs of the table, texts split at their cuts, all within a budget."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report_size import write_large_run
from eval.report.bars import printable, ranked
from eval.report.explorer import TracedBenchmark, explorer_data, read_traced, run_summaries, text_sources
from eval.report.page import ReportInputs, write_report
from eval.report.texts import TextSource, TraceTexts, cut_rules, pack_problems, shortened, split_at_cut
from eval.table.explorer import TracedProblem, read_examples, read_explorer, write_explorer
from eval.table.method import ReplayModel, ReplayProblem, ReplayTrace
from eval.table.pruning import prune_once
from secateur.deepprune.cut import CutRule, cut_text
from secateur.deepprune.rule import ADAPTIVE_RULE, PruneRule
from secateur.tasks.records import Problem
from tests.report_runs import make_combined, make_stored


def unpacked(block: str) -> dict[str, Any]:
    return json.loads(gzip.decompress(base64.b64decode(block)))


def make_record(n: int, seed: int) -> ReplayProblem:
    rng = np.random.default_rng(seed)
    keys = [None if key == 3 else int(key) for key in rng.integers(0, 4, n)]
    lengths = rng.integers(30, 90, n).tolist()
    traces = tuple(ReplayTrace(key, tokens, 20) for key, tokens in zip(keys, lengths, strict=True))
    same = np.array([[float(a == b) for b in keys] for a in keys])
    return ReplayProblem(f"p{seed}", frozenset({1}), traces, seed, np.clip(same + rng.normal(0, 0.2, (n, n)), 0, 1))


def test_the_explorer_tells_what_the_replay_decided(tmp_path: Path) -> None:
    plain = [make_record(24, seed) for seed in range(6)]
    rules = {"deepprune": PruneRule(), "deepprune_adaptive": ADAPTIVE_RULE}
    records = ReplayModel("m", 10, plain, {"linear": plain}, {"linear": 0}, {"linear": "linear"}, ["linear"])
    answers = [[None if key is None else f"answer {key}" for key in record.keys] for record in plain]
    problems = [Problem(record.problem_id, "q", "answer 1") for record in plain]
    write_explorer(tmp_path, problems, rules, {"m": records}, {"m": answers})
    for record, told in zip(plain, read_explorer(tmp_path), strict=True):
        model = told.models["m"]
        assert [run.method for run in model.runs] == [*rules, "consensus"]
        for rule, run in zip(rules.values(), model.runs, strict=False):
            once = prune_once(record, rule)
            assert list(run.kept) == once.kept_tokens and list(run.survivors) == once.survivors
            assert run.right == (once.key in record.right)
            assert run.vote is None or model.names[run.vote] == f"answer {once.key}"
        names = [None if place is None else model.names[place] for place in model.answers]
        assert names == answers[plain.index(record)]
        for run, summary in zip(model.runs, run_summaries(model), strict=True):
            assert summary.saved == pytest.approx(1 - sum(run.kept) / sum(model.n_tokens), abs=1e-4)
            assert summary.changed == (run.vote != model.runs[-1].vote)
            assert (summary.right, summary.consensus_right) == (run.right, model.runs[-1].right)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=30))
def test_clusters_are_ranked_by_size(labels: list[int | None]) -> None:
    ranks = ranked(labels)
    sizes = [ranks.count(rank) for rank in range(len(set(labels) - {None}))]
    assert sizes == sorted(sizes, reverse=True) and all(sizes)
    assert [rank is None for rank in ranks] == [label is None for label in labels]
    assert len(set(zip(labels, ranks, strict=True))) == len(set(labels))


@given(st.text(max_size=80), st.integers(1, 4))
def test_a_split_text_is_whole_and_split_where_the_judge_stopped_reading(text: str, k: int) -> None:
    text = f"So {text} wait, then now but {text}"
    rule = CutRule("words", k)
    before, after = split_at_cut(text, 100, 20, rule)
    assert before + after == text and before == cut_text(text, rule)
    assert split_at_cut(text, 100, None, rule) == [text]
    assert len(split_at_cut(text, 100, 25, CutRule("tokens", 25))[0]) == round(len(text) / 4)


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_shortened_text_keeps_both_ends_and_says_what_it_left_out(text: str, limit: int) -> None:
    short = shortened(text, limit)
    short.encode("utf-8")
    if len(text) <= limit:
        assert short == printable(text, limit)
    else:
        assert f"{len(text) - limit:,} characters left out" in short and len(short) < limit + 60
        tail = limit // 2
        assert short.startswith(printable(text[: limit - tail], limit))


def test_texts_come_from_the_trace_folder_and_a_budget_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["so", "wait", "then", *("".join(chr(97 + c) for c in rng.integers(0, 26, 6)) for _ in range(3000))]
    drawn = {(p, s): " ".join(rng.choice(words, 400)) for p in range(4) for s in range(8)}
    folder = make_stored(tmp_path, 4, 8, lambda p, s: drawn[p, s])
    problems, rules = read_explorer(folder), cut_rules(folder, ["base"], {"cut_kind": "tokens", "cut_k": 9})
    assert rules == {"base": CutRule("words", 3)}
    texts = TraceTexts.of_run(folder, ["base"], {})
    source = TextSource(problems, texts, rules)
    blocks, limit = pack_problems([source])
    for number, block in enumerate(blocks):
        (model,) = unpacked(block)["models"]
        assert ["".join(parts) for parts in model["texts"]] == [drawn[number, sample] for sample in range(8)]
        assert all(parts[0] == cut_text("".join(parts), rules["base"]) for parts in model["texts"])
    small, shorter = pack_problems([source], budget=15_000)
    assert sum(map(len, small)) <= 15_000 < sum(map(len, blocks)) and shorter < limit
    assert "left out" in "".join(part for parts in unpacked(small[0])["models"][0]["texts"] for part in parts)


def test_a_run_whose_trace_folders_are_gone_keeps_the_texts_of_its_examples(tmp_path: Path) -> None:
    folder = make_combined(tmp_path, ["one so", "two", "three"])
    texts = TraceTexts.of_run(folder, ["base"], read_examples(folder))
    assert texts.of("one so", "base", 3) == ["one so", "two", "three"]
    assert texts.of("another", "base", 2) == ["", ""]
    assert cut_rules(folder, ["base"], {"cut_kind": "tokens", "cut_k": 9}) == {"base": CutRule("tokens", 9)}
    assert read_explorer(tmp_path / "nowhere") == [] and read_traced({"mine": tmp_path / "nowhere"}) == []


def test_a_model_without_traces_of_a_problem_is_nothing_there(tmp_path: Path) -> None:
    folder = make_stored(tmp_path, 1, 3, lambda p, s: "so wait then")
    (problem,) = read_explorer(folder)
    both = [problem, TracedProblem("other", "q", "1", {"pruned": problem.models["base"]})]
    traced = [TracedBenchmark("mine", folder, both)]
    data = explorer_data(traced, text_sources(traced, {"cut_kind": "words", "cut_k": 25}), {})
    assert [[model is None for model in unpacked(one)["models"]] for one in data.problems] == [
        [False, True],
        [True, False],
    ]
    assert [[len(runs) for runs in one["runs"]] for one in unpacked(data.index)["problems"]] == [[3, 0], [0, 3]]


@pytest.mark.slow
def test_sixty_problems_of_512_traces_stay_below_60_megabytes(tmp_path: Path) -> None:
    """By each of two models, and so long that texts must be shortened; bench/report_size.py measures the opening."""
    path = tmp_path / "report.html"
    write_report(ReportInputs(write_large_run(tmp_path / "run", 60, 512, 2000)), path)
    assert 20_000_000 < path.stat().st_size <= 60_000_000
    html = path.read_text(encoding="utf-8")
    assert html.count('<script type="application/gzip+base64" id="problem-') == 60
    first = re.search(r'id="problem-0">([^<]+)<', html)
    counts = [len(model["texts"]) for model in unpacked(first.group(1))["models"]]
    assert counts == [512, 512]
