"""eval/combined.py over several benchmarks and several n: what each folder and each row is, growing, several
processes."""

import csv
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from eval.joined import join
from eval.rule_sweep import load_run
from eval.table.config import CombinedConfig
from eval.table.run import run
from eval.table.terminal import print_results
from secateur.results import Row, Table, read_table
from secateur.runtime.config import check_types, read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from secateur.tasks.hub_sets import HUB_SETS
from tests.combined_runs import make_judge, settings, write_problems

METHODS = ["single", "consensus", "adaptive_consistency", "deepprune", "random_traces", "consensus_equal_tokens"]
_UNEQUAL = ("checksum", "wall", "sampling_wall", "output_dir")
PRICES = {"base": {"prompt": 1.0, "cached": 0.0, "generated": 10.0}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("grid-inputs")
    write_problems(folder / "beta.jsonl", 5)
    return tiny_model, make_judge(tiny_model, folder / "judge"), write_problems(folder / "alpha.jsonl", 3)


def grid_settings(inputs: tuple[Path, Path, Path], output: Path, **changes: Any) -> dict[str, Any]:
    alpha = inputs[2]
    benchmarks = {"alpha": str(alpha), "beta": str(alpha.with_name("beta.jsonl"))}
    grid = {"problems": benchmarks, "n": [4, 8], "methods": METHODS, "live": 1, "prices": PRICES}
    return settings(*inputs, output) | grid | changes


def grid(inputs: tuple[Path, Path, Path], output: Path, **changes: Any) -> CombinedConfig:
    return CombinedConfig(**grid_settings(inputs, output, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, Path, Path]) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("grid")
    return folder, run(grid(inputs, folder))


def timeless(value: Any) -> Any:
    """Without what differs between equal runs: wall times, where they lie, and what is made of these."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if not key.startswith(_UNEQUAL)}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def named(combined: Table) -> dict[str, Row]:
    rows = {row.id: row for row in combined.rows}
    assert len(rows) == len(combined.rows)
    return rows


def test_every_combination_has_a_row(finished) -> None:
    folder, combined = finished
    rows = named(combined)
    assert set(rows) >= {f"{name}:base/consensus/n={n}" for name in ("all", "alpha", "beta") for n in (4, 8)}
    assert {(row.benchmark, row.n) for row in rows.values()} == {
        (name, n) for name in ("all", "alpha", "beta") for n in (4, 8)
    }
    assert (combined.rows[0].benchmark, combined.rows[0].n) == ("all", 8)
    assert combined.folders == {"alpha": "alpha", "beta": "beta"} and combined.n == (4, 8)
    with open(folder / "combined.csv", newline="", encoding="utf-8") as handle:
        assert [line["id"] for line in csv.DictReader(handle)] == list(rows)
    ids = [
        entry.id
        for choice in combined.recommendations
        for model in choice.per_model.values()
        for entry in model.considered
    ]
    assert set(ids) <= set(rows) and "beta:base/deepprune/linear_own_states/n=4" in ids
    assert [choice.benchmark for choice in combined.recommendations] == ["all", "alpha", "beta"]
    assert combined.recommendations[0].reference == "all:base/consensus/n=8"


def test_in_all_every_problem_counts_once(finished) -> None:
    rows = named(finished[1])
    for name, row in rows.items():
        if row.benchmark != "all":
            continue
        alpha, beta = (rows[name.replace("all:", f"{one}:")] for one in ("alpha", "beta"))
        assert row.problems == alpha.problems + beta.problems == 8
        for value in (attrgetter("accuracy"), attrgetter("net_tokens"), lambda one: one.cost.per_problem):
            assert value(row) == pytest.approx((3 * value(alpha) + 5 * value(beta)) / 8)
        assert row.tokens.generated == pytest.approx(alpha.tokens.generated + beta.tokens.generated)


def test_savings_are_against_the_consensus_of_the_same_n(finished) -> None:
    rows = named(finished[1])
    for row in rows.values():
        voted = rows[f"{row.benchmark}:base/consensus/n={row.n}"]
        assert voted.saving_net == 0 and voted.finished == row.n
        assert row.saving_net == pytest.approx(1 - row.net_tokens / voted.net_tokens)


def test_a_benchmark_has_the_folder_of_a_run_on_it_alone(finished, inputs, tmp_path: Path) -> None:
    run(grid(inputs, tmp_path, problems=str(inputs[2])))
    for name in ("combined.json", "explorer.json", "examples.json", "settings.json", "base/engine.json"):
        alone, within = (timeless(read_json(folder / name)) for folder in (tmp_path, finished[0] / "alpha"))
        assert alone == within, name
    alone, within = (
        sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (tmp_path, finished[0] / "alpha")
    )
    assert alone == within


def test_the_largest_n_is_a_run_with_that_n(finished, inputs, tmp_path: Path) -> None:
    alone = run(grid(inputs, tmp_path, problems=str(inputs[2]), n=8))
    rows = named(read_table(finished[0] / "alpha"))
    assert [replace(row, wall_s=None) for row in alone.rows] == [
        replace(row, id=name.removesuffix("/n=8"), wall_s=None) for name, row in rows.items() if row.n == 8
    ]
    assert alone.recommendations[0].reference == "base/consensus"


def test_a_smaller_n_is_the_mean_over_blocks_the_first_a_run_with_that_n(inputs, tmp_path: Path) -> None:
    """Of 7 traces only one block of 4 fits; of 8 the second one counts as much as the first."""
    alpha = {"problems": str(inputs[2]), "live": 0}
    alone = named(run(grid(inputs, tmp_path / "alone", n=4, **alpha)))
    one_block = named(run(grid(inputs, tmp_path / "grown", n=[7, 4], **alpha)))
    for name, row in alone.items():
        first = one_block[f"{name}/n=4"]
        for key in ("accuracy", "net_tokens", "finished", "saving_net"):
            assert getattr(first, key) == pytest.approx(getattr(row, key)), (name, key)
    two_blocks = named(run(grid(inputs, tmp_path / "grown", n=[4, 8], **alpha)))
    voted = {n: two_blocks[f"base/consensus/n={n}"].tokens.generated for n in (4, 8)}
    assert voted[4] == pytest.approx(voted[8] / 2)


def test_what_is_added_is_all_that_is_sampled(finished, inputs, tmp_path: Path) -> None:
    alpha, beta = grid_settings(inputs, tmp_path)["problems"].values()
    first = {"problems": {"alpha": alpha}, "n": 4, "live": 0, "prices": {}}
    small = run(grid(inputs, tmp_path, **first))
    assert {row.id for row in small.rows} >= {"base/single", "base/consensus"}
    traces = tmp_path / "alpha" / "base" / "traces" / "traces-rank0.jsonl"
    before = traces.read_bytes()
    grown = {"models": {"base": str(inputs[0]), "twin": str(inputs[0])}, "live": 0, "prices": {}}
    grown |= {"judges": {"base": [str(inputs[1]), "random"], "twin": "random"}}
    more = run(grid(inputs, tmp_path, **grown))
    assert traces.read_bytes().startswith(before) and len(traces.read_text().splitlines()) == 3 * 8
    assert {row.model for row in more.rows} == {"base", "twin"}
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("traces-rank0.jsonl")}
    assert len(stamps) == 4
    fewer = run(grid(inputs, tmp_path, live=0, prices={}, problems={"beta": beta}, n=[4, 8]))
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("traces-rank0.jsonl")}
    assert {row.benchmark for row in fewer.rows} == {"beta"} and fewer.folders == {"beta": "beta"}
    whole = {row.id: row for row in finished[1].rows}
    for row in fewer.rows:
        assert row.accuracy == whole[f"beta:{row.id}"].accuracy


def test_a_folder_of_one_source_and_one_of_named_benchmarks_stay_apart(finished, inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a run on one source fills its folder itself.*another output_dir"):
        run(grid(inputs, finished[0], problems=str(inputs[2])))
    with pytest.raises(InputError, match=r"beta.settings\.json: key 'temperature' is 1\.0 there"):
        shutil.copytree(finished[0] / "beta", tmp_path / "beta")
        run(grid(inputs, tmp_path, temperature=0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["beta"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": {"all": "arithmetic:test"}}, "calls a benchmark 'all'"),
        ({"problems": {"../x": "arithmetic:test"}}, "the name of a folder is wanted"),
        ({"problems": {}}, "names no benchmark"),
        ({"problem_count": {"gamma": 3}}, "names the benchmark 'gamma'"),
        ({"problem_count": {"beta": 0}}, "'problem_count' has the value"),
        ({"n": []}, "key 'n' has the value"),
        ({"n": [1, 8]}, "at least 2"),
        (
            {"methods": ["deepconf_low"], "top_logprobs": 20, "deepconf_warmup": 8, "deepconf_window": 4},
            r"as many as all traces \(n = 8\)",
        ),
    ],
)
def test_bad_grids_are_refused(inputs, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(inputs, tmp_path, **changes)


def test_the_grid_that_is_delivered_reads_as_one(repository: Path) -> None:
    path = repository / "configs/eval/r1_distill_qwen_1.5b.yaml"
    values = check_types(CombinedConfig, read_yaml(path), str(path))
    assert set(values["problems"].values()) <= set(HUB_SETS) and max(values["n"]) <= values["rows"]
    assert values["judges"].keys() == values["models"].keys()


def test_the_terminal_shows_benchmarks_sizes_and_live_runs_in_100_columns(finished) -> None:
    shown = io.StringIO()
    print_results(finished[1], Console(file=shown, width=112))
    lines = shown.getvalue().splitlines()
    text = " ".join(shown.getvalue().split())
    assert max(len(line.rstrip()) for line in lines) <= 112
    for words in (
        "all: 8 problems, n = 8",
        "each benchmark, n = 8",
        "all, over n",
        "live beside replay",
        "1 of 1",
        "→ beta: base:",
    ):
        assert words in text, words
    assert text.count("− as many random traces") == 1


def test_grids_join_with_grids_and_sizes_with_sizes(finished, inputs, tmp_path: Path) -> None:
    whole = finished[0] / "combined.json"
    other = run(grid(inputs, tmp_path, n=8, live=0, methods=["single", "consensus", "oracle"]))
    joined = join([whole, tmp_path / "combined.json"])
    oracles = [row.id for row in other.rows if row.method == "oracle"]
    assert [row.id for row in joined.rows if row.method == "oracle"] == oracles
    assert len(joined.rows) == len(finished[1].rows) + len(oracles)
    with pytest.raises(InputError, match="key 'problems' is"):
        join([whole, finished[0] / "alpha" / "combined.json"])


def test_a_sweep_takes_the_folder_of_one_benchmark(finished) -> None:
    with pytest.raises(InputError, match=r"give the folder of one: .*alpha, .*beta"):
        load_run(str(finished[0]))
    found = load_run(str(finished[0] / "beta"))
    assert (found.n, len(found.problems)) == (8, 5)


def test_two_processes_give_what_one_gives(finished, inputs, tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(grid_settings(inputs, tmp_path / "out")))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command = [*launcher, "--main_process_port", "0", "eval/combined.py", "--config", str(path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("alpha", "beta"):
        assert len(list((tmp_path / "out" / name / "base" / "traces").glob("traces-rank*.jsonl"))) == 2
    here, there = (timeless(read_json(folder / "combined.json")) for folder in (tmp_path / "out", finished[0]))
    assert here == there
    assert "live = replay: 2 of 2" in done.stdout
