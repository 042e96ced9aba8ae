"""What an evaluation leaves in W&B and TensorBoard, read back from W&B's offline files and from the event files."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eval.report.tracking import (
    HEADLINES,
    differences_table,
    headline_curve,
    publication,
    publish_table,
    recommended,
    result_digest,
    series_name,
)
from eval.table.config import CombinedConfig
from secateur.results import Table, flat_row, read_table, write_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.runtime.records import as_json
from tests.combined_runs import config, settings, write_problems
from tests.offline_wandb import OfflineRun, isolate, read_events, read_offline_run
from tests.report_runs import make_difference, make_recommendation, make_row, make_table


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> Path:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def make_result(folder: Path, hostile: str = "") -> Table:
    """Two models at two n, as eval/combined.py leaves them."""
    rows = []
    for n in (4, 2):
        for model in ("base", f"pruned{hostile}"):
            for method, judge in (("single", None), ("consensus", None), ("deepprune", "linear")):
                row = make_row(model, method, judge, 0.6 + n / 100, 0.5, n)
                rows.append(replace(row, id=f"{row.id}/n={n}"))
    words = (f"Run it. {hostile}", "Or not.")
    table = make_table(
        rows,
        {"seed": 3, "engine_options": {"api_key": "secret-key", "url": "x"}},
        differences=(make_difference("a − b"),),
        recommendations=(make_recommendation(overall="base/deepprune/linear/n=4", words=words),),
        settings={"n": 4, "grader": "g"},
    )
    write_table(folder, table)
    write_text(folder / "combined.csv", "id\n")
    write_text(folder / "report.html", "<!doctype html><title>report</title>")
    return table


@pytest.fixture
def asked(tiny_model: Path) -> CombinedConfig:
    """A config that reports to W&B."""
    return config(tiny_model, "random", "p.jsonl", "out", judges={"base": "random"}, report_to="wandb")


def offline_runs(folder: Path) -> list[OfflineRun]:
    return [read_offline_run(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


def logged_files(folder: Path) -> Path:
    (files,) = folder.glob("wandb/offline-run-*/files")
    return files


@pytest.mark.parametrize(
    ("report_to", "group", "message"),
    [
        ("wandbb", None, "'report_to' has the value 'wandbb'; choose from none, wandb, tensorboard"),
        (["wandb", "mlflow"], None, "'report_to' has the value 'mlflow'"),
        ("wandb", "no-such-run", "'tracking_group' has the value 'no-such-run': no such folder"),
        ("none", "eval", "'tracking_group' has the value 'eval', but 'report_to' is none"),
    ],
)
def test_services_and_group_are_checked_before_any_work(tiny_model: Path, report_to, group, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        config(tiny_model, "random", "p.jsonl", "out", report_to=report_to, tracking_group=group)


def test_numbers_stand_over_n_by_the_same_names(tmp_path: Path) -> None:
    table = make_result(tmp_path)
    small, large = headline_curve(table.rows)
    assert (small["n"], large["n"]) == (2, 4) and small.keys() == large.keys()
    for row in table.rows:
        numbers, flat = (large if row.n == 4 else small), flat_row(as_json(row))
        for column in ("accuracy", "saving_net", "tokens_generated", "tokens_longest_path"):
            assert numbers[f"{column}/{series_name(row)}"] == flat[column]
    assert "wall_s/base/single" not in large, "what is not known is no number"


def test_a_series_has_no_character_that_a_service_would_replace() -> None:
    row = make_row("R1 1.5B", "deepprune", "linear", 0.5, 0.5, 8)
    row = replace(row, id=f"aime24:{row.id}/n=8")
    assert series_name(row) == "aime24/R1_1.5B/deepprune/linear"


def test_a_difference_says_what_is_compared_and_its_interval() -> None:
    columns, (values,) = differences_table([make_difference("a − b")])
    line = dict(zip(columns, values, strict=True))
    assert columns[0] == "label" and line["a_method"] == "deepprune" and line["b_method"] == "consensus"
    assert (line["difference_low"], line["difference"], line["difference_high"]) == (0.0, 0.1, 0.2)
    assert differences_table([]) == ([], [])


def test_each_benchmark_has_its_own_recommendation(tmp_path: Path) -> None:
    table = make_result(tmp_path)
    assert recommended(table)["recommendation/method"] == "base/deepprune/linear/n=4"
    second = make_recommendation("other", words=("cannot tell with 3 problems",))
    both = replace(table, recommendations=(*table.recommendations, second))
    assert recommended(both)["recommendation/mine/accuracy"] == 0.64
    assert recommended(both)["recommendation/other"] == "cannot tell with 3 problems"


def test_a_report_that_is_too_large_for_a_page_is_in_the_artifact_only(tmp_path: Path) -> None:
    table, report = make_result(tmp_path), tmp_path / "report.html"
    assert publication(table, tmp_path, {}).pages == {"report": report}
    write_text(report, " " * 10_000_001)
    assert publication(table, tmp_path, {}).pages == {}


def test_only_results_make_a_version(tmp_path: Path) -> None:
    table = make_result(tmp_path)
    other = replace(table, versions={"torch": "3"}, wall_s={"base": {"judge": 2.0}}, config={})
    assert result_digest(other) == result_digest(table)
    assert result_digest(replace(table, differences=())) != result_digest(table)


def test_without_a_key_there_is_one_message_and_nothing_else(asked, monkeypatch, tmp_path: Path, capsys) -> None:
    isolate(monkeypatch, tmp_path)
    table = make_result(tmp_path / "run")
    before = sorted((tmp_path / "run").iterdir())
    publish_table(asked, table, tmp_path / "run")
    assert capsys.readouterr().out.count("W&B: no API key found") == 1
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_result_is_logged_once_and_a_changed_one_to_the_same_run(asked, offline: Path, capsys) -> None:
    folder = offline / "run"
    hostile = "<script>alert(1)</script> | **x** [bold]"
    table = make_result(folder, hostile)
    publish_table(asked, table, folder)
    (run,) = offline_runs(offline)
    assert (run.group, run.job_type, run.project) == ("run", "evaluation", "huggingface"), "there is no schedule"
    assert [step["n"] for step in run.history] == [2, 4] and run.summary["n"] == 4
    assert run.config["seed"] == 3 and run.config["engine_options"] == {"api_key": "(left out)", "url": "x"}
    assert run.summary["recommendation"] == f"Run it. {hostile}\nOr not.", "text, not markup"
    pages = [path.read_text() for path in logged_files(offline).rglob("*.html")]
    assert pages == [(folder / "report.html").read_text()], "no other HTML, and this as it is"

    publish_table(asked, table, folder)
    assert len(offline_runs(offline)) == 1 and "logged already" in capsys.readouterr().out
    changed = replace(table, differences=())
    for version in (changed, table):  # back again is a change, too
        publish_table(asked, version, folder)
    runs = offline_runs(offline)
    assert len(runs) == 3 and len({one.id for one in runs}) == 1
    assert len({one.artifacts["evaluation"].name for one in runs}) == 1, "versions of one artifact"


@pytest.mark.slow
def test_the_users_command_logs_the_table_the_figures_and_the_files_to_the_group_of_the_schedule(
    tiny_model: Path, offline: Path, repository: Path
) -> None:
    schedule, output = offline / "thinkprune", offline / "evaluation"
    shutil.copytree(tiny_model, schedule / "final")
    write_json(
        schedule / "wandb.json", {"format": 1, "id": "ab", "published": [], "group": "pruning", "project": "secateur"}
    )
    problems = write_problems(offline / "problems.jsonl")
    values = settings(tiny_model, Path("random"), problems, output, report_to=["tensorboard", "wandb"])
    values |= {"models": {"base": str(tiny_model), "pruned": str(schedule / "final")}, "n": [4, 8], "live": 0}
    values |= {"judges": {"base": "random", "pruned": "random"}}
    write_text(offline / "combined.yaml", yaml.safe_dump(values))
    command = [sys.executable, "eval/combined.py", "--config", str(offline / "combined.yaml")]
    subprocess.run(command, cwd=repository, env=os.environ | {"COLUMNS": "120"}, check=True)

    (run,) = offline_runs(offline)
    table = read_table(output)
    assert (run.group, run.project, run.job_type) == ("pruning", "secateur", "evaluation")
    assert run.id == f"{read_json(output / 'wandb.json')['id']}-evaluation"
    assert run.config["schedules"] == {"pruned": "pruning"}
    check_table(run, logged_files(offline), table)
    check_numbers(run, output, table)
    artifact = run.artifacts["evaluation"]
    assert artifact.files.keys() == {"combined.csv", "combined.json", "report.html"}
    for name, path in artifact.files.items():
        assert path.read_bytes() == (output / name).read_bytes()
    assert artifact.metadata["settings"] == table.settings

    again = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "W&B: this result is logged already" in again.stdout and len(offline_runs(offline)) == 1


def check_table(run: OfflineRun, files: Path, table: Table) -> None:
    logged = read_json(files / run.history[-1]["results/path"])
    rows = [dict(zip(logged["columns"], row, strict=True)) for row in logged["data"]]
    assert [row["id"] for row in rows] == [row.id for row in table.rows]
    for row, wanted in zip(rows, table.rows, strict=True):
        known = {key: value for key, value in flat_row(as_json(wanted)).items() if key in row}
        assert {key: row[key] for key in known} == known and {"accuracy", "tokens_generated"} <= known.keys()
    differences = read_json(files / run.history[-1]["differences/path"])
    assert [row[0] for row in differences["data"]] == [entry.label for entry in table.differences]
    for name in ("frontier", "scaling"):
        assert (files / run.history[-1][f"{name}/path"]).read_bytes().startswith(b"\x89PNG")


def check_numbers(run: OfflineRun, output: Path, table: Table) -> None:
    events = read_events(output / "tensorboard")
    assert events.images.keys() == {"frontier", "scaling"} and {"results", "differences"} <= events.texts.keys()
    assert all(series_name(row).split("/")[0] in events.texts["results"] for row in table.rows)
    for row in table.rows:
        tag, step = f"accuracy/{series_name(row)}", next(s for s in run.history if s["n"] == row.n)
        assert step[tag] == row.accuracy
        assert dict(events.scalars[tag])[row.n] == pytest.approx(row.accuracy)
    shared = {key for key in run.history[-1] if key.split("/")[0] in HEADLINES}
    assert events.scalars.keys() - {"recommendation/accuracy", "recommendation/saving_net"} == shared
    assert run.summary["recommendation"] == "\n".join(table.recommendations[0].words)
