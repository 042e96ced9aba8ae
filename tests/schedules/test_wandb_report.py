"""The W&B report of a schedule: it follows what the schedule sends, and what is missing is said in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb_workspaces.reports.v2 as wr

from schedules.records import finished_rounds
from schedules.rounds import Round
from schedules.validation.report import round_publication
from schedules.wandb_report import make_report
from secateur.runtime.tracking import Home, name_wandb_run, tracked_home
from tests.report_runs import make_rounds


def test_every_panel_shows_what_a_schedule_sends(tmp_path: Path) -> None:
    run = make_rounds(tmp_path)
    blocks = make_report(run, Home("mine", "project"), "me").blocks
    (round_, *_) = finished_rounds(run)
    sent = round_publication([(Round(1, 200, 10), round_.selection)], round_.folder, tmp_path / "none.png")
    grids = [block for block in blocks if isinstance(block, wr.PanelGrid)]
    shown = {str(name) for panel in grids[0].panels for name in getattr(panel, "y", None) or [panel.table_name]}
    wanted = [name for name in sent.numbers if name.startswith("chosen/") and name != "chosen/step"]
    assert shown == {"limit", *wanted, *sent.tables}
    assert {panel.x for panel in grids[0].panels if isinstance(panel, wr.LinePlot)} == {"round"}
    assert all("'mine'" in str(runs.filters) and runs.project == "project" for grid in grids for runs in grid.runsets)
    assert any("1-limit-200: " in str(block) for block in blocks)


def test_where_runs_went_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert tracked_home(tmp_path) is None
    monkeypatch.setattr(os, "environ", dict(os.environ))
    name_wandb_run(tmp_path, "1-limit-9", "project")
    assert tracked_home(tmp_path) == Home(tmp_path.name, "project")


def test_a_run_that_sent_nothing_is_refused_in_one_line(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "schedules.wandb_report", "--run", str(tmp_path)]
    said = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1) and "nothing of it was sent to W&B" in said.stderr
