"""The top of the report: five answers in absolute terms, a command that runs what was measured, one problem told."""

import dataclasses
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from eval.prune import PruneConfig
from eval.report.answer import answers
from eval.report.command import command_of
from eval.report.explorer import read_traced, text_sources
from eval.report.page import ReportInputs, render_report
from eval.report.story import Story, stories
from eval.report.views import run_folders
from eval.table.config import CombinedConfig
from eval.table.labels import MARKS
from eval.table.registry import METHODS, method_about
from secateur.deepprune.prune import rule_for
from secateur.engines.accounting import Usage
from secateur.results import Row, Table, read_table, write_table
from secateur.runtime.command_lines import read_back, written
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from tests.eval.test_report import check_harmless
from tests.report_runs import HOSTILE, make_combined, make_live, make_row, make_stored, make_table, recommend_row

REFERENCE = make_row("base", "consensus", None, 0.7, 0.0)
BEST = make_row("pruned", "deepprune", "linear", 0.8, 0.9, tokens=Usage(generated=96.0, longest_path=20.0))


def table_of(best: Row = BEST, reference: Row = REFERENCE, **changes: object) -> Table:
    config = {"judges": {"pruned": ["judges/mine", "random"]}}
    advice = recommend_row(best, reference.id)
    return make_table([reference, best], config, recommendations=(advice,), **changes)


def test_the_five_answers_are_in_absolute_terms() -> None:
    (answer,) = answers(table_of())
    # 1,000 net tokens on 12 problems, of which 90 % are saved; 96 generated ones are 8 of the 8.33 for an answer.
    assert (answer.tokens.before, answer.tokens.after, answer.tokens.change) == (
        "83.3",
        "8.33",
        "−90\N{NO-BREAK SPACE}%",
    )
    assert answer.generated == "8" and (answer.wait.before, answer.wait.after) == ("80.5", "20")
    assert (answer.accuracy.before, answer.accuracy.after) == ("70.0\N{NO-BREAK SPACE}%", "80.0\N{NO-BREAK SPACE}%")
    assert answer.loss == "+10.0 points, cautious 95\N{NO-BREAK SPACE}% interval −2.0 … +22.0"
    assert (answer.winner, answer.reference) == ("DeepPrune (linear) on pruned", "consensus on base")
    assert "its 4 traces" in answer.about and "12 problems of mine" in answer.about
    assert answer.sure.startswith("Shown to lose no more than 3 points") and answer.sure.endswith("begins at −2.0.")
    assert answer.time is None and answer.cheaper


def test_seconds_stand_beside_tokens_where_both_sides_are_known() -> None:
    mine = make_live("mine", judge="linear")
    theirs = make_live("mine", model="base", sampling_wall_s=6.0)
    (answer,) = answers(table_of(live=(mine, theirs)))
    assert (answer.time.seconds.before, answer.time.seconds.after) == ("≈ 6", "1.5")
    assert answer.time.label == "seconds for 3 answers, those before estimated"
    assert "their share, by tokens" in answer.time.words
    measured = dataclasses.replace(theirs, sampling_wall_measured=True)
    (both,) = answers(table_of(live=(mine, measured)))
    assert both.time.seconds.before == "6" and "share" not in both.time.words
    assert both.time.label == "seconds for 3 answers"
    for missing in ((mine,), (theirs,), (dataclasses.replace(mine, method="other"), theirs)):
        assert answers(table_of(live=missing))[0].time is None
    fewer = dataclasses.replace(BEST, n=2)  # live runs are of the largest n
    assert answers(table_of(fewer, live=(mine, theirs)))[0].time is None


def test_where_nothing_cheaper_holds_the_reference_goes_on_and_says_so() -> None:
    advice = dataclasses.replace(recommend_row(BEST, REFERENCE.id), overall=None)
    table = dataclasses.replace(table_of(), recommendations=(advice,))
    (answer,) = answers(table)
    assert not answer.cheaper and answer.tokens.change == "" and answer.winner == "consensus on base"
    elsewhere = dataclasses.replace(advice, reference="gone")
    assert answers(dataclasses.replace(table, recommendations=(elsewhere,))) == []


def test_every_method_says_what_it_does_in_words_that_need_no_glossary() -> None:
    assert not [name for name, method in METHODS.items() if len(method.about) < 15]
    private = ("longest path", "survivor", "gross", "consensus", "cluster")
    assert not [name for name, method in METHODS.items() if any(word in method.about for word in private)]
    assert answers(table_of())[0].does == METHODS["deepprune"].about
    assert method_about("deepprune_adaptive").endswith("the variant adaptive")


def test_what_was_known_beforehand_is_said_beside_the_figures() -> None:
    seen = dataclasses.replace(BEST, trained_on=True)
    (answer,) = answers(table_of(seen))
    assert answer.notes == [MARKS[0].whole]


