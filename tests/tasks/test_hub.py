"""The Hub's sets through the real `load_dataset`, from a server on this machine that holds small copies of them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset

from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import grade_answers, unreadable_reasons
from secateur.tasks.hub_sets import AMC_AIME, HUB_SETS, problems_of
from secateur.tasks.records import read_problems
from tests.tasks.hub_repositories import GPQA_OPTIONS, OLYMPIAD_GOLDS, write_repositories
from tests.tasks.hub_server import HubServer

GPQA = HUB_SETS["gpqa_diamond"].repository
AMC_ROW = {"id": 0, "question": "1+1?", "answer": 2.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = write_repositories(tmp_path_factory.mktemp("repositories"))
    with HubServer(root, gated=(GPQA,)) as running:
        yield running


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf-home")


def export(source: str, path: Path, home: Path, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m secateur.tasks.export` as a user types it; the libraries read their addresses when they are
    imported."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", **environment}
    command = [sys.executable, "-m", "secateur.tasks.export", source, str(path)]
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, timeout=300)


def read(path: Path) -> dict[str, dict[str, str]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {record["id"]: record for record in records}


def test_every_revision_is_a_whole_commit_and_documented(repository: Path) -> None:
    lines = (repository / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    for name, wanted in HUB_SETS.items():
        assert re.fullmatch(r"[0-9a-f]{40}", wanted.revision)
        row = next(line for line in lines if line.startswith("|") and f"`{name}`" in line)
        assert wanted.repository in row and f"`{wanted.revision[:8]}`" in row


def test_all_sets_come_from_their_pinned_commits(server: HubServer, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    done = export("+".join(HUB_SETS), path, cache, server.url, HF_TOKEN="hf_test")
    assert done.returncode == 0, done.stderr
    problems = read(path)
    assert len(problems) == 2500 + 3 * 30 + 30 + 500 + 40 + 1319 + 674 + 198
    assert set(server.asked) == {(wanted.repository, wanted.revision) for wanted in HUB_SETS.values()}
    # The others' rows are gone, the suffix too; the system prompt is another method's.
    assert problems[f"{AMC_AIME}-0"] == {
        "id": f"{AMC_AIME}-0", "problem": "Add 1 and 1.", "answer": "2", "group": AMC_AIME
    }  # fmt: skip
    assert problems["aime2022-I-15"]["problem"] == "Find 14 of 2022."
    assert problems["aime2024-II-1"]["answer"] == "15"
    assert problems["aime2025-7"]["answer"] == "336^\\circ"
    assert problems["amc2023-0"]["answer"] == "-1"
    assert problems["test/algebra/3.json"]["answer"] == "\\frac{3}{7}"
    assert problems["gsm8k-test-7"]["problem"] == "Add main 7?" and problems["gsm8k-test-7"]["answer"] == "1007"
    assert problems["olympiadbench-1602"]["answer"] == "$2$"
    assert problems["olympiadbench-1603"]["problem"] == "Let $k=1$.\nSolve 3."
    golds = [problem["answer"] for problem in problems.values()]
    assert unreadable_reasons(golds) == [None] * len(golds) and all(grade_answers(golds, golds))
    assert {problems[f"olympiadbench-{number}"]["answer"] for number in OLYMPIAD_GOLDS} <= set(golds)
    assert_choices(problems)


def assert_choices(problems: dict[str, dict[str, str]]) -> None:
    """The gold letter stands at the right option, and the options are not in one order everywhere."""
    letters = set()
    for n in range(198):
        problem = problems[f"gpqa-rec{n:03d}"]
        letters.add(problem["answer"])
        assert f"\n{problem['answer']}. right {n}\n" in problem["problem"]
        assert problem["problem"].startswith(f'Which of {n},\n"quoted"?\n\nA. ')
        assert problem["problem"].endswith("\n\nAnswer with the letter of the right option.")
    assert letters == set("ABCD")


@pytest.mark.slow
def test_a_cache_serves_a_machine_without_network(server: HubServer, cache: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "online.jsonl", tmp_path / "offline.jsonl"
    source = f"aime22+{AMC_AIME}+olympiadbench+gpqa_diamond"
    assert export(source, first, cache, server.url, HF_TOKEN="hf_test").returncode == 0
    done = export(source, second, cache, server.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_another_revision_in_the_cache_is_refused(server: HubServer, tmp_path: Path) -> None:
    """`load_dataset` without the Hub takes whatever revision was prepared last."""
    wanted = HUB_SETS["amc23"]
    other = server.root / wanted.repository / ("f" * 40)
    other.mkdir()
    for path in (server.root / wanted.repository / wanted.revision).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    script = f"from datasets import load_dataset; load_dataset('{wanted.repository}', revision='{other.name}')"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=300)
    done = export("amc23", tmp_path / "x.jsonl", tmp_path / "home", server.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert f"at {'f' * 40} instead of {wanted.revision}" in done.stderr


@pytest.mark.slow
def test_what_cannot_be_fetched_says_how_to_get_it(server: HubServer, tmp_path: Path) -> None:
    """A gated set without token, and no network with nothing cached."""
    gated = export("gpqa_diamond", tmp_path / "x.jsonl", tmp_path / "home", server.url)
    assert gated.returncode == 2
    assert "gated" in gated.stderr and "set HF_TOKEN" in gated.stderr and "Traceback" not in gated.stderr
    offline = export("math500", tmp_path / "x.jsonl", tmp_path / "home", server.url, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert (
        "could not be loaded" in offline.stderr and "HF_HOME" in offline.stderr and "JSONL" in offline.stderr.upper()
    )


def test_missing_columns_are_named_with_those_that_are_there() -> None:
    rows = Dataset.from_list([{"id": 0, "problem": "1+1?", "answer": 2.0}])
    with pytest.raises(
        InputError, match=r"amc23: math-ai/amc23 \(test\).*lacks the column question; it has id, prob"
    ):
        problems_of(rows, "amc23", HUB_SETS["amc23"])


def test_another_number_of_problems_is_refused() -> None:
    with pytest.raises(InputError, match="gave 1 problems out of 1 rows, expected 40"):
        problems_of(Dataset.from_list([AMC_ROW]), "amc23", HUB_SETS["amc23"])
    other_year = {"problem": "x", "answer": "1", "url": "/2024_AIME_I_Problems/Problem_1"}
    with pytest.raises(InputError, match="gave 0 problems out of 1 rows, expected 30"):
        problems_of(Dataset.from_list([other_year]), "aime22", HUB_SETS["aime22"])
    competition = {"prompt": [{"role": "user", "content": "x"}], "reward_model": {"ground_truth": "1"}}
    with pytest.raises(InputError, match="gave 3 problems out of 3 rows, expected 2432 to 4070"):
        problems_of(Dataset.from_list([competition] * 3), AMC_AIME, HUB_SETS[AMC_AIME])


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("amc23", {**AMC_ROW, "question": " "}, "row 0 .*: problem or answer is empty"),
        ("aime22", {"problem": "x", "answer": "1", "url": "https://else"}, "row 0: .*no AIME address"),
        (AMC_AIME, {"prompt": [{"role": "system", "content": "x"}], "reward_model": {"ground_truth": "1"}}, "row 0"),
        ("gsm8k", {"question": "x", "answer": "So it is 4."}, "row 0: .*no #### before an answer"),
        ("olympiadbench", {"id": 1, "question": "x", "final_answer": [], "subfield": "Algebra"}, "row 0.*IndexError"),
    ],
)
def test_a_row_that_is_not_as_expected_is_named(name: str, row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        problems_of(Dataset.from_list([row]), name, HUB_SETS[name])


def test_gsm8k_is_the_published_test_set(shared_data: Path) -> None:
    """Rows as the repository has them, from the published problems: the solution, ####, the answer with commas."""
    published = read_problems(shared_data / "problems" / "gsm8k_test.jsonl")
    rows = [{"question": one.problem, "answer": f"<<1+1=2>>2.\n#### {int(one.answer):,}"} for one in published]
    found = problems_of(Dataset.from_list(rows), "gsm8k", HUB_SETS["gsm8k"])
    assert [(one.id, one.problem, one.answer) for one in found] == [
        (one.id, one.problem, one.answer) for one in published
    ]
    assert max(int(one.answer) for one in found) > 999, "there are commas to take out"


def test_options_keep_their_order_when_rows_move() -> None:
    row = {"Record ID": "rec7", "Question": "Q", "High-level domain": "Physics"}
    row |= {name: name for name in GPQA_OPTIONS}
    read_row = HUB_SETS["gpqa_diamond"].read
    assert read_row(row, 0) == read_row(row, 5)
