"""Files, configuration and ranks: the ground that every entry point stands on."""

import contextlib
import errno
import fcntl
import gzip
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.config import read_run_config
from secateur.runtime.config import parse_config, parse_yaml, read_yaml, split_command_line, take_options
from secateur.runtime.errors import InputError
from secateur.runtime.files import (
    append_jsonl,
    file_name,
    hold_folder,
    read_arrays,
    read_json,
    read_jsonl,
    repair_torn_tail,
    write_json,
)
from secateur.runtime.process import Ranks, claim_gpus, entry_point


@dataclass(frozen=True)
class Settings:
    model: str
    rate: float = 0.5
    limits: tuple[int, ...] = (3, 2)
    mode: Literal["fast", "exact"] = "fast"
    log: bool = False
    names: list[str] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise InputError(f"key 'rate' has the value {self.rate}: it must be above 0")


def parse(tmp_path: Path, text: str, *argv: str) -> Settings:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_config(Settings, ["--config", str(path), *argv])


def test_yaml_then_command_line(tmp_path: Path) -> None:
    text = "model: m\nrate: 1e-3\nlimits: [220, 160]\n"
    assert parse(tmp_path, text) == Settings("m", 0.001, (220, 160))
    settings = parse(tmp_path, text, "--rate", "2", "--limits", "9", "8", "--mode=exact", "--log", "true")
    assert settings == Settings("m", 2.0, (9, 8), "exact", True)


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("modell: m", [], "unknown key 'modell'; did you mean 'model'"),
        ("model: m", ["--rat", "1"], "command line: unknown key 'rat'; did you mean 'rate'"),
        ("model: m\nrate: fast", [], "key 'rate' has the value 'fast': expected float"),
        ("model: m\nlimits: {a: 5}", [], "key 'limits' has the value {'a': 5}"),
        ("model: m\nlimits: five", [], "key 'limits' has the value 'five'"),
        ("model: m\nnames: {a: b}", [], "a list is written [a, b]"),
        ("model: m\nrate: 042", [], "042 would be read as an octal number; write 42"),
        ("model: m", ["--rate", "0_10"], "--rate has the value '0_10', which is not YAML (0_10 would be read"),
        ("model: m", ["--rate", "1" * 5000], "which is not YAML (Exceeds the limit"),
        ("model: m\nrate: " + "1" * 5000, [], "not YAML (Exceeds the limit"),
        ("model: m\nnames: " + "[" * 5000 + "]" * 5000, [], "not YAML (it is nested too deep)"),
        ("model: m\npaths: a", [], "a mapping is written {name: value}"),
        ("model: m\nmode: slow", [], "key 'mode' has the value 'slow'"),
        ("model: m\nrate: 0", [], "key 'rate' has the value 0.0: it must be above 0"),
        ("rate: 1", [], "key 'model' is required"),
        ("- a", [], "expected keys and values"),
        ("a: [", [], "not YAML"),
        ("model: [m", [], "not YAML (expected ',' or ']', but got '<stream end>')"),
        ("model: m\nrate: 1\nrate: 2", [], "not YAML (the key 'rate' is there twice, in line 2 and 3; keep one)"),
        ("model: m\npaths: {a: 1, a: 2}", [], "the key 'a' is there twice, in line 2 and 2; keep one"),
        ("model: m\nrate: yes", [], "key 'rate' has the value True: expected float (a number, not yes or no)"),
        ("model: m\nrate: .nan", [], "key 'rate' has the value nan: expected float (a number with an end)"),
        ("model: m", ["--rate", "nan"], "key 'rate' has the value 'nan': expected float (a number with an end)"),
        ("model: m", ["--rate", "1e400"], "expected float (a number with an end)"),
        ("model: m", ["--rate"], "--rate has no value"),
        ("model: m", ["--model", "{a} {b}"], "--model has the value '{a} {b}', which is not YAML"),
        ("model: m", ["rate"], "--config takes one file"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(tmp_path, text, *argv)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [[], ["--limits", "200"], ["--limits", "[200]"]])
def test_a_lone_value_for_a_list_is_a_list_of_one(tmp_path: Path, argv: list[str]) -> None:
    found = parse(tmp_path, "model: m\nlimits: 200\nnames: a", *argv)
    assert (found.limits, found.names) == ((200,), ["a"])


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    assert parse_yaml("[0, 0x1f, 1_000, -7, 12:30, 0.5, 1e-3]") == [0, 31, 1000, -7, "12:30", 0.5, "1e-3"]


