"""Reporting services, with the real W&B in offline mode and without a key."""

import os

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from secateur.runtime.tensorboard import name_tensorboard_run, write_tensorboard
from secateur.runtime.tracking import (
    SERVICES,
    Home,
    Publication,
    home_of,
    last_published,
    name_wandb_run,
    publish,
    run_id,
    unpublished,
    usable_report_to,
    wants_wandb,
)
from tests.offline_wandb import isolate, read_events, read_offline_run
from trainers.judges.training import start_trackers


@pytest.fixture
def no_key(monkeypatch, tmp_path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize("value", ["none", None, [], ["none"]])
def test_nothing_asked_for_is_nothing(value) -> None:
    assert usable_report_to(value) == []
    assert not wants_wandb(value)


def test_without_a_key_there_is_one_message_and_local_logs(no_key, capsys) -> None:
    assert usable_report_to("wandb") == []
    assert "wandb" not in usable_report_to("all")
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("W&B: no API key found, so metrics are logged locally only")]


def test_offline_needs_no_key_and_only_the_main_process_reports(no_key, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert usable_report_to(["wandb", "wandb"]) == ["wandb"]
    assert wants_wandb("all") and wants_wandb(["tensorboard", "wandb"])
    monkeypatch.setenv("RANK", "1")
    assert usable_report_to("wandb") == []
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert usable_report_to("wandb") == []


@pytest.mark.slow  # W&B asks several times
def test_an_unreachable_server_costs_a_message_and_the_key_is_not_in_it(no_key, monkeypatch, capfd) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert usable_report_to("wandb") == []
    shown = "".join(capfd.readouterr())
    assert "W&B: cannot log in" in shown and "0123456789abcdef" not in shown


@pytest.mark.parametrize("name", ["tensorbord", "wandb,tensorboard"])
def test_an_unknown_service_is_named(name) -> None:
    with pytest.raises(InputError, match=f"'report_to' has the value '{name}'; choose from none, all, "):
        usable_report_to([name])


def test_the_services_are_those_of_transformers() -> None:
    assert sorted(INTEGRATION_TO_CALLBACK) == list(SERVICES)


def test_a_service_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match="'neptune', which is not installed; pip install neptune"):
        usable_report_to("neptune")


