"""The one place where tokens become cost. Token counts come from the engines' ids, never from re-tokenised text.

Unit of cost: multiply-accumulates of one forward pass, parameters × tokens (a forward pass costs about two FLOPs per
parameter and token, so ratios of these numbers are ratios of FLOPs). Attention over the context and the prefill of
the problem's own prompt, which every method pays alike, are left out. Tokens found in a cache are free.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class Usage:
    """What answering one problem, or many, spent [tokens], except `judge_head` [multiply-accumulates]; means are
    fractional.

    `generated` counts every delivered token of the traces, kept or not; `overrun` those computed after a stop;
    `judge_head` is the work of a small comparing head that reads no tokens. `probe_generated` counts the tokens of
    answers that were forced out of running traces, `probe_prefill` what the generator read for them and
    `probe_cached` what it found in its cache. `longest_path` is the critical path, the decode steps that had to
    follow one another, and the sum of two usages keeps the longer one.
    """

    generated: float = 0
    overrun: float = 0
    judge_prefill: float = 0
    judge_cached: float = 0
    judge_generated: float = 0
    judge_head: float = 0
    probe_prefill: float = 0
    probe_cached: float = 0
    probe_generated: float = 0
    longest_path: float = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}: counts are never negative")

    def __add__(self, other: "Usage") -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Usage(**sums | {"longest_path": max(self.longest_path, other.longest_path)})


@dataclass(frozen=True)
class JudgeUsage:
    """What judging the cuts of one problem costs: `everything` for all cuts and all pairs of them, of which `cuts`
    is for reading each cut by itself. The rest is for pairs, taken as equally dear."""

    everything: Usage = Usage()
    cuts: tuple[Usage, ...] = ()

    def of(self, traces: Iterable[int], pairs: int) -> Usage:
        """The cost of reading some of the cuts and comparing that many pairs; may be fractional."""
        n = len(self.cuts)
        if n < 2:
            return self.everything
        read, shares = self._reading(traces), {}
        for key in JUDGE_COSTS:
            if not getattr(self.everything, key):  # most judges cost in one or two ways only
                shares[key] = 0.0
                continue
            rest = getattr(self.everything, key) - sum(getattr(cut, key) for cut in self.cuts)
            shares[key] = rest * pairs / (n * (n - 1) / 2) + sum(getattr(cut, key) for cut in read)
        return Usage(**shares)

    def _reading(self, traces: Iterable[int]) -> list[Usage]:
        """What reading these cuts by themselves costs. Where all found their beginning in the judge's cache, the one
        that had read it is not among them, and the first has to."""
        read = [self.cuts[trace] for trace in traces]
        if self.everything.judge_cached and read and all(cut.judge_cached for cut in read):
            first = read[0]
            read[0] = replace(first, judge_prefill=first.judge_prefill + first.judge_cached, judge_cached=0)
        return read

    def part(self, traces: Sequence[int]) -> "JudgeUsage":
        """The usage of some of the traces, in that order, as if there were no others."""
        m = len(traces)
        return JudgeUsage(self.of(traces, m * (m - 1) // 2), tuple(self._reading(traces)) if self.cuts else ())

    def reordered(self, order: Sequence[int]) -> "JudgeUsage":
        """The usage of the same traces in another order."""
        return JudgeUsage(self.everything, tuple(self.cuts[place] for place in order) if self.cuts else ())


JUDGE_COSTS = ("judge_prefill", "judge_cached", "judge_generated", "judge_head")
NO_JUDGE = JudgeUsage()


def net_cost(usage: Usage, generator_parameters: int, judge_parameters: int) -> float:
    """Everything that was spent [multiply-accumulates], each token weighted by the model that computed it.

    `judge_parameters` is 0 for a judge that reads the generator's own states; its head is paid through `judge_head`.
    """
    probes = usage.probe_prefill + usage.probe_generated
    generator = generator_parameters * (usage.generated + usage.overrun + probes)
    judge = judge_parameters * (usage.judge_prefill + usage.judge_generated)
    return generator + judge + usage.judge_head


def saving_gross(generated: int, reference_generated: int) -> float:
    """1 − generated tokens ÷ those of consensus over all traces of the base model; negative if more were spent."""
    return 1 - generated / _positive(reference_generated, "reference_generated")


def saving_net(
    usage: Usage,
    *,
    generator_parameters: int,
    judge_parameters: int,
    reference_generated: int,
    reference_parameters: int,
) -> float:
    """1 − everything spent ÷ what consensus over all traces of the base model spends, in the base model's FLOPs.

    `reference_generated` [tokens] and `reference_parameters` belong to the base model, also when the generator is
    another model; overrun and judge are counted, so this may be negative.
    """
    reference = _positive(reference_generated, "reference_generated") * _positive(
        reference_parameters, "reference_parameters"
    )
    return 1 - net_cost(usage, generator_parameters, judge_parameters) / reference


def _positive(value: int, name: str) -> int:
    if value <= 0:
        raise InputError(f"{name} is {value}: a saving needs a reference that spent something")
    return value