def test_missing_config_file_is_named() -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such config file"):
        parse_config(Settings, ["--config", "none.yaml"])


def test_command_line_values_are_yaml() -> None:
    assert split_command_line(["--a", "1", "--b=x", "--c", "1", "2"]) == (None, {"a": 1, "b": "x", "c": [1, 2]})


def test_options_that_are_no_keys_are_taken_out_of_a_command_line() -> None:
    argv = ["--config", "c.yaml", "--processes", "4", "--launch=a.yaml", "--seed", "1", "--processes=5"]
    left = ["--config", "c.yaml", "--seed", "1"]
    assert take_options(argv, ("processes", "launch")) == (left, {"processes": "5", "launch": "a.yaml"})
    for cut in (["--launch"], ["--launch", "--seed", "1"]):
        with pytest.raises(InputError, match="command line: --launch has no value; write --launch value"):
            take_options(cut, ("launch",))


def test_json_is_replaced_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_unreadable_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": ', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json: not readable as JSON"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("torn", ["", '{"n": 3', "\u00e9"])
def test_a_torn_last_line_is_cut_and_whole_lines_stay(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    with open(path, "ab") as handle:
        handle.write(torn.encode()[:-1] if torn == "\u00e9" else torn.encode())
    assert repair_torn_tail(path) is bool(torn)
    append_jsonl(path, [{"n": 4}])
    assert [record["n"] for _, record in read_jsonl(path)] == [1, 2, 4]


def test_repairing_nothing(tmp_path: Path) -> None:
    assert not repair_torn_tail(tmp_path / "none")
    (tmp_path / "one").write_text(json.dumps({"n": 1}), encoding="utf-8")
    assert repair_torn_tail(tmp_path / "one")
    assert (tmp_path / "one").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_cover_everything_once(world_size: int) -> None:
    items = list(range(11))
    shards = [Ranks(rank, world_size).shard(items) for rank in range(world_size)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_user_errors_end_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @entry_point
    def main() -> None:
        raise InputError("key 'a': no")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: key 'a': no\n"


@pytest.mark.parametrize(
    ("visible", "rank", "per_process", "left"),
    [("", 0, 1, "0"), ("", 3, 1, "3"), ("", 1, 2, "2,3"), ("4,5,6,7", 1, 2, "6,7"), ("GPU-a,GPU-b", 1, 1, "GPU-b")],
)
def test_every_process_claims_gpus_of_its_own(monkeypatch, visible, rank, per_process, left) -> None:
    for key, value in (("WORLD_SIZE", "4"), ("LOCAL_RANK", str(rank)), ("CUDA_VISIBLE_DEVICES", visible)):
        monkeypatch.setenv(key, value)
    claim_gpus(per_process)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_too_few_gpus_are_said_and_one_process_keeps_all(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    claim_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="only 2 are visible"):
        claim_gpus(1)


def test_the_users_folder_is_written_out_wherever_it_stands(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = "model: ~/m\nnames: [~/a, b~/c, '~']\npaths: {x: ~/p}\n"
    assert parse(tmp_path, text) == Settings(
        "/home/me/m", names=["/home/me/a", "b~/c", "~"], paths={"x": "/home/me/p"}
    )
    assert parse(tmp_path, text, "--model", "~/n", "--paths", "{y: ~/q}").model == "/home/me/n"
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: o/m\noutput_dir: ~/x\nlimits: [9]\nsteps_per_round: 1\nproblems: p\nvalidation_problems: v"
    )
    assert read_run_config(["--config", str(config)]).resolved()["output_dir"] == "/home/me/x"


def _hold(folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"from secateur.runtime.files import hold_folder\nwith hold_folder({str(folder)!r}): print('inside')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_one_command_at_a_time_works_in_a_folder_with_flock_or_without(tmp_path, monkeypatch, code) -> None:
    if code is not None:  # as a file system answers that has no such locks

        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock says that it falls back
        with hold_folder(tmp_path / "out"):
            (tmp_path / "out" / "trace").write_text("x")
            with pytest.raises(InputError, match=rf"out: process {os.getpid()} on .* is working in it; wait"):
                hold_folder(tmp_path / "out").__enter__()
        with hold_folder(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "trace").is_file()


def test_a_killed_command_frees_its_folder_and_one_that_wrote_nothing_leaves_none(tmp_path) -> None:
    code = "import os\nfrom secateur.runtime.files import hold_folder\n"
    code += f"with hold_folder({str(tmp_path)!r}): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert _hold(tmp_path / "new").stdout == "inside\n" and not (tmp_path / "new").exists()
    assert _hold(tmp_path).stdout == "inside\n"


HOSTILE = {
    "nested": "[" * 100_000 + "]" * 100_000,
    "digits": "1" * 5_000,
    "surrogate": '"\\ud83d"',
    "surrogate in upper case": '"\\uD83D\\u0041"',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_json_that_cannot_be_kept_is_one_line(tmp_path, name) -> None:
    (tmp_path / "one.json").write_text(HOSTILE[name])
    if "surrogate" not in name:  # a report shows them
        with pytest.raises(InputError, match=r"one\.json: not readable as JSON"):
            read_json(tmp_path / "one.json")
    (tmp_path / "many.jsonl").write_text('{"a": 1}\n{"a": ' + HOSTILE[name] + "}\n")
    with pytest.raises(InputError, match=r"many\.jsonl, line 2: not JSON"):
        list(read_jsonl(tmp_path / "many.jsonl"))


def test_a_whole_surrogate_pair_is_text(tmp_path) -> None:
    (tmp_path / "one.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "one.json") == {"a": "😀"}


def test_compressed_lines_are_read_up_to_a_bound_and_damage_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("secateur.runtime.files._LONGEST_LINE", 1 << 20)
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b" " * (1 << 24)))
    with pytest.raises(InputError, match=r"bomb\.jsonl\.gz, line 1: longer than 1 MiB"):
        list(read_jsonl(bomb))
    whole = gzip.compress(b'{"a": 1}\n' * 50)
    for at in range(len(whole)):
        bomb.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(InputError):  # the file's time and name may be anything
            assert len(list(read_jsonl(bomb))) == 50
        bomb.write_bytes(whole[:at])
        with contextlib.suppress(InputError):
            assert not list(read_jsonl(bomb))


@given(st.text(max_size=400))
def test_any_text_makes_a_file_name(text) -> None:
    name = file_name(text)
    assert len(name) <= 160 and not set(name) & set("/ ")
    assert file_name(text + "x") != name


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_arrays_are_whole_or_named(tmp_path, at) -> None:
    path = tmp_path / "scores.npz"
    np.savez_compressed(path, scores=np.arange(9.0))
    content = path.read_bytes()
    at %= len(content)
    for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
        path.write_bytes(damaged)
        try:
            found = read_arrays(path, "delete it")
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert all((values == np.arange(9.0)).all() for values in found.values())
        with contextlib.suppress(InputError):
            assert read_arrays(path, "delete it", ("scores",)).keys() == {"scores"}


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path) -> None:
    for name, text in (("a.json", '{"a": 1}'), ("a.jsonl", '{"a": 1}\n'), ("a.yaml", "a: 1\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml") == {"a": 1}
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(1, {"a": 1})]


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"no folder that can be written to .*give another 'output_dir'"):
            hold_folder(folder).__enter__()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place where no folder can be made")
def test_a_place_where_no_folder_can_be_made_is_named() -> None:
    for write in (lambda: hold_folder("/proc/x/run").__enter__(), lambda: write_json("/proc/x/run/a.json", {})):
        with pytest.raises(InputError, match="/proc/x/run: no folder can be made there"):
            write()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG])
def test_a_disk_that_may_not_be_written_is_named_wherever_it_shows(tmp_path, monkeypatch, capsys, code) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    def main() -> None:
        write_json(tmp_path / "run" / "a.json", {})

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"no folder that can be written to .*give another 'output_dir'"):
        hold_folder(tmp_path / "run").__enter__()
    with pytest.raises(SystemExit) as ended:
        entry_point(main)()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'run'}: {os.strerror(code)}; give another path")


def test_a_read_only_disk_is_named_where_another_error_came_of_it(capsys) -> None:
    def main() -> None:
        try:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            raise RuntimeError("the archive could not be closed") from error

    with pytest.raises(SystemExit) as ended:
        entry_point(main)()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a file: Read-only file system; give another path")


def test_ctrl_c_is_one_line(capsys) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        entry_point(main)()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; the same command goes on from what is on disk\n"
