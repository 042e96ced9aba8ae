"""One trace of the vLLM engine, and what vLLM is told about each of its phases."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engines.base import SamplingSpec, Usage
from engines.detokenize import TextStream
from engines.vllm_setup import STATES_FROM

if TYPE_CHECKING:
    from vllm import SamplingParams


@dataclass(eq=False)
class VLLMTrace:
    """`phase` numbers the trace's requests from 0, `request` is vLLM's record of the one that runs. `logs` names the
    phases whose states the worker keeps, each with the number of states that earlier phases hold."""

    handle: int
    prompt_ids: tuple[int, ...]
    seed: int
    spec: SamplingSpec
    text: TextStream
    usage: Usage
    capturing: bool
    status: Literal["running", "parked", "finished", "pruned"] = "parked"
    token_ids: list[int] = field(default_factory=list)
    phase: int = -1
    request: Any = None
    prefill_known: bool = False
    logs: list[tuple[str, int]] = field(default_factory=list)

    @property
    def fed(self) -> int:
        """Generated tokens that the model has read: all but the newest, which the next phase reads first."""
        return max(len(self.token_ids) - 1, 0)

    @property
    def request_name(self) -> str:
        """vLLM's name of the newest phase."""
        return f"{self.handle}-{self.phase}"


def sampling_params(trace: VLLMTrace, end_ids: frozenset[int]) -> "SamplingParams":
    """What vLLM has to know of the newest phase of a trace."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    spec = trace.spec
    return SamplingParams(
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        max_tokens=spec.max_tokens - len(trace.token_ids),
        seed=phase_seed(trace.seed, trace.phase),
        stop_token_ids=sorted(end_ids),
        ignore_eos=True,
        logprobs=spec.top_logprobs or None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={STATES_FROM: len(trace.prompt_ids) + trace.fed} if trace.capturing else None,
        skip_clone=True,
    )


def phase_seed(seed: int, phase: int) -> int:
    """Every phase of a trace draws numbers of its own: a repeated seed would repeat the first phase's numbers."""
    digest = hashlib.sha256(f"{seed}|{phase}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def confidences_of(logprobs: Any, count: int) -> tuple[float, ...]:
    """Negative mean of the `count` best raw log-probabilities per token; vLLM lists the drawn token before them."""
    if not count:
        return ()
    return tuple(-sum(logprobs.logprobs[end - count : end]) / count for end in logprobs.end_indices)
