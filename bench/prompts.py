"""Steps until a round has shortened its model to a given length, with the prompts of training chosen in several ways.

    python bench/prompts.py outputs/every-0 outputs/dynamic-0 outputs/pass-rate-0 --tokens 150

Each run folder holds a schedule whose first round was validated in full. How its prompts were chosen is read from its
config.yaml: the keys `pass_rate` and `dynamic_prompts`; runs that differ in their seed alone are shown side by side.
The length is that of the validation, which has the same problems in all runs. Completions of training belong to the
prompts that were chosen, and would compare unlike with unlike. Between two checkpoints it is taken to change evenly.
`tokens` and `pass@1` are those of the last checkpoint. `mixed` is the share of all groups of the training that earned
different rewards: the others give no gradient. `trained on` and `sampled before`, to know the pass rates, are tokens.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from schedules.choice import START
from schedules.records import PASS_RATES, finished_rounds, read_pass_rates
from secateur.runtime.config import read_yaml
from secateur.runtime.console import plain_table, print_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl
from secateur.runtime.process import entry_point

COLUMNS = ("prompts", "steps", "tokens", "pass@1", "mixed", "trained on", "sampled before")


@dataclass(frozen=True)
class Shortened:
    """The first round of a run: `lengths`: mean tokens of the validation, by step; `steps` until it had the length
    that was asked for, None where it never had; `pass_at_1` at the end and share of `mixed` groups (0-1); tokens that
    were `trained` on and those that were `sampled` before, to know the pass rates."""

    lengths: Mapping[int, float]
    steps: float | None
    pass_at_1: float
    mixed: float
    trained: int
    sampled: int


def steps_until(lengths: Mapping[int, float], tokens: float) -> float | None:
    """Steps until the length is `tokens` for the first time: by interpolation between the checkpoints, by step."""
    for (before, long), (after, short) in pairwise(sorted(lengths.items())):
        if long > tokens >= short:
            return before + (after - before) * (long - tokens) / (long - short)
    return None


def shortened(run: Path, tokens: float) -> Shortened:
    rounds = finished_rounds(run)
    if not rounds:
        raise InputError(f"{run}: no round has chosen; name the output_dir of a schedule")
    first, candidates = rounds[0], rounds[0].selection.candidates
    lengths = {one.step: one.mean_tokens for one in candidates}
    steps = [line for _, line in read_jsonl(first.folder / "train.jsonl") if "frac_reward_zero_std" in line]
    return Shortened(
        lengths=lengths,
        steps=steps_until(lengths, tokens),
        pass_at_1=max(candidates, key=lambda one: one.step).pass_at_1,
        mixed=1 - fmean(line["frac_reward_zero_std"] for line in steps),
        trained=int(steps[-1]["num_tokens"]),
        sampled=read_pass_rates(first.folder).tokens if (first.folder / PASS_RATES).is_file() else 0,
    )


def way(values: Mapping[str, JSON]) -> str:
    """How a run chose its prompts, from its config.yaml."""
    bounds = values["pass_rate"]
    named = [f"pass_rate {bounds}"] if bounds else []
    return " and ".join([*named, *(["dynamic_prompts"] if values["dynamic_prompts"] else [])]) or "every problem"


def cells(runs: Sequence[Shortened]) -> tuple[str, ...]:
    """One figure a run, in the order in which they were named."""
    steps = ["never" if one.steps is None else f"{one.steps:.1f}" for one in runs]
    ends = [f"{one.lengths[max(one.lengths)]:.0f}" for one in runs]
    return (
        ", ".join(steps),
        ", ".join(ends),
        ", ".join(f"{one.pass_at_1:.3f}" for one in runs),
        ", ".join(f"{one.mixed:.2f}" for one in runs),
        f"{fmean(one.trained for one in runs):,.0f}",
        f"{fmean(one.sampled for one in runs):,.0f}",
    )


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench/prompts.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="output_dir of schedules")
    parser.add_argument("--tokens", type=float, required=True, help="the length to come to")
    options = parser.parse_args()
    ways: dict[str, list[Shortened]] = defaultdict(list)
    for run in options.runs:
        ways[way(read_yaml(run / "config.yaml"))].append(shortened(run, options.tokens))
    start = fmean(one.lengths[START] for runs in ways.values() for one in runs)
    table = plain_table(f"from {start:.0f} to {options.tokens:g} tokens", COLUMNS)
    for name, runs in ways.items():
        table.add_row(name, *cells(runs))
    print_table(table)


if __name__ == "__main__":
    main()
