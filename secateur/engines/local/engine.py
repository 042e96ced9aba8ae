"""Generation with transformers, one decode step at a time: traces of many prompts share one batch, and every trace
can be parked, resumed or pruned between any two steps.

A row leaves the batch in the call that stops it, so nothing is computed for a trace that nobody wants (`overrun` is
always 0). A trace's random numbers depend on its seed alone. Results depend on the batch only through the rounding of
the matrix products: in float32 about 1e-6 of a logit, which can flip a drawn token once in about a million; with
dtype "float64" a live run and a replay agree token for token.
"""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from secateur.engines.base import ENDED, Event, SamplingSpec, TraceUsage, check_prompt, find_trace, select_traces
from secateur.engines.detokenize import Detokenizer
from secateur.engines.gguf import plain_model
from secateur.engines.local.batch import LiveTrace, RowBatch
from secateur.engines.local.drawing import UniformStream, draw_tokens, token_confidences
from secateur.engines.memory import free_host_bytes, shape_of
from secateur.engines.model_files import (
    check_cache_layers,
    check_capture_layers,
    check_model_folder,
    context_tokens,
    end_token_ids,
    load_tokenizer,
)
from secateur.engines.models import choose_threads, load_model, pack_linear_layers
from secateur.runtime.console import say
from secateur.runtime.errors import InputError

_PREFILL_TOKENS = 16_384  # per forward pass, bounds the activations of a burst of new prompts


