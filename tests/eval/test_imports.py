"""Traces made elsewhere, replayed by the user's command: without text, with text and a judge, and real answers."""

import gzip
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from eval.collect_traces import CollectConfig, import_all, redundancy
from eval.table.config import CombinedConfig
from eval.table.run import run
from eval.traces.foreign import read_foreign
from secateur.results import Row, Table, read_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_json, read_jsonl
from secateur.tasks.answers.extraction import extraction
from secateur.tasks.sources import load_problems
from tests.combined_runs import config as sampled_config
from tests.combined_runs import make_judge, write_problems

METHODS = ["single", "consensus", "ahead", "adaptive_consistency"]


def answers_file(path: Path, **changes: object) -> Path:
    """Two problems × 8 traces without text; sample k of p takes 10 p + k + 1 tokens; every fourth is not right."""
    append_jsonl(
        path,
        [
            {"problem_id": f"p{p}", "gold": str(p), "sample": k, "n_tokens": 10 * p + k + 1}
            | {"answer": None if k == 7 else str(p + (k % 4 == 3))}
            | changes
            for p in (1, 2)
            for k in range(8)
        ],
    )
    return path


def texts_file(path: Path) -> Path:
    """Four problems × 6 traces with text and no length."""
    for p in range(1, 5):
        about = {"problem_id": f"p{p}", "problem": f"What is {p} + {p}?", "gold": str(2 * p), "model": "r1"}
        for k in range(6):
            thinking = f"<think>\nSo {31 + k % 2} is {57 + k % 2} so wait, {k} then but so.\n</think>\n"
            append_jsonl(path, [about | {"sample": k, "text": f"{thinking}\\boxed{{{2 * p + k % 2}}}"}])
    return path


def command(repository: Path, **keys: object) -> subprocess.CompletedProcess:
    arguments = [part for key, value in keys.items() for part in (f"--{key}", json.dumps(value))]
    line = [sys.executable, "eval/combined.py", *arguments]
    return subprocess.run(line, cwd=repository, capture_output=True, text=True, check=False)


def rows(table: Table) -> Mapping[str, Row]:
    return {row.id: row for row in table.rows}


def test_answers_alone_will_do(tmp_path: Path, repository: Path) -> None:
    """The table by hand: 8 traces of a problem, of which 6 are right; what needs text is left out and named; a start
    after a kill goes on, and comes to the same."""
    output, imports = tmp_path / "out", {"r1": str(answers_file(tmp_path / "traces.jsonl"))}
    methods = [*METHODS, "deepprune", "random_traces", "consensus_equal_tokens", "deepconf_low"]
    first = command(repository, imports=imports, output_dir=str(output), methods=methods)
    assert first.returncode == 0, first.stderr
    for name in ("deepprune", "random_traces"):
        assert f"method {name} is left out, since it needs the text of every trace" in first.stdout
    assert "deepconf_low is left out, since it needs token confidences" in first.stdout
    table = read_table(output)
    found = rows(table)
    assert found.keys() == {f"r1/{name}" for name in METHODS}
    assert table.n == (8,) and table.settings["temperature"] is None
    assert found["r1/consensus"].accuracy == 1 and found["r1/single"].accuracy == 6 / 8
    assert found["r1/consensus"].tokens.generated == sum(range(11, 19)) + sum(range(21, 29))
    assert any(one.b.method == "consensus_equal_tokens" for one in table.differences)
    assert (output / "report.html").stat().st_size > 10_000
    file = output / "r1" / "traces" / "traces-rank0.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 + 20])
    (output / "combined.json").unlink()
    again = command(repository, imports=imports, output_dir=str(output), methods=methods)
    assert again.returncode == 0, again.stderr
    assert rows(read_table(output)) == found
    assert sorted(file.read_bytes().splitlines()) == sorted(content.splitlines())


def test_texts_are_counted_cut_and_judged(tmp_path: Path, repository: Path, embedded_model: Path) -> None:
    output = tmp_path / "out"
    done = command(
        repository,
        imports={"r1": str(texts_file(tmp_path / "traces.jsonl"))},
        tokenizer=str(embedded_model),
        judges={"r1": "values"},
        parameters={"r1": 8_000_000_000},
        cut_k=3,
        output_dir=str(output),
    )
    assert done.returncode == 0, done.stderr
    found = rows(read_table(output))
    assert {"r1/deepprune/values", "r1/random_traces/values", "r1/consensus"} <= found.keys()
    pruned = found["r1/deepprune/values"]
    assert 0 < pruned.tokens.generated < found["r1/consensus"].tokens.generated and pruned.finished < 6
    lines = [line for _, line in read_jsonl(output / "r1" / "traces" / "traces-rank0.jsonl")]
    assert all(len(line["token_ids"]) == line["n_tokens"] > line["cut_tokens"] > 0 for line in lines)


