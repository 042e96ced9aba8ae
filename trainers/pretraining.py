"""What the embedded model is made of: tokenizer, training batches, and the figures of a model on held-out problems.

Batches are corpus traces, encoded, weighted, in buckets of like length. The tokenizer is a byte-level BPE in which
every digit is one token. The training itself is trainers/embedded.py; another corpus is written in
secateur/tasks/arithmetic.py.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.arithmetic import DECISION_WORDS, iter_problems, make_trace
from secateur.tasks.records import Problem

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"  # TURN_END is the end-of-sequence token
THINK_TAGS = ("<think>", "</think>")
# One newline, one digit, a word with its leading space, or one other sign, which takes a space with it that
# stands before a digit: no token is spent on spaces alone in "b#7: 8+7=5".
SPLIT_PATTERN = r"\n|\p{N}| ?\\?\p{L}+|[^\s\p{L}\p{N}] (?=\p{N})|[^\s\p{L}\p{N}]|\s"
MAX_VOCABULARY = 1000  # merges run out long before: every word of the corpus becomes one token

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _train_bpe(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=2,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(texts: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary covers `texts`; `max_length` is the model's context in tokens."""
    bpe = _train_bpe(texts)
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINK_TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def render_prompt(tokenizer: PreTrainedTokenizerFast, problem: str) -> str:
    """The prompt text as training and evaluation use it: one user turn, no system message."""
    messages = [{"role": "user", "content": problem}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


BUCKET_EXAMPLES = 512  # examples sorted by length together; large enough for little padding, small enough to mix
# The tokens a trace is lost without: which step comes next, what `#` was decided to mean, and acting on it.
KEY_PATTERN = re.compile(rf" [a-e](?:[-+*]\d|#\d: \d[-+*]\d)|(?<=# )(?:{'|'.join(DECISION_WORDS)})(?=[. ])")


@dataclass(frozen=True)
class Example:
    """One encoded training text."""

    ids: list[int]  # [T] prompt, completion, end of sequence
    weights: list[float]  # [T] loss weight of each token; 0 on the prompt


@dataclass(frozen=True)
class Batch:
    """Right-padded examples."""

    ids: torch.Tensor  # [B, T] int64
    weights: torch.Tensor  # [B, T] float32; 0 on prompt and padding
    tokens: int  # tokens without padding


def corpus_text(problem: Problem, rng: random.Random, clean: bool) -> tuple[str, str]:
    """Problem text and completion text of one corpus trace."""
    return problem.problem, make_trace(problem, rng, clean)


def encode_example(tokenizer: PreTrainedTokenizerFast, problem: str, completion: str, key_weight: float) -> Example:
    """Prompt (weight 0) + completion (weight 1, `key_weight` on key tokens) + end of sequence."""
    prompt_ids = tokenizer(render_prompt(tokenizer, problem), add_special_tokens=False)["input_ids"]
    encoded = tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)
    spans = [match.span() for match in KEY_PATTERN.finditer(completion)]
    key_ends = {end for start, stop in spans for end in range(start + 1, stop + 1)}
    weights = [key_weight if end in key_ends else 1.0 for _, end in encoded["offset_mapping"]]
    ids = [*prompt_ids, *encoded["input_ids"], tokenizer.eos_token_id]
    return Example(ids, [0.0] * len(prompt_ids) + weights + [1.0])


def _collate(examples: Sequence[Example], pad_id: int) -> Batch:
    width = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), width), pad_id)
    weights = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return Batch(ids, weights, sum(len(example.ids) for example in examples))


def bucket_batches(examples: list[Example], batch_tokens: int, pad_id: int, rng: random.Random) -> list[Batch]:
    """Cut length-sorted examples into batches of at most `batch_tokens` padded tokens, in random order."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda e: len(e.ids), reverse=True):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].ids) <= batch_tokens:
            groups[-1].append(example)
        else:
            groups.append([example])
    rng.shuffle(groups)
    return [_collate(group, pad_id) for group in groups]


def stream_batches(
    tokenizer: PreTrainedTokenizerFast, clean: bool, batch_tokens: int, key_weight: float, seed: int
) -> Iterator[Batch]:
    """Endless batches of the training split; no problem comes twice in one stream."""
    rng = random.Random(f"batches/{clean}/{seed}")
    problems = iter_problems("train", seed=2 * seed + clean)
    while True:
        texts = [corpus_text(next(problems), rng, clean) for _ in range(BUCKET_EXAMPLES)]
        examples = [encode_example(tokenizer, problem, completion, key_weight) for problem, completion in texts]
        yield from bucket_batches(examples, batch_tokens, tokenizer.pad_token_id, rng)


@dataclass(frozen=True)
class Sample:
    """One sampled completion."""

    ids: list[int]  # completion tokens, end of sequence included
    text: str
    answer: str | None  # the last box after </think>; None without one
    correct: bool
    truncated: bool  # hit the cap before the end of sequence


@dataclass(frozen=True)
class HeldOutFigures:
    """What an evaluation measured."""

    problems: int
    samples: int  # per problem
    pass_at_1: float  # fraction (0-1) of samples that are right
    majority: float  # fraction (0-1) of problems whose most frequent answer is right
    mean_tokens: float  # completion tokens per sample, end of sequence included
    truncated_share: float  # fraction (0-1) of samples that hit the cap


def _as_sample(tokenizer: PreTrainedTokenizerFast, ids: list[int], gold: str) -> Sample:
    finished = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id) + 1] if finished else ids
    text = tokenizer.decode(kept, skip_special_tokens=True)
    answer = extract_answer(text, thinking=True)
    return Sample(kept, text, answer, finished and answer == gold, not finished)


@torch.inference_mode()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], cap: int, temperature: float
) -> list[list[int]]:
    """One completion per prompt; tokens after the end of sequence are padding."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=cap,
    )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    samples: int,
    cap: int = 500,
    temperature: float = 1.0,
    batch_rows: int = 256,
) -> list[list[Sample]]:
    """`samples` completions of at most `cap` tokens for each problem, in the order of the problems."""
    repeated = [problem for problem in problems for _ in range(samples)]
    flat: list[Sample] = []
    for start in range(0, len(repeated), batch_rows):
        rows = repeated[start : start + batch_rows]
        prompts = [render_prompt(tokenizer, problem.problem) for problem in rows]
        completions = _generate(model, tokenizer, prompts, cap, temperature)
        flat += [_as_sample(tokenizer, ids, row.answer) for ids, row in zip(completions, rows, strict=True)]
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def _vote(samples: Sequence[Sample]) -> str | None:
    """The most frequent answer; on a tie the one that came first; None if no sample has one."""
    answers = Counter(sample.answer for sample in samples if sample.answer is not None)
    return answers.most_common(1)[0][0] if answers else None


def summarise(problems: Sequence[Problem], groups: Sequence[Sequence[Sample]]) -> HeldOutFigures:
    """HeldOutFigures over all samples; every problem has the same number of samples."""
    flat = [sample for group in groups for sample in group]
    won = sum(_vote(group) == problem.answer for problem, group in zip(problems, groups, strict=True))
    return HeldOutFigures(
        problems=len(problems),
        samples=len(groups[0]),
        pass_at_1=sum(sample.correct for sample in flat) / len(flat),
        majority=won / len(problems),
        mean_tokens=sum(len(sample.ids) for sample in flat) / len(flat),
        truncated_share=sum(sample.truncated for sample in flat) / len(flat),
    )


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], samples: int
) -> dict[str, float]:
    """Sample and summarise at temperature 1."""
    model.eval()
    return asdict(summarise(problems, sample_completions(model, tokenizer, problems, samples)))
