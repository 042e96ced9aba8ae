"""`answer_from` says for reward, label, vote and score of a run which traces are right, and every run keeps it."""

from dataclasses import fields
from pathlib import Path

import pytest

from eval.collect_traces import CollectConfig, import_all
from eval.collect_traces import report as report_collected
from eval.one_model.figures import grade_folder
from eval.redundancy import RedundancyConfig, measure_path
from eval.table.config import CombinedConfig
from eval.table.run import run
from rewards.trl_reward import LimitReward
from secateur.runtime.files import append_jsonl, read_json
from secateur.tasks.answers.extraction import extraction
from secateur.tasks.records import read_problems
from tests.tiny import build_tokenizer
from tools.config_keys import find_commands
from trainers.judges.config import JudgeConfig
from trainers.judges.data import load_judge_data

BOX_IN_THINKING = "<think>\nso \\boxed{7}\n</think>\nIt is seven."
BOX = "<think>\nso 3\n</think>\n\\boxed{7}"
LINE = "<think>\nso 4\n</think>\nANSWER: 7"
BOTH = "<think>\nso 5\n</think>\n\\boxed{8}\nANSWER: 7"
ALL = "<think>\nso \\boxed{7}\n</think>\n\\boxed{7}\nANSWER: 7"
TEXTS = [BOX_IN_THINKING, BOX, LINE, BOTH, ALL]
RIGHT = {
    "answer": [False, True, False, False, True],
    "anywhere": [True, True, False, False, True],
    "pattern:ANSWER: (.+)": [False, False, True, True, True],
}


def traces_file(path: Path, names: tuple[str, ...] = ("p", "q")) -> Path:
    for name in names:
        about = {"problem_id": name, "problem": f"{name}?", "gold": "7", "model": "m", "finish_reason": "stop"}
        traces = [
            about | {"sample": number, "text": text, "n_tokens": len(text)} for number, text in enumerate(TEXTS)
        ]
        append_jsonl(path, traces)
    return path


@pytest.mark.parametrize("answer_from", RIGHT)
def test_reward_label_vote_and_score_are_of_the_same_answers(
    answer_from: str, tmp_path: Path, tiny_model: Path
) -> None:
    right, share = RIGHT[answer_from], sum(RIGHT[answer_from]) / len(TEXTS)
    tokenizer = build_tokenizer()
    reward = LimitReward(tokenizer, {tokenizer.eos_token_id}, False, "hard_limit", {}, 999, 1, answer_from)
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    assert reward(completion_ids=ids, gold=["7"] * len(TEXTS)) == right

    file = traces_file(tmp_path / "t.jsonl")
    (redundancy,) = measure_path(RedundancyConfig(traces=str(file), answer_from=answer_from), file)
    assert redundancy.pass_at_1 == share
    table = run(
        CombinedConfig(
            imports={"m": str(file)},
            output_dir=str(tmp_path / "table"),
            methods=["single", "consensus"],
            answer_from=answer_from,
        )
    )
    assert next(row for row in table.rows if row.method == "single").accuracy == share
    assert table.settings["answer_from"] == answer_from

    other = traces_file(tmp_path / "other.jsonl", ("r",))
    collected = CollectConfig(
        imports={"dev": str(file), "test": str(other)}, output_dir=str(tmp_path / "own"), answer_from=answer_from
    )
    imported = import_all(collected)
    report_collected(collected, imported)
    assert read_json(tmp_path / "own" / "redundancy.json")["answer_from"] == answer_from
    dev, test = imported["dev"]["m"], imported["test"]["m"]
    graded = grade_folder(dev, read_problems(file), len(TEXTS), extraction(answer_from), {"p": 1, "q": 1})
    assert graded.right == [right, right]

    judge = JudgeConfig(
        output_dir=str(tmp_path / "judge"),
        dev=str(dev),
        test=str(test),
        epochs=0,
        kind="pairwise",
        model=str(tiny_model),
        prompt_family="plain",
        prompt="Same? {a} {b}",
        answer_from=answer_from,
    )
    for problem in load_judge_data(judge).dev:  # all other answers are one or none: only right ones are the same
        pairs = problem.pairs
        assert [bool(label) for label in pairs.labels] == [
            right[a] and right[b] for a, b in zip(pairs.first, pairs.second, strict=True)
        ]


def test_every_command_that_takes_answers_out_of_texts_has_the_key() -> None:
    """Nothing that grades has its own idea of where an answer stands, and a wrong place ends all before work."""
    having = {
        command.path: command.config
        for command in find_commands()
        if command.config is not None and "answer_from" in {key.name for key in fields(command.config)}
    }
    for name in ("single", "budget_forcing", "combined", "collect_traces", "redundancy", "perplexity"):
        assert f"eval/{name}.py" in having
    assert {"trainers/judge.py", "trainers/scorer.py", "trainers/grpo_len.py"} <= having.keys()
    assert having.pop("rewards/check.py")  # it tries one, and grades nothing
    for path, config in having.items():
        assert next(key for key in fields(config) if key.name == "answer_from").default == "answer", path
