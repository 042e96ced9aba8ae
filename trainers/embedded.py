"""Train the embedded model from scratch: tokenizer, supervised training in two phases, evaluation, saved folder.

    python trainers/embedded.py --output_dir outputs/embedded --seed 0

The model is a Qwen3 of about 0.4 million parameters that thinks aloud about the arithmetic of
secateur/tasks/arithmetic.py, which also writes its training traces. Phase 1 shows clean short ones whose decision is
random, so that it learns to keep its place, to calculate, and to do what it has decided. Phase 2 shows those with
planted errors and waste, which is how it behaves afterwards. The result is a plain Hugging Face folder plus
`training.json` with the measured figures; the copy in trainers/embedded_model was made by this script."""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import json
import random
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from secateur.runtime.config import parse_config
from secateur.runtime.process import entry_point
from secateur.tasks.arithmetic import iter_problems, make_problems
from trainers.embedded_keys import EmbeddedConfig
from trainers.pretraining import Batch, corpus_text, evaluate, render_prompt, stream_batches, train_tokenizer

CONTEXT_TOKENS = 1024  # room for the prompt, the longest trace and a judge's question
TOKENIZER_TRACES = 3000  # corpus traces the vocabulary is learned from; every word occurs many times
ROUNDED_TO = torch.float16  # precision on disk: below 1 MB, and the figures are measured after rounding


@dataclass(frozen=True)
class TrainingTotals:
    """What the training took."""

    steps: int
    tokens: int  # without padding
    final_loss: float  # weighted mean over the last steps


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Vocabulary from prompts and noisy traces of the training split."""
    rng = random.Random(f"tokenizer/{seed}")
    pairs = [corpus_text(p, rng, clean=False) for p in islice(iter_problems("train", seed=seed), TOKENIZER_TRACES)]
    roles = "system\nuser\nassistant\n"
    return train_tokenizer([roles + problem + "\n" + trace for problem, trace in pairs], CONTEXT_TOKENS)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model. Narrower ones did not learn the task: hidden 64 stayed below pass@1 .2."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=288,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def weighted_loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Next-token loss, mean over token weights. No attention mask: padding is on the right and has weight 0."""
    logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def build_optimizers(model: Qwen3ForCausalLM, args: EmbeddedConfig) -> list[torch.optim.Optimizer]:
    """Muon on the layers' matrices, AdamW on the rest; AdamW alone sat on a plateau ten times longer."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=args.matrix_lr, weight_decay=0.0),
        torch.optim.AdamW(others, lr=args.other_lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def learning_rate_factor(done: float, decay_share: float) -> float:
    """Factor (0-1) after the fraction `done` (0-1) of the training: constant, then linear to 0."""
    return min(1.0, (1.0 - done) / decay_share)


def train_step(model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], batch: Batch) -> float:
    """One update; returns the loss before it."""
    loss = weighted_loss(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def set_learning_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale each optimizer's own base rate, remembered on first use."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


def progress_line() -> Progress:
    """One line: tokens done, loss, speed, time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: EmbeddedConfig) -> TrainingTotals:
    """Both phases, one after the other, under one learning-rate schedule."""
    optimizers = build_optimizers(model, args)
    phases = (("clean traces", True, args.clean_tokens), ("corpus", False, args.clean_tokens + args.noisy_tokens))
    total, tokens, steps, smooth, started = args.clean_tokens + args.noisy_tokens, 0, 0, 0.0, time.time()
    model.train()
    with progress_line() as progress:
        line = progress.add_task("", total=total, status="")
        for name, clean, end in phases:
            for batch in stream_batches(tokenizer, clean, args.batch_tokens, args.key_weight, args.seed):
                set_learning_rates(optimizers, learning_rate_factor(tokens / total, args.decay_share))
                loss = train_step(model, optimizers, batch)
                tokens, steps = tokens + batch.tokens, steps + 1
                smooth = loss if steps == 1 else 0.98 * smooth + 0.02 * loss
                speed = tokens / (time.time() - started)
                status = f"step {steps} · loss {smooth:.3f} · {speed:,.0f} tokens/s"
                progress.update(line, description=name, completed=min(tokens, total), status=status)
                if tokens >= end:
                    break
    return TrainingTotals(steps, tokens, smooth)


def round_weights(model: Qwen3ForCausalLM) -> None:
    """Round to the precision on disk in place, so that everything measured holds for the saved file."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(ROUNDED_TO))


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A plain Hugging Face folder. The file holds 16-bit weights, the configuration asks to load them as 32-bit."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)
    model.to(ROUNDED_TO).save_pretrained(folder)
    model.to(torch.float32)
    (folder / "model.safetensors").chmod(0o644)  # written readable for its owner only
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    tokenizer.save_pretrained(folder)


def prompt_lengths(tokenizer: PreTrainedTokenizerFast, count: int) -> list[int]:
    """Prompt tokens of held-out problems."""
    problems = make_problems("validation", count)
    return [len(tokenizer(render_prompt(tokenizer, p.problem))["input_ids"]) for p in problems]


@entry_point
def main() -> None:
    """Train, measure, save."""
    args = parse_config(EmbeddedConfig)
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    started = time.time()
    tokenizer = build_tokenizer(args.seed)
    model = build_model(tokenizer)
    totals = train(model, tokenizer, args)
    trained_s = time.time() - started
    round_weights(model)
    figures = evaluate(model, tokenizer, make_problems("validation", args.eval_problems), args.eval_samples)
    save(model, tokenizer, Path(args.output_dir))
    lengths = prompt_lengths(tokenizer, args.eval_problems)
    report = {
        "arguments": asdict(args),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "training": asdict(totals) | {"wall_s": round(trained_s, 1)},
        "validation": figures,
        "prompt_tokens": {"mean": sum(lengths) / len(lengths), "max": max(lengths)},
    }
    (Path(args.output_dir) / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
