"""An engine whose traces were written beforehand, for tests of control flow. Pieces are words, ids are positions."""

from collections.abc import Sequence

import numpy as np

from secateur.engines.base import Event, SamplingSpec, TraceUsage


class ScriptedEngine:
    """A trace's seed chooses its script: the text of each token. It keeps the interface's promises by assertion.

    With `capture_layers` the state of each token that was fed back is its id.
    """

    tokenizer, parameters, exact = None, 1, True

    def __init__(self, scripts: dict[int, Sequence[str]], capture_layers: tuple[int, ...] = ()) -> None:
        self.scripts, self.capture_layers = scripts, capture_layers
        self.log: list[tuple[str, tuple[int, ...]]] = []
        self.most_rows = 0
        self._started = 0
        self._script: dict[int, Sequence[str]] = {}
        self._state: dict[int, str] = {}
        self._usage: dict[int, TraceUsage] = {}

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        handles = [self._started + offset for offset in range(len(seeds))]
        self._started += len(seeds)
        for handle, seed in zip(handles, seeds, strict=True):
            self._script[handle] = self.scripts[seed]
            self._state[handle] = "running"
            self._usage[handle] = TraceUsage(len(prompt_ids))
        self.log.append(("start", tuple(handles)))
        return handles

    def step(self) -> list[Event]:
        self.most_rows = max(self.most_rows, sum(state in ("running", "parked") for state in self._state.values()))
        return [self._next(handle) for handle, state in list(self._state.items()) if state == "running"]

    def _next(self, handle: int) -> Event:
        position, script = self._usage[handle].generated_tokens, self._script[handle]
        self._usage[handle].generated_tokens += 1
        last = position + 1 == len(script)
        if last:
            self._state[handle] = "ended"
        return Event(handle, (position,), script[position], "stop" if last else None)

    def park(self, traces: Sequence[int]) -> None:
        self._move("park", traces, ("running",), "parked")

    def resume(self, traces: Sequence[int]) -> None:
        self._move("resume", traces, ("parked",), "running")

    def prune(self, traces: Sequence[int]) -> None:
        self._move("prune", traces, ("running", "parked"), "pruned")

    def _move(self, action: str, traces: Sequence[int], sources: tuple[str, ...], target: str) -> None:
        for trace in traces:
            assert self._state[trace] in sources, (action, trace, self._state[trace])
            self._state[trace] = target
        self.log.append((action, tuple(traces)))

    def usage(self, trace: int) -> TraceUsage:
        return self._usage[trace]

    def release(self, traces: Sequence[int]) -> None:
        for trace in traces:
            assert self._state.pop(trace) in ("ended", "pruned"), ("release", trace)
            del self._script[trace], self._usage[trace]

    def states(self, traces: Sequence[int]) -> list[np.ndarray]:
        assert self.capture_layers, "these scripted traces have no hidden states"
        assert all(self._state[trace] != "pruned" for trace in traces)
        self.log.append(("states", tuple(traces)))
        fed = [self._usage[trace].generated_tokens - 1 for trace in traces]
        return [np.arange(count)[:, None, None] for count in fed]

    def close(self) -> None: ...
