"""Every sentence that is put to a model, in one place: the exact prompts of ThinkPrune (arXiv 2504.01296, its code),
and one's own in their place.

ThinkPrune's training puts the length sentence into a system prompt; its evaluation uses no system prompt at all and,
as the released code does, swaps the two instructions between the model families. A sentence of one's own is the same
in training and evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.answers.extraction import THINKING

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
PROBLEM = "{problem}"
"""Where the problem stands in an instruction that does not simply follow it."""
CHOICE_LETTERS = "ABCD"
CHOICE_SENTENCE = "Answer with the letter of the right option."

_THINK = tuple(begin for begin, _ in THINKING)
_MARK_TOKENS = 32  # that hold one, whatever the tokenizer, with the blanks behind it

_TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)

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


@dataclass(frozen=True)
class Prompt:
    """How problems are put to a model.

    `prompt_family`: whose sentences, deepseek's or qwen's; those of "plain" are none. `system_prompt` and
    `instruction` stand in the place of the family's, in training and in evaluation; None leaves the family's, "" none
    at all. An instruction follows the problem, or it holds `{problem}` where that belongs. Raises `InputError` for
    another family.
    """

    prompt_family: str = "deepseek"
    system_prompt: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_family not in FAMILIES:
            raise InputError(
                f"key 'prompt_family' has the value '{self.prompt_family}'; choose one of {', '.join(FAMILIES)}"
            )

    @property
    def stored(self) -> dict[str, JSON]:
        """What is stored beside samples of evaluation, where an empty system prompt is none."""
        return asdict(self) | {"system_prompt": self.system_prompt or None}


@dataclass(kw_only=True)
class PromptKeys:
    """The keys of every config that puts problems to a model.

    prompt_family: deepseek, qwen or plain: the sentences around a problem (see secateur/tasks/prompts.py).
    system_prompt: a system prompt of your own; null: the family's, which has none in evaluation; "": none.
    instruction: follows the problem, or holds {problem} where that belongs; null: the family's; "": none.
    """

    prompt_family: str = "deepseek"
    system_prompt: str | None = None
    instruction: str | None = None

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.prompt_family, self.system_prompt, self.instruction)


def prompt_of(values: Mapping[str, JSON], known: Prompt | None = None) -> Prompt | None:
    """The prompt that the keys of a config or of a stored file name, what they leave out as in `known`; None where
    neither names a family."""
    given = {key.name: values[key.name] for key in fields(Prompt) if values.get(key.name) is not None}
    if known is not None:
        return replace(known, **given)
    return Prompt(**given) if "prompt_family" in given else None


def training_messages(
    problem: str, prompt: Prompt, limit: int | None, target: int | None = None, at_most: bool = False
) -> Messages:
    """The prompt of a training rollout.

    `limit` [tokens] is stated to the model at the end of the system prompt, if there is one; None leaves the sentence
    out. `target` [tokens] is the length that a reward of L1's kind asks for (arXiv 2503.04697; `at_most` as L1-Max
    words it); it then stands in the limit's place, so that a prompt never names two lengths. Family "plain" is the
    problem alone (and the target): for models, such as the embedded one, that were trained without instruction.
    """
    wish = "" if target is None else (AT_MOST_SENTENCE if at_most else TARGET_SENTENCE).format(target=target)
    told = training_prompt(prompt, limit if target is None else None)
    return _messages(told.system_prompt or "", _turn(problem, told.instruction or "") + wish)


def training_prompt(prompt: Prompt, limit: int | None) -> Prompt:
    """The prompt by which evaluation puts a problem as training does, with the `limit` [tokens] stated unless it is
    None."""
    family = prompt.prompt_family
    system = _own_or(prompt.system_prompt, "" if family == "plain" else TRAINING_SYSTEM_PROMPT)
    sentence = "" if limit is None else LENGTH_SENTENCE.format(limit=limit)
    instruction = _own_or(prompt.instruction, TRAINING_INSTRUCTIONS.get(family, ""))
    return Prompt(family, system and system + sentence, instruction)


def evaluation_messages(problem: str, prompt: Prompt) -> Messages:
    """The prompt of validation and evaluation: no length sentence, and no system prompt but one's own."""
    instruction = _own_or(prompt.instruction, EVALUATION_INSTRUCTIONS.get(prompt.prompt_family, ""))
    return _messages(prompt.system_prompt or "", _turn(problem, instruction))


