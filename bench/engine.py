"""The engine's decode loop against transformers' `generate`, and against vLLM, side by side in one run.

    python bench/engine.py [--rows 256] [--tokens 200] [--repeats 3] [--model FOLDER]
    python bench/engine.py --shape qwen2.5_0.5b --dtype bfloat16 --rows 16 64 128 --tokens 24 --temperature 0.6 \\
      --top_p 0.95 --contenders generate engine vllm --vllm_python .venv-vllm/bin/python

`--shape` takes random weights in the shape of a published model; the final norm is scaled so that its distributions
are as peaked as a trained model's (the entropy is shown). No trace ends by itself (the end token's logit is held at
−inf), so every row is `--tokens` long. What is measured begins when all rows have their first token: prompts are
shared by the engine and not by `generate`, and that is another story. "pruned" ends three quarters of the traces a
quarter of the way in, which `generate` cannot do. The contenders take turns and only their own processor time counts,
one thread each; shown are medians, and medians of the ratios within a turn. vLLM runs in the environment that
`make test-vllm` builds, with `enforce_eager`, in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from secateur.engines.base import SamplingSpec
from secateur.engines.local import engine as local
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.local.kv_cache import GROUPED_ATTENTION
from secateur.engines.models import load_model
from secateur.runtime.console import console, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

EMBEDDED = Path(__file__).resolve().parent.parent / "trainers" / "embedded_model"
PROMPT = tuple(range(5, 69))
SHAPES: dict[str, dict[str, int | str | bool]] = {  # Qwen2 and Qwen3 models with random weights
    "qwen2.5_0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "qwen2_1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "qwen3_8b": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 1024,
    },
}
SAMPLES = 32  # per prompt
CAPTURED = (0, 1, 2)  # layers
CONTENDERS = ("generate", "generate, our attention", "engine", "engine, captured", "engine, pruned", "vllm")


@dataclass(frozen=True)
class Run:
    """Processor seconds after the first tokens, the tokens delivered in them, and the seconds of it spent drawing."""

    seconds: float
    tokens: int
    drawing: float = 0.0


Contender = Callable[[int], Run]
"""Runs once with so many rows."""


def random_model(shape: str, peaked: bool, device: str = "cpu", attention: str | None = None) -> PreTrainedModel:
    """A model of that shape with random weights in bfloat16 and the embedded model's special tokens. `peaked`: its
    logits spread like a trained model's; else all tokens are about equally likely."""
    published = AutoConfig.from_pretrained(EMBEDDED)
    ids = {"eos_token_id": published.eos_token_id, "pad_token_id": published.pad_token_id, "bos_token_id": None}
    common = {"model_type": "qwen2", "max_position_embeddings": 32768, "tie_word_embeddings": True}
    config = AutoConfig.for_model(**common | SHAPES[shape] | ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    if peaked:  # the logits' standard deviation becomes 5
        with torch.no_grad():
            model.model.norm.weight.mul_(5 / config.initializer_range / config.hidden_size**0.5)
    return model.eval()


def build_model(shape: str, folder: Path, peaked: bool = False) -> Path:
    """Such a model in a folder, with the embedded tokenizer; it hardly ever ends by itself."""
    random_model(shape, peaked).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(folder)
    return folder


def ban_end(model: PreTrainedModel, end_ids: Sequence[int]) -> None:
    head = model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0], dtype=head.weight.dtype)
    bias[list(end_ids)] = float("-inf")
    head.bias = torch.nn.Parameter(bias, requires_grad=False)