def test_a_replay_of_exported_answers_is_the_replay_of_the_traces(tmp_path: Path, tiny_model: Path) -> None:
    """The sampled run's traces, written as answers and lengths, come to the same rows."""
    judge = make_judge(tiny_model, tmp_path / "judge")
    source = write_problems(tmp_path / "problems.jsonl")
    sampled = sampled_config(tiny_model, judge, source, tmp_path / "own", live=0, methods=[*METHODS, "oracle"],
                             answer_from="pattern:([0-9])")  # fmt: skip
    own = rows(run(sampled))
    stored = [line for _, line in read_jsonl(tmp_path / "own" / "base" / "traces" / "traces-rank0.jsonl")]
    take = extraction(sampled.answer_from)
    kept = ("problem_id", "gold", "sample", "n_tokens")
    append_jsonl(tmp_path / "a.jsonl", [{key: s[key] for key in kept} | {"answer": take(s["text"])} for s in stored])
    imported = CombinedConfig(
        imports={"base": str(tmp_path / "a.jsonl")}, problems=str(source), output_dir=str(tmp_path / "replayed"),
        n=8, methods=[*METHODS, "oracle"], orders=3, draws=5,
    )  # fmt: skip
    replayed = rows(run(imported))
    assert replayed.keys() == own.keys()
    for name, row in own.items():
        assert (replayed[name].accuracy, replayed[name].tokens) == (row.accuracy, row.tokens)


def test_an_import_with_cut_kind_auto_says_what_it_picked(
    tmp_path: Path, embedded_model: Path, capsys: pytest.CaptureFixture
) -> None:
    path = texts_file(tmp_path / "traces.jsonl")
    keys = {"imports": {"math": str(path)}, "tokenizer": str(embedded_model), "output_dir": str(tmp_path / "out")}
    config = CollectConfig(**keys, cut_kind="auto", cut_share=0.4)
    (report,) = redundancy(config, import_all(config))
    assert abs(report.median_cut_share - 0.4) <= 0.05 and report.whole_cuts < 0.05
    settings = read_json(tmp_path / "out" / "r1" / "math" / "settings.json")
    assert settings["cut_choice"].startswith(report.cut) and "over 24 development traces" in settings["cut_choice"]
    assert report.cut in capsys.readouterr().out
    import_all(config)  # goes on with the folder
    with pytest.raises(InputError, match="give words or tokens"):
        CollectConfig(**keys, cut_kind="auto", problems={"x": "arithmetic:test"}, models={"m": str(embedded_model)})


@pytest.mark.parametrize(
    ("line", "keys", "message"),
    [
        ({"n_tokens": None, "text": "\\boxed{1}", "problem": "q"}, {}, "give key 'tokenizer'"),
        ({}, {"n": 9}, "has 8 traces of problem 'p1'"),
        ({}, {"models": {"base": "x"}}, "'models' and 'imports' are both given"),
        ({}, {"live": 1}, "no model to run"),
        ({"gold": "7"}, {"problems": "problems.jsonl"}, "ids must mean the same problem"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, line: dict, keys: dict, message: str) -> None:
    path = answers_file(tmp_path / "traces.jsonl", **line)
    append_jsonl(tmp_path / "problems.jsonl", [{"id": f"p{p}", "problem": "q", "answer": str(p)} for p in (1, 2)])
    keys = {key: str(tmp_path / value) if key == "problems" else value for key, value in keys.items()}
    with pytest.raises(InputError, match=message):
        run(CombinedConfig(imports={"m": str(path)}, output_dir=str(tmp_path / "out"), methods=METHODS, **keys))


def test_several_models_need_their_sizes(tmp_path: Path) -> None:
    path = str(answers_file(tmp_path / "traces.jsonl"))
    keys = {"imports": {"a": path, "b": path}, "output_dir": str(tmp_path / "out"), "methods": METHODS}
    with pytest.raises(InputError, match="'parameters' has no number for 'a'"):
        CombinedConfig(**keys)
    CombinedConfig(**keys, parameters={"a": 7, "b": 3})


def test_a_line_may_be_a_problem_with_its_traces(tmp_path: Path) -> None:
    append_jsonl(
        tmp_path / "t.jsonl",
        [
            {"problem_id": "p", "benchmark": "aime", "gold": "7", "probe_every": 500}
            | {"traces": [{"n_tokens": 900, "answer": "7", "probes": ["ERR", "7"]}, {"n_tokens": 9, "answer": "ERR"}]}
        ],
    )
    ((entry,),) = read_foreign(tmp_path / "t.jsonl").values()
    assert entry.benchmark == "aime" and [trace.answer for trace in entry.traces] == ["7", None]
    assert entry.traces[0].probes == (None, "7") and entry.traces[0].probe_every == 500
    append_jsonl(tmp_path / "t.jsonl", [{"problem_id": "q", "gold": "1", "traces": [3]}])
    with pytest.raises(InputError, match="line 2: the key 'traces'"):
        read_foreign(tmp_path / "t.jsonl")


def test_reported_imports(reported: list[dict], tmp_path: Path, repository: Path) -> None:
    """Samples partly with names and partly with numbers are all kept; what can be no gold or no text is named."""
    cases = [case for case in reported if case["function"].endswith("--imports")]
    assert len(cases) == 4
    for number, case in enumerate(cases):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in import_lines(case["input"])), encoding="utf-8")
        keys = {"imports": {"m": str(path)}, "output_dir": str(tmp_path / f"out{number}")}
        if case["kind"].startswith("15"):
            line = [sys.executable, "eval/collect_traces.py", *(f"--{k}={json.dumps(v)}" for k, v in keys.items())]
            done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (report,) = read_json(tmp_path / f"out{number}" / "redundancy.json")["sets"]
            assert report["traces"] == 3 and report["pass_at_1"] == pytest.approx(2 / 3)
        else:
            with pytest.raises(InputError, match=f"{path}, line 1"):
                import_all(CollectConfig(**keys))


