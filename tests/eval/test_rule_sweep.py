"""Rule sweeps: the rules that are tried, figures that agree with the run replayed, resuming; the paper's configs."""

import csv
from pathlib import Path
from typing import Any

import pytest

from eval.collect_traces import CollectConfig
from eval.rule_sweep import RuleSweepConfig, run_sweep
from eval.studies.rule_sweep import PairedDifference, RuleCell, beside_each_other, read_rule_sweep, rules_to_try
from eval.table.config import CombinedConfig
from eval.table.pruning import changed_rule, flat_rule, rule_keys
from eval.table.run import run as run_combined
from secateur.deepprune.rule import PruneRule
from secateur.results import Table
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.errors import InputError
from tests.combined_runs import config, make_judge, write_problems
from tests.judge_records import describe_judge
from trainers.judges.config import JudgeConfig
from trainers.sweep.config import JudgeSweepConfig


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("rule-sweep")
    judge, problems = make_judge(tiny_model, folder / "judge"), write_problems(folder / "problems.jsonl")
    return folder / "run", run_combined(config(tiny_model, judge, problems, folder / "run", live=0, singletons=3))


def sweep_config(run: Path, output: Path, **changes: Any) -> RuleSweepConfig:
    values = {"sweep": {"tau": [0.4, 0.6], "policy": ["soft"]}} | changes
    return RuleSweepConfig(run=str(run), output_dir=str(output), **values)


def test_every_value_of_the_rule_can_be_swept():
    default = PruneRule()
    assert flat_rule(default).keys() == rule_keys().keys() >= {"tau", "max_clusters", "compared", "largest", "mode"}
    assert changed_rule(default, flat_rule(default), "rule") == default
    changed = changed_rule(default, {"tau": 0.25, "largest": 3, "mode": "overlap"}, "rule")
    assert (changed.cluster.tau, changed.finish.largest, changed.mode) == (0.25, 3, "overlap")
    assert changed.finish.singletons == default.finish.singletons


def test_cells_are_the_default_and_one_change_or_all_combinations():
    sweep = {"tau": [0.4, 0.5, 0.6], "compared": [1, 10]}
    assert len(rules_to_try(PruneRule(), sweep, grid=False)) == 1 + 2 + 1  # τ 0.5 and K1 10 are the default itself
    grid = rules_to_try(PruneRule(), sweep, grid=True)
    assert len(grid) == len(set(grid)) == 6 and grid[0] == PruneRule()


def make_cell(accuracy: float, net_tokens: float) -> RuleCell:
    nothing = PairedDifference(0.0, (0.0, 0.0))
    return RuleCell(
        rule={}, accuracy=accuracy, accuracy_ci95=(0.0, 1.0), finished=1.0, generated=net_tokens,
        net_tokens=net_tokens, longest_path=1.0, saving_gross=0.0, saving_net=0.0, compared_pairs=0.0,
        to_consensus=nothing, equal_tokens_accuracy=0.5, to_equal_tokens=nothing, accuracies=(accuracy, accuracy),
    )  # fmt: skip


def test_front_holds_what_nothing_beats_in_both():
    figures = [(0.9, 100), (0.8, 50), (0.8, 60), (0.95, 200), (0.9, 100), (0.85, 150)]
    rows = beside_each_other([make_cell(*pair) for pair in figures])
    assert [row.pareto for row in rows] == [True, True, False, True, True, False]
    assert [row.to_default.difference for row in rows] == pytest.approx([0, -0.1, -0.1, 0.05, 0, -0.05])


