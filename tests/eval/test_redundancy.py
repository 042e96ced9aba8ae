"""How alike answers are: a hand-worked set, real trace files, and what importing them keeps."""

import subprocess
import sys
from pathlib import Path

import pytest

from eval.collect_traces import CollectConfig, import_all, redundancy
from eval.redundancy import RedundancyConfig, measure_path
from eval.studies.redundancy import measure, read_redundancy, show, write
from eval.traces.foreign import Importer, import_file, model_folder, read_foreign, without_prompt
from secateur.deepprune.cut import CutRule
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import ProblemTraces, StoredTrace, TraceFolderWriter, read_trace_folder
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl
from secateur.tasks.records import Problem, Trace

WORDS = CutRule("words", 2)


def stored(problem: str, sample: int, answer: str | None, cut: int | None, finish: str = "stop") -> StoredTrace:
    text = "<think>\nhm\n</think>\n" + ("" if answer is None else f"\\boxed{{{answer}}}")
    return StoredTrace(Trace(problem, "q", "7", sample, text, "m", (1,) * 10, 10, finish), cut, None)


def entries() -> list[ProblemTraces]:
    first = [("7", 2), ("7", None), ("5", 4), ("07", 5)]
    second = [("3", 5), (None, 5), ("7", None), ("3", 10)]
    return [
        ProblemTraces(Problem(name, "q", "7"), [stored(name, i, a, c) for i, (a, c) in enumerate(rows)])
        for name, rows in (("a", first), ("b", second))
    ]


def test_a_hand_worked_set() -> None:
    """a: 7 7 5 7 → 3 of 6 pairs; b: 3 – 7 3 → 1 of 6 (the trace that ended without an answer agrees with none)."""
    report = measure("m", "s", entries(), WORDS)
    assert (report.pairs, report.same_answer_pairs) == (12, pytest.approx(4 / 12))
    assert report.distinct_answers == 2.0 and report.majority_share == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert report.majority_accuracy == 0.5 and report.pass_at_1 == pytest.approx((3 / 4 + 1 / 4) / 2)
    # the last trace of b shows its cut with its very last token
    assert report.whole_cuts == 3 / 8 and report.cut_unit == "tokens"
    assert report.median_cut_share == pytest.approx(0.5)
    assert [problem.answers for problem in report.answers] == [(("7", 3), ("5", 1)), (("3", 2), ("7", 1))]
    assert [problem.none for problem in report.answers] == [0, 1]


def test_what_ran_into_the_cap_without_an_answer_is_in_no_pair() -> None:
    entry = ProblemTraces(Problem("a", "q", "7"), [stored("a", i, "7", 3) for i in range(2)])
    entry.traces.append(stored("a", 2, None, 3, "length"))
    report = measure("m", "s", [entry], WORDS)
    assert report.pairs == 1 and report.same_answer_pairs == 1 and report.majority_share == pytest.approx(2 / 3)


def test_one_trace_a_problem_has_no_pairs_and_no_share_of_them(capsys, tmp_path: Path) -> None:
    report = measure("m", "s", [ProblemTraces(Problem("a", "q", "7"), [stored("a", 0, "7", 3)])], WORDS)
    assert (report.pairs, report.same_answer_pairs, report.pass_at_1) == (0, None, 1.0)
    show([report])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("m, s "))
    assert row.split()[2:4] == ["–", "1.00"]
    write([report], tmp_path, "answer")
    assert read_redundancy(tmp_path) == [report]


def test_traces_that_were_never_cut_are_cut_in_their_texts(tmp_path: Path) -> None:
    """As those of eval/single.py, which have their token ids."""
    with TraceFolderWriter(tmp_path / "m" / "s", {"model": "m"}) as writer:
        for sample, words in enumerate(("so so so so", "a b c d")):
            writer.add(Trace("p", "q", "7", sample, f"{words} \\boxed{{7}}", "m", (1, 2, 3), 3, "stop"))
    (report,) = measure_path(
        RedundancyConfig(traces=str(tmp_path / "m" / "s"), cut_kind="words", cut_k=2), tmp_path / "m" / "s"
    )
    assert (report.cut_unit, report.whole_cuts, report.pairs) == ("characters", 0.5, 1)


def test_files_are_written(tmp_path: Path) -> None:
    reports = [measure("m", name, entries(), WORDS) for name in ("one", "two$", "three")]
    write(reports, tmp_path, "answer")
    assert read_redundancy(tmp_path) == reports
    assert (tmp_path / "redundancy.png").read_bytes().startswith(b"\x89PNG")
    assert "two$" in (tmp_path / "redundancy.svg").read_text() or (tmp_path / "redundancy.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Solve: what is 1 + 1? Solution:\n<think>\nwait", "<think>\nwait"),
        ("<think>\nwhat is 1 + 1? wait", "<think>\nwhat is 1 + 1? wait"),
        ("what is 1 + 1? So, 2", "what is 1 + 1? So, 2"),
        ("Hm <think>\nwait", "Hm <think>\nwait"),
    ],
)
def test_a_prompt_in_front_of_the_text_is_taken_off(text: str, kept: str) -> None:
    assert without_prompt(text, " what is 1 + 1? ") == kept


