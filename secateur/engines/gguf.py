"""A GGUF file as a model: converted once to a plain Hugging Face folder beside it, which everything else reads.

Quantized weights are dequantized and stored as bfloat16. What readers of GGUF files get wrong is taken from the
file's own keys instead: the end and pad tokens of the tokenizer. What was written is read back and compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, sampled_digest
from secateur.runtime.records import read_record, write_record
from secateur.tasks.prompts import turn_end

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SUFFIX = ".gguf"
RECORD = "gguf.json"
_FORMAT = 1
_CONTROL = 3  # gguf.TokenType.CONTROL


@dataclass(frozen=True)
class Conversion:
    """What the folder is made of; `complete` once all of it is written and was read back."""

    source: str
    digest: str
    complete: bool = True


def plain_model(name: str) -> str:
    """`name` itself, or the plain model folder if it is a GGUF file or a folder with one and no config.json.

    The folder lies beside the file, has its name without `.gguf`, and is made by the first call. Raises `InputError`
    for a file that is cut or of an architecture that transformers cannot read, and for several files in one folder.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*" + SUFFIX))
        if len(files) > 1:
            raise InputError(f"{path}: holds {len(files)} GGUF files; name one of them, such as {files[0]}")
        path = files[0] if files else path
    if path.suffix != SUFFIX:
        return name
    if not path.is_file():
        raise InputError(f"{path}: no such GGUF file")
    return str(_converted(path))


def _converted(path: Path) -> Path:
    folder, wanted = path.with_suffix(""), Conversion(path.name, sampled_digest([(path.name, path)]))
    if _found(folder) != wanted:
        with hold_folder(folder, wait=True):  # of several processes one converts, the others find it done
            if _found(folder) != wanted:
                write_record(folder / RECORD, replace(wanted, complete=False), _FORMAT)
                _convert(path, folder)
                write_record(folder / RECORD, wanted, _FORMAT)
    return folder


def _found(folder: Path) -> Conversion | None:
    """Raises `InputError` for a model folder that did not come from here: it is not overwritten."""
    if (folder / RECORD).is_file():
        return read_record(folder / RECORD, Conversion, _FORMAT, f"delete {folder}, it is made again")
    if (folder / "config.json").exists():
        raise InputError(
            f"{folder}: is a model folder and not made of {folder.name}{SUFFIX}; give its name, or move it"
        )
    return None


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    reader = _open(path)
    say(f"{path.name}: converting it to a model folder, {folder}")
    tokenizer, loaded = _load(path)
    if _number(reader, "eos_token_id") is None:
        raise InputError(f"{path}: names no end token (tokenizer.ggml.eos_token_id); give another file")
    ends = _set_special_tokens(tokenizer, reader)
    plain = _without_quantization(loaded, tokenizer, ends)
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_written(folder, loaded, plain)


def _open(path: Path) -> "GGUFReader":
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"{path}: reading it needs the gguf package; `pip install gguf`") from None
    try:
        return GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise InputError(f"{path}: not a whole GGUF file ({error}); fetch it again") from None


def _load(path: Path) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        return (
            AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name),
            AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name),
        )
    except (ValueError, OSError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{path}: transformers cannot read this kind of GGUF file ({error}); give the model's Hugging Face "
            "folder, or serve the file with llama.cpp and use the openai engine"
        ) from error


def _set_special_tokens(tokenizer: "PreTrainedTokenizerBase", reader: "GGUFReader") -> list[int]:
    """Give the tokenizer the file's end, pad and first tokens; returns all ids that end a completion, the
    tokenizer's first. A pad token that ends completions too is replaced by a control token that does not."""
    tokenizer.clean_up_tokenization_spaces = False
    end = _number(reader, "eos_token_id")
    ends = [end, *(one for one in _turn_ends(tokenizer, reader) if one != end)]
    pad = _number(reader, "padding_token_id")
    if pad is None or pad in ends:
        pad = next((one for one in _controls(reader) if one not in ends), end)
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.convert_ids_to_tokens([end, pad])
    begin = _number(reader, "bos_token_id")
    tokenizer.bos_token = None if begin is None else tokenizer.convert_ids_to_tokens(begin)
    return ends


def _turn_ends(tokenizer: "PreTrainedTokenizerBase", reader: "GGUFReader") -> Iterable[int]:
    """The file's end of a turn, and the special token behind an answer in the chat template."""
    named = _number(reader, "eot_token_id")
    if named is not None:
        yield named
    if tokenizer.chat_template and (end := turn_end(tokenizer)) in _controls(reader):
        yield end


def _number(reader: "GGUFReader", key: str) -> int | None:
    found = reader.get_field(f"tokenizer.ggml.{key}")
    return None if found is None else int(found.contents())


def _controls(reader: "GGUFReader") -> list[int]:
    kinds = reader.get_field("tokenizer.ggml.token_type")
    return [] if kinds is None else [index for index, kind in enumerate(kinds.contents()) if kind == _CONTROL]


def _without_quantization(
    loaded: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", ends: list[int]
) -> "PreTrainedModel":
    """The same weights in a model that can be saved: transformers refuses to save what it read from a GGUF file."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    config = _plain_config(loaded.config)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config.update(special)
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = GenerationConfig(**special)
    return plain


def _plain_config(config: "PreTrainedConfig") -> "PreTrainedConfig":
    values = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "name_or_path"):
        values.pop(key, None)
    return type(config).from_dict(values | {"architectures": None})


def _check_written(folder: Path, loaded: "PreTrainedModel", plain: "PreTrainedModel") -> None:
    """Read the folder back: every weight, tied ones included, is what was dequantized, and the tokenizer gives texts
    back. Raises `InputError`."""
    import torch
    from transformers import AutoModelForCausalLM

    from secateur.engines.model_files import load_tokenizer

    load_tokenizer(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    read = {name: weight.to(torch.bfloat16) for name, weight in loaded.state_dict().items()}
    wrong = [name for name, weight in read.items() if name not in again or not torch.equal(weight, again[name])]
    if wrong:
        raise InputError(
            f"{folder}: {len(wrong)} weights came back changed, the first is {wrong[0]}; report the file"
        )
