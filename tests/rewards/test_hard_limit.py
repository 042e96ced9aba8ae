import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.hard_limit import HardLimitReward, hard_limit, is_truncated
from tests.tiny import build_tokenizer

END, PAD, OTHER = 2, 0, 7


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def encode(tokenizer, text: str, finished: bool) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if finished else ids


def make_reward(tokenizer, kind: str = "hard_limit", thinking: bool = False) -> HardLimitReward:
    return HardLimitReward(tokenizer, {tokenizer.eos_token_id, tokenizer.pad_token_id}, thinking, kind)


@given(st.booleans(), st.booleans())
def test_only_right_and_finished_earns(correct: bool, truncated: bool) -> None:
    assert hard_limit(correct, truncated) == (1.0 if correct and not truncated else 0.0)


@given(st.lists(st.integers(0, 20), max_size=8))
def test_truncated_is_decided_by_the_last_id_alone(ids: list[int]) -> None:
    assert not is_truncated([*ids, END], {END, PAD})
    assert not is_truncated([*ids, END, PAD], {END, PAD})
    assert is_truncated([*ids, OTHER], {END, PAD})


def test_an_empty_completion_is_not_finished() -> None:
    assert is_truncated([], {END, PAD})


def test_right_within_right_cut_off_and_wrong(tokenizer) -> None:
    texts = [("<think>\na\n</think>\n\n\\boxed{7}", True), ("<think>\na\n</think>\n\n\\boxed{7}", False)]
    texts += [("<think>\na\n</think>\n\n\\boxed{8}", True), ("<think>\nso \\boxed{7}", False), ("", True)]
    ids = [encode(tokenizer, text, finished) for text, finished in texts]
    rewards = make_reward(tokenizer)(completion_ids=ids, gold=["7"] * len(ids))
    assert rewards == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_reference_grades_the_cut_off_text_as_the_released_code_does(tokenizer) -> None:
    ids = [encode(tokenizer, "<think>\nso \\boxed{7}, wait", False), encode(tokenizer, "<think>\nhm", False)]
    assert make_reward(tokenizer, "reference")(completion_ids=ids, gold=["7", "7"]) == [1.0, 0.0]


def test_thinking_prefilled_by_the_template_must_be_closed(tokenizer) -> None:
    ids = [encode(tokenizer, "so \\boxed{7}", True), encode(tokenizer, "so</think>\\boxed{7}", True)]
    assert make_reward(tokenizer, thinking=True)(completion_ids=ids, gold=["7", "7"]) == [0.0, 1.0]


def test_the_callable_survives_pickling_and_logs_the_truncated_share(tokenizer) -> None:
    reward = pickle.loads(pickle.dumps(make_reward(tokenizer)))
    logged: dict[str, float] = {}
    ids = [encode(tokenizer, "\\boxed{1}", True), encode(tokenizer, "\\boxed{1}", False)]
    rewards = reward(
        completion_ids=ids,
        gold=["1", "1"],
        prompts=[],
        completions=[],
        trainer_state=None,
        log_metric=logged.__setitem__,
    )
    assert (rewards, logged, reward.__name__) == ([1.0, 0.0], {"truncated_share": 0.5}, "hard_limit")
