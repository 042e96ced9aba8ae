"""What a launch does when its child fails or is told to stop, with real children."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from schedules.config import ScheduleConfig
from schedules.launch import Launcher
from schedules.records import ValidationRecord, write_validation
from schedules.validation.sampling import BENCHMARK, RoundValidation, validation_processes
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.tasks.graded import RESULTS_FILE
from tests.schedules.candidates import candidate


@pytest.fixture
def launch_config(tmp_path) -> str:
    write_text(tmp_path / "launch.yaml", "num_machines: 1\nnum_processes: 8\n")
    return str(tmp_path / "launch.yaml")


def schedule(tmp_path, **changes) -> ScheduleConfig:
    keys = {
        "model": "owner/model",
        "output_dir": str(tmp_path / "run"),
        "limits": [100],
        "steps_per_round": 4,
        "problems": "arithmetic:train",
        "validation_problems": "arithmetic:validation",
    }
    return ScheduleConfig(**keys | changes)


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("raise SystemExit(7)", 7, "exit code 7 from: "),
        ("import os; os.kill(os.getpid(), 9)", 137, "ended by SIGKILL (often out of memory): "),
    ],
)
def test_a_failing_child_ends_us_with_its_code_and_names_command_and_log(
    launch_config, tmp_path, capsys, end, code, words
) -> None:
    write_text(tmp_path / "train.jsonl", "{}\n")
    with pytest.raises(SystemExit) as ended:
        Launcher(launch_config).run([sys.executable, "-c", end], log=tmp_path / "train.jsonl")
    message = capsys.readouterr().err
    assert ended.value.code == code
    assert words in message and "train.jsonl" in message and "start the same command again" in message


def control_group() -> Path | None:
    """A new one of 200 MiB, of the first or the second kind, if this user may make one."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(base) / f"secateur-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).is_file():
                (group / limit).write_text(str(200 << 20))
                return group
            group.rmdir()
    return None


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """Who writes 0 into this file has 200 MiB."""
    group = control_group()
    if group is None:
        pytest.skip("this user may not make control groups")
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_process_that_the_kernel_killed_for_lack_of_memory_is_told_of(launch_config, small_memory, capsys) -> None:
    """As accelerate's launcher ends, which stands between: with code 1 and words of its own."""
    greedy = f"open({str(small_memory)!r}, 'w').write('0'); x = b'1' * (1 << 30)"
    between = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {greedy!r}]).returncode != 0)"
    with pytest.raises(SystemExit) as ended:
        Launcher(launch_config).run([sys.executable, "-c", between])
    assert ended.value.code == 1
    assert "the kernel has killed a process of this machine for lack of memory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Launcher(launch_config).run([sys.executable, "-c", "raise SystemExit(1)"])
    assert "lack of memory" not in capsys.readouterr().err


MISTYPED = "unknown key 'limts'; did you mean 'limits'?"


