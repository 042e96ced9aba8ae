"""Forced answers and prefix clusters in a combined run: collected once, replayed, and run live on an exact engine."""

from pathlib import Path

import pytest

from eval.table.live_report import live_entries
from eval.table.run import run
from eval.table.store import probes_path, rates_path, read_live, read_probes
from secateur.deepprune.probing import read_switch_rates
from secateur.results import read_table
from secateur.tasks.sources import load_problems
from tests.combined_runs import config, write_problems

PROBES = {"probe_every": 6, "probe_tokens": 4, "probe_forcing": "plain", "probe_stable": 1, "probe_warm_up": 0}
METHODS = ["consensus", "parallel_probe", "mars", "polr"]


def test_forced_answers_run_live_as_in_the_replay(tiny_model: Path, tmp_path: Path) -> None:
    inputs = tiny_model, tmp_path, write_problems(tmp_path / "problems.jsonl"), tmp_path / "out"
    one = config(*inputs, judges={}, methods=METHODS, live=True, cut_kind="tokens", cut_k=6, **PROBES)
    run(one)
    problems = load_problems(one.problems)
    entries = live_entries(one, problems, "small")
    assert [entry.method for entry in entries] == ["parallel_probe", "mars"]
    assert all(entry.equal == entry.problems == 4 for entry in entries), [entry.words for entry in entries]
    live = [read_live(one, "base", "parallel_probe", problem).live.tokens for problem in problems]
    assert all(tokens.probe_generated > 0 and tokens.probe_prefill > 0 for tokens in live)
    rows = {row.method: row for row in read_table(tmp_path / "out").rows}
    assert rows["parallel_probe"].tokens.generated < rows["consensus"].tokens.generated
    assert rows["polr"].judge_kind == "tfidf"
    assert read_switch_rates(rates_path(one, "base"))
    before = probes_path(one, "base", problems[0]).stat().st_mtime_ns
    run(one)
    assert probes_path(one, "base", problems[0]).stat().st_mtime_ns == before, "what is stored is not forced again"
    other = config(*inputs, judges={}, methods=METHODS, **PROBES | {"probe_every": 8})
    assert read_probes(other, "base", problems[0]) is None, "other marks are other answers"


@pytest.mark.slow
def test_a_model_that_answers(embedded_model: Path, tmp_path: Path) -> None:
    changes = PROBES | {"probe_every": 40, "probe_tokens": 8, "probe_stable": 2, "probe_patience": 2}
    one = config(
        *(embedded_model, tmp_path, "arithmetic:test", tmp_path / "out"),
        **{"problem_count": 6, "judges": {}, "live": True, "max_tokens": 512},
        methods=["consensus", "parallel_probe", "mars"],
        mars_gamma=0.5,
        **changes,
    )
    run(one)
    entries = live_entries(one, load_problems(one.problems, count=6), "arithmetic")
    assert all(entry.equal == entry.problems == 6 for entry in entries), [entry.words for entry in entries]
    rows = {row.method: row for row in read_table(tmp_path / "out").rows}
    for name in ("parallel_probe", "mars"):
        assert rows[name].accuracy > 0
        assert rows[name].tokens.generated < rows["consensus"].tokens.generated
