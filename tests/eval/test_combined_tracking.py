"""What an evaluation leaves in W&B and TensorBoard, read back from W&B's offline files and from the event files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.table.config import CombinedConfig
from eval.table.csv import flat_row
from eval.table.tracking import (
    HEADLINES,
    check_tracking,
    combined_publication,
    headline_curve,
    publish_combined,
    recommended,
    result_digest,
    series_name,
)
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from tests.combined_runs import config, settings, write_problems
from tests.offline_wandb import OfflineRun, isolate, read_events, read_offline_run
from tests.report_runs import make_row


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> Path:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def make_result(folder: Path, hostile: str = "") -> dict[str, Any]:
    """Two models at two n, as eval/combined.py leaves them."""
    rows = []
    for n in (4, 2):
        for model in ("base", f"pruned{hostile}"):
            for method, judge in (("single", None), ("consensus", None), ("deepprune", "linear")):
                name = "/".join(filter(None, (model, method, judge)))
                values = make_row(model, method, judge, 0.6 + n / 100, 0.5)
                rows.append({"id": f"{name}/n={n}", **values, "n": n, "benchmark": "mine"})
    advice = {"benchmark": "mine", "overall": "base/deepprune/linear/n=4", "words": [f"Run it. {hostile}", "Or not."]}
    combined = {
        "rows": rows,
        "differences": [{"label": "a − b", "a": {"model": "base"}, "difference": 0.1, "ci95": [0.0, 0.2]}],
        "recommendation": advice,
        "config": {"problems": "mine.jsonl", "seed": 3, "engine_options": {"api_key": "secret-key", "url": "x"}},
        "settings": {"n": 4, "grader": "g"},
        "versions": {"torch": "2"},
    }
    write_json(folder / "combined.json", combined)
    write_text(folder / "combined.csv", "id\n")
    write_text(folder / "report.html", "<!doctype html><title>report</title>")
    return combined


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
def test_services_and_group_are_checked_before_any_work(report_to, group, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_tracking(report_to, group)


def test_numbers_stand_over_n_by_the_same_names(tmp_path: Path) -> None:
    combined = make_result(tmp_path)
    small, large = headline_curve(combined["rows"])
    assert (small["n"], large["n"]) == (2, 4) and small.keys() == large.keys()
    for row in combined["rows"]:
        numbers, flat = (large if row["n"] == 4 else small), flat_row(row)
        for column in ("accuracy", "saving_net", "tokens_generated"):
            assert numbers[f"{column}/{series_name(row)}"] == flat[column]
    assert "wall_s/base/single" not in large, "what is not known is no number"


def test_each_benchmark_has_its_own_recommendation(tmp_path: Path) -> None:
    combined = make_result(tmp_path)
    assert recommended(combined)["recommendation/method"] == "base/deepprune/linear/n=4"
    second = {"benchmark": "other", "overall": None, "words": ["cannot tell with 3 problems"]}
    both = combined | {"recommendations": [combined["recommendation"], second]}
    assert recommended(both)["recommendation/mine/accuracy"] == 0.64
    assert recommended(both)["recommendation/other"] == "cannot tell with 3 problems"


def test_a_report_that_is_too_large_for_a_page_is_in_the_artifact_only(tmp_path: Path) -> None:
    combined, report = make_result(tmp_path), tmp_path / "report.html"
    assert combined_publication(combined, tmp_path, {}).pages == {"report": report}
    write_text(report, " " * 10_000_001)
    assert combined_publication(combined, tmp_path, {}).pages == {}


def test_only_results_make_a_version(tmp_path: Path) -> None:
    combined = make_result(tmp_path)
    other = combined | {"versions": {"torch": "3"}, "wall_s": {"base": 2}, "config": {}}
    assert result_digest(other) == result_digest(combined)
    assert result_digest(combined | {"differences": []}) != result_digest(combined)


def test_without_a_key_there_is_one_message_and_nothing_else(asked, monkeypatch, tmp_path: Path, capsys) -> None:
    isolate(monkeypatch, tmp_path)
    combined = make_result(tmp_path / "run")
    before = sorted((tmp_path / "run").iterdir())
    publish_combined(asked, combined, tmp_path / "run")
    assert capsys.readouterr().out.count("W&B: no API key found") == 1
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_result_is_logged_once_and_a_changed_one_to_the_same_run(asked, offline: Path, capsys) -> None:
    folder = offline / "run"
    hostile = "<script>alert(1)</script> | **x** [bold]"
    combined = make_result(folder, hostile)
    publish_combined(asked, combined, folder)
    (run,) = offline_runs(offline)
    assert (run.group, run.job_type, run.project) == ("run", "evaluation", "huggingface"), "there is no schedule"
    assert [step["n"] for step in run.history] == [2, 4] and run.summary["n"] == 4
    assert run.config["seed"] == 3 and run.config["engine_options"] == {"api_key": "(left out)", "url": "x"}
    assert run.summary["recommendation"] == f"Run it. {hostile}\nOr not.", "text, not markup"
    pages = [path.read_text() for path in logged_files(offline).rglob("*.html")]
    assert pages == [(folder / "report.html").read_text()], "no other HTML, and this as it is"

    publish_combined(asked, combined, folder)
    assert len(offline_runs(offline)) == 1 and "logged already" in capsys.readouterr().out
    changed = combined | {"differences": []}
    for version in (changed, combined):  # back again is a change, too
        publish_combined(asked, version, folder)
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
    combined = read_json(output / "combined.json")
    assert (run.group, run.project, run.job_type) == ("pruning", "secateur", "evaluation")
    assert run.id == f"{read_json(output / 'wandb.json')['id']}-evaluation"
    assert run.config["schedules"] == {"pruned": "pruning"}
    check_table(run, logged_files(offline), combined)
    check_numbers(run, output, combined)
    artifact = run.artifacts["evaluation"]
    assert artifact.files.keys() == {"combined.csv", "combined.json", "report.html"}
    for name, path in artifact.files.items():
        assert path.read_bytes() == (output / name).read_bytes()
    assert artifact.metadata["settings"] == combined["settings"]

    again = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "W&B: this result is logged already" in again.stdout and len(offline_runs(offline)) == 1


def check_table(run: OfflineRun, files: Path, combined: dict[str, Any]) -> None:
    table = read_json(files / run.history[-1]["results/path"])
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["id"] for row in rows] == [row["id"] for row in combined["rows"]]
    for row, wanted in zip(rows, combined["rows"], strict=True):
        known = {key: value for key, value in flat_row(wanted).items() if key in row}
        assert {key: row[key] for key in known} == known and {"accuracy", "tokens_generated"} <= known.keys()
    differences = read_json(files / run.history[-1]["differences/path"])
    assert [row[0] for row in differences["data"]] == [entry["label"] for entry in combined["differences"]]
    for name in ("frontier", "scaling"):
        assert (files / run.history[-1][f"{name}/path"]).read_bytes().startswith(b"\x89PNG")


def check_numbers(run: OfflineRun, output: Path, combined: dict[str, Any]) -> None:
    events = read_events(output / "tensorboard")
    assert events.images.keys() == {"frontier", "scaling"} and {"results", "differences"} <= events.texts.keys()
    assert all(series_name(row).split("/")[0] in events.texts["results"] for row in combined["rows"])
    for row in combined["rows"]:
        tag, step = f"accuracy/{series_name(row)}", next(s for s in run.history if s["n"] == row["n"])
        assert step[tag] == row["accuracy"]
        assert dict(events.scalars[tag])[row["n"]] == pytest.approx(row["accuracy"])
    shared = {key for key in run.history[-1] if key.split("/")[0] in HEADLINES}
    assert events.scalars.keys() - {"recommendation/accuracy", "recommendation/saving_net"} == shared
    assert run.summary["recommendation"] == "\n".join(combined["recommendation"]["words"])
