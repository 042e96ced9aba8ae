"""Folders with the architecture of published models and no weights, problems to plan with, and the weights of a small
one."""

import os
import shutil
from pathlib import Path
from typing import Any

from eval.fetch_smollm2 import fetch
from secateur.runtime.files import append_jsonl, write_json

EMBEDDED = Path(__file__).resolve().parent.parent / "trainers" / "embedded_model"


def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct: as SECATEUR_TEST_GGUF names it, else fetched as `make real` does."""
    named = os.environ.get("SECATEUR_TEST_GGUF")
    return Path(named) if named else fetch(EMBEDDED.parent.parent / "outputs" / "real" / "model")


def _qwen2(hidden: int, layers: int, width: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }


# name → config.json and the number of parameters of the published weights.
DECODERS: dict[str, dict[str, Any]] = {
    "r1_distill_qwen_1.5b": {"config": _qwen2(1536, 28, 8960, 12, 2, 151936), "parameters": 1_777_088_000},
    "r1_distill_qwen_7b": {"config": _qwen2(3584, 28, 18944, 28, 4, 152064), "parameters": 7_615_616_512},
    "qwq_32b": {"config": _qwen2(5120, 64, 27648, 40, 8, 152064), "parameters": 32_763_876_352},
}


def write_config_folder(folder: Path, name: str) -> Path:
    """A folder with the architecture of a published model and the embedded model's tokenizer."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", DECODERS[name]["config"])
    for tokenizer in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / tokenizer, folder / tokenizer)
    return folder


def write_problems(path: Path, count: int) -> Path:
    problems = ({"id": f"p{i}", "problem": f"Add {i} and {i * i}.", "answer": str(i + i * i)} for i in range(count))
    append_jsonl(path, problems)
    return path