def _own_or(own: str | None, other: str) -> str:
    return other if own is None else own


def _turn(problem: str, instruction: str) -> str:
    if PROBLEM in instruction:
        return instruction.replace(PROBLEM, problem)
    return f"{problem} {instruction}" if instruction.strip() else problem


def _messages(system: str, turn: str) -> Messages:
    first = [{"role": "system", "content": system}] if system.strip() else []
    return [*first, {"role": "user", "content": turn}]


def choice_question(question: str, options: Sequence[str]) -> str:
    """A multiple-choice question as the text of a problem; its answer is one of `CHOICE_LETTERS`.

    >>> choice_question("Which is even?", ["1", "2"])
    'Which is even?\\n\\nA. 1\\nB. 2\\n\\nAnswer with the letter of the right option.'
    """
    lines = [f"{letter}. {option}" for letter, option in zip(CHOICE_LETTERS[: len(options)], options, strict=True)]
    return "\n".join([f"{question}\n", *lines, f"\n{CHOICE_SENTENCE}"])


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of the rendered chat, ready for generation, with the roles that the template knows. Raises
    `InputError` where the template leaves out the last turn, as those do that want its content in parts."""
    known = in_known_roles(tokenizer, messages)
    rendered, last = render_chat(tokenizer, known), known[-1]
    lost = last["content"].strip() not in rendered  # or it was escaped
    if lost and rendered == render_chat(tokenizer, [*known[:-1], {**last, "content": "another text"}]):
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template drops the text of the {last['role']}'s turn, so no problem "
            "would reach the model; mend the template (chat_template.jinja beside the model)"
        )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def render_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
) -> str:
    """The text of a chat. Raises `InputError` where the tokenizer has no chat template, or its template refuses the
    messages."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template, so no problem can be put to it (not with "
            "prompt_family plain either); take the model's instruct version, or save a template beside the model as "
            "chat_template.jinja"
        )
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except _TEMPLATE_FAULTS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template refuses the turns {roles} ({error}); give messages that it "
            "takes, or mend the template (chat_template.jinja beside the model)"
        ) from None


def in_known_roles(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> Messages:
    """The messages as the chat template takes them: where it refuses a system turn (Gemma 2) or drops its text, that
    text stands at the beginning of the user's turn."""
    first, *rest = messages
    if first["role"] != "system" or not rest or _reaches_the_model(tokenizer, messages):
        return list(messages)
    merged = {**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}
    return [merged, *rest[1:]]


def _reaches_the_model(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> bool:
    """Whether the text of the first turn is in what the template makes of the chat."""
    try:
        return messages[0]["content"].strip() in render_chat(tokenizer, messages)
    except InputError:
        return False


def starts_inside_thinking(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template pre-fills `<think>` or its like (EXAONE Deep: `<thought>`), so that completions begin
    inside the thinking part."""
    return render_chat(tokenizer, [{"role": "user", "content": "x"}]).rstrip().endswith(_THINK)


def ends_inside_thinking(tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int]) -> bool:
    """`starts_inside_thinking` of a prompt that is given by its token ids."""
    return tokenizer.decode(list(prompt_ids[-_MARK_TOKENS:])).rstrip().endswith(_THINK)


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Id of the token that ends an assistant's turn in the chat template: the first special one behind its text.
    None for a template that ends turns by plain text, or does not say how they end."""
    asked = {"role": "user", "content": "x"}
    rendered = render_chat(tokenizer, [asked, {"role": "assistant", "content": "42"}], add_generation_prompt=False)
    ids = tokenizer(rendered.rpartition("42")[2], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in ids if token in special), None)
