"""eval/prune.py: what it stores is what `prune` answers, and a second start goes on where the first stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.prune import PruneConfig, next_command
from eval.serve import ServeConfig
from eval.table.config import CombinedConfig
from secateur import SamplingSpec, TransformersEngine, prune
from secateur.runtime.config import parse_config
from tests.next_words import next_words

MODEL = "trainers/embedded_model"
KEYS = ("--prompt_family", "plain", "--temperature", "1.0", "--top_p", "1.0", "--max_tokens", "300")
PLACE = ("--dtype", "float32", "--device", "cpu", "--n", "8")
TEXTS = ("Rule oak. Start with 4. a-6 b#7 c-7.", "Rule elm. Start with 2. a+3 b-1.")


def run(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "eval/prune.py", "--model", MODEL, *KEYS, *PLACE, *words]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    lines = [{"id": "first", "problem": TEXTS[0], "answer": "8"}, {"problem": TEXTS[1]}, {"problem": TEXTS[0]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_is_answered_as_by_the_function_and_a_cut_run_goes_on(questions: Path, repository: Path) -> None:
    output = questions.parent / "out"
    words = ("--problems", str(questions), "--output_dir", str(output))
    done = run(repository, *words)
    assert done.returncode == 0, done.stderr
    stored = (output / "answers.jsonl").read_bytes()
    lines = {line["problem_id"]: line for line in map(json.loads, stored.splitlines())}
    assert sorted(lines) == ["first", "line-2", "line-3"]
    engine = TransformersEngine(str(repository / MODEL), dtype="float32")
    for name, text in zip(("first", "line-2", "line-3"), (*TEXTS, TEXTS[0]), strict=True):
        result = prune(text, engine, n=8, spec=SamplingSpec(1.0, 1.0, 0, 300), prompt_family="plain")
        line = lines[name]
        assert (line["answer"], line["tokens"]) == (result.answer, result.usage.generated)
        assert sum(line["votes"].values()) <= line["finished"] <= line["started"] <= line["n"] == 8
        assert result.answer is None or line["votes"][result.answer] == max(line["votes"].values())
        assert line["text"] in [None, *(result.traces[place].text for place in result.decision.survivors)]
    assert lines["first"]["right"] == (lines["first"]["answer"] == "8") and lines["line-2"]["right"] is None

    (output / "answers.jsonl").write_bytes(stored[: len(stored.splitlines()[0]) + 30])
    again = run(repository, *words)
    assert again.returncode == 0, again.stderr
    assert sorted((output / "answers.jsonl").read_bytes().splitlines()) == sorted(stored.splitlines())

    other = run(repository, *words, "--seed", "1")
    assert other.returncode == 2 and "was made with another model, judge or key" in other.stderr
    assert sorted((output / "answers.jsonl").read_bytes().splitlines()) == sorted(stored.splitlines())

    (output / "answers.jsonl").write_bytes(stored.replace(b'"started": ', b'"started": 1', 1))
    changed = run(repository, *words)
    assert changed.returncode == 2 and "answers.jsonl, line 1: was changed since it was written" in changed.stderr


def test_a_judge_that_was_never_asked_is_told(repository: Path) -> None:
    """The embedded model's traces have none of the reasoning words, as those of a language that lacks them."""
    done = run(repository, "--problem", TEXTS[0], "--judge", "random", "--rule", "published")
    assert done.returncode == 0, done.stderr
    assert "warning: no trace has 25 reasoning words, so the judge 'random' was never" in " ".join(
        done.stdout.split()
    )


def test_the_end_says_what_to_open_and_a_command_that_is_read(questions: Path, repository: Path) -> None:
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    questions.write_text(json.dumps(lines[0]) + "\n")
    output = questions.parent / "out"
    done = run(repository, "--problems", str(questions), "--output_dir", str(output))
    assert done.stdout.startswith(f"votes on 1 problem: up to 8 traces of {MODEL}, at most 300 tokens each\n")
    assert f"all of it goes to {output}; if it is interrupted" in done.stdout
    assert f"\nopen: {output / 'answers.jsonl'}\nnext: secateur table " in done.stdout
    table = parse_config(CombinedConfig, next_words(done.stdout, "table"))
    assert (table.models, table.problems, table.n) == ({"base": MODEL}, str(questions), 8)
    assert (table.spec, table.dtype, table.methods) == (
        SamplingSpec(1.0, 1.0, 0, 300),
        "float32",
        ["consensus", "ahead"],
    )


def test_without_right_answers_the_end_names_the_service() -> None:
    config = PruneConfig(model=MODEL, problem="1 + 1", n=8, prompt_family="plain", engine_options={})
    served = parse_config(ServeConfig, next_words(next_command(config, []), "serve"))
    assert (served.model, served.n, served.prompt_family, served.rule) == (MODEL, 8, "plain", "automatic")


def test_one_problem_is_answered_on_the_terminal(repository: Path) -> None:
    done = run(repository, "--problem", TEXTS[0])
    assert done.returncode == 0, done.stderr
    assert "answer: " in done.stdout and "of 8 started" in done.stdout and "tokens: " in done.stdout


@pytest.mark.parametrize(
    ("kind", "n", "gold"), [(r"pattern:boxed\{(.)", 8, "8"), ("exact", 8, "x"), ("none", 1, None)]
)
def test_other_kinds_of_answers_are_those_of_the_function(
    kind: str, n: int, gold: str | None, repository: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "questions.jsonl", tmp_path / "out"
    path.write_text(json.dumps({"problem": TEXTS[0]} | ({} if gold is None else {"answer": gold})))
    words = ("--answers", kind, "--n", str(n), "--problems", str(path), "--output_dir", str(output))
    done = run(repository, *words)
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, (output / "answers.jsonl").read_text().splitlines())
    engine, spec = TransformersEngine(str(repository / MODEL), dtype="float32"), SamplingSpec(1.0, 1.0, 0, 300)
    result = prune(TEXTS[0], engine, n=n, spec=spec, prompt_family="plain", answers=kind)
    assert (line["answer"], line["votes"], line["text"]) == (result.answer, dict(result.votes), result.text)
    assert (line["answer"] is None) == (kind == "none") and line["text"] in (result.traces[0].text, result.text)
    assert line["right"] == (None if gold is None else result.answer == gold)
    assert (result.answer or result.text.splitlines()[0]) in done.stdout


MISTAKES = {
    ('{"problem": ""}',): "line 1: no text under 'problem'",
    ('{"problem": "1"}', '{"problem": "2", "answer": 2}'): "line 2: 'answer' is 2; write it as text",
    ('{"id": 1, "problem": "1"}', '{"id": "1", "problem": "2"}'): "line 2: the id '1' is there twice",
    (): "holds no problem",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_a_file_that_cannot_be_read_names_its_line(lines: tuple[str, ...], repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    done = run(repository, "--problems", str(path), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert MISTAKES[lines] in done.stderr and str(path) in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--problem", "1", "--problems", "x"),
        ("--problems", "x"),
        ("--problem", "1", "--rule", "adaptive"),
        ("--problem", "1", "--answers", "all"),
        ("--problem", "1", "--answers", "none"),
        ("--problem", "1", "--answers", "choice", "--n", "1"),
        ("--problem", "1", "--answers", "choice", "--answer_from", "anywhere"),
    ],
)
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], repository: Path) -> None:
    done = run(repository, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: command line: ")