def test_default_cell_has_the_figures_of_the_run_it_replays(combined, tmp_path):
    folder, table = combined
    row = next(r for r in table.rows if (r.method, r.judge) == ("deepprune", "linear_own_states"))
    sweep = run_sweep(sweep_config(folder, tmp_path / "out"))
    assert read_rule_sweep(tmp_path / "out") == sweep
    default = sweep.rows[0]
    assert default.accuracy == pytest.approx(row.accuracy)
    assert default.generated == pytest.approx(row.generated_per_problem, rel=1e-6)
    assert default.saving_net == pytest.approx(row.saving_net, rel=1e-6)
    consensus = next(r for r in table.rows if r.method == "consensus")
    assert sweep.consensus.accuracy == pytest.approx(consensus.accuracy)
    difference = next(d for d in table.differences if d.b.method == "consensus_equal_tokens")
    assert default.to_equal_tokens.difference == pytest.approx(difference.difference)
    assert default.to_default == PairedDifference(0.0, (0.0, 0.0))
    assert len(sweep.rows) == 4 and any(r.pareto for r in sweep.rows)
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [float(line["tau"]) for line in lines] == [r.rule["tau"] for r in sweep.rows]
    assert [float(line["to_consensus"]) for line in lines] == [r.to_consensus.difference for r in sweep.rows]
    assert {"accuracy_low", "to_default_high", "pareto"} <= lines[0].keys() and "accuracies" not in lines[0]


def test_cells_that_are_done_are_kept_and_lost_ones_come_back_equal(combined, tmp_path):
    out = tmp_path / "out"
    first = run_sweep(sweep_config(combined[0], out))
    path = out / "cells-rank0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2] + lines[3][:20])  # one lost, one torn
    assert run_sweep(sweep_config(combined[0], out)) == first
    assert path.read_text().startswith(lines[0] + lines[2])
    before = path.stat().st_mtime_ns
    grown = run_sweep(sweep_config(combined[0], out, sweep={"tau": [0.4, 0.6], "policy": ["soft"]}))
    assert grown.rows == first.rows and path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="orders = 3, this sweep has 2"):
        run_sweep(sweep_config(combined[0], out, orders=2))


def test_a_cell_that_is_none_is_named_with_its_line(combined, tmp_path):
    run_sweep(sweep_config(combined[0], tmp_path))
    path = tmp_path / "cells-rank0.jsonl"
    path.write_text(path.read_text().replace('"accuracy"', '"acuracy"', 1))
    with pytest.raises(InputError, match=r"cells-rank0\.jsonl, line 1: accuracy: field required"):
        run_sweep(sweep_config(combined[0], tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"taw": [0.1]}}, "unknown key 'taw'; did you mean 'tau'"),
        ({"sweep": {"tau": [1.5]}}, "tau = 1.5"),
        ({"sweep": {"tau": ["much"]}}, "'tau' has the value 'much'"),
        ({"sweep": {"tau": []}}, "'sweep' names nothing to try"),
        ({"sweep": {"tau": [0.5]}, "fixed": {"tau": 0.4}}, "'tau' is in 'fixed' and in 'sweep'"),
        ({"orders": 0}, "'orders' has the value 0"),
    ],
)
def test_bad_settings_are_named(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sweep_config(tmp_path, tmp_path / "out", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"judge": "pairwise"}, "the run's judges are"), ({"model": "pruned"}, "the run has base")],
)
def test_a_run_without_the_model_or_judge_is_refused(changes, message, combined, tmp_path):
    with pytest.raises(InputError, match=message):
        run_sweep(sweep_config(combined[0], tmp_path / "out", **changes))
    with pytest.raises(InputError, match=r"no combined\.json there"):
        run_sweep(sweep_config(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


OPTIONS = {
    "collect": CollectConfig,
    "combined": CombinedConfig,
    "rule_sweep": RuleSweepConfig,
    "judge_sweep": JudgeSweepConfig,
    "judge": JudgeConfig,
}


def paper_configs() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "configs" / "paper").glob("*.yaml"))


@pytest.mark.parametrize("path", paper_configs(), ids=lambda path: path.stem)
def test_configs_of_the_papers_studies_are_options_of_their_commands(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for judges in read_yaml(path).get("judges", {}).values():  # combined.yaml names a judge that was trained before
        for judge in judges:
            describe_judge(tmp_path / judge, "pairwise")
    options = next(cls for name, cls in OPTIONS.items() if path.stem.startswith(name))
    assert parse_config(options, ["--config", str(path)])


def test_the_guide_to_the_papers_studies_names_every_config(repository):
    guide = (repository / "docs" / "paper_studies.md").read_text(encoding="utf-8")
    assert paper_configs() and not [path.name for path in paper_configs() if path.name not in guide]