class TransformersEngine:
    """Implements `secateur.engines.base.Engine`. `model` is a folder, a hub id or a loaded model (then give its
    tokenizer).

    `capture_layers` index transformers' `hidden_states` (0 = embeddings); `device` "auto" takes a GPU if there is
    one. States stay on the device.

    A model that it loads itself is for its own use: in bfloat16 on a CPU its linear layers are packed.

    max_batch_rows: more traces at once are refused; the memory was planned for so many.
    threads: torch's threads on a CPU, for the whole process. null: what OMP_NUM_THREADS says; where it says nothing,
      one or as many as there are cores, as a few measured steps decide.
    """

    exact = True

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: str = "float32",
        capture_layers: Sequence[int] | None = None,
        device: str = "cpu",
        max_batch_rows: int = 4096,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"key 'threads' has the value {threads}: expected at least 1, or null to have it chosen")
        if isinstance(model, PreTrainedModel):
            if tokenizer is None:
                raise InputError("a loaded model needs its tokenizer: TransformersEngine(model, tokenizer)")
            check_cache_layers(model.config, model.name_or_path)
            self.model, self.tokenizer, self.parameters = model, tokenizer, model.num_parameters()
        else:
            name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
            model = plain_model(str(model))
            check_model_folder(model)
            self.tokenizer = tokenizer or load_tokenizer(model)
            self.model = load_model(model, dtype, torch.device(name))
            self.parameters = self.model.num_parameters()
            pack_linear_layers(self.model)
        self._set_threads(threads)
        config = self.model.config.get_text_config(decoder=True)
        self.capture_layers = check_capture_layers(capture_layers, self.model.config)
        self.max_batch_rows = max_batch_rows
        self.context = context_tokens(self.model.config)
        self._vocabulary = config.vocab_size
        self.end_ids = end_token_ids(self.model, self.tokenizer)
        self._detokenizer = Detokenizer(self.tokenizer)
        self._batch = RowBatch(self.model, self.capture_layers)
        self._traces: dict[int, LiveTrace] = {}
        self._handles = itertools.count()
        self._pending: list[LiveTrace] = []
        self._has_numbers = True

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        """See `Engine.start`. The prompt is run through the model in the next `step`, with other new ones.

        Raises `InputError` for an empty prompt, an id outside the vocabulary, a prompt whose longest completion
        exceeds the model's context, and more traces than `max_batch_rows`.
        """
        prompt = tuple(int(token) for token in prompt_ids)
        check_prompt(prompt, spec, self._vocabulary, self.context)
        self._check_room(len(seeds))
        started = [
            LiveTrace(
                handle=next(self._handles),
                prompt_ids=prompt,
                spec=spec,
                uniforms=UniformStream(seed),
                text=self._detokenizer.stream(),
                usage=TraceUsage(prompt_tokens=len(prompt)),
                capturing=bool(self.capture_layers),
            )
            for seed in seeds
        ]
        self._traces.update((trace.handle, trace) for trace in started)
        self._pending.extend(started)
        return [trace.handle for trace in started]

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for every running trace, in the order of their handles."""
        rows = self._batch.rows
        if not rows and not self._pending:
            return []
        parts = [self._batch.decode()] if rows else []
        parts += self._prefill()
        logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        self._warn_of_lost_numbers(logits)
        drawn = self._draw(logits)
        events = [self._deliver(trace, *token) for trace, token in zip(rows, drawn, strict=True)]
        ended = [trace for trace in rows if trace.status == "finished"]
        for trace in ended:
            trace.saved_states = self._batch.states(trace) if trace.capturing else None
        self._batch.leave(ended)
        return sorted(events, key=lambda event: event.trace)

    @torch.inference_mode()
    def park(self, traces: Sequence[int]) -> None:
        """See `Engine.park`. Parked traces keep their keys, values and states, without padding."""
        parked = select_traces(self._traces, traces, ("running", "pending"))
        for trace in parked:
            if trace.status == "running":
                self._batch.save(trace)
        self._stop(parked, "parked")

    @torch.inference_mode()
    def resume(self, traces: Sequence[int]) -> None:
        """See `Engine.resume`. Nothing is computed again."""
        resumed = select_traces(self._traces, traces, ("parked",))
        self._check_room(len(resumed))
        for trace in resumed:
            if trace.saved is None:  # parked before its first step
                trace.status = "pending"
                self._pending.append(trace)
            else:
                self._batch.restore(trace, len(self._batch.rows) + len(resumed))

    @torch.inference_mode()
    def prune(self, traces: Sequence[int]) -> None:
        """See `Engine.prune`."""
        pruned = select_traces(self._traces, traces, ("running", "pending", "parked"))
        self._stop(pruned, "pruned")
        for trace in pruned:
            trace.saved = trace.saved_states = None

    def usage(self, trace: int) -> TraceUsage:
        return find_trace(self._traces, trace).usage

    def release(self, traces: Sequence[int]) -> None:
        """See `Engine.release`."""
        for trace in select_traces(self._traces, traces, ENDED):
            del self._traces[trace.handle]

    def states(self, traces: Sequence[int]) -> list[torch.Tensor]:
        """See `Engine.states`; a trace that has ended keeps its states until they are taken."""
        return [self._take_states(trace) for trace in traces]

    def _take_states(self, trace: int) -> torch.Tensor:
        wanted = find_trace(self._traces, trace)
        if not wanted.capturing:
            raise ValueError(f"trace {trace} captures no states (capture_layers not given, or taken before)")
        if wanted.status == "pruned":
            raise ValueError(f"trace {trace} was pruned; take its states before that")
        running = wanted.status == "running"
        states = self._batch.states(wanted) if running else wanted.saved_states
        wanted.capturing, wanted.saved_states = False, None
        # what was made in inference mode cannot be trained on, a copy made outside of it can
        return self._batch.no_states() if states is None else states.clone()

    def cache_token_bytes(self) -> int:
        """See `secateur.engines.base.HoldsCache`."""
        shape = shape_of(self.model, self.model.config.get_text_config(decoder=True))
        return shape.kv_bytes * self.model.dtype.itemsize // 2

    def free_bytes(self) -> int:
        """See `secateur.engines.base.HoldsCache`."""
        device = self.model.device
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()

    def close(self) -> None:
        """Free everything; the engine can start new traces afterwards, old handles are gone."""
        self._batch = RowBatch(self.model, self.capture_layers)
        self._pending, self._traces = [], {}

    def _set_threads(self, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        elif chosen := choose_threads(self.model):
            say(chosen)

    def _warn_of_lost_numbers(self, logits: torch.Tensor) -> None:
        """Once: a model that has diverged is measured like any other, but who did not know is to be told."""
        if self._has_numbers and not bool(logits.amax(dim=-1).isfinite().all()):
            self._has_numbers = False
            warnings.warn(
                f"{self.model.name_or_path}: its logits are not finite in {self.model.dtype}, so what it says means "
                "nothing: its weights hold NaN or infinities, or it overflows there (take bfloat16 or float32)",
                RuntimeWarning,
                stacklevel=4,
            )

    def _check_room(self, new: int) -> None:
        running = len(self._batch.rows) + len(self._pending)
        if running + new > self.max_batch_rows:
            raise InputError(
                f"{running} traces run and {new} more were asked for: raise max_batch_rows ({self.max_batch_rows}) "
                "or start fewer"
            )

    def _prefill(self) -> list[torch.Tensor]:
        """Run all new prompts, those of equal length together (nothing is padded), and let their traces join the
        batch. Returns logits [new traces, vocabulary] in parts, in the order of the new rows."""
        groups: dict[tuple[int, ...], list[LiveTrace]] = {}
        for trace in self._pending:
            groups.setdefault(trace.prompt_ids, []).append(trace)
        expected = len(self._batch.rows) + len(self._pending)
        self._pending = []
        parts = []
        for prompts in _equal_length_batches(list(groups)):
            cache = DynamicCache(config=self.model.config)
            ids = torch.tensor(prompts, device=self.model.device)
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            for index, prompt in enumerate(prompts):
                content = [tensor[index] for layer in cache.layers for tensor in (layer.keys, layer.values)]
                traces = groups[prompt]
                for trace in traces:
                    trace.columns, trace.usage.prefill_cached = len(prompt), len(prompt)
                traces[0].usage.prefill_cached, traces[0].usage.prefill_computed = 0, len(prompt)
                self._batch.enter(traces, content, expected)
                parts.append(logits[index].expand(len(traces), -1))
        return parts

    def _draw(self, logits: torch.Tensor) -> list[tuple[int, tuple[float, ...]]]:
        """The next token of every row, with its confidence where the row's spec asks for it."""
        groups: dict[SamplingSpec, list[int]] = {}
        for row, trace in enumerate(self._batch.rows):
            groups.setdefault(trace.spec, []).append(row)
        drawn: list[tuple[int, tuple[float, ...]]] = [(0, ())] * len(logits)
        for spec, rows in groups.items():
            part = logits if len(groups) == 1 else logits[torch.tensor(rows, device=logits.device)]
            numbers = [self._batch.rows[row].uniforms.next() for row in rows]
            uniforms = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
            tokens = draw_tokens(part, uniforms, spec).tolist()
            sure = token_confidences(part, spec.top_logprobs).tolist() if spec.top_logprobs else None
            for place, row in enumerate(rows):
                drawn[row] = (tokens[place], () if sure is None else (sure[place],))
        return drawn

    def _deliver(self, trace: LiveTrace, token: int, confidences: tuple[float, ...]) -> Event:
        trace.last_token = token
        trace.usage.generated_tokens += 1
        done, text = None, ""
        if token in self.end_ids:
            done = "stop"
        else:
            text = trace.text.push(token)
            if trace.usage.generated_tokens == trace.spec.max_tokens:
                done = "length"
        if done:
            text += trace.text.finish()
            trace.status = "finished"
        return Event(trace.handle, (token,), text, done, confidences)

    def _stop(self, traces: list[LiveTrace], status: str) -> None:
        running = [trace for trace in traces if trace.status == "running"]
        for trace in traces:
            trace.status = status
        self._batch.leave(running)
        self._pending = [trace for trace in self._pending if trace.status == "pending"]


def _equal_length_batches(prompts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt), []).append(prompt)
    batches = []
    for length, members in by_length.items():
        size = max(1, _PREFILL_TOKENS // length)
        batches += [members[first : first + size] for first in range(0, len(members), size)]
    return batches
