"""Run by `accelerate launch` on two processes: rewards of a fixed batch, then two steps of the real trainer.

accelerate launch … tests/rewards/two_processes.py MODEL_FOLDER OUTPUT_FOLDER
"""

import random
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewards.registry import REWARDS
from rewards.trl_reward import LimitReward
from secateur.runtime.files import write_json

GENERATIONS, LIMIT = 4, 24
VARIANTS = [(name, {}) for name in REWARDS if REWARDS[name].target is None]
VARIANTS += [("l1_exact", {"target_min": 1}), ("l1_max", {"target_min": 1})]
VARIANTS += [("hard_limit", {"keep": 2}), ("alp", {"keep": 3, "drop_equal_groups": True})]


def fixed_batch(tokenizer: Any, groups: int = 3) -> dict[str, list]:
    """Completions of `groups` prompts in TRL's order: right and wrong, finished and cut off, of several lengths."""
    draw = random.Random(0)
    ids, rows = [], []
    for row in range(groups):
        for _ in range(GENERATIONS):
            text = "a" * draw.randrange(1, 60) + "\\boxed{" + draw.choice("78") + "}"
            end = [tokenizer.eos_token_id] if draw.random() < 0.7 else []
            ids.append(tokenizer(text, add_special_tokens=False)["input_ids"] + end)
            rows.append(row)
    return {"completion_ids": ids, "gold": ["7"] * len(ids), "row": rows, "target_tokens": [40] * len(ids)}


def score_batch(tokenizer: Any, batch: dict[str, list], world: int) -> dict[str, Any]:
    """Rewards and metrics of every variant; `batch` is this process's part of it."""
    found = {}
    for name, options in VARIANTS:
        reward = LimitReward(tokenizer, {tokenizer.eos_token_id}, False, name, options, 100, world)
        logged: dict[str, float] = {}
        rewards = reward(**batch, log_metric=logged.__setitem__)
        found[f"{name} {options}"] = {"rewards": rewards, "metrics": logged}
    return found


class Recorded(LimitReward):
    """Keeps what TRL handed over and what it got."""

    calls: list[dict[str, Any]]

    def __call__(self, **arguments: Any) -> list[float | None]:
        rewards = super().__call__(**arguments)
        given = {key: arguments[key] for key in ("completion_ids", "gold", "row")}
        self.calls.append({**given, "rewards": rewards})
        return rewards


def train(model: str, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Two steps with two completions per device and step, so every group of four lies on both processes."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    network = AutoModelForCausalLM.from_pretrained(model)
    # A model without skill seldom ends by itself; with a fifth of the vocabulary as end tokens lengths differ.
    ends = sorted({tokenizer.eos_token_id, *range(50, 100)})
    network.generation_config.eos_token_id = ends
    world = PartialState().num_processes
    reward = Recorded(tokenizer, ends, False, "shorter_better", {"keep": 3}, LIMIT, world)
    reward.calls = []
    prompts = [[{"role": "user", "content": f"{index}+1?"}] for index in range(4)]
    rows = [{"prompt": prompt, "gold": "7", "row": index} for index, prompt in enumerate(prompts)]
    arguments = GRPOConfig(
        str(folder / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", max_steps=2,
        per_device_train_batch_size=2, gradient_accumulation_steps=1, num_generations=GENERATIONS,
        max_completion_length=LIMIT, logging_steps=1, save_strategy="no", remove_unused_columns=False,
        shuffle_dataset=False, disable_tqdm=True, seed=1,
    )  # fmt: skip
    trainer = GRPOTrainer(network, [reward], arguments, Dataset.from_list(rows), processing_class=tokenizer)
    assert set(trainer.eos_token_ids) == set(ends)
    trainer.train()
    metrics = [entry for entry in trainer.state.log_history if "truncated_share" in entry]
    return {"calls": reward.calls, "advantages": list(trainer._logs["advantages"]), "ends": ends, "metrics": metrics}


def main() -> None:
    model, folder = sys.argv[1], Path(sys.argv[2])
    state, tokenizer = PartialState(cpu=True), AutoTokenizer.from_pretrained(model)
    batch = fixed_batch(tokenizer)
    half = len(batch["gold"]) // state.num_processes
    own = slice(state.process_index * half, (state.process_index + 1) * half)
    part = {key: values[own] for key, values in batch.items()}
    scored = score_batch(tokenizer, part, state.num_processes)
    trained = train(model, tokenizer, folder)
    result = {"processes": state.num_processes, "scored": scored, "trained": trained}
    write_json(folder / f"process-{state.process_index}.json", result)


if __name__ == "__main__":
    main()