class DrawingClock:
    """Stands in the place of the engine's `draw_tokens` and adds up its processor time."""

    def __init__(self) -> None:
        self.draw, self.seconds = local.draw_tokens, 0.0

    def __call__(self, logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
        begin = time.process_time()
        tokens = self.draw(logits, uniforms, spec)
        self.seconds += time.process_time() - begin
        return tokens


def own_loop(engine: TransformersEngine, spec: SamplingSpec, pruned: bool = False) -> Contender:
    def run(rows: int) -> Run:
        handles = []
        for first in range(0, rows, SAMPLES):
            handles += engine.start(PROMPT, list(range(first, min(first + SAMPLES, rows))), spec)
        engine.step()
        clock.seconds, begin = 0.0, time.process_time()
        delivered = step = 0
        while events := engine.step():
            delivered, step = delivered + len(events), step + 1
            if pruned and step == spec.max_tokens // 4:
                engine.prune(handles[rows // 4 :])
        return Run(time.process_time() - begin, delivered, clock.seconds)

    if not isinstance(local.draw_tokens, DrawingClock):
        local.draw_tokens = DrawingClock()
    clock = local.draw_tokens
    return run


class FirstToken(StoppingCriteria):
    """Stops nothing; `begin` is the processor time when the first tokens were there."""

    begin: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.begin = time.process_time() if self.begin is None else self.begin
        return torch.zeros(len(input_ids), dtype=torch.bool)


def library_loop(model: PreTrainedModel, spec: SamplingSpec, attention: str) -> Contender:
    sampling = {"temperature": spec.temperature, "top_k": spec.top_k, "top_p": spec.top_p}
    config = GenerationConfig(
        do_sample=True, max_new_tokens=spec.max_tokens, eos_token_id=None, pad_token_id=0, **sampling
    )

    def run(rows: int) -> Run:
        ids, first = torch.tensor([PROMPT]).expand(rows, -1), FirstToken()
        model.set_attn_implementation(attention)
        torch.manual_seed(0)
        with torch.inference_mode():
            output = model.generate(
                ids, config, attention_mask=torch.ones_like(ids), stopping_criteria=StoppingCriteriaList([first])
            )
        return Run(time.process_time() - first.begin, output[:, len(PROMPT) + 1 :].numel())

    return run


class VLLM:
    """vLLM in a process of its own, which works only when asked."""

    def __init__(self, python: str, model: Path, options: argparse.Namespace) -> None:
        arguments = [options.dtype, options.tokens, options.temperature, options.top_p, options.top_k]
        command = [python, str(Path(__file__).resolve()), "--vllm_arm", str(model), *map(str, arguments)]
        quiet = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        environment = os.environ | quiet | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, rows: int) -> Run:
        self.process.stdin.write(f"{rows}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(f"--vllm_python: its process ended with code {self.process.wait()}; its words are above")
        return Run(**json.loads(answer))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def run_vllm(model: str, dtype: str, tokens: str, temperature: str, top_p: str, top_k: str) -> None:
    """The other side of `VLLM`: reads numbers of rows, writes runs."""
    from vllm import LLM, SamplingParams

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    llm = LLM(
        model,
        dtype=dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=len(PROMPT) + int(tokens),
        max_num_batched_tokens=1 << 14,
        kv_cache_memory_bytes=1 << 29,
    )
    sampling = {"temperature": float(temperature), "top_p": float(top_p), "top_k": int(top_k)}
    for line in sys.stdin:
        for row in range(int(line)):
            params = SamplingParams(
                max_tokens=int(tokens), ignore_eos=True, detokenize=False, seed=row, n=1, **sampling
            )
            llm.llm_engine.add_request(f"{row}", {"prompt_token_ids": list(PROMPT)}, params)
        answers.write(json.dumps(_drain(llm.llm_engine, int(line), int(tokens))) + "\n")
        answers.flush()


def _drain(engine: object, rows: int, tokens: int) -> dict[str, float]:
    """Step until all is done; the clock starts when all rows have their first token."""
    lengths: dict[str, int] = {}
    begin, before = 0.0, 0
    while engine.has_unfinished_requests():
        outputs = engine.step()
        lengths |= {output.request_id: len(output.outputs[0].token_ids) for output in outputs}
        if not before and len(lengths) == rows:
            begin, before = time.process_time(), sum(lengths.values())
    assert sum(lengths.values()) == rows * tokens, lengths
    return {"seconds": time.process_time() - begin, "tokens": rows * tokens - before}


def measure(contenders: dict[str, Contender], rows: int, repeats: int) -> dict[str, list[Run]]:
    """Every repeat, after one warm-up round; the order turns round each time."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in list(contenders.items())[:: 1 if repeat % 2 else -1]:
            done = run(rows)
            if repeat:
                runs[name].append(done)
    return runs


def report(runs: dict[str, list[Run]], rows: int) -> None:
    speeds = {name: [run.tokens / run.seconds for run in values] for name, values in runs.items()}
    references = [name for name in ("generate", "vllm") if name in runs]
    console.print(
        f"{f'{rows} rows':28}{'tokens/s':>10}{'drawing':>9}" + "".join(f"{f'÷ {r}':>12}" for r in references)
    )
    for name, values in runs.items():
        drawing = statistics.median(run.drawing / run.seconds for run in values)
        line = f"{name:28}{statistics.median(speeds[name]):10.0f}" + (f"{drawing:9.1%}" if drawing else f"{'':9}")
        for reference in references:
            ratios = (own / other for own, other in zip(speeds[name], speeds[reference], strict=True))
            line += f"{statistics.median(ratios):12.2f}"
        console.print(line)


@torch.inference_mode()
def show_entropy(engine: TransformersEngine, spec: SamplingSpec) -> None:
    ids = torch.tensor([PROMPT])
    logits = engine.model(ids).logits[0].float().nan_to_num(neginf=-1e9)
    entropy = torch.distributions.Categorical(logits=logits / spec.temperature).entropy().mean()
    console.print(f"entropy of a token at temperature {spec.temperature}: {entropy:.2f} nats")


def build_contenders(options: argparse.Namespace, model: Path) -> dict[str, Contender]:
    spec = SamplingSpec(options.temperature, options.top_p, options.top_k, options.tokens)
    plain = TransformersEngine(model, dtype=options.dtype)
    ban_end(plain.model, sorted(plain.end_ids))
    show_entropy(plain, spec)
    found: dict[str, Contender] = {}
    for name in options.contenders:
        if name.startswith("generate"):
            library = load_model(model, options.dtype, torch.device("cpu"))
            ban_end(library, sorted(plain.end_ids))
            found[name] = library_loop(library, spec, "sdpa" if name == "generate" else GROUPED_ATTENTION)
        elif name == "engine, captured":
            capturing = TransformersEngine(model, dtype=options.dtype, capture_layers=CAPTURED)
            ban_end(capturing.model, sorted(plain.end_ids))
            found[name] = own_loop(capturing, spec)
        elif name == "vllm":
            found[name] = VLLM(options.vllm_python, model, options)
        else:
            found[name] = own_loop(plain, spec, pruned=name == "engine, pruned")
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights, in the place of --model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--top_k", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS[:-1])
    parser.add_argument("--vllm_python", help="a Python that has vLLM")
    options = parser.parse_args()
    if min(*options.rows, options.tokens - 1, options.repeats) < 1:
        raise InputError("--rows and --repeats must be at least 1, --tokens at least 2")
    if ("vllm" in options.contenders) != bool(options.vllm_python):
        raise InputError("the contender vllm needs --vllm_python, and the other way round")
    return options


@entry_point
def main() -> None:
    if sys.argv[1:2] == ["--vllm_arm"]:
        run_vllm(*sys.argv[2:])
        return
    options = read_options()
    use_one_torch_thread()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else the engine would measure how many to use
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if options.shape is not None:
            model = build_model(options.shape, Path(scratch) / "model", peaked=True)
        contenders = build_contenders(options, model)
        for rows in options.rows:
            report(measure(contenders, rows, options.repeats), rows)
        for contender in contenders.values():
            if isinstance(contender, VLLM):
                contender.close()


if __name__ == "__main__":
    main()
