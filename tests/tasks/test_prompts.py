"""The prompts are a contract with released models: compared letter by letter."""

import pytest

from secateur.runtime.errors import InputError
from secateur.tasks.answers.extraction import THINKING
from secateur.tasks.hub_sets import EURUS_SUFFIX
from secateur.tasks.prompts import (
    Prompt,
    choice_question,
    encode_prompt,
    ends_inside_thinking,
    evaluation_messages,
    in_known_roles,
    prompt_of,
    render_chat,
    starts_inside_thinking,
    training_messages,
    turn_end,
)
from tests.tiny import CHAT_TEMPLATE, WITHOUT_SYSTEM, build_tokenizer

SYSTEM_4000 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think></think> and <answer></answer> tags, respectively, i.e., <think> "
    "reasoning process here</think><answer> answer here</answer>. The output of the assistant should be within 4000 "
    "tokens."
)

PLAIN = Prompt("plain")
LENGTH_4000 = " The output of the assistant should be within 4000 tokens."
STEP_BY_STEP = "Let's think step by step and output the final answer within \\boxed{}."
PLEASE_REASON = "Please reason step by step, and put your final answer within \\boxed{}."


def test_every_sentence_is_the_released_one() -> None:
    """Of ThinkPrune's preprocess_past_aime_amc.py and run_generation.py, quoted."""
    for family, trained, evaluated in (
        ("deepseek", STEP_BY_STEP, PLEASE_REASON),
        ("qwen", PLEASE_REASON, STEP_BY_STEP),
    ):
        assert training_messages("1+1?", Prompt(family), 4000) == [
            {"role": "system", "content": SYSTEM_4000},
            {"role": "user", "content": f"1+1? {trained}"},
        ]
        assert evaluation_messages("1+1?", Prompt(family)) == [{"role": "user", "content": f"1+1? {evaluated}"}]
    assert EURUS_SUFFIX == "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"


def test_without_a_limit_only_its_sentence_is_missing() -> None:
    system, user = training_messages("1+1?", Prompt(), None)
    assert system["content"] == SYSTEM_4000.removesuffix(LENGTH_4000) and SYSTEM_4000.endswith(LENGTH_4000)
    assert user["content"] == f"1+1? {STEP_BY_STEP}"


def test_a_target_stands_at_the_end_and_is_the_only_length() -> None:
    """L1's released preprocessing: question, instruction, then the length."""
    system, user = training_messages("1+1?", Prompt(), 4000, target=873)
    assert user["content"] == f"1+1? {STEP_BY_STEP} Think for 873 tokens."
    assert "4000" not in system["content"]
    assert training_messages("p", PLAIN, 100, target=50)[0]["content"] == "p Think for 50 tokens."
    at_most = training_messages("p", PLAIN, 100, target=50, at_most=True)
    assert at_most[0]["content"] == "p Think for maximum 50 tokens."


def test_a_multiple_choice_question_names_its_letters() -> None:
    text = choice_question("Which?", ["one", "two", "three", "four"])
    assert text == "Which?\n\nA. one\nB. two\nC. three\nD. four\n\nAnswer with the letter of the right option."


def test_evaluation_swaps_the_instructions_and_has_no_system_prompt() -> None:
    trained = {family: training_messages("p", Prompt(family), None)[1]["content"] for family in ("deepseek", "qwen")}
    evaluated = {family: evaluation_messages("p", Prompt(family)) for family in ("deepseek", "qwen")}
    assert [m["role"] for m in evaluated["deepseek"]] == ["user"]
    assert evaluated["deepseek"][0]["content"] == trained["qwen"]
    assert evaluated["qwen"][0]["content"] == trained["deepseek"]


def test_plain_family_is_the_problem_alone() -> None:
    assert training_messages("p", PLAIN, 100) == evaluation_messages("p", PLAIN) == [{"role": "user", "content": "p"}]


def test_unknown_family_is_named() -> None:
    with pytest.raises(InputError, match=r"lama.*deepseek, qwen, plain"):
        Prompt("lama")


@pytest.mark.parametrize("mark", [begin for begin, _ in THINKING])
def test_encoded_prompt_is_the_rendered_chat(mark: str) -> None:
    """Also where it begins the thinking, with whatever mark."""
    tokenizer = build_tokenizer()
    ids = encode_prompt(tokenizer, evaluation_messages("1+1?", PLAIN))
    assert tokenizer.decode(ids) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert not starts_inside_thinking(tokenizer)
    tokenizer.chat_template += f"{{% if add_generation_prompt %}}{mark}\n{{% endif %}}"
    assert starts_inside_thinking(tokenizer)
    assert ends_inside_thinking(tokenizer, encode_prompt(tokenizer, [{"role": "user", "content": "x"}]))
    assert not ends_inside_thinking(tokenizer, tokenizer("1 + 1")["input_ids"])