def import_lines(wanted: object) -> list[dict]:
    """The lines of a reported import; what JSON cannot say stands in words there."""
    if isinstance(wanted, list):
        return wanted
    if isinstance(wanted, dict):
        return [wanted | {"gold": float("nan") if "NaN" in wanted["gold"] else wanted["gold"]}]
    return [{"problem_id": "p", "problem": "q", "gold": "42", "text": "half \ud83d \\boxed{42}", "sample": 0}]


def test_reported_files_of_problems(reported: list[dict], tmp_path: Path) -> None:
    cases = [case["input"] for case in reported if case["function"].endswith("load_problems")]
    lines = [case[: case.rindex("}") + 1] for case in cases if isinstance(case, str) and "}" in case]
    assert len(lines) == 2
    for line in lines:
        (tmp_path / "p.jsonl").write_text(line + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"p\.jsonl, line 1: the key 'answer' has the value"):
            load_problems(str(tmp_path / "p.jsonl"))


def test_a_compressed_file_with_a_flipped_byte_anywhere_is_named(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "problem": f"{n * n}?", "answer": str(n)}) for n in range(300)]
    content = bytearray(gzip.compress("\n".join(lines).encode()))
    for place in range(10, len(content), len(content) // 12):
        (tmp_path / "p.jsonl.gz").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"p\.jsonl\.gz"):
            load_problems(str(tmp_path / "p.jsonl.gz"))


@pytest.mark.parametrize("samples", [("best", 0, 1), (1.0, 0), (-1, 0), ("0", "x", 1.0)])
def test_samples_of_any_name_are_kept(tmp_path: Path, samples: tuple[object, ...]) -> None:
    """In the order of the file where any has a name, of their numbers where none has."""
    about = {"problem_id": "p", "problem": "q", "gold": "1"}
    append_jsonl(tmp_path / "t.jsonl", [about | {"sample": one, "text": f"\\boxed{{{one}}}"} for one in samples])
    ((entry,),) = read_foreign(tmp_path / "t.jsonl").values()
    numbered = all(isinstance(sample, int | float) and sample >= 0 for sample in samples)
    assert [trace.sample for trace in entry.traces] == list(range(len(samples)))
    order = sorted(samples) if numbered else samples
    assert [trace.text for trace in entry.traces] == [f"\\boxed{{{one}}}" for one in order]
    append_jsonl(tmp_path / "t.jsonl", [about | {"sample": samples[0], "text": "again"}])
    with pytest.raises(InputError, match="is there twice, first in"):
        read_foreign(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    "gold", ["$", "$ $", "{}", "[]", "\\boxed{}", "Infinity", "['42']", "\\frac{1}{", ["42"], {}]
)
def test_what_can_be_no_gold_is_named(tmp_path: Path, gold: object) -> None:
    path = answers_file(tmp_path / "t.jsonl", gold=float("inf") if gold == "Infinity" else gold)
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: the key 'gold' has the value"):
        read_foreign(path)


def test_a_text_is_no_list_of_messages(tmp_path: Path) -> None:
    path = answers_file(tmp_path / "t.jsonl", problem="q", text=[{"role": "assistant", "content": "\\boxed{1}"}])
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: .*text is a list"):
        read_foreign(path)


@pytest.mark.slow
def test_real_answers_make_the_first_table(shared_data: Path, tmp_path: Path, repository: Path) -> None:
    """Qwen3-8B on three benchmarks, 90 problems × 128, from the file as it is; consensus as facts.md has it."""
    file = shared_data / "answers" / "qwen3_8b_aime24_aime25_hmmt25_n128.jsonl.gz"
    done = command(
        repository,
        imports={"qwen3_8b": str(file)},
        output_dir=str(tmp_path),
        methods=METHODS,
        n=[16, 64, 128],
        orders=4,
    )
    assert done.returncode == 0, done.stderr
    table = read_table(tmp_path)
    assert {row.benchmark for row in table.rows} == {"all", "aime24", "aime25", "hmmt25"}
    found = rows(table)
    assert found["all:qwen3_8b/consensus/n=64"].accuracy == pytest.approx(0.706, abs=0.0005)
    assert found["all:qwen3_8b/ahead/n=64"].saving_net > 0.7
