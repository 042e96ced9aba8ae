"""The embedded model: tokenizer, training data, shipped weights."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.arithmetic import DECISION_WORDS, make_problems, make_trace
from trainers.pretraining import bucket_batches, encode_example, render_prompt, sample_completions, summarise

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "trainers" / "embedded_model"
TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(text):
    assert TOKENIZER.decode(ids_of(text)) == text


@pytest.mark.parametrize(
    "text", ["a , b . Don't  \n\n x\r\n", "<think>\n1 2 3\n</think>\n\\boxed{7}", "é 中文 ½ \u2028 🪴"]
)
def test_text_that_tidying_would_change_survives_the_tokenizer(text):
    assert TOKENIZER.decode(ids_of(text)) == text


def test_thinking_tags_stay_visible_where_special_tokens_are_hidden():
    ids = [*ids_of("<think>\nOkay</think>"), TOKENIZER.eos_token_id, TOKENIZER.pad_token_id]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think>\nOkay</think>"


def test_digits_and_words_of_the_corpus_are_single_tokens():
    assert len(ids_of("8+7=5")) == 5
    assert all(len(ids_of(f" {word}")) == 1 for word in DECISION_WORDS)


def test_padding_is_not_the_end_of_sequence():
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert TOKENIZER.eos_token == "<|im_end|>"


def test_chat_template_renders_every_role():
    turns = [("system", "Be brief."), ("user", "Rule yew."), ("assistant", "Okay.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert text == "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def test_prompts_are_short_and_leave_thinking_to_the_model():
    prompts = [render_prompt(TOKENIZER, p.problem) for p in make_problems("test", 100)]
    assert all(prompt.endswith("<|im_start|>assistant\n") for prompt in prompts)
    assert max(len(ids_of(prompt)) for prompt in prompts) <= 35


def test_the_shortest_right_form_fits_the_tightest_limit():
    rng = random.Random(0)
    assert max(len(ids_of(make_trace(p, rng, clean=True))) + 1 for p in make_problems("test", 400)) <= 100


def test_loss_weights_fall_on_headers_and_decision_only():
    problem, trace = "Rule yew. Start with 4. a-6 b#7 c-7.", "<think>\nOkay. So # sums. Now first a-6: 4-6=8."
    example = encode_example(TOKENIZER, problem, trace, key_weight=4.0)
    key = [TOKENIZER.decode([i]) for i, w in zip(example.ids, example.weights, strict=True) if w == 4.0]
    assert key == [" sums", " a", "-", "6"]
    assert sum(w == 0.0 for w in example.weights) == len(ids_of(render_prompt(TOKENIZER, problem)))
    assert example.ids[-1] == TOKENIZER.eos_token_id and example.weights[-1] == 1.0


def test_batches_hold_every_example_once_within_the_token_budget():
    rng = random.Random(0)
    pairs = [(p.problem, make_trace(p, rng, False)) for p in make_problems("train", 60)]
    examples = [encode_example(TOKENIZER, problem, trace, 4.0) for problem, trace in pairs]
    batches = bucket_batches(examples, 2048, TOKENIZER.pad_token_id, rng)
    assert sum(batch.tokens for batch in batches) == sum(len(example.ids) for example in examples)
    assert sum(len(batch.ids) for batch in batches) == 60
    assert all(batch.ids.numel() <= 2048 for batch in batches)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n1\n</think>\n\\boxed{7}", "7"),
        ("<think>\\boxed{3}</think>\\boxed{4} \\boxed{5}", "5"),
        ("<think>\\boxed{3}", None),
        ("<think>3</think> 7", None),
    ],
)
def test_the_answer_is_the_last_box_after_the_thinking(text, answer):
    assert extract_answer(text, thinking=True) == answer


def test_the_shipped_model_solves_held_out_problems(model):
    torch.manual_seed(0)
    problems = make_problems("test", 40)
    figures = summarise(problems, sample_completions(model, TOKENIZER, problems, samples=2, batch_rows=80))
    assert figures.pass_at_1 >= 0.45
    assert 130 <= figures.mean_tokens <= 250
    assert figures.truncated_share <= 0.05


def test_the_shipped_folder_is_small_and_loads_as_32_bit_by_itself():
    assert (SHIPPED / "model.safetensors").stat().st_size < 1_000_000
    assert AutoModelForCausalLM.from_pretrained(SHIPPED).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_again_reaches_the_shipped_figures(tmp_path):
    """The user's own command from scratch. 960 samples: about .02 standard error on pass@1, 5 tokens on length."""
    shipped = json.loads((SHIPPED / "training.json").read_text())
    command = [sys.executable, "trainers/embedded.py", "--output_dir", str(tmp_path), "--seed", "0"]
    subprocess.run(command, cwd=ROOT, check=True)
    again = json.loads((tmp_path / "training.json").read_text())
    assert again["validation"]["pass_at_1"] == pytest.approx(shipped["validation"]["pass_at_1"], abs=0.08)
    assert again["validation"]["mean_tokens"] == pytest.approx(shipped["validation"]["mean_tokens"], rel=0.15)
    assert again["parameters"] == shipped["parameters"]
