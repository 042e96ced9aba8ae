"""A vLLM worker that keeps hidden states of generated tokens as they are computed: no second forward pass.

vLLM's own way (`extract_hidden_states` with a connector) runs as speculative decoding: it feeds every sampled token
twice, and it returns the states of prompt tokens only. This worker asks the model for the same intermediate layers
through the interface made for EAGLE-3 drafters, and copies the rows of the traces that capture out of every forward
pass to the host. Named to vLLM as `worker_cls`; written for vLLM 0.31 and its first model runner.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.platforms import current_platform

from secateur.engines.vllm.setup import LAYERS_KEY, STATES_FROM

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.worker.gpu_model_runner import ExecuteModelState

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

_HALF_MAX = torch.finfo(torch.float16).max


@dataclass
class _Log:
    """States of one request from position `next` on are still to come; `parts` are views of whole steps."""

    next: int
    parts: list[torch.Tensor] = field(default_factory=list)


class StatesWorker(PlatformWorker):
    """The platform's worker plus `take_states` and `drop_states`, called through `collective_rpc`."""

    def load_model(self, *args: object, **options: object) -> object:
        result = super().load_model(*args, **options)
        self._layers: tuple[int, ...] = tuple(self.vllm_config.additional_config[LAYERS_KEY])
        self._logs: dict[str, _Log] = {}
        self._unwanted: set[str] = set()  # requests whose states were taken before their first forward pass
        self._keeps = get_tensor_model_parallel_rank() == 0  # every rank holds the whole hidden state
        self._last = self.model_config.get_total_num_hidden_layers()
        inner = sorted(set(self._layers) - {self._last})
        if inner:  # before the model is compiled: its graph returns them from then on
            model = self.model_runner.get_model()
            if not supports_eagle3(model):
                raise NotImplementedError(
                    f"{type(model).__name__} of vLLM hands out no intermediate hidden states; capture only layer "
                    f"{self._last} (after the final norm) or use the transformers engine"
                )
            model.set_aux_hidden_state_layers(tuple(inner))
            self.model_runner.use_aux_hidden_state_outputs = True
        self._inner = inner
        return result

    def execute_model(self, scheduler_output: "SchedulerOutput") -> "ModelRunnerOutput | None":
        """One forward pass; its states are copied before anything can overwrite them."""
        output = super().execute_model(scheduler_output)
        state = self.model_runner.execute_model_state
        if state is not None and self._keeps:
            self._open_logs(scheduler_output)
            if self._logs:
                self._record(scheduler_output.num_scheduled_tokens, state)
        return output

    def take_states(self, requests: list[str]) -> list[torch.Tensor] | None:
        """What was kept of each request, fp16 [tokens, layers, hidden] on the host; nothing is kept from here on."""
        if not self._keeps:
            return None
        if self.device.type != "cpu":
            torch.accelerator.synchronize()  # the copies to the host were only enqueued
        width = self.model_config.get_hidden_size()
        empty = torch.empty(0, len(self._layers), width, dtype=torch.float16)
        logs = [self._close_log(request) for request in requests]
        return [torch.cat(log.parts) if log is not None and log.parts else empty for log in logs]

    def drop_states(self, requests: list[str]) -> None:
        if self._keeps:
            for request in requests:
                self._close_log(request)

    def _close_log(self, request: str) -> _Log | None:
        log = self._logs.pop(request, None)
        if log is None:
            self._unwanted.add(request)
        return log

    def _open_logs(self, scheduler_output: "SchedulerOutput") -> None:
        for request in scheduler_output.scheduled_new_reqs:
            wanted = (request.sampling_params.extra_args or {}).get(STATES_FROM)
            if wanted is not None and request.req_id not in self._unwanted:
                self._logs[request.req_id] = _Log(wanted)

    def _record(self, scheduled: dict[str, int], state: "ExecuteModelState") -> None:
        batch = self.model_runner.input_batch
        computed = batch.num_computed_tokens_cpu
        rows: list[int] = []
        owners: list[tuple[_Log, int]] = []
        first_row = 0
        for index, request in enumerate(batch.req_ids):
            count = scheduled[request]
            log = self._logs.get(request)
            if log is not None:
                skipped = max(log.next - int(computed[index]), 0)  # prompt, or computed again after a preemption
                if skipped < count:
                    rows.extend(range(first_row + skipped, first_row + count))
                    owners.append((log, count - skipped))
            first_row += count
        if rows:
            self._append(owners, self._select(rows, state))

    def _select(self, rows: list[int], state: "ExecuteModelState") -> torch.Tensor:
        """The chosen rows of a forward pass, fp16 [rows, layers, hidden] on the host."""
        by_layer = dict(zip(self._inner, state.aux_hidden_states or (), strict=True))
        by_layer[self._last] = state.hidden_states  # the output of the model is after the final norm
        if rows[-1] - rows[0] + 1 == len(rows):
            chosen: slice | torch.Tensor = slice(rows[0], rows[-1] + 1)
        else:
            chosen = torch.tensor(rows, device=state.hidden_states.device)
        stacked = torch.stack([by_layer[layer][chosen] for layer in self._layers], dim=1)
        stacked = stacked.clamp(-_HALF_MAX, _HALF_MAX).half()  # some models have activations beyond half precision
        if stacked.device.type == "cpu":
            return stacked
        host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        return host.copy_(stacked, non_blocking=True)

    @staticmethod
    def _append(owners: list[tuple[_Log, int]], states: torch.Tensor) -> None:
        for (log, count), part in zip(owners, states.split([count for _, count in owners]), strict=True):
            log.parts.append(part)
            log.next += count
