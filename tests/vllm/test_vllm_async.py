"""The option `async_scheduling`, in a process of its own, as an engine of its own needs one. On GPUs one step is
under way when a trace is stopped and counts as overrun; on CPUs vLLM waits for every step, so it may be 0 here."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, torch
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.vllm.engine import VLLMEngine
from tests.engines.contract import LAYERS, QUESTIONS, advance, drain, encode, ids_of, unfinished

model = sys.argv[1]
engine = VLLMEngine(model, dtype="float32", capture_layers=LAYERS, max_num_seqs=16, kv_cache_gib=0.25,
                    enforce_eager=True, async_scheduling=True)
reference = TransformersEngine(model, dtype="float64", capture_layers=LAYERS)
prompt, spec = encode(reference, QUESTIONS[0]), SamplingSpec(temperature=0, max_tokens=60)
(plain,) = reference.start(prompt, [0], spec)
wanted = ids_of(drain(reference), plain)
parked, pruned, other = engine.start(prompt, [0, 1, 2], spec)
events = advance(engine, [parked, pruned, other], 10)
engine.park([parked])
engine.prune([pruned])
later = drain(engine)
assert {event.trace for event in later} == {other}
assert engine.usage(pruned).generated_tokens == len(ids_of(events, pruned))
engine.resume([parked])
later += drain(engine)
assert ids_of(events + later, parked) == ids_of(events + later, other) == wanted
assert max(engine.usage(trace).overrun_tokens for trace in (parked, pruned)) <= 1
first, second = engine.states([parked, other])
assert first.shape == second.shape == (len(wanted) - 1, 3, 96)
assert (first.float() - second.float()).abs().max() < 2e-3
"""


def test_nothing_late_is_delivered(_needs_vllm: None, embedded_model: Path, repository: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(embedded_model)]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
