"""The prompts are a contract with released models: compared letter by letter."""

import pytest

from runtime.errors import InputError
from tasks.prompts import encode_prompt, evaluation_messages, starts_inside_thinking, training_messages
from tests.tiny import build_tokenizer

SYSTEM_4000 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think></think> and <answer></answer> tags, respectively, i.e., <think> "
    "reasoning process here</think><answer> answer here</answer>. The output of the assistant should be within 4000 "
    "tokens."
)


def test_training_prompt_states_the_limit() -> None:
    system, user = training_messages("1+1?", "deepseek", 4000)
    assert system == {"role": "system", "content": SYSTEM_4000}
    assert user["content"] == "1+1? Let's think step by step and output the final answer within \\boxed{}."
    assert "tokens" not in training_messages("1+1?", "deepseek", None)[0]["content"]


def test_evaluation_swaps_the_instructions_and_has_no_system_prompt() -> None:
    trained = {family: training_messages("p", family, None)[1]["content"] for family in ("deepseek", "qwen")}
    evaluated = {family: evaluation_messages("p", family) for family in ("deepseek", "qwen")}
    assert [m["role"] for m in evaluated["deepseek"]] == ["user"]
    assert evaluated["deepseek"][0]["content"] == trained["qwen"]
    assert evaluated["qwen"][0]["content"] == trained["deepseek"]


def test_plain_family_is_the_problem_alone() -> None:
    assert (
        training_messages("p", "plain", 100)
        == evaluation_messages("p", "plain")
        == [{"role": "user", "content": "p"}]
    )


def test_unknown_family_is_named() -> None:
    with pytest.raises(InputError, match=r"lama.*deepseek, qwen, plain"):
        evaluation_messages("p", "lama")


def test_encoded_prompt_is_the_rendered_chat() -> None:
    tokenizer = build_tokenizer()
    ids = encode_prompt(tokenizer, evaluation_messages("1+1?", "plain"))
    assert tokenizer.decode(ids) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert not starts_inside_thinking(tokenizer)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert starts_inside_thinking(tokenizer)
