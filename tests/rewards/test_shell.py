"""The callable that TRL gets: what it grades, counts, logs and refuses."""

import pickle

import pytest
from accelerate import PartialState
from accelerate.logging import get_logger

from rewards.trl_reward import LimitReward
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.errors import InputError
from tests.tiny import build_tokenizer

RIGHT, WRONG = "<think>\na\n</think>\n\n\\boxed{7}", "<think>\nb\n</think>\n\n\\boxed{8}"
UNFINISHED = "<think>\nso \\boxed{7}, wait"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def encode(tokenizer, text: str, finished: bool = True) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if finished else ids


def make_reward(tokenizer, name: str = "hard_limit", thinking: bool = False, **options) -> LimitReward:
    return LimitReward(tokenizer, {tokenizer.eos_token_id}, thinking, name, options, limit=100, world=1)


def test_right_within_right_cut_off_and_wrong(tokenizer) -> None:
    texts = [(RIGHT, True), (RIGHT, False), (WRONG, True), (UNFINISHED, False), ("", True)]
    ids = [encode(tokenizer, text, finished) for text, finished in texts]
    assert make_reward(tokenizer)(completion_ids=ids, gold=["7"] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_an_empty_completion_is_truncated_and_wrong(tokenizer) -> None:
    assert make_reward(tokenizer)(completion_ids=[[]], gold=["7"]) == [0.0]


def test_reference_grades_the_cut_off_text_as_the_released_code_does(tokenizer) -> None:
    ids = [encode(tokenizer, UNFINISHED, False), encode(tokenizer, "<think>\nhm", False)]
    assert make_reward(tokenizer, "reference")(completion_ids=ids, gold=["7", "7"]) == [1.0, 0.0]


def test_a_cut_off_answer_counts_with_grade_truncated_an_unfinished_thought_never(tokenizer) -> None:
    ids = [encode(tokenizer, RIGHT, False), encode(tokenizer, UNFINISHED, False)]
    arguments = {"completion_ids": ids, "gold": ["7", "7"], "row": [0, 0]}
    assert make_reward(tokenizer, "efficient")(**arguments) == [0.0, 0.0]
    assert make_reward(tokenizer, "efficient", grade_truncated=True)(**arguments) == [0.9, 0.0]


def test_thinking_prefilled_by_the_template_must_be_closed(tokenizer) -> None:
    ids = [encode(tokenizer, "so \\boxed{7}"), encode(tokenizer, "so</think>\\boxed{7}")]
    assert make_reward(tokenizer, thinking=True)(completion_ids=ids, gold=["7", "7"]) == [0.0, 1.0]


THOUGHTS = {
    "Magistral": ("[THINK]so \\boxed{7}", "[THINK]so \\boxed{8}[/THINK]\\boxed{7}", ("[THINK]", "[/THINK]")),
    "gpt-oss": (
        "<|channel|>analysis<|message|>so \\boxed{7}",
        "<|channel|>analysis<|message|>so \\boxed{8}<|channel|>final<|message|>\\boxed{7}",
        ("<|channel|>", "<|message|>"),
    ),
}


@pytest.mark.parametrize("family", THOUGHTS)
def test_marks_of_thinking_that_are_special_tokens_reach_the_reward(tmp_path, family) -> None:
    """The tokenizer is the one that training loads; what decoding would leave out tells thought from answer."""
    unfinished, finished, marks = THOUGHTS[family]
    made = build_tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    made.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = [encode(tokenizer, text) for text in (unfinished, finished)]
    assert marks[0] not in made.decode(ids[0], skip_special_tokens=True)
    assert make_reward(tokenizer)(completion_ids=ids, gold=["7", "7"]) == [0.0, 1.0]
    assert make_reward(tokenizer, "reference")(completion_ids=ids, gold=["7", "7"]) == [1.0, 1.0]


def test_length_is_the_number_of_ids_with_the_end_token(tokenizer) -> None:
    """LASER's bonus ends at the target: at exactly that many ids, with characters of several ids each."""
    text = "<think>\n€€\n</think>\n\n\\boxed{7}"
    ids = encode(tokenizer, text)
    assert len(ids) != len(text) + 1
    for target, expected in ((len(ids), 1.5), (len(ids) - 1, 1.0)):
        assert make_reward(tokenizer, "laser", target=target)(completion_ids=[ids], gold=["7"]) == [expected]


def test_groups_are_told_apart_by_row_wherever_they_lie(tokenizer) -> None:
    short, long = encode(tokenizer, RIGHT), encode(tokenizer, "<think>\naaaaaaaa\n</think>\n\n\\boxed{7}")
    reward = make_reward(tokenizer, "kimi_k15")
    # Row 4 has a short and a long one, row 9 two long ones: equal there, so no length reward.
    values = reward(completion_ids=[short, long, long, long], gold=["7"] * 4, row=[4, 9, 9, 4])
    assert values == [1.5, 1.0, 1.0, 0.5]


def test_each_prompt_has_its_own_target(tokenizer) -> None:
    ids = encode(tokenizer, RIGHT)
    reward = make_reward(tokenizer, "l1_exact", alpha=0.01, target_min=1)
    values = reward(completion_ids=[ids, ids], gold=["7", "7"], target_tokens=[len(ids), len(ids) + 10])
    assert values == pytest.approx([1.0, 0.9])


def test_missing_columns_are_named(tokenizer) -> None:
    arguments = {"completion_ids": [encode(tokenizer, RIGHT)], "gold": ["7"]}
    for name, options in (("alp", {}), ("hard_limit", {"keep": 2}), ("hard_limit", {"drop_equal_groups": True})):
        with pytest.raises(InputError, match="no column 'row'"):
            make_reward(tokenizer, name, **options)(**arguments)
    with pytest.raises(InputError, match="'target_tokens'"):
        make_reward(tokenizer, "l1_max", target_min=1)(**arguments)


def test_options_that_do_not_fit_are_refused_when_it_is_built(tokenizer) -> None:
    with pytest.raises(InputError, match="limit of 100 tokens"):
        make_reward(tokenizer, "dapo_soft_overlong", buffer=101)


def test_it_survives_pickling_and_logs_shares_and_lengths(tokenizer) -> None:
    reward = pickle.loads(pickle.dumps(make_reward(tokenizer)))
    logged: dict[str, float] = {}
    ids = [encode(tokenizer, RIGHT), encode(tokenizer, RIGHT, False), encode(tokenizer, WRONG)]
    ids += [encode(tokenizer, WRONG)] * 3
    rewards = reward(
        completion_ids=ids,
        gold=["7"] * 6,
        row=[1, 1, 1, 2, 2, 2],
        prompts=[],
        completions=[],
        trainer_state=None,
        log_metric=logged.__setitem__,
    )
    assert (rewards, reward.__name__) == ([1.0, 0, 0, 0, 0, 0], "hard_limit")
    assert logged == pytest.approx(
        {
            "truncated_share": 1 / 6,
            "correct_share": 1 / 6,
            "right_mean_length": len(ids[0]),
            "wrong_mean_length": (len(ids[0]) - 1 + 4 * len(ids[2])) / 5,
            "groups_all_right": 0.0,
            "groups_all_wrong": 0.5,
        }
    )


def test_means_over_nothing_and_groups_unknown_are_not_logged(tokenizer) -> None:
    logged: dict[str, float] = {}
    ids = [encode(tokenizer, WRONG)]
    make_reward(tokenizer)(completion_ids=ids, gold=["7"], log_metric=logged.__setitem__)
    assert set(logged) == {"truncated_share", "correct_share", "wrong_mean_length"}


def test_what_time_did_not_suffice_for_is_wrong_is_counted_and_is_not_remembered(tokenizer) -> None:
    """An answer of algebra needs a worker, which the budget is for; one of a number does not."""
    logged: dict[str, float] = {}
    formulas = [f"<think>\n</think>\n\n\\boxed{{{number} \\sqrt{{2}}}}" for number in range(11, 31)]
    ids = [encode(tokenizer, text) for text in (RIGHT, *formulas)]
    gold = ["7", *(f"{number} \\sqrt{{2}}".replace("sqrt{2}", "sqrt{8}/2") for number in range(11, 31))]
    call = {"completion_ids": ids, "gold": gold, "log_metric": logged.__setitem__}
    hurried = make_reward(tokenizer)
    hurried.grading_s = 1e-9
    rewards = hurried(**call)
    assert rewards[0] == 1.0 and 0 < logged["ungraded_share"] < 1
    assert sum(rewards) == pytest.approx(len(ids) * (1 - logged["ungraded_share"]))
    assert make_reward(tokenizer)(**call) == [1.0] * len(ids)


def test_a_filter_logs_what_is_left_and_keeps_trl_from_printing_completions(tokenizer, caplog) -> None:
    logged: dict[str, float] = {}
    ids = [encode(tokenizer, RIGHT), encode(tokenizer, WRONG), encode(tokenizer, RIGHT, False)]
    reward = make_reward(tokenizer, keep=2)
    values = reward(completion_ids=ids, gold=["7"] * 3, row=[0] * 3, log_metric=logged.__setitem__)
    assert values.count(None) == 1
    assert logged["trained_share"] == pytest.approx(2 / 3)
    PartialState(cpu=True)
    trls = get_logger("trl.trainer.grpo_trainer")
    trls.warning("All reward functions returned None for the following kwargs:\n…")
    trls.warning("something else")
    assert [record.message for record in caplog.records] == ["[RANK 0] something else"]


def test_a_batch_of_groups_that_teach_nothing_keeps_its_rewards(tokenizer) -> None:
    """TRL has no mean of nothing to log, and all advantages are 0 either way."""
    ids = [encode(tokenizer, WRONG), encode(tokenizer, WRONG), encode(tokenizer, RIGHT), encode(tokenizer, RIGHT)]
    arguments = {"completion_ids": ids, "gold": ["7"] * 4}
    reward = make_reward(tokenizer, drop_equal_groups=True)
    assert reward(**arguments, row=[0, 0, 1, 1]) == [0.0, 0.0, 1.0, 1.0]
    assert reward(**arguments, row=[0, 1, 1, 0]) == [0.0, 0.0, 1.0, 1.0]
    assert reward(**arguments, row=[0, 0, 0, 1]) == [0.0, 0.0, 1.0, None]
