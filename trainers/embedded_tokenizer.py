"""Tokenizer of the embedded model: byte-level BPE in which every digit is one token.

Any UTF-8 text survives encode and decode unchanged. `<think>` and `</think>` are ordinary added tokens: as special
tokens they would vanish from the text that rewards and judges see.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
