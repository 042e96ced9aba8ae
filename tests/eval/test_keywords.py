"""Keyword frequencies: what counts as a keyword, and rates of traces from a folder and from a file."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.keywords import main
from eval.studies.keywords import KEYWORDS, KeywordCounter, KeywordReport, read_keywords
from eval.studies.keywords import measure as measure_sources
from eval.studies.traces import ReadProblem
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.tasks.records import Problem, Trace


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Wait, WAIT. wait", {"wait": 3}),
        ("But wait, there is more", {"but wait": 1}),  # the longer one counts, once
        ("But, wait. but\n wait; butwait", {"but wait": 2}),
        ("but. Wait", {"wait": 1}),  # a new sentence
        ("waiting await waits wait's wait_2 wait7", {"wait": 3}),  # words are runs of letters
        ("Hm, hmm, Hmmmm, ohm hmx", {"hmm": 3}),
        ("let me double-check, let me check", {"let me double check": 1, "let me check": 1}),
        ("", {}),
    ],
)
def test_what_counts(text: str, counts: dict[str, int]) -> None:
    keywords = ["wait", "but wait", "hmm", "let me check", "let me double check"]
    assert dict(KeywordCounter(keywords).count(text)) == counts


@given(st.lists(st.sampled_from([*KEYWORDS, "foo", "but", "let me", "."]), max_size=20))
def test_keywords_that_full_stops_part_are_all_counted_whatever_their_case(words: list[str]) -> None:
    counter = KeywordCounter()
    found = counter.count(". ".join(words).upper())
    assert {word: found[word] for word in KEYWORDS} == {word: words.count(word) for word in KEYWORDS}


@pytest.mark.parametrize("keywords", [["wait", "Wait"], ["  "]])
def test_keywords_that_say_nothing_are_refused(keywords: list[str]) -> None:
    with pytest.raises(InputError, match="key 'keywords'"):
        KeywordCounter(keywords)


def traced(texts: dict[str, str], tokens: int) -> list[ReadProblem]:
    traces = {name: Trace(name, "q", "1", 0, text, n_tokens=tokens) for name, text in texts.items()}
    return [ReadProblem("set", Problem(name, "q", "1"), [trace]) for name, trace in traces.items()]


def measure(sources: dict[str, list[ReadProblem]], counter: KeywordCounter) -> KeywordReport:
    return measure_sources(dict.fromkeys(sources, "somewhere"), sources, counter)


def test_rates_and_ratios_count_tokens_and_traces() -> None:
    before = traced({"a": "wait wait hmm", "b": "wait"}, tokens=100)
    after = traced({"b": "", "a": "wait"}, tokens=50)
    report = measure({"base": before, "pruned": after}, KeywordCounter(["wait", "hmm", "maybe"]))
    wait = report.models["base"].rates["wait"]
    assert (wait.count, wait.per_1000_tokens, wait.per_trace) == (3, 15.0, 1.5)
    assert wait.per_trace_ci95[0] <= 1.5 <= wait.per_trace_ci95[1]
    ratios = report.ratios["pruned"]
    assert ratios.paired  # the same problems, whatever their order
    assert ratios.ratios["wait"].per_1000_tokens[0] == pytest.approx((1 / 100) / (3 / 200))
    assert ratios.ratios["wait"].per_trace[0] == pytest.approx(1 / 3)
    assert ratios.ratios["maybe"].per_trace is None
    itself = measure({"base": before, "again": before}, KeywordCounter(["wait"])).ratios["again"].ratios["wait"]
    assert itself.per_1000_tokens == (1, 1, 1)


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["keywords.py", *arguments])
    main()


def test_the_command_reads_folders_of_benchmarks_and_files(monkeypatch, tmp_path: Path, tiny_model: Path) -> None:
    for benchmark in ("one", "two"):
        with TraceFolderWriter(tmp_path / "base" / benchmark, {}) as writer:
            writer.add(Trace("p", "q", "1", 0, "Wait. But wait.", token_ids=(1, 2, 3, 4), n_tokens=4))
    line = {"problem_id": "p", "problem": "q", "gold": "1", "sample": 0, "text": "hmm wait", "model": "other"}
    write_text(tmp_path / "f.jsonl", json.dumps(line) + "\n")
    traces = f"{{base: {tmp_path}/base, other: {tmp_path}/f.jsonl}}"
    run(monkeypatch, "--traces", traces, "--tokenizer", str(tiny_model), "--output_dir", str(tmp_path / "out"))
    report = read_keywords(tmp_path / "out")
    assert report.models["base"].rates["but wait"].count == 2  # one in each benchmark
    assert report.models["base"].problems == 2 and report.traces["base"] == f"{tmp_path}/base"
    assert report.models["other"].tokens == len("hmm wait")  # a tokenizer of bytes
    assert not report.ratios["other"].paired
    assert (tmp_path / "out/keywords.png").is_file()
    assert len((tmp_path / "out/keywords.csv").read_text().splitlines()) == 1 + 2 * len(KEYWORDS)


def test_traces_of_unknown_length_need_a_tokenizer(monkeypatch, tmp_path: Path, capsys) -> None:
    line = {"problem_id": "p", "problem": "q", "gold": "1", "sample": 0, "text": "hmm wait"}
    write_text(tmp_path / "f.jsonl", json.dumps(line) + "\n")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--traces", f"{{x: {tmp_path}/f.jsonl}}", "--output_dir", str(tmp_path / "out"))
    assert "give key 'tokenizer'" in capsys.readouterr().err