def test_own_sentences_are_the_same_in_training_and_evaluation() -> None:
    own = Prompt("qwen", system_prompt="Answer briefly.", instruction="Put the answer within \\boxed{}.")
    system, turn = evaluation_messages("1+1?", own)
    assert system == {"role": "system", "content": "Answer briefly."}
    assert turn == {"role": "user", "content": "1+1? Put the answer within \\boxed{}."}
    assert training_messages("1+1?", own, None) == [system, turn]
    stated, same = training_messages("1+1?", own, 4000)
    assert stated["content"] == "Answer briefly." + LENGTH_4000 and same == turn
    assert training_messages("1+1?", own, 4000, target=9)[1]["content"].endswith("\\boxed{}. Think for 9 tokens.")


def test_an_instruction_may_hold_the_problem() -> None:
    """Braces of the problem or of a box are text."""
    own = Prompt("plain", instruction="Solve {problem} within \\boxed{}. Again: {problem}")
    assert evaluation_messages("\\frac{1}{2}", own)[0]["content"] == (
        "Solve \\frac{1}{2} within \\boxed{}. Again: \\frac{1}{2}"
    )


def test_an_empty_sentence_is_none_and_a_null_one_the_familys() -> None:
    bare = Prompt("deepseek", system_prompt="", instruction="")
    alone = [{"role": "user", "content": "p"}]
    assert training_messages("p", bare, 4000) == evaluation_messages("p", bare) == alone
    system, turn = training_messages("p", Prompt(system_prompt="Mine."), None)
    assert (system["content"], turn["content"]) == ("Mine.", f"p {STEP_BY_STEP}")


def test_keys_that_are_not_given_are_as_known() -> None:
    known = Prompt("qwen", "Mine.", "Now.")
    assert prompt_of({"instruction": "Then.", "other": 1}, known) == Prompt("qwen", "Mine.", "Then.")
    assert prompt_of({"system_prompt": ""}, known) == Prompt("qwen", "", "Now.")
    assert prompt_of(known.stored) == known and prompt_of({"prompt_family": None}) is None


@pytest.mark.parametrize("kind", WITHOUT_SYSTEM)
def test_system_text_reaches_a_model_whose_template_has_no_place_for_it(kind) -> None:
    tokenizer = build_tokenizer()
    messages = training_messages("1+1?", Prompt("deepseek"), 4000)
    assert in_known_roles(tokenizer, messages) == messages
    tokenizer.chat_template = WITHOUT_SYSTEM[kind]
    assert in_known_roles(tokenizer, messages) == [
        {"role": "user", "content": f"{SYSTEM_4000}\n\n1+1? {STEP_BY_STEP}"}
    ]
    shown = tokenizer.decode(encode_prompt(tokenizer, messages))
    assert shown == f"<|im_start|>user\n{SYSTEM_4000}\n\n1+1? {STEP_BY_STEP}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}", "drops"),
        ("{% for m in messages if m['role'] == 'system' %}{{ m['content'] }}{% endfor %}", "drops"),
        ("{{ messages[0]['content'] + 1 }}", "refuses the turns user"),
        ({"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}, "multiple chat templates"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_fails_or_loses_the_problem_is_named(template, message: str) -> None:
    """Parts of content are what templates of models with pictures want; plain text is none to them."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message):
        encode_prompt(tokenizer, training_messages("1+1?", Prompt("deepseek"), 4000))


def test_a_template_may_escape_what_it_is_given() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | e }}{% endfor %}"
    assert "1&lt;2?" in tokenizer.decode(encode_prompt(tokenizer, evaluation_messages("1<2?", PLAIN)))


def test_a_template_that_is_missing_or_refuses_everything_is_named_with_a_remedy() -> None:
    tokenizer = build_tokenizer()
    tokenizer.name_or_path = "models/mine"
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"models/mine.*refuses the turns user \(roles must alternate\); give"):
        encode_prompt(tokenizer, evaluation_messages("1+1?", Prompt("plain")))
    tokenizer.chat_template = None
    for put in (starts_inside_thinking, turn_end):
        with pytest.raises(InputError, match=r"models/mine.*no chat template.*prompt_family.*chat_template\.jinja"):
            put(tokenizer)
    with pytest.raises(InputError, match="no chat template"):
        encode_prompt(tokenizer, training_messages("1+1?", Prompt("deepseek"), 4000))


@pytest.mark.parametrize(
    ("behind", "end"),
    [
        ("<|im_end|>\n", "<|im_end|>"),
        ("\n<|pad|><|im_end|>", "<|pad|>"),  # what comes first decides
        ("</think>", "</think>"),  # an added token that is not called special
        ("\n\nUser:", None),
        ("", None),
    ],
)
def test_the_token_that_ends_a_turn_is_read_off_the_template(behind: str, end: str | None) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>\n", behind)
    assert turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))
    rendered = render_chat(tokenizer, evaluation_messages("1+1?", Prompt("plain")))
    assert rendered == f"<|im_start|>user\n1+1?{behind}<|im_start|>assistant\n"