def test_names_of_models_become_folders() -> None:
    assert model_folder("Qwen2.5-Math (CoT; x/y)") == "Qwen2.5-Math_CoT_x_y"
    assert model_folder(None) == model_folder("///") == "unnamed_model"


def write_foreign(path: Path, **changes: object) -> Path:
    line = {"problem_id": "p", "problem": "q", "gold": "2", "text": "So wait, thus \\boxed{2} is right", "model": "m"}
    append_jsonl(path, [line | {"sample": "right"}, line | {"sample": "wrong", "text": "So \\boxed{3}"} | changes])
    return path


def test_named_samples_are_numbered_and_text_is_cut(tmp_path: Path, embedded_model: Path) -> None:
    path = write_foreign(tmp_path / "t.jsonl")
    (found,) = read_foreign(path)["m"]
    entry = Importer(WORDS, None).problem(found)
    assert [trace.trace.sample for trace in entry.traces] == [0, 1]
    assert [trace.trace.n_tokens for trace in entry.traces] == [None, None]
    report = measure("m", "t", [entry], WORDS)
    assert report.cut_unit == "characters" and report.whole_cuts == 0.5
    shares = [len("So wait") / len(entry.traces[0].trace.text), 1.0]
    assert report.median_cut_share == pytest.approx(sum(shares) / 2)
    tokenizer = load_tokenizer(embedded_model)
    counted = Importer(WORDS, tokenizer).problem(found)
    first = counted.traces[0]
    assert tokenizer.decode(first.trace.token_ids[: first.cut_tokens]) == "So wait,"
    assert first.trace.n_tokens == len(first.trace.token_ids) and counted.traces[1].cut_tokens is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": "right"}, "is there twice"),
        ({"gold": "5"}, "two different texts or answers"),
        ({"text": None}, "line 2"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_foreign(write_foreign(tmp_path / "t.jsonl", **changes))


def test_a_cut_in_tokens_needs_a_tokenizer() -> None:
    with pytest.raises(InputError, match="needs a tokenizer"):
        Importer(CutRule("tokens", 4), None)


def test_an_import_can_be_repeated_but_not_mixed(tmp_path: Path, embedded_model: Path) -> None:
    path, tokenizer = write_foreign(tmp_path / "t.jsonl"), load_tokenizer(embedded_model)
    folders = import_file(path, tmp_path / "out", "math", WORDS, tokenizer)
    assert folders == {"m": tmp_path / "out" / "m" / "math"}
    file = folders["m"] / "traces-rank0.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 + 20])
    import_file(path, tmp_path / "out", "math", WORDS, tokenizer)
    assert sorted(file.read_text().splitlines()) == sorted(content.decode().splitlines())
    with pytest.raises(InputError, match=r"cut\.k"):
        import_file(path, tmp_path / "out", "math", CutRule("words", 3), tokenizer)
    (report,) = measure_path(RedundancyConfig(traces=str(folders["m"])), folders["m"])
    assert (report.model, report.set, report.cut) == ("m", "math", "2 reasoning words")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "neither key 'problems' nor key 'imports'"),
        ({"imports": {"x": "nowhere.jsonl"}}, r"imports\.x.*no such file"),
        ({"problems": {"x": "arithmetic:test"}}, "'models' is empty"),
    ],
)
def test_bad_imports_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CollectConfig(output_dir=str(tmp_path), **changes)


FILES = {"qwen25math_rm_maj_example": (800, 100), "thought_anchors_base_solutions": (40, 10)}


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_real_files_are_imported_with_sensible_cuts(
    shared_data: Path, embedded_model: Path, tmp_path: Path, with_tokenizer: bool, capsys: pytest.CaptureFixture
) -> None:
    config = CollectConfig(
        output_dir=str(tmp_path),
        imports={name: str(shared_data / "traces" / f"{name}.jsonl.gz") for name in FILES},
        tokenizer=str(embedded_model) if with_tokenizer else None,
    )
    reports = redundancy(config, import_all(config))
    assert {(report.set, report.traces) for report in reports} == {
        ("qwen25math_rm_maj_example", 800),
        ("thought_anchors_base_solutions", 20),
    }
    short, *long = sorted(reports, key=lambda report: -report.traces)
    assert short.whole_cuts > 0.95, "short chains rarely have 25 reasoning words"
    assert short.same_answer_pairs > 0.8 and short.majority_accuracy >= short.pass_at_1
    for report in long:
        assert report.whole_cuts < 0.2 and 0.05 < report.median_cut_share < 0.5
        assert report.pass_at_1 == 0.5, "one right and one wrong solution of each problem"
    if with_tokenizer:
        for entry in read_trace_folder(tmp_path / long[0].model / long[0].set):
            assert all(trace.trace.text.startswith("<think>") for trace in entry.traces)
            assert all(trace.cut_tokens is None or trace.cut_tokens < trace.trace.n_tokens for trace in entry.traces)
    else:
        assert "stay unknown" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_the_command(shared_data: Path, tmp_path: Path, repository: Path) -> None:
    file = shared_data / "traces" / "thought_anchors_base_solutions.jsonl.gz"
    command = [sys.executable, "eval/redundancy.py", "--traces", str(file), "--output_dir", str(tmp_path)]
    output = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    assert "traces have fewer than 25 reasoning words" in output
    assert {path.name for path in tmp_path.iterdir()} == {"redundancy.json", "redundancy.png", "redundancy.svg"}
