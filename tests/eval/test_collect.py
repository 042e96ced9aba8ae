"""Collecting traces for judges: what is stored, resuming, refusals."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.collect_traces import CollectConfig, collect, say_sizes
from eval.traces.next_command import judge_command
from secateur.deepprune.cut import CutRule, cut_length
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from tests.combined_runs import write_problems
from tests.engines.openai_server import CompletionsServer, Habits
from tests.next_words import next_words
from trainers.judges.config import JudgeConfig


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("collect") / "problems.jsonl", 3)


def config(model: Path, problems: Path, output: Path, **changes: Any) -> CollectConfig:
    values: dict[str, Any] = {
        "models": {"base": str(model)},
        "problems": {"train": str(problems), "dev": str(problems)},
        "problem_counts": {"dev": 1},
        "output_dir": str(output),
        "samples": 3,
        "cut_kind": "tokens",
        "cut_k": 5,
        "prompt_family": "plain",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 16,
        "dtype": "float64",
        "device": "cpu",
        "rows": 4,
    }
    return CollectConfig(**values | changes)


def content(folder: Path) -> dict[tuple[str, int], tuple[str, int | None]]:
    return {
        (entry.problem.id, stored.trace.sample): (stored.trace.text, stored.cut_tokens)
        for entry in read_trace_folder(folder)
        for stored in entry.traces
    }


@pytest.mark.parametrize(("layers", "message"), [([0, 3], "'layers' holds 3.*0 to 2"), ([1, 1], "'layers'.*twice")])
def test_layers_that_the_model_has_not_are_named(
    tiny_model: Path, problems: Path, tmp_path: Path, layers: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        collect(config(tiny_model, problems, tmp_path / "out", layers=layers))
    assert not (tmp_path / "out").exists()


def test_every_set_has_its_traces_with_cuts_and_states(
    tiny_model: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    chosen = config(tiny_model, problems, tmp_path)
    collect(chosen)
    say_sizes(chosen)
    assert re.search(r"base, train: states take [0-9.]+ KiB per trace", capsys.readouterr().out)
    assert len(content(tmp_path / "base" / "train")) == 9 and len(content(tmp_path / "base" / "dev")) == 3
    tokenizer = load_tokenizer(tiny_model)
    for entry in read_trace_folder(tmp_path / "base" / "train"):
        for stored in entry.traces:
            ids = stored.trace.token_ids
            assert stored.trace.n_tokens == len(ids) <= 16
            assert stored.cut_tokens == cut_length([tokenizer.decode([i]) for i in ids], CutRule("tokens", 5))
            fed = (stored.cut_tokens or len(ids)) - 1
            assert tuple(stored.load_states().shape) == (fed, 3, 32)
    settings = read_json(tmp_path / "base" / "train" / "settings.json")
    assert settings["cut"] == {"kind": "tokens", "k": 5} and settings["layers"] == [0, 1, 2]


def test_the_end_names_the_judge_that_these_traces_train(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    two = config(tiny_model, problems, tmp_path)
    three = replace(two, problems={name: str(problems) for name in ("train", "dev", "test")})
    judge = parse_config(JudgeConfig, next_words(judge_command(three), "judge"))
    assert judge.model == str(tiny_model) and judge.judge_kind.reads_states
    assert [judge.train, judge.dev, judge.test] == [str(tmp_path / "base" / name) for name in three.problems]
    assert judge_command(two) == "" and judge_command(replace(three, states=False)) == ""


def test_what_is_missing_is_sampled_again_as_it_was(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    chosen = config(tiny_model, problems, tmp_path, states=False)
    collect(chosen)
    file = tmp_path / "base" / "train" / "traces-rank0.jsonl"
    whole, lines = content(file.parent), file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:25])
    collect(chosen)
    assert content(file.parent) == whole


def test_other_settings_are_refused_and_nothing_is_touched(tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    collect(config(tiny_model, problems, tmp_path, states=False))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"cut\.k"):
        collect(config(tiny_model, problems, tmp_path, states=False, cut_k=6))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text_only", [False, True])
def test_traces_of_a_server(tiny_model: Path, problems: Path, tmp_path: Path, text_only: bool) -> None:
    """Any engine fills the same folders; a second run finds everything there and asks the server for nothing."""
    with CompletionsServer(TransformersEngine(tiny_model), Habits(text_only=text_only)) as server:
        options = {"base_url": server.url, "tokenizer": str(tiny_model), "abort_check": "off"}
        chosen = config(
            tiny_model,
            problems,
            tmp_path,
            models={"base": "served"},
            engine="openai",
            engine_options=options,
            states=False,
            top_logprobs=3,
        )
        collect(chosen)
        requests = server.counters.requests
        collect(chosen)
        assert server.counters.requests == requests
        body = server.counters.bodies[-1]
    for entry in read_trace_folder(tmp_path / "base" / "train"):
        for stored in entry.traces:
            assert stored.trace.n_tokens == len(stored.trace.token_ids) == len(stored.load_confidences())
            assert stored.trace.finish_reason in ("stop", "length")
    for name in ("train", "dev"):
        settings = read_json(tmp_path / "base" / name / "settings.json")
        told = settings["server"]
        assert settings["engine"] == "openai" and told["sent"].pop("seed") and told["sent"].items() <= body.items()
        assert told["not_sent"] == (["min_p", "repetition_penalty", "top_k"] if text_only else [])


def test_traces_of_servers_that_sample_in_other_ways_are_not_mixed(
    tiny_model: Path, problems: Path, tmp_path: Path
) -> None:
    """What a server refuses is known only once it was asked; the folder is not touched then."""
    options = {"tokenizer": str(tiny_model), "abort_check": "off"}
    common = {"models": {"base": "served"}, "engine": "openai", "states": False}
    for text_only, samples in ((True, 2), (False, 3)):
        with CompletionsServer(TransformersEngine(tiny_model), Habits(text_only=text_only)) as server:
            options["base_url"] = server.url
            chosen = config(tiny_model, problems, tmp_path, engine_options=options, samples=samples, **common)
            if text_only:
                collect(chosen)
                before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
            else:
                with pytest.raises(InputError, match=r"settings.json: key 'server\.not_sent'"):
                    collect(chosen)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "openai", "engine_options": {"base_url": "http://h/v1"}}, "states: false"),
        ({"engine": "openai", "engine_options": {}}, "base_url"),
        ({"engine_options": {"rows": 3}}, "unknown key 'rows'"),
        ({"tokenizer": "x"}, "give 'imports'"),
        ({"problem_counts": {"tset": 3}}, "'tset'"),
        ({"cut_k": 0}, "cut k = 0"),
        ({"samples": 0}, "samples"),
        ({"models": {"base": "./nowhere"}}, "no such folder"),
        ({"prompt_family": "qwne"}, "qwne"),
    ],
)
def test_bad_options_are_named(
    tiny_model: Path, problems: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config(tiny_model, problems, tmp_path, **changes)
