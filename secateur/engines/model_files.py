"""What the files of a model say, before a weight is loaded: tokenizer, end tokens, context, size.

transformers is imported by what asks it, so that a mistaken key is answered before."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json
from secateur.runtime.hub import require_reach
from secateur.tasks.answers.extraction import CHANNEL, MESSAGE, THINKING
from secateur.tasks.prompts import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_WORDS = "hello world so wait 12"  # a text that every tokenizer gives back


def check_model_folder(path: str | Path) -> None:
    """Names that are no local folder are taken for hub ids, which must be cached or within reach."""
    require_reach(path)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: no config.json there; give a Hugging Face model folder")
    settings = Path(path) / "generation_config.json"
    # transformers takes a file that it cannot read for none, and with it end tokens would be lost
    if settings.is_file() and not isinstance(read_json(settings), dict):
        raise InputError(f"{settings}: holds no JSON object; restore the file or delete it")


def read_model_config(model: str | Path) -> "PreTrainedConfig":
    """The config of a folder or hub id. Raises `InputError` where it cannot be read."""
    from transformers import AutoConfig

    check_model_folder(model)
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: its config cannot be read ({str(error).splitlines()[0]})") from None


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or hub id. Raises `InputError` where there is none, or one that loses text."""
    from transformers import AutoTokenizer

    if Path(path).is_dir() and not any(Path(path).glob("tokenizer*")):
        raise InputError(
            f"{path}: no tokenizer there (tokenizer.json, tokenizer_config.json); save it beside the model"
        )
    require_reach(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: its tokenizer cannot be loaded ({error})") from None
    _check_round_trip(tokenizer, str(path))
    _show_thinking(tokenizer)
    return tokenizer


def _show_thinking(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Marks of thinking that are special tokens, as Magistral's `[THINK]` and the channels of gpt-oss, become plain
    ones: without them a text would not tell its thinking from its answer."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    marks = {CHANNEL, MESSAGE, *(mark for pair in THINKING for mark in pair)}
    added = {} if backend is None else backend.get_added_tokens_decoder()
    if any(token.special and token.content in marks for token in added.values()):
        state = json.loads(backend.to_str())
        for token in state["added_tokens"]:
            token["special"] = token["special"] and token["content"] not in marks
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _check_round_trip(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Words must come back as words; case and the width of space may be lost, as with BERT's. A class that splits in
    its own way and ignores tokenizer.json, as LlamaTokenizerFast over the byte-level one of R1-Distill-Llama, glues
    them, in prompts and in answers, and nothing else would tell."""
    ids = tokenizer(_WORDS, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id in ids:  # a vocabulary that has not all letters
        return
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if back.casefold().split() != _WORDS.split():
        raise InputError(
            f"{name}: its tokenizer, a {type(tokenizer).__name__}, makes {back!r} of {_WORDS!r}; if tokenizer.json "
            'is right, write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json'
        )


def check_cache_layers(config: "PreTrainedConfig", name: str) -> None:
    """Only plain full attention: a sliding or recurrent layer forgets, so a parked trace could not go on exactly."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=config).layers
    for index, layer in enumerate(layers):
        if type(layer) is not DynamicLayer:
            raise InputError(
                f"{name}: layer {index} keeps its past in a {type(layer).__name__}; the transformers engine "
                "parks and resumes full-attention models only; use the vllm engine for this model"
            )


def check_capture_layers(
    layers: Sequence[int] | None, config: "PreTrainedConfig", key: str = "capture_layers"
) -> tuple[int, ...]:
    """`layers` index transformers' `hidden_states` tuple: 0 embeddings … num_hidden_layers last layer, normed."""
    last = config.get_text_config(decoder=True).num_hidden_layers
    chosen = tuple(layers or ())
    for layer in chosen:
        if not 0 <= layer <= last:
            raise InputError(f"key '{key}' holds {layer}: this model has the states 0 to {last}")
    if len(set(chosen)) != len(chosen):
        raise InputError(f"key '{key}' has the value {list(chosen)}: a layer is named twice")
    return chosen


def end_token_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Every id that ends a completion, for the generation config, the config and the tokenizer."""
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    return _some_ids(model.name_or_path, *named)


def stored_end_ids(
    model: str | Path, config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", of_trainer: bool = False
) -> frozenset[int]:
    """What `end_token_ids` finds once the model is loaded, from its files. TRL's trainer (`of_trainer`) does not ask
    the config where generation settings lie beside it. Raises `InputError` for settings that transformers refuses."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    except ValueError as error:  # which it would also say when it loads the weights
        reason = str(error).rstrip(".")
        raise InputError(f"{model}: generation_config.json: {reason}; mend or delete the file") from None
    of_config = None if of_trainer else config.eos_token_id
    return _some_ids(str(model), generation.eos_token_id, of_config, tokenizer.eos_token_id)


def _some_ids(model: str, *named: int | list[int] | None) -> frozenset[int]:
    given = [value for value in named if value is not None]
    if not given:
        raise InputError(f"{model}: neither model nor tokenizer names an end token; set eos_token_id")
    tokens = [token for value in given for token in (value if isinstance(value, list) else [value])]
    for token in tokens:
        if type(token) is not int:
            raise InputError(f"{model}: key 'eos_token_id' holds {token!r}; give the number of a token, or a list")
    return frozenset(tokens)


def unstopped_turn(tokenizer: "PreTrainedTokenizerBase", end_ids: frozenset[int]) -> str | None:
    """A warning where the token that ends a turn in the chat template is none of `end_ids`; None if all is well. Such
    completions run into the cap one and all, unless the model ends them otherwise, as base models do."""
    end = turn_end(tokenizer)
    if end is None or end in end_ids:
        return None
    stops = ", ".join(tokenizer.convert_ids_to_tokens(sorted(end_ids)))
    return (
        f"{tokenizer.name_or_path}: its chat template ends a turn with {tokenizer.convert_ids_to_tokens(end)}, but "
        f"completions stop at {stops} only: they may all be truncated. If that is not meant, write "
        f'"eos_token_id": {[end, *sorted(end_ids)]} into generation_config.json of the model folder'
    )


def context_tokens(config: "PreTrainedConfig") -> int | None:
    """How many positions [tokens], prompt included, the model was made for; None where its config does not say.

    RoPE scaling stretches what the config names by its factor (linear, dynamic), or its original length (yarn); the
    kinds llama3 and longrope name the stretched length. The same as vLLM derives.
    """
    text = config.get_text_config(decoder=True)
    named = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # some models have one for each kind of layer
    kind, factor = rope.get("rope_type"), rope.get("factor") or 1.0
    if named is None or kind not in ("linear", "dynamic", "yarn"):
        return named
    begun = rope.get("original_max_position_embeddings", named) if kind == "yarn" else named
    return max(named, int(factor * begun))


def check_context(config: "PreTrainedConfig", prompt: int, key: str, tokens: int) -> None:
    """Raises `InputError` where the longest `prompt` and `tokens` [tokens], the value of `key`, have no room in the
    context of a model: what lies beyond it would be noise."""
    context = context_tokens(config)
    if context is not None and prompt + tokens > context:
        room = max(context - prompt, 0)
        raise InputError(
            f"key '{key}' has the value {tokens}: with the longest prompt, {prompt} tokens, that is more than the "
            f"{context} positions of {config.name_or_path}; lower it to {room}, leave out long problems, or stretch "
            "the model's RoPE (config.json: rope_parameters)"
        )


def count_parameters(config: "PreTrainedConfig") -> int:
    """Parameters of the model, tied ones once, without loading a weight."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config).num_parameters()
    except ValueError as error:
        raise InputError(
            f"{config.name_or_path}: not a causal language model that transformers knows ({error})"
        ) from None
