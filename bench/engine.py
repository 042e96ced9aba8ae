"""The engine's decode loop against transformers' `generate`, side by side in one run on this machine.

    python bench/engine.py [--rows 256] [--tokens 200] [--repeats 3] [--model FOLDER]

No trace ends by itself (the end token's logit is held at −inf for all contenders), so every row is `--tokens` long.
"pruned" ends three quarters of the traces a quarter of the way in, which `generate` cannot do. The contenders take
turns and only their own processor time counts, one thread each; shown are medians and their ratios to `generate`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.local.kv_cache import GROUPED_ATTENTION
from secateur.runtime.console import console, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

EMBEDDED = Path(__file__).resolve().parent.parent / "trainers" / "embedded_model"
PROMPT = "Start with 4. a-6 b#7 c-7."
SAMPLES = 32  # per prompt

Contender = Callable[[], int]
"""Runs once and returns the tokens it delivered."""


def ban_end(engine: TransformersEngine) -> None:
    head = engine.model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0], dtype=head.weight.dtype)
    bias[list(engine.end_ids)] = float("-inf")
    head.bias = torch.nn.Parameter(bias, requires_grad=False)


def own_loop(engine: TransformersEngine, rows: int, tokens: int, pruned: bool = False) -> Contender:
    prompt, spec = engine.tokenizer(PROMPT).input_ids, SamplingSpec(max_tokens=tokens)

    def run() -> int:
        handles = []
        for first in range(0, rows, SAMPLES):
            handles += engine.start(prompt, list(range(first, min(first + SAMPLES, rows))), spec)
        delivered = step = 0
        while events := engine.step():
            delivered, step = delivered + len(events), step + 1
            if pruned and step == tokens // 4:
                engine.prune(handles[rows // 4 :])
        return delivered

    return run


def library_loop(engine: TransformersEngine, rows: int, tokens: int, attention: str) -> Contender:
    ids = torch.tensor([engine.tokenizer(PROMPT).input_ids]).expand(rows, -1)

    def run() -> int:
        engine.model.set_attn_implementation(attention)
        torch.manual_seed(0)
        with torch.inference_mode():
            output = engine.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, max_new_tokens=tokens
            )
        engine.model.set_attn_implementation(GROUPED_ATTENTION)
        return output[:, ids.shape[1] :].numel()

    return run


def measure(contenders: dict[str, Contender], repeats: int) -> dict[str, list[tuple[float, int]]]:
    """(processor seconds, delivered tokens) of every repeat, after one warm-up round."""
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            begin = time.process_time()
            delivered = run()
            if repeat:
                runs[name].append((time.process_time() - begin, delivered))
    return runs


def report(runs: dict[str, list[tuple[float, int]]], reference: str) -> None:
    medians = {name: statistics.median(seconds for seconds, _ in values) for name, values in runs.items()}
    console.print(f"{'':28}{'cpu s':>8}{'tokens/s':>10}{'time ÷ generate':>17}")
    for name, seconds in medians.items():
        rate, ratio = runs[name][0][1] / seconds, seconds / medians[reference]
        console.print(f"{name:28}{seconds:8.2f}{rate:10.0f}{ratio:17.2f}")


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    if min(options.rows, options.tokens, options.repeats) < 1:
        raise InputError("--rows, --tokens and --repeats must be at least 1")
    use_one_torch_thread()
    plain = TransformersEngine(options.model)
    layers = range(plain.model.config.num_hidden_layers + 1)
    capturing = TransformersEngine(options.model, capture_layers=layers)
    for engine in (plain, capturing):
        ban_end(engine)
    size = (options.rows, options.tokens)
    contenders = {
        "generate": library_loop(plain, *size, attention="sdpa"),
        "generate, our attention": library_loop(plain, *size, attention=GROUPED_ATTENTION),
        "engine": own_loop(plain, *size),
        f"engine, {len(layers)} layers captured": own_loop(capturing, *size),
        "engine, pruned": own_loop(plain, *size, pruned=True),
    }
    report(measure(contenders, options.repeats), "generate")


if __name__ == "__main__":
    main()
