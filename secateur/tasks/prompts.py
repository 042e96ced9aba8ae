"""Every sentence that is put to a model, in one place: the exact prompts of ThinkPrune (arXiv 2504.01296, its code).

Training puts the length sentence into a system prompt; evaluation uses no system prompt at all and, as the released
code does, swaps the two instructions between the model families.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING_SYSTEM_PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think></think> and <answer></answer> tags, respectively, "
    "i.e., <think> reasoning process here</think><answer> answer here</answer>."
)
LENGTH_SENTENCE = " The output of the assistant should be within {limit} tokens."
# L1 (arXiv 2503.04697, its preprocessing) names a length for each question, at the end of the user's turn.
TARGET_SENTENCE = " Think for {target} tokens."
AT_MOST_SENTENCE = " Think for maximum {target} tokens."
STEP_BY_STEP = "Let's think step by step and output the final answer within \\boxed{}."
PLEASE_REASON = "Please reason step by step, and put your final answer within \\boxed{}."
TRAINING_INSTRUCTIONS = {"deepseek": STEP_BY_STEP, "qwen": PLEASE_REASON}
EVALUATION_INSTRUCTIONS = {"deepseek": PLEASE_REASON, "qwen": STEP_BY_STEP}
FAMILIES = ("deepseek", "qwen", "plain")
CHOICE_LETTERS = "ABCD"
CHOICE_SENTENCE = "Answer with the letter of the right option."

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Forcing:
    """`injected` ends thinking by force; thinking that holds `end` has ended by itself."""

    injected: str
    end: str = "</think>"

    def behind(self, text: str) -> str:
        """What forces an answer out of a trace that has come to `text`: where its thinking has ended by itself, only
        what comes after the end.

        >>> FORCING["boxed"].behind("Six or seven? </think> It is")
        '\\n\\nThe final answer is \\\\boxed{'
        """
        return self.injected.rpartition(self.end)[2] if self.end in text else self.injected


# The first three are those of ThinkPrune's budget_forcing_gen.py; "plain" is how the embedded model goes on. "boxed"
# is for forced answers of which only a few tokens are read: it opens the box, so that its content is all they give.
FORCING = {
    "deepseek": Forcing("</think>\n\n**Final Answer:**\n\n"),
    "qwq": Forcing("</think>\n\nThe final answer is"),
    "s1": Forcing("<|im_start|>answer\nFinal Answer:", "<|im_start|>answer"),
    "plain": Forcing("\n</think>\n\\boxed{"),
    "boxed": Forcing("</think>\n\nThe final answer is \\boxed{"),
}
FORCING_OF_FAMILY = {"deepseek": "deepseek", "qwen": "qwq", "plain": "plain"}
"""Prompt family → the name of the forcing behind which a whole answer is written."""


def check_forcing(key: str, name: str | None) -> None:
    """Raises `InputError` for a value of `key` that names no forcing; None stands for the family's."""
    if name is not None and name not in FORCING:
        raise InputError(f"key '{key}' has the value '{name}'; choose one of {', '.join(FORCING)}")


def check_family(family: str) -> None:
    if family not in FAMILIES:
        raise InputError(f"key 'prompt_family' has the value '{family}'; choose one of {', '.join(FAMILIES)}")


def training_messages(
    problem: str, family: str, limit: int | None, target: int | None = None, at_most: bool = False
) -> Messages:
    """The prompt of a training rollout.

    `limit` [tokens] is stated to the model in the system prompt; None leaves the sentence out. `target` [tokens] is
    the length that a reward of L1's kind asks for (arXiv 2503.04697; `at_most` as L1-Max words it); it then stands in
    the limit's place, so that a prompt never names two lengths. Family "plain" is the problem alone (and the target):
    for models, such as the embedded one, that were trained without instruction.
    """
    check_family(family)
    wish = "" if target is None else (AT_MOST_SENTENCE if at_most else TARGET_SENTENCE).format(target=target)
    if family == "plain":
        return [{"role": "user", "content": problem + wish}]
    sentence = "" if limit is None or target is not None else LENGTH_SENTENCE.format(limit=limit)
    return [
        {"role": "system", "content": TRAINING_SYSTEM_PROMPT + sentence},
        {"role": "user", "content": f"{problem} {TRAINING_INSTRUCTIONS[family]}{wish}"},
    ]


def evaluation_messages(problem: str, family: str) -> Messages:
    """The prompt of validation and evaluation: no system prompt, no length sentence."""
    check_family(family)
    content = problem if family == "plain" else f"{problem} {EVALUATION_INSTRUCTIONS[family]}"
    return [{"role": "user", "content": content}]


def choice_question(question: str, options: Sequence[str]) -> str:
    """A multiple-choice question as the text of a problem; its answer is one of `CHOICE_LETTERS`.

    >>> choice_question("Which is even?", ["1", "2"])
    'Which is even?\\n\\nA. 1\\nB. 2\\n\\nAnswer with the letter of the right option.'
    """
    lines = [f"{letter}. {option}" for letter, option in zip(CHOICE_LETTERS[: len(options)], options, strict=True)]
    return "\n".join([f"{question}\n", *lines, f"\n{CHOICE_SENTENCE}"])


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of the rendered chat, ready for generation."""
    rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def starts_inside_thinking(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template pre-fills `<think>`, so that completions begin inside the thinking part."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    return rendered.rstrip().endswith("<think>")