def test_an_id_stays_with_its_folder_and_a_new_folder_has_another(tmp_path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    assert run_id(first, "1-limit-9") == run_id(first, "1-limit-9") != run_id(first, "2-limit-9")
    assert run_id(first, "1-limit-9") != run_id(second, "1-limit-9")
    moved = first.rename(tmp_path / "c")
    assert run_id(moved, "x").split("-")[0] == read_json(moved / "wandb.json")["id"]


def test_what_is_published_is_in_the_offline_files_once(no_key, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "schedule-a"
    folder.mkdir()
    hostile = "<script>alert(1)</script> $x_1$ [bold]"
    table = (("round", "reason"), [[1, hostile], [None, "…"]])
    numbers = {"round": 1, "chosen/step": 4}
    content = Publication(numbers, {"validation/candidates": table}, summary={"choice": hostile})
    publish(folder, {"1-limit-9": content}, {"seed": 3, "hub_token": "secret-token"})
    assert "WANDB_SERVICE" not in os.environ, "what is launched next has a service of its own"
    assert unpublished(folder, ["1-limit-9", "2-limit-9"]) == ["2-limit-9"]
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    run = read_offline_run(path)
    assert (run.id, run.group, run.job_type) == (run_id(folder, "schedule"), "schedule-a", "schedule")
    assert run.history[0]["chosen/step"] == 4 and run.summary["choice"] == hostile and run.config["seed"] == 3
    stored = read_json(path.parent / "files" / run.history[0]["validation/candidates/path"])
    assert stored["data"] == table[1]
    assert b"secret-token" not in path.read_bytes()


def test_what_is_made_of_a_final_model_belongs_to_its_schedule(no_key, monkeypatch, tmp_path) -> None:
    schedule, own = tmp_path / "thinkprune", tmp_path / "judge"
    (schedule / "final").mkdir(parents=True), own.mkdir()
    assert home_of([str(schedule / "final")], own) == Home("judge", "huggingface"), "nobody tracked that schedule"
    monkeypatch.setenv("WANDB_RUN_GROUP", "ablations")
    name_wandb_run(schedule, "1-limit-9", "secateur")
    for name in ("WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name)
    trained = Home("ablations", "secateur")
    assert home_of(["user/final", str(schedule / "final")], own) == home_of([], own, schedule) == trained
    assert home_of(["user/final"], own) == Home("judge", "huggingface")


def test_a_folder_that_is_moved_stays_in_its_group(no_key, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "before"
    folder.mkdir()
    publish(folder, {"1": Publication({"round": 1})}, {"init": {"token": "hf_secret"}, "list": [{"api_key": "sk-9"}]})
    moved = folder.rename(tmp_path / "after")
    publish(moved, {"2": Publication({"round": 2})}, {})
    runs = [read_offline_run(path) for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert [run.group for run in runs] == ["before", "before"] and len({run.id for run in runs}) == 1
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert b"hf_secret" not in kept and b"sk-9" not in kept
    monkeypatch.setenv("WANDB_RUN_GROUP", "ablations")
    name_wandb_run(moved, "3")
    assert os.environ["WANDB_RUN_GROUP"] == read_json(moved / "wandb.json")["group"] == "ablations"


def test_what_could_not_be_sent_is_said_and_waits(no_key, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    publish(tmp_path, {"a": Publication({"round": 1}, pictures={"gone": tmp_path / "gone.png"})}, {})
    assert "W&B: the schedule's run was not updated" in capsys.readouterr().out
    assert unpublished(tmp_path, ["a"]) == ["a"] and last_published(tmp_path) is None


def test_a_tracker_that_cannot_start_is_said_and_left_out(no_key, monkeypatch, tmp_path, capsys) -> None:
    from accelerate import Accelerator

    monkeypatch.setenv("WANDB_MODE", "offline")
    accelerator = Accelerator(cpu=True)
    start_trackers(accelerator, ["tensorboard", "wandb"], tmp_path, "no/run", [], {"seed": 1})  # no id has a slash
    assert "wandb: nothing is logged there" in capsys.readouterr().out
    accelerator.log({"loss": 0.5}, step=3)
    accelerator.log({"loss": 0.4}, step=6)
    accelerator.end_training()
    accelerator.trackers.clear()
    start_trackers(accelerator, "tensorboard", tmp_path, "judge", [], {"seed": 1}, resumed_at=3)
    accelerator.log({"loss": 0.3}, step=6)  # again, since the newest checkpoint was at step 3
    accelerator.end_training()
    assert {step: round(value, 6) for step, value in read_events(tmp_path / "tensorboard").scalars["loss"]} == {
        3: 0.5,
        6: 0.3,
    }
    assert len(read_events(tmp_path / "tensorboard").scalars["loss"]) == 2


def test_tensorboard_shows_text_as_it_is_and_every_point_once(tmp_path) -> None:
    hostile = "<script>alert(1)</script> | [link](javascript:x) **bold** \ud800\nsecond line"
    tables = {"samples": (("text", "share", "none"), [[hostile, 0.25, None]])}
    content = Publication({"n": 8, "loss": 0.5}, tables, summary={"words": hostile}, curve=[{"n": 4, "loss": 1.0}])
    for _ in range(2):
        write_tensorboard(tmp_path / "tensorboard", [content], "n")
    events = read_events(tmp_path / "tensorboard")
    assert events.scalars == {"loss": [(4, 1.0), (8, 0.5)]}
    head, rule, row = events.texts["samples"].splitlines()
    assert row.replace("\\|", "").count("|") == head.count("|") == rule.count("|") == 4
    for shown in (row, events.texts["words"]):
        assert "<" not in shown and "\\[link\\]" in shown and "\\*\\*bold" in shown and "second line" in shown


def test_a_resumed_training_has_one_curve(monkeypatch, tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    for resumed_at, last in ((0, 5), (3, 6)):  # a kill at step 5, the newest checkpoint at 3
        name_tensorboard_run(tmp_path, "1-limit-9", resumed_at)
        with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
            for step in range(resumed_at + 1, last + 1):
                writer.add_scalar("loss", last, step)
    found = read_events(tmp_path / "tensorboard" / "1-limit-9").scalars["loss"]
    assert found == [(1, 5), (2, 5), (3, 5), (4, 6), (5, 6), (6, 6)]