def refuse(words: str) -> str:
    return (
        "from secateur.runtime.errors import InputError\nfrom secateur.runtime.process import entry_point\n"
        f"@entry_point\ndef main():\n    raise InputError({words!r})\nmain()\n"
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_launched_script_refuses_is_all_that_is_said_with_exit_code_2(
    tmp_path, capfd, repository, processes
) -> None:
    """accelerate itself ends with 1, below a traceback of its own."""
    write_text(tmp_path / "script.py", refuse(MISTYPED))
    launcher = Launcher(str(repository / "configs" / "accelerate" / "cpu.yaml"), processes=processes)
    command = launcher.command("x.py", [])
    with pytest.raises(SystemExit) as ended:
        launcher.run([*command[:-1], str(tmp_path / "script.py")])
    assert ended.value.code == 2
    assert capfd.readouterr().err == f"error: {MISTYPED}\n"


def test_what_a_script_refuses_that_was_launched_by_hand_is_the_last_of_its_table(tmp_path, repository) -> None:
    write_text(tmp_path / "script.py", refuse(MISTYPED))
    config = str(repository / "configs" / "accelerate" / "cpu.yaml")
    words = ["accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    command = [sys.executable, "-m", *words, str(tmp_path / "script.py")]
    shown = subprocess.run(command, cwd=repository, capture_output=True, text=True).stderr
    assert shown.rpartition("traceback : ")[2].splitlines()[0] == f"error: {MISTYPED}"


def test_the_launcher_shows_its_table_where_a_process_ends_without_a_word(tmp_path, capfd, repository) -> None:
    write_text(tmp_path / "script.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    launcher = Launcher(str(repository / "configs" / "accelerate" / "cpu.yaml"), processes=2)
    with pytest.raises(SystemExit):
        launcher.run([*launcher.command("x.py", [])[:-1], str(tmp_path / "script.py")])
    shown = capfd.readouterr().err
    assert "exitcode  : -9" in shown and "start the same command again" in shown.splitlines()[-1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_of_a_launched_script_is_the_last_word_too(tmp_path, capfd, repository, processes) -> None:
    code = refuse("").replace("InputError('')", "OSError(28, 'No space left on device', 'checkpoint')")
    write_text(tmp_path / "script.py", code)
    launcher = Launcher(str(repository / "configs" / "accelerate" / "cpu.yaml"), processes=processes)
    with pytest.raises(SystemExit) as ended:
        launcher.run([*launcher.command("x.py", [])[:-1], str(tmp_path / "script.py")])
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert line.startswith("error: disk full")


def test_a_child_that_was_stopped_is_no_failure(launch_config, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        Launcher(launch_config).run([sys.executable, "-c", "raise SystemExit(143)"])
    shown = capsys.readouterr()
    assert ended.value.code == 143
    assert "stopped; run the same command again" in shown.out and "error" not in shown.err


DRIVER = """
    import pathlib, sys
    from schedules.launch import Launcher
    launcher = Launcher(sys.argv[1])
    launcher.listen()
    asked = pathlib.Path(sys.argv[2])
    child = "import pathlib, sys, time\\n"
    child += "print('child', flush=True)\\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"
    ask = asked.touch if sys.argv[3] == "ask" else None
    launcher.run([sys.executable, "-c", child, str(asked)], ask_to_stop=ask)
"""


@pytest.mark.parametrize(
    ("how", "number"),
    [
        *(("ask", number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)),
        *(("terminate", signal.SIGTERM), ("interrupt", signal.SIGINT)),
    ],
)
def test_a_signal_reaches_the_child_in_the_way_it_was_agreed(
    launch_config, tmp_path, repository, how, number
) -> None:
    asked = tmp_path / "asked"
    words = [sys.executable, "-c", textwrap.dedent(DRIVER), launch_config, str(asked), how]
    process = subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "child\n"
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)
    assert "stopped; run the same command again" in output
    assert asked.exists() == (how == "ask")


def test_ctrl_c_lets_a_step_end_and_a_second_one_does_not(launch_config, tmp_path, repository) -> None:
    """The child is deaf to what it is asked, so that only the second one ends it."""
    driver = textwrap.dedent(DRIVER).replace("ask = asked.touch if", "ask = (lambda: None) if")
    words = [sys.executable, "-c", driver, launch_config, str(tmp_path / "never"), "ask"]
    process = subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "child\n"
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    assert "the step is finished and saved first" in process.stdout.readline()
    assert child.is_running()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")
    assert "stopped; run the same command again" in output and not child.is_running()


def test_a_child_ends_with_a_driver_that_is_killed(launch_config, tmp_path, repository) -> None:
    words = [sys.executable, "-c", textwrap.dedent(DRIVER), launch_config, str(tmp_path / "asked"), "ask"]
    process = subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "child\n"
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    while child.is_running():
        time.sleep(0.01)


def test_several_machines_need_a_launcher(tmp_path) -> None:
    write_text(tmp_path / "nodes.yaml", "num_machines: 3\nnum_processes: 24\n")
    with pytest.raises(InputError, match=r"num_machines is 3, but nothing would start.*--launcher"):
        Launcher(str(tmp_path / "nodes.yaml"))


def test_engines_over_several_gpus_leave_fewer_processes(tmp_path, launch_config) -> None:
    launcher = Launcher(launch_config)
    options = {"validation_engine": "vllm", "validation_engine_options": {"tensor_parallel_size": 4}}
    assert validation_processes(schedule(tmp_path, **options), launcher) == 2
    assert validation_processes(schedule(tmp_path), launcher) is None
    options["validation_engine_options"] = {"tensor_parallel_size": 16}
    with pytest.raises(InputError, match="tensor_parallel_size 16: of 8 processes that leaves none"):
        validation_processes(schedule(tmp_path, **options), launcher)


@pytest.mark.parametrize(
    ("engine", "message"), [("openai", "does not have the checkpoints"), ("tgi", "expected one")]
)
def test_only_an_engine_that_opens_folders_can_validate_checkpoints(tmp_path, engine: str, message: str) -> None:
    with pytest.raises(InputError, match=f"key 'validation_engine' has the value '{engine}'.*{message}"):
        schedule(tmp_path, validation_engine=engine)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_candidates_share_a_launch_with_as_many_samples_as_they_lack(tmp_path, launch_config, engine: str) -> None:
    """With vLLM too: a process gives every model a process of its own (tests/eval/test_single.py)."""
    models = {0: "owner/model", 4: "checkpoint-4", 8: "checkpoint-8"}
    validation = RoundValidation(schedule(tmp_path, validation_engine=engine), tmp_path, models)
    words = validation._command(Launcher(launch_config), [0, 8], 4)
    assert yaml.safe_load(words[words.index("--models") + 1]) == {"start": "owner/model", "step-8": "checkpoint-8"}
    assert words[words.index("--samples") + 1] == "4"


def test_a_measured_candidate_is_not_opened_again(tmp_path, launch_config) -> None:
    """Nothing can be launched here: owner/model does not exist."""
    validation = RoundValidation(schedule(tmp_path), tmp_path, {0: "owner/model"})
    measured = replace(candidate(0, 0.5, 100.0), samples=16)
    write_validation(validation.folder / "figures.json", ValidationRecord({}, (measured,)))
    write_text(validation.folder / "start" / BENCHMARK / RESULTS_FILE, "")
    assert validation.run(Launcher(launch_config)) == [measured]