def test_every_command_runs_the_rule_that_was_measured(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all methods that `secateur prune` can run, the command's own config has the rule of the table's."""
    monkeypatch.chdir(repository)
    model = "trainers/embedded_model"
    methods = ["consensus", "ahead", "ahead_wait", "answers", "evidence", "deepprune", "adaptive_consistency"]
    methods += ["early_stopping", "consol", "bayes_three", "first_ended", "cannot_change"]
    keys = {
        "methods": methods,
        "judges": {"base": ["values", "random"]},
        "variants": {"mine": {"lead": 2, "start_batch": 4}, "adaptive": {"start_batch": 8, "lead": 3}},
        "answers": {"pool": {"stop": "lead", "lead": 3, "start": "pool", "size": 7}},
        "system_prompt": "Answer: 'yes' or \"no\".\n{problem}",
    }
    file = read_yaml("configs/demo/combined.yaml") | keys | {"models": {"base": model}, "top_logprobs": 0}
    config = CombinedConfig(**file)
    for method in (
        *config.live_rules,
        "consensus",
        "adaptive_consistency",
        "early_stopping",
        "consol",
        "first_ended",
    ):
        row = make_row("base", method, None, 0.5, 0.5)
        command = command_of(row, config.resolved())
        assert command.text.startswith("secateur prune --model trainers/embedded_model ") and not command.note
        words = shlex.split(command.text.replace("\\\n", ""))[2:]
        judged = ["--judge", "mine"] if method.startswith(("deepprune", "evidence")) else []
        asked = parse_config(PruneConfig, [*words, *judged])
        measured = config.live_rules.get(method)
        if method == "evidence":
            assert asked.chosen_rule is None and asked.rule == "automatic"
        elif measured is not None:
            assert asked.chosen_rule == measured, method
        assert rule_for(asked.chosen_rule, None) is not None if not judged else True
        assert (asked.n, asked.spec, asked.prompt, asked.dtype) == (4, config.spec, config.prompt, config.dtype)


def test_a_method_or_judge_that_no_command_runs_is_said_so() -> None:
    table = table_of()
    for row, words in (
        (dataclasses.replace(BEST, method="deepconf_low", judge=None), "has no rule for this method"),
        (dataclasses.replace(BEST, method="single", judge=None), "ask the model once"),
        (dataclasses.replace(BEST, judge="random"), "takes trained judges"),
    ):
        command = command_of(row, table.config)
        assert command.text == "" and words in command.note
    imported = dict(table.config) | {"imports": {"pruned": "traces.jsonl"}}
    command = command_of(BEST, imported)
    assert "--model MODEL" in command.text and "in the place of MODEL" in command.note
    gone = dict(table.config) | {"judges": {"pruned": ["one/a", "two/a"]}}
    assert "judge.json" in command_of(BEST, gone).note


VALUES = st.one_of(
    st.text(max_size=40), st.integers(), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
)


@given(VALUES)
def test_a_command_comes_back_as_it_was_or_is_not_shown(value: JSON) -> None:
    text = written({"model": value, "n": 8})
    assert text == "" or (read_back(text) == {"model": value, "n": 8} and text.replace(" \\\n", "").isprintable())


def test_a_shell_reads_the_same_words() -> None:
    for value in (*HOSTILE, "$(touch owned)", "`id`", "a b'c\"d", "!x; rm *", "~"):
        text = written({"model": value, "n": 8})
        if text:
            shell = f"secateur() {{ printf '%s\\0' \"$@\"; }}; {text}"
            said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
            assert said.split("\0")[:-1] == shlex.split(text.replace(" \\\n", " "))[1:]


def test_values_that_a_rule_does_not_have_are_refused(repository: Path) -> None:
    given = ["--model", str(repository / "trainers" / "embedded_model"), "--problem", "one"]
    for words, remedy in (
        (["--rule_values", "{lead: 2}"], "goes with rule adaptive, published or answers"),
        (["--rule", "answers", "--rule_values", "{stop: sometimes}"], "choose one of lead, beta"),
        (["--rule", "adaptive", "--judge", "x", "--rule_values", "{led: 2}"], "did you mean 'lead'"),
    ):
        with pytest.raises(InputError, match=remedy):
            parse_config(PruneConfig, [*given, *words])


def told(folder: Path) -> list[Story]:
    table = read_table(folder)
    traced = read_traced(run_folders(table, folder))
    return stories(table, traced, text_sources(traced, table.config))


def test_the_problem_that_is_told_is_the_median_of_those_answered_rightly(tmp_path: Path) -> None:
    folder = make_stored(tmp_path, 5, 12, lambda problem, sample: f"text {problem} {sample}")
    table = read_table(folder)
    best = next(row for row in table.rows if row.id == "base/deepprune/linear")
    write = dataclasses.replace(table, recommendations=(recommend_row(best, "base/consensus"),))
    write_table(folder, write)
    (story,) = told(folder)
    # Odd problems are answered wrongly after pruning; of p0, p2 and p4 every trace is a few tokens longer.
    assert story.problem_id in ("p0", "p2", "p4") and "of the 3 problems that both answer rightly" in story.chosen
    assert story.link == f"#problem={story.problem_id}" and story.before.spent > story.after.spent
    assert story.before.text.startswith(f"text {story.problem_id[1:]} ") and story.before.right and story.after.right
    assert (story.before.finished, story.after.finished, story.after.n) == (12, 8, 12)


def test_hostile_texts_are_told_and_do_nothing(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_combined(tmp_path, list(HOSTILE), model="<b>$m$</b>")))
    check_harmless(html)
    story = html.partition('<div class="story"')[2].partition("</section>")[0]
    assert escape(HOSTILE[0]) in story and "#problem=%3Cscript%3E" in story
    assert escape("DeepPrune (linear) on <b>$m$</b>") in html.partition('<dl class="answer"')[2]


def test_what_is_recommended_stands_out_in_the_table(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_combined(tmp_path, ["1", "2"])))
    (row,) = html.split('<tr class="main"')[1:]
    assert 'data-words="deepprune pruned linear"' in row.partition("</tr>")[0]


def test_without_texts_or_a_recommendation_there_is_no_story(tmp_path: Path) -> None:
    folder = make_combined(tmp_path, ["1", "2"])
    assert len(told(folder)) == 1
    (folder / "examples.json").unlink()
    assert told(folder) == []
