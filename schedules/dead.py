"""A round that learns nothing: the seven signs of it in the logged metrics of its last steps, and the end of a round
that was stopped for one. Pure rules; trainers/grpo/callbacks.py watches with them.

With `stop_when_dead` a round that shows a sign ends after its step, saved, and `dead.json` in its folder says why.
The same command would only do the same again, so it is refused until `stop_when_dead` is false.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.records import read_record, write_record

DEAD, DEAD_FORMAT = "dead.json", 1
FINITE_WEIGHTS = "finite_weights"  # logged as 0 after a step that left weights that are not finite
LOWEST_ENTROPY = 0.01  # [nats per token]; healthy logs of the embedded model and of SmolLM2 stay above .07
CLIPPED_SHARE = 0.25  # of the tokens, as a mean over the steps; healthy off-policy steps clip a few hundredths
SAMPLING_RATIOS = (0.5, 2.0)  # a mean weight outside is no correction any more: its expectation is 1
Metrics = Mapping[str, float | None]
"""One logged step. TRL logs None where all that a mean is made of was NaN."""


def with_generation(before: Metrics, logged: Metrics) -> Metrics:
    """A logged step with what its completions have shown: a step that uses those of the step before logs nothing of
    them again (`num_iterations` or `steps_per_generation` above 1)."""
    return {**before, **logged}


@dataclass(frozen=True)
class Sign:
    """A way to be dead: what was `seen`, and what to do about it. `shows` tells it from the steps; `covers`: names of
    signs that follow from this one, so that they are not said beside it."""

    name: str
    shows: Callable[[Sequence[Metrics]], bool]
    seen: str
    remedy: str
    covers: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"{self.seen}. {self.remedy}"


def find_signs(steps: Sequence[Metrics], needed: int) -> list[Sign]:
    """The signs in the last `needed` of the logged `steps`, oldest first; none before there are so many.

    Weights that are not finite are seen in the last step alone: nothing after it can be computed.
    """
    last = steps[-needed:] if len(steps) >= needed else ()
    found = [sign for sign in SIGNS if sign.shows(steps[-1:] if sign is WEIGHTS else last)]
    covered = {name for sign in found for name in sign.covers}
    return [sign for sign in found if sign.name not in covered]


def _every(test: Callable[[Metrics], bool]) -> Callable[[Sequence[Metrics]], bool]:
    return lambda steps: bool(steps) and all(test(step) for step in steps)


def _equals(key: str, value: float) -> Callable[[Metrics], bool]:
    return lambda step: step.get(key) == value


def _earns_nothing(step: Metrics) -> bool:
    """A shaped reward is seldom 0: there no right answer counts as none."""
    return step.get("correct_share") == 0 or step.get("reward") == step.get("reward_std") == 0


def _is_not_finite(key: str) -> Callable[[Metrics], bool]:
    return lambda step: key in step and not _finite(step[key])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _weights_are_lost(step: Metrics) -> bool:
    """The entropy is that of the weights that the step began with; the look at them comes after the step."""
    return step.get(FINITE_WEIGHTS) == 0 or _is_not_finite("entropy")(step)


def _is_certain(step: Metrics) -> bool:
    entropy = step.get("entropy")
    return entropy is not None and entropy < LOWEST_ENTROPY


def _at_the_clip(steps: Sequence[Metrics]) -> bool:
    """Means over the steps: the first step on a generation batch has ratios of 1 whatever the others have."""
    clipped = [_mean(steps, key) for key in ("clip_ratio/region_mean", "cispo_clip_ratio")]
    weight = _mean(steps, "sampling/importance_sampling_ratio/mean")
    low, high = SAMPLING_RATIOS
    return any(share is not None and share >= CLIPPED_SHARE for share in clipped) or (
        weight is not None and not low <= weight <= high
    )


def _mean(steps: Sequence[Metrics], key: str) -> float | None:
    """None unless every step has it."""
    values = [value for step in steps if (value := step.get(key)) is not None]
    return math.fsum(values) / len(values) if values and len(values) == len(steps) else None


WEIGHTS = Sign(
    "weights",
    _every(_weights_are_lost),
    "weights are not finite, so nothing more can be computed with them",
    "Lower 'learning_rate' or 'max_grad_norm', or set bf16 in place of fp16",
    ("gradients", "entropy", "ratios"),
)
SIGNS = (
    WEIGHTS,
    Sign(
        "gradients",
        _every(_is_not_finite("grad_norm")),
        "gradients are not finite, so no step changes the model for the better",
        "Lower 'learning_rate', or set bf16 in place of fp16",
    ),
    Sign(
        "truncated",
        _every(_equals("truncated_share", 1.0)),
        "all completions were truncated",
        "The limit is too tight for this model: raise the first of 'limits'; or the token that ends its turns is "
        "none of its end tokens (generation_config.json: eos_token_id)",
        ("reward", "groups"),
    ),
    Sign(
        "reward",
        _every(_earns_nothing),
        "no completion earned a reward",
        "Take easier 'problems', or correct 'answer_from' (where the answer is) or 'prompt_family' (the prompt that "
        "the model knows)",
        ("groups",),
    ),
    Sign(
        "groups",
        _every(_equals("frac_reward_zero_std", 1.0)),
        "no group had two different rewards, so there was no gradient",
        "Take 'problems' that the model solves now and then, raise 'num_generations' or 'temperature', or lower "
        "'limits' if all are solved",
    ),
    Sign(
        "entropy",
        _every(_is_certain),
        f"entropy has collapsed (below {LOWEST_ENTROPY} nats a token): completions of a prompt are all but equal",
        "Raise 'temperature' or 'entropy_coef', or lower 'learning_rate'; a run that has collapsed does not come "
        "back by itself: go back to an earlier checkpoint",
    ),
    Sign(
        "ratios",
        _at_the_clip,
        "importance ratios are at the clip, so most of what was sampled counts no more",
        "Lower 'learning_rate' or 'num_iterations'; with vLLM its weights may be stale: start its server anew, and "
        "see sampling/sampling_logp_difference in train.jsonl",
    ),
)


@dataclass(frozen=True)
class DeadRound:
    """The end of a round that was stopped for a sign, its dead.json: after which `step`, and the names and words of
    the `signs`."""

    step: int
    signs: tuple[str, ...]
    words: tuple[str, ...]


def dead_round(step: int, signs: Sequence[Sign]) -> DeadRound:
    return DeadRound(step, tuple(sign.name for sign in signs), tuple(sign.words for sign in signs))


def write_dead(round_folder: Path, record: DeadRound) -> None:
    write_record(round_folder / DEAD, record, DEAD_FORMAT)


def read_dead(round_folder: Path) -> DeadRound | None:
    """None for a round that was not stopped so. Raises `InputError` for a record that cannot be read."""
    if not (round_folder / DEAD).is_file():
        return None
    return read_record(round_folder / DEAD, DeadRound, DEAD_FORMAT, "delete it to let the round go on")


def refuse_dead(round_folder: Path, stop_when_dead: bool) -> None:
    """Raises `InputError` for a round that has ended as dead, unless it is to go on all the same."""
    if stop_when_dead and (record := read_dead(round_folder)) is not None:
        raise InputError(explain_end(round_folder, record, stop_when_dead))


def explain_end(round_folder: Path, record: DeadRound, stopped: bool) -> str:
    """Why a round has ended as dead, and the ways on. `stopped`: by `stop_when_dead`, so that it is not gone on with
    by itself."""
    go_on = "to go on from the newest checkpoint all the same, give --stop_when_dead false"
    return (
        f"round {round_folder.name} is dead after step {record.step}: {'; '.join(record.words)}. Start again with "
        f"the key changed and another 'output_dir'; {go_on if stopped else 'the same command goes on before it'}"
    )
